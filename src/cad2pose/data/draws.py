"""Seeded random numbers for one batch: small ones on the host, whole pictures of noise on the device."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

_MASK = (1 << 64) - 1


def mixed_seed(*numbers: int) -> int:
    """One 63-bit seed from several integers, so that neighbours share nothing (splitmix64, Steele et al. 2014)."""
    state = 0
    for number in numbers:
        state = (state + (number & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


class Draws:
    """A stream of random numbers that depends on its seeds alone, never on global state.

    Decisions and strengths (a few numbers per sample) are drawn on the host whatever the device is: then the
    host knows which rows an effect touches, and a GPU is never waited for. `noise` is drawn on the device.

    Args:
        seeds: any integers, such as (seed of the run, index of the batch).
        device: where `noise` and `rows` live.
    """

    def __init__(self, *seeds: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.host = torch.Generator().manual_seed(mixed_seed(*seeds))
        self._device = self.host
        if self.device.type != "cpu":
            self._device = torch.Generator(self.device).manual_seed(mixed_seed(*seeds, 1))

    def apart(self) -> Draws:
        """A stream of its own that depends on this one's past only, not on what is drawn from it later."""
        return Draws(int(self.integers(1 << 62)), device=self.device)

    def uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "..."]:
        """Evenly in [low, high)."""
        return torch.rand(shape, generator=self.host) * (high - low) + low

    def log_uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "..."]:
        """Evenly on the logarithmic scale in [low, high); both positive."""
        bounds = torch.tensor([low, high]).log()
        return self.uniform(float(bounds[0]), float(bounds[1]), *shape).exp()

    def normal(self, *shape: int) -> Float[Tensor, "..."]:
        """Standard normal."""
        return torch.randn(shape, generator=self.host)

    def integers(self, end: int, *shape: int) -> Int[Tensor, "..."]:
        """Evenly from 0 ... end - 1."""
        return torch.randint(end, shape, generator=self.host)

    def chance(self, probability: float, *shape: int) -> Bool[Tensor, "..."]:
        """True with the given probability."""
        return torch.rand(shape, generator=self.host) < probability

    def rows(self, probability: float, count: int) -> Int[Tensor, "n"]:
        """The rows of a batch that an effect of this probability touches, on the device."""
        return self.chance(probability, count).nonzero()[:, 0].to(self.device, non_blocking=True)

    def noise(self, *shape: int) -> Float[Tensor, "..."]:
        """Standard normal, on the device."""
        return torch.randn(shape, generator=self._device, device=self.device)

    def smooth_noise(
        self, count: int, channels: int, cells: int, size: int
    ) -> Float[Tensor, "count channels size size"]:
        """Normal noise on a coarse grid, bilinearly enlarged; on the device."""
        noise = self.noise(count, channels, cells, cells)
        return interpolate(noise, size=(size, size), mode="bilinear", align_corners=False)

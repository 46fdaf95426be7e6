"""U-Net decoder over encoder taps, as in SurfEmb (Haugaard & Buch 2022): no batch norm, bilinear upsampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_FINE = 2  # strides at which a slim decoder is slim


class UNetDecoder(nn.Module):
    """From taps at strides 2, 4, 8, 16, 32 to a map at `stride` 1, 2 or 4.

    Every tap passes a 1x1 convolution and ReLU that keeps its width; then, from the coarsest: bilinear
    x2, concatenate the next tap, 3x3 convolution, ReLU. With base width w the levels have
    8w, 4w, 4w, 2w channels (strides 16, 8, 4, 2), and w at stride 1.

    Args:
        tap_channels: channels of the five taps.
        stride: of the output map.
        outputs: channels of the output map, per object.
        objects: number of objects; each has its own last 1x1 convolution.
        slim: before they are doubled to strides 2 and 1, maps pass a 1x1 convolution to w channels; there most of a
            decoder's time goes, and a query needs few.
    """

    def __init__(
        self, tap_channels: Sequence[int], stride: int, outputs: int, objects: int = 1, slim: bool = False
    ) -> None:
        super().__init__()
        width = tap_channels[0]
        self.outputs = outputs
        self.stride = stride
        level_strides = [s for s in (16, 8, 4, 2, 1) if s >= stride]
        level_channels = {16: 8 * width, 8: 4 * width, 4: 4 * width, 2: 2 * width, 1: width}
        skip_of: dict[int, int] = {2: 0, 4: 1, 8: 2, 16: 3}
        self.skips = [skip_of.get(s) for s in level_strides]
        used = [skip for skip in self.skips if skip is not None] + [len(tap_channels) - 1]
        self.laterals = nn.ModuleDict({str(i): nn.Conv2d(tap_channels[i], tap_channels[i], 1) for i in sorted(used)})
        convolutions, self.reductions = [], nn.ModuleDict()
        channels = tap_channels[4]
        for number, (level, skip) in enumerate(zip(level_strides, self.skips, strict=True)):
            if slim and level <= _FINE:
                self.reductions[str(number)] = nn.Conv2d(channels, width, 1)
                channels = width
            channels_in = channels + (tap_channels[skip] if skip is not None else 0)
            channels = level_channels[level]
            convolutions.append(nn.Conv2d(channels_in, channels, 3, padding=1))
        self.convolutions = nn.ModuleList(convolutions)
        self.last = nn.Conv2d(channels, outputs * objects, 1)

    def forward(self, taps: Sequence[Tensor], object_index: Int[Tensor, "batch"]) -> Float[Tensor, "batch outputs h w"]:
        passed = {int(tap): torch.relu(lateral(taps[int(tap)])) for tap, lateral in self.laterals.items()}
        x = passed[len(taps) - 1]
        for number, (convolution, skip) in enumerate(zip(self.convolutions, self.skips, strict=True)):
            if str(number) in self.reductions:
                x = self.reductions[str(number)](x)
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            if x.requires_grad:
                x.register_hook(_dense)
            if skip is not None:
                x = torch.cat((x, passed[skip]), dim=1)
            x = torch.relu(convolution(x))
        every = self.last(x).unflatten(1, (-1, self.outputs))
        if every.shape[1] == 1:
            return every[:, 0]
        return every[torch.arange(len(every), device=every.device), object_index]


def _dense(gradient: Tensor) -> Tensor:
    """What comes back from `cat` is a slice, for which doubling goes back by a path that is several times as slow."""
    return gradient.contiguous(memory_format=torch.channels_last)

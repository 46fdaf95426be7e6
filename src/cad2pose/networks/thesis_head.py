"""The pose head of the thesis that this project grew out of: five convolutions with DropBlock, three branches.

DropBlock (Ghiasi, Lin and Le 2018) drops square blocks of a map. There the layers were made anew at every call, so they
dropped half of every map at test time too; here they are layers like others, and off in eval mode. Block sizes are
those of 256 x 256 maps and shrink with smaller ones.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_REFERENCE = 256  # side of the maps that the published block sizes are of
_CHANNELS = (16, 32, 64, 128, 256)
_DROPPED = ((20, 0.5), (10, 0.5), (5, 0.4), (1, 0.4))  # block size and share, before the first four convolutions
_WIDE, _NARROW = 1200, 256


class DropBlock(nn.Module):
    """Drops square blocks of all channels together, and scales what is left to the same mean.

    Args:
        block: side of the blocks, in pixels.
        share: of the map that is dropped, in the mean.
    """

    def __init__(self, block: int, share: float) -> None:
        super().__init__()
        if block < 1 or not 0 <= share < 1:
            raise ValueError(f"block is {block} and share {share}; give a side of at least 1 and a share in [0, 1)")
        self.block, self.share = block, share

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        if not self.training or self.share == 0:
            return x
        block = min(self.block, *x.shape[2:])
        # a pixel survives if no block starts in the window that would cover it
        rate = 1 - (1 - self.share) ** (1 / block**2)
        seeds = (torch.rand(len(x), 1, *x.shape[2:], device=x.device) < rate).to(x.dtype)
        before = block // 2
        padded = nn.functional.pad(seeds, (before, block - 1 - before, before, block - 1 - before))
        kept = 1 - nn.functional.max_pool2d(padded, block, stride=1)
        return x * kept * (kept.numel() / kept.sum().clamp_min(1))


class ThesisHead(nn.Module):
    """Maps `(B, channels, m, m)` -> `(B, outputs)`, for one object.

    Args:
        channels: of the input maps.
        map_size: side m of the maps, a multiple of 32.
        outputs: regressed numbers; the last three are the translation's (x, y, z).
        dropping: whether there is DropBlock before the convolutions.

    Raises:
        ValueError: for another size of maps.
    """

    def __init__(self, channels: int, map_size: int, outputs: int, dropping: bool = True) -> None:
        super().__init__()
        if map_size % 32:
            raise ValueError(f"maps have {map_size} cells a side; the thesis' head needs a multiple of 32")
        sizes = (channels, *_CHANNELS)
        kernels = (7, 3, 3, 3, 3)
        self.input_norm = nn.BatchNorm2d(channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(one, other, kernel, padding=kernel // 2)
            for one, other, kernel in zip(sizes[:-1], sizes[1:], kernels, strict=True)
        )
        self.drops = nn.ModuleList(
            DropBlock(max(1, round(block * map_size / _REFERENCE)), share if dropping else 0.0)
            for block, share in _DROPPED
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in _CHANNELS)
        flat = _CHANNELS[-1] * (map_size // 32) ** 2
        self.rotation = nn.Sequential(
            nn.Linear(flat, _WIDE), nn.ReLU(), nn.Linear(_WIDE, _NARROW), nn.ReLU(), nn.Linear(_NARROW, outputs - 3)
        )
        self.centre = nn.Sequential(
            nn.Linear(flat, _WIDE), nn.ReLU(), nn.BatchNorm1d(_WIDE), nn.Linear(_WIDE, _NARROW), nn.ReLU(),
            nn.BatchNorm1d(_NARROW), nn.Linear(_NARROW, 2),
        )  # fmt: skip
        self.depth = nn.Sequential(
            nn.Linear(flat, _WIDE), nn.ReLU(), nn.Linear(_WIDE, _NARROW), nn.ReLU(), nn.Linear(_NARROW, 32), nn.ReLU(),
            nn.Linear(32, 1),
        )  # fmt: skip
        self.output_bias = nn.Parameter(torch.zeros(1, outputs))

    def forward(
        self, maps: Float[Tensor, "batch c m m"], object_index: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch outputs"]:
        """The numbers; `object_index` is that of the only object."""
        norms, drops = list(self.norms), list(self.drops)
        first, second, third, fourth, fifth = self.convolutions
        x = torch.relu(first(drops[0](self.input_norm(maps))))
        x = norms[0](drops[1](nn.functional.max_pool2d(x, 2)))
        x = nn.functional.max_pool2d(torch.relu(norms[1](second(x))), 2)
        x = nn.functional.max_pool2d(torch.relu(third(drops[2](x))), 2)
        x = norms[2](drops[3](x))
        x = nn.functional.max_pool2d(nn.functional.leaky_relu(norms[3](fourth(x))), 2)
        x = nn.functional.max_pool2d(nn.functional.leaky_relu(norms[4](fifth(x))), 2).flatten(1)
        with torch.autocast(maps.device.type, enabled=False):
            x = x.float()
            return torch.cat((self.rotation(x), self.centre(x), self.depth(x)), dim=1) + self.output_bias

"""The pose head of the thesis that this project grew out of: five convolutions with DropBlock, three branches.

DropBlock (Ghiasi, Lin and Le 2018) drops square blocks of a map. There the layers were made anew at every call, so they
dropped half of every map at test time too; here they are layers like others, and off in eval mode.

Published are maps of 256 x 256, of which five poolings leave 8 x 8. Smaller maps are pooled later and less often: those
of 64 x 64 after the last three convolutions, which so see what the published ones see, and leave 8 x 8 as well. Blocks
cover the same share of a map at every size.
"""

from __future__ import annotations

import itertools
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cad2pose.networks.norms import GroupNorm

_LEAST = 8  # side of the maps that are left
_CHANNELS = (16, 32, 64, 128, 256)
# before the first four convolutions: side of the blocks as a share of the published map's there, and share dropped
_DROPPED = ((20 / 256, 0.5), (10 / 128, 0.5), (5 / 64, 0.4), (1 / 32, 0.4))
_WIDE, _NARROW = 1200, 256


class DropBlock(nn.Module):
    """Drops square blocks of all channels together, and scales what is left to the same mean.

    Args:
        block: side of the blocks, in pixels.
        share: of the map that is dropped, in the mean; less near the border, where no block reaches in from outside.
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
        map_size: side m of the maps, 8 or more.
        outputs: regressed numbers; the last three are the translation's (x, y, z).
        dropping: whether there is DropBlock before the convolutions.
        grouped: group norm in place of the published batch norm (of the vectors in the centre's branch all together).
        scale: of all widths (of which at least 4 channels are left); 1 as published.

    Raises:
        ValueError: for smaller maps.
    """

    def __init__(
        self,
        channels: int,
        map_size: int,
        outputs: int,
        dropping: bool = True,
        grouped: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if map_size < _LEAST:
            raise ValueError(f"maps have {map_size} cells a side; the thesis' head needs {_LEAST} or more")
        *sizes, wide, narrow = (max(4, round(scale * width)) for width in (*_CHANNELS, _WIDE, _NARROW))
        kernels = (7, 3, 3, 3, 3)
        sides = [map_size]
        for later in reversed(range(len(sizes))):
            sides.append(sides[-1] // 2 if sides[-1] >= _LEAST * 2 ** (later + 1) else sides[-1])
        self.pools = [after < before for before, after in itertools.pairwise(sides)]
        over_maps = partial(GroupNorm, 1) if grouped else nn.BatchNorm2d
        over_vectors = partial(GroupNorm, 1) if grouped else nn.BatchNorm1d
        self.input_norm = over_maps(channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(one, other, kernel, padding=kernel // 2)
            for one, other, kernel in zip((channels, *sizes[:-1]), sizes, kernels, strict=True)
        )
        self.drops = nn.ModuleList(
            DropBlock(max(1, round(block * side)), share if dropping else 0.0)
            for (block, share), side in zip(_DROPPED, sides, strict=False)
        )
        self.norms = nn.ModuleList(over_maps(size) for size in sizes)
        flat = sizes[-1] * sides[-1] ** 2
        self.rotation = nn.Sequential(
            nn.Linear(flat, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU(), nn.Linear(narrow, outputs - 3)
        )
        self.centre = nn.Sequential(
            nn.Linear(flat, wide), nn.ReLU(), over_vectors(wide), nn.Linear(wide, narrow), nn.ReLU(),
            over_vectors(narrow), nn.Linear(narrow, 2),
        )  # fmt: skip
        self.depth = nn.Sequential(
            nn.Linear(flat, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU(), nn.Linear(narrow, 32), nn.ReLU(),
            nn.Linear(32, 1),
        )  # fmt: skip
        self.output_bias = nn.Parameter(torch.zeros(1, outputs))

    def forward(
        self, maps: Float[Tensor, "batch channels m m"], object_index: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch outputs"]:
        """The numbers; `object_index` is that of the only object."""
        norms, drops = list(self.norms), list(self.drops)
        first, second, third, fourth, fifth = self.convolutions
        x = torch.relu(first(drops[0](self.input_norm(maps))))
        x = norms[0](drops[1](self._pooled(0, x)))
        x = self._pooled(1, torch.relu(norms[1](second(x))))
        x = self._pooled(2, torch.relu(third(drops[2](x))))
        x = norms[2](drops[3](x))
        x = self._pooled(3, nn.functional.leaky_relu(norms[3](fourth(x))))
        x = self._pooled(4, nn.functional.leaky_relu(norms[4](fifth(x)))).flatten(1)
        with torch.autocast(maps.device.type, enabled=False):
            x = x.float()
            return torch.cat((self.rotation(x), self.centre(x), self.depth(x)), dim=1) + self.output_bias

    def _pooled(self, convolution: int, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h2 w2"]:
        """The larger of four, after those convolutions that are followed by pooling."""
        return nn.functional.max_pool2d(x, 2) if self.pools[convolution] else x

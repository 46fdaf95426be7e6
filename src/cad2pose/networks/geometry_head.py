"""The geometry head of GDR-Net: dense maps from the last feature map of an encoder, without skip connections.

Source: Wang et al. 2021 (batch norm and ReLU); GDRNPP (Liu et al. 2025) has group norm, GELU and outputs of its own for
every object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cad2pose.networks.norms import GroupNorm, groups_of

_LEVELS = 3  # of doubled resolution: from stride 32 to stride 4


class GeometryHead(nn.Module):
    """From the tap at stride 32 to maps at stride 4.

    A transposed convolution doubles the resolution, then bilinear interpolation does, twice; two 3x3 convolutions
    follow each.

    Args:
        channels_in: of the tap.
        outputs: channels of the maps, per object.
        objects: each has its own last 1x1 convolution; 1 shares it (class-agnostic).
        width: channels of the convolutions, a multiple of 8.
        norm: `batch` norm with ReLU, or `group` norm with GELU.
    """

    def __init__(
        self,
        channels_in: int,
        outputs: int,
        objects: int = 1,
        width: int = 256,
        norm: Literal["batch", "group"] = "batch",
    ) -> None:
        super().__init__()
        self.outputs = outputs
        first = nn.ConvTranspose2d(channels_in, width, 3, stride=2, padding=1, output_padding=1, bias=False)
        layers: list[nn.Module] = [first, *_after(width, norm)]
        for level in range(_LEVELS):
            if level:
                layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            for _ in range(2):
                layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), *_after(width, norm)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Conv2d(width, outputs * objects, 1)

    def forward(self, taps: Sequence[Tensor], object_index: Int[Tensor, "batch"]) -> Float[Tensor, "batch outputs h w"]:
        every = self.last(self.layers(taps[-1])).unflatten(1, (-1, self.outputs))
        if every.shape[1] == 1:
            return every[:, 0]
        return every[torch.arange(len(every), device=every.device), object_index]


def _after(width: int, norm: str) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm2d(width), nn.ReLU()]
    return [GroupNorm(groups_of(width), width), nn.GELU()]

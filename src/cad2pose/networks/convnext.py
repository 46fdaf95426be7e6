"""ConvNeXt as a feature encoder (Liu et al. 2022, "A ConvNet for the 2020s"), any width, no classifier."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

_DEPTHS = (3, 3, 9, 3)  # blocks of the four stages: ConvNeXt-T


class ConvNeXtBlock(nn.Module):
    """A 7x7 convolution per channel, layer norm, and two linear layers with GELU between; scaled and added."""

    def __init__(self, channels: int, scale: float = 1e-6) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(nn.functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtEncoder(nn.Module):
    """Four stages at strides 4, 8, 16, 32 with w, 2w, 4w and 8w channels; w = 96 is ConvNeXt-T.

    Args:
        width: w.
        channels_in: of the image.
    """

    def __init__(self, width: int = 96, channels_in: int = 3) -> None:
        super().__init__()
        self.tap_channels = (width, 2 * width, 4 * width, 8 * width)
        stages, channels = [], channels_in
        for number, (size, depth) in enumerate(zip(self.tap_channels, _DEPTHS, strict=True)):
            if number == 0:
                shrink: list[nn.Module] = [nn.Conv2d(channels, size, 4, stride=4), ChannelNorm(size, eps=1e-6)]
            else:
                shrink = [ChannelNorm(channels, eps=1e-6), nn.Conv2d(channels, size, 2, stride=2)]
            stages.append(nn.Sequential(*shrink, *(ConvNeXtBlock(size) for _ in range(depth))))
            channels = size
        self.stages = nn.ModuleList(stages)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Float[Tensor, "batch c h w"]) -> tuple[Tensor, ...]:
        taps = []
        for stage in self.stages:
            image = stage(image)
            taps.append(image)
        return tuple(taps)

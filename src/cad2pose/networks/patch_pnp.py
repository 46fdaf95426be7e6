"""Patch-PnP: a small convolutional head that regresses a pose from dense maps.

Source: GDR-Net (Wang et al. 2021): three stride-2 convolutions with group norm, one shared trunk of two
fully connected layers, one linear output.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cad2pose.networks.norms import GroupNorm, groups_of

PER_OBJECT_WEIGHT = "output_weight"
"""Name of the weights `(objects, inputs, outputs)` of heads; other weights have their outputs first."""
PER_OBJECT_VECTORS = ("output_bias", "object_offset")
"""Names of their vectors `(objects, n)`."""


class PatchPnP(nn.Module):
    """Maps `(B, channels, m, m)` -> `(B, outputs)`.

    Args:
        channels: of the input maps.
        map_size: side m of the maps, a multiple of 8.
        outputs: regressed numbers per object.
        objects: each object has its own offset in the trunk and its own output layer.
        width: channels of the convolutions, a multiple of 8.
        hidden: sizes of the two fully connected layers.
    """

    def __init__(
        self,
        channels: int,
        map_size: int,
        outputs: int,
        objects: int = 1,
        width: int = 128,
        hidden: tuple[int, int] = (1024, 256),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in in (channels, width, width):
            convolution = nn.Conv2d(channels_in, width, 3, stride=2, padding=1, bias=False)
            layers += [convolution, GroupNorm(groups_of(width), width), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.first = nn.Linear(width * (map_size // 8) ** 2, hidden[0])
        self.object_offset = nn.Parameter(torch.zeros(objects, hidden[0]))
        self.second = nn.Linear(hidden[0], hidden[1])
        self.output_weight = nn.Parameter(torch.randn(objects, hidden[1], outputs) * 0.01)
        self.output_bias = nn.Parameter(torch.zeros(objects, outputs))

    def forward(
        self, maps: Float[Tensor, "batch c m m"], object_index: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch outputs"]:
        x = self.features(maps).flatten(1)
        x = nn.functional.leaky_relu(self.first(x) + self.object_offset[object_index], 0.1)
        x = nn.functional.leaky_relu(self.second(x), 0.1)
        with torch.autocast(maps.device.type, enabled=False):
            weight = self.output_weight[object_index]
            return torch.baddbmm(self.output_bias[object_index][:, None], x.float()[:, None], weight)[:, 0]

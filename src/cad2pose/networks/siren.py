"""SIREN: a multilayer perceptron with sine activations, from surface points to keys.

Source: Sitzmann et al. 2020 (initialisation), with the sizes of SurfEmb's key network.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class KeyNetwork(nn.Module):
    """One SIREN per object, evaluated for a batch of objects at once.

    3 -> width -> width -> width -> embedding; y = sin(omega (W x + b)) for the three sine layers, then a
    plain linear layer. First weights ~ U(-1/3, 1/3), the hidden ones ~ U(-a, a) with a = sqrt(6 / width) / omega.
    The last layer starts `gain` times larger than Sitzmann's: with his, keys and the queries they are multiplied
    with both start near zero, a saddle of the contrastive loss that takes thousands of steps to leave.
    """

    def __init__(self, objects: int, embedding: int, width: int = 256, omega: float = 30.0, gain: float = 15.0) -> None:
        super().__init__()
        self.omega = omega
        sizes = (3, width, width, width, embedding)
        bound = math.sqrt(6 / width) / omega
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            spread = 1 / fan_in if layer == 0 else bound * (gain if layer == len(sizes) - 2 else 1)
            self.weights.append(nn.Parameter(torch.empty(objects, fan_in, fan_out).uniform_(-spread, spread)))
            self.biases.append(nn.Parameter(torch.empty(objects, 1, fan_out).uniform_(-1, 1) / math.sqrt(fan_in)))

    def forward(
        self, points: Float[Tensor, "batch n 3"], object_index: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch n embedding"]:
        """Keys of normalised object coordinates, `object_index` says of which object.

        Runs in float32 also under autocast: sin(30 x) has no meaning in half precision.
        """
        with torch.autocast(points.device.type, enabled=False):
            x = points.float()
            last = len(self.weights) - 1
            for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                x = torch.baddbmm(bias[object_index], x, weight[object_index])
                if layer < last:
                    x = torch.sin(self.omega * x)
            return x

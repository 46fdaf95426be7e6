"""Boxes as a detector gives them: the extent of a part, or of what is seen of it, clipped and a little off."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.data.draws import Draws
from cad2pose.geometry import clip_box, projected_box
from cad2pose.parts.bounds import extreme_points

__all__ = ["BoxConfig", "clip_box", "extreme_points", "jitter_box", "projected_box"]


@dataclass(frozen=True)
class BoxConfig:
    """How detectors err: by default as most boxes of two detectors do on LM-O's photographs.

    Attributes:
        shift: standard deviation of the box centre's error, in box sides; below 1.
        scale: standard deviation of the logarithm of each side's factor; below 1.
        visible_share: share of boxes that cover the visible part; the others cover the whole part.
    """

    shift: float = 0.04
    scale: float = 0.06
    visible_share: float = 0.7

    def __post_init__(self) -> None:
        if not (0 <= self.shift < 1 and 0 <= self.scale < 1 and 0 <= self.visible_share <= 1):
            raise ValueError(
                f"boxes with a shift of {self.shift:g} and a scale of {self.scale:g}, {self.visible_share:g} of them "
                "around what is seen: shift and scale are shares of a side, 0 or more and below 1 (0.04 is 4 %), "
                "visible_share lies between 0 and 1"
            )


def jitter_box(box: Float[Tensor, "batch 4"], config: BoxConfig, draws: Draws) -> Float[Tensor, "batch 4"]:
    """Boxes moved and stretched at random; errors beyond three deviations do not occur."""
    count = len(box)
    shift = draws.normal(count, 2).clamp(-3, 3).to(box) * config.shift
    factor = (draws.normal(count, 2).clamp(-3, 3).to(box) * config.scale).exp()
    centre = box[:, :2] + box[:, 2:] * (0.5 + shift)
    side = box[:, 2:] * factor
    return torch.cat((centre - side / 2, side), dim=-1)

"""Poses that are to be judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Hypotheses:
    """N poses, each in one of several crops.

    Args:
        row: `(N,)` the crop.
        rotation: `(N, 3, 3)` R_virt_obj.
        position: `(N, 3)` of the bounding sphere's centre in the crop camera, in radii.
    """

    row: Int[Tensor, "n"]
    rotation: Float[Tensor, "n 3 3"]
    position: Float[Tensor, "n 3"]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: Tensor) -> Hypotheses:
        return Hypotheses(self.row[index], self.rotation[index], self.position[index])

    @property
    def finite(self) -> Bool[Tensor, "n"]:
        """Which of them are poses at all."""
        return self.rotation.flatten(1).isfinite().all(1) & self.position.isfinite().all(1)

    @classmethod
    def join(cls, parts: list[Hypotheses]) -> Hypotheses:
        """All of them, one after the other."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("row", "rotation", "position")))

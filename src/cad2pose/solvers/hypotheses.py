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

    @property
    def ahead(self) -> Bool[Tensor, "n"]:
        """Which of them are before the camera."""
        return self.position[:, 2] > 0

    def float(self) -> Hypotheses:
        """In single precision, which kernels take."""
        return Hypotheses(self.row, self.rotation.float(), self.position.float())

    @classmethod
    def join(cls, parts: list[Hypotheses]) -> Hypotheses:
        """All of them, one after the other."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("row", "rotation", "position")))


@dataclass(frozen=True)
class Believed:
    """N poses with what is thought of them before an image is looked at.

    Args:
        poses: of several crops.
        before: `(N,)` logarithm of their probability, for each independent pixel.
        depth: `(N,)` where their depth is expected, radii.
    """

    poses: Hypotheses
    before: Float[Tensor, "n"]
    depth: Float[Tensor, "n"]

    def __getitem__(self, index: Tensor) -> Believed:
        return Believed(self.poses[index], self.before[index], self.depth[index])

    @classmethod
    def join(cls, parts: list[Believed]) -> Believed:
        """All of them, one after the other."""
        poses = Hypotheses.join([part.poses for part in parts])
        return cls(poses, torch.cat([part.before for part in parts]), torch.cat([part.depth for part in parts]))

"""What kernels of the solver are given, and what a climb gives back."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """What poses of one part in B crops are scored on.

    Args:
        points, normals: `(S, 3)` of the surface samples.
        keys: `(S, E)` of them.
        area: `(S,)` that each stands for.
        visible: `(D, m)` what is seen of the first m >= S samples from the viewpoints.
        directions: `(D, 3)` towards the viewpoints.
        maps: `(B, h + 2, w + 2, E + 3)` as `prepared_maps` gives them.
        K: `(B, 3, 3)`.
        sums: `(B, 3)` as `mask_sums` gives them.
        outliers, mask_weight: of `ScoreOptions`.
    """

    points: Float[Tensor, "s 3"]
    normals: Float[Tensor, "s 3"]
    keys: Float[Tensor, "s e"]
    area: Float[Tensor, "s"]
    visible: Bool[Tensor, "d m"]
    directions: Float[Tensor, "d 3"]
    maps: Float[Tensor, "b h w c"]
    K: Float[Tensor, "b 3 3"]
    sums: Float[Tensor, "b 3"]
    outliers: float
    mask_weight: float

    def arguments(self) -> list[Tensor | int | float]:
        """As the kernels take them."""
        return [
            self.points.contiguous(), self.normals.contiguous(), self.keys.contiguous(), self.area.contiguous(),
            len(self.points), self.visible.contiguous(), self.visible.shape[1], self.directions.contiguous(),
            len(self.directions), self.maps, self.maps.shape[1], self.maps.shape[2], self.K.contiguous(), self.sums,
            float(self.outliers), float(self.mask_weight),
        ]  # fmt: skip


@dataclass(frozen=True)
class Climb:
    """Settings of `climbed`: those of `RefineOptions`, whether derivatives are wanted at the end, the depth's prior.

    Args:
        iterations, damping, tolerance, largest_step: see `RefineOptions`.
        derivatives: wanted, of the poses reached.
        prior_sigma: of log z; 0 for no prior.
        prior_depth, prior_samples: `(N,)` expected depths, and what the prior is weighed against.
    """

    iterations: int = 0
    damping: float = 1.0
    tolerance: float = 0.0
    largest_step: float = 1.0
    derivatives: bool = False
    prior_sigma: float = 0.0
    prior_depth: Float[Tensor, "n"] | None = None
    prior_samples: Float[Tensor, "n"] | None = None


@dataclass(frozen=True)
class Climbed:
    """N poses reached, their scores, the steps taken, and derivatives (zeros where they are not wanted)."""

    rotation: Float[Tensor, "n 3 3"]
    position: Float[Tensor, "n 3"]
    value: Float[Tensor, "n"]
    accepted: Int[Tensor, "n"]
    gradient: Float[Tensor, "n 6"]
    information: Float[Tensor, "n 6 6"]

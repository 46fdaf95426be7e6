"""What a solver found: poses, alternatives and their uncertainty, or why there is no pose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor


@dataclass(frozen=True)
class SolverStats:
    """What was tried.

    Args:
        proposed: `(B,)` poses scored.
        refined: `(B,)` poses refined.
    """

    proposed: Int[Tensor, "b"]
    refined: Int[Tensor, "b"]

    @classmethod
    def of(cls, proposed: Int[Tensor, "b"], refined: Int[Tensor, "b"] | None = None) -> SolverStats:
        """With none refined where nothing is said of it."""
        return cls(proposed, torch.zeros_like(proposed) if refined is None else refined)


@dataclass(frozen=True)
class Solution:
    """Poses of B crops, each with up to k alternatives, the likeliest first.

    Args:
        rotation: `(B, k, 3, 3)` R_virt_obj; NaN where there is no (further) alternative.
        position: `(B, k, 3)` of the bounding sphere's centre in the crop camera, radii; NaN likewise.
        score: `(B, k)`, with what was known before; -inf likewise.
        probability: `(B, k)` of the alternatives; 0 likewise.
        covariance: `(B, 6, 6)` of the best pose's left perturbation (rotation vector, translation), rad and radii, in
            the crop camera, about the sphere's centre; NaN without a pose.
        free_axis: `(B, 3)` unit axis in the crop camera about which the best pose may turn at will (a continuous
            symmetry, seen as such), along which the covariance has nothing to say; zeros where there is none.
        reasons: for every crop None, or why it has no pose.
        stats: what was tried.
    """

    rotation: Float[Tensor, "b k 3 3"]
    position: Float[Tensor, "b k 3"]
    score: Float[Tensor, "b k"]
    probability: Float[Tensor, "b k"]
    covariance: Float64[Tensor, "b 6 6"]
    free_axis: Float[Tensor, "b 3"]
    reasons: tuple[str | None, ...]
    stats: SolverStats

    def __len__(self) -> int:
        return len(self.rotation)

    @property
    def found(self) -> Bool[Tensor, "b"]:
        """Which crops have a pose."""
        return torch.tensor([reason is None for reason in self.reasons], dtype=torch.bool, device=self.rotation.device)

    def without_failed(self) -> Solution:
        """The same with nothing left of the crops that have a reason for no pose."""
        lost = ~self.found
        return replace(
            self, rotation=self.rotation.masked_fill(lost[:, None, None, None], torch.nan),
            position=self.position.masked_fill(lost[:, None, None], torch.nan),
            score=self.score.masked_fill(lost[:, None], -torch.inf),
            probability=self.probability.masked_fill(lost[:, None], 0.0),
            covariance=self.covariance.masked_fill(lost[:, None, None], torch.nan),
            free_axis=self.free_axis.masked_fill(lost[:, None], 0.0),
        )  # fmt: skip

    @classmethod
    def nothing(cls, reasons: list[str | None], device: torch.device, stats: SolverStats) -> Solution:
        """Of crops none of which has a pose."""
        count = len(reasons)

        def empty(*shape: int, value: float = torch.nan) -> Tensor:
            return torch.full((count, *shape), value, device=device)

        return cls(
            empty(1, 3, 3), empty(1, 3), empty(1, value=-torch.inf), empty(1, value=0.0), empty(6, 6).double(),
            empty(3, value=0.0), tuple(reasons), stats,
        )  # fmt: skip

"""Does a higher score mean a better pose? Errors among the estimates that are kept, as fewer are kept.

El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification" (2010); Geifman et al., "Bias-Reduced
Uncertainty Estimation for Deep Neural Classifiers" (2019) for the area.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class RiskCoverage:
    """The curve, one point for every number of estimates kept.

    Args:
        coverage: `(N,)` share of the estimates that is kept, those of the highest scores.
        risk: `(N,)` share of those kept whose event did not happen; of equal scores, the mean over their orders.
        area: mean of the risks; the lower the better.
        least_area: of the best order there is, which puts all right ones in front.
    """

    coverage: Float[Tensor, "n"]
    risk: Float[Tensor, "n"]
    area: float
    least_area: float

    def largest_coverage(self, risk: float) -> float:
        """The largest share that can be kept at no more than this risk, 0 where there is none."""
        kept = self.coverage[self.risk <= risk]
        return float(kept.max()) if len(kept) else 0.0


def risk_coverage(scores: Float[Tensor, "n"], events: Bool[Tensor, "n"]) -> RiskCoverage:
    """The curve of some estimates.

    Args:
        scores: higher is better.
        events: whether the pose is right.

    Raises:
        ValueError: if there are no scores, or one is not a number.
    """
    if not len(scores) or bool(scores.isnan().any()):
        raise ValueError("a risk-coverage curve needs at least one score, and every one must be a number")
    values, place, counts = torch.unique(-scores.double(), return_inverse=True, return_counts=True)
    wrong = torch.zeros(len(values), dtype=torch.float64).scatter_add_(0, place, (~events).double())
    each = (wrong / counts)[place.sort().values]
    kept = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    risk = each.cumsum(0) / kept
    best = (~events).double().sort().values.cumsum(0) / kept
    return RiskCoverage(kept / len(scores), risk, float(risk.mean()), float(best.mean()))

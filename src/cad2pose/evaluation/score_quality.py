"""What the scores of a results file are worth: do they order the estimates, and can they be read as probabilities?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cad2pose.confidence import RIGHT_BELOW
from cad2pose.evaluation.calibration import (
    Calibration,
    ReliabilityBin,
    calibration_gap,
    cross_fitted,
    fit_calibration,
    reliability,
)
from cad2pose.evaluation.estimate_errors import EstimateError
from cad2pose.evaluation.risk_coverage import RiskCoverage, risk_coverage

_SHOWN_RISK = 0.1


@dataclass(frozen=True)
class ScoreQuality:
    """Of the estimates that count; the event is MSSD below RIGHT_BELOW of the diameter.

    Args:
        estimates: how many.
        right: share of them whose event happened.
        plain: reliability diagram of the scores as they are; None where they are not within [0, 1].
        calibration: Platt's fit on all of them.
        fitted: reliability diagram of fits that have not seen the estimate's image; None for a single image.
        curve: risk over coverage.
    """

    estimates: int
    right: float
    plain: tuple[ReliabilityBin, ...] | None
    calibration: Calibration
    fitted: tuple[ReliabilityBin, ...] | None
    curve: RiskCoverage

    @property
    def plain_error(self) -> float | None:
        """Expected calibration error of the scores as they are."""
        return None if self.plain is None else calibration_gap(self.plain)

    @property
    def fitted_error(self) -> float | None:
        """Expected calibration error after the fit, on images that it has not seen."""
        return None if self.fitted is None else calibration_gap(self.fitted)

    def to_json(self) -> dict[str, Any]:
        """As json values."""
        return {
            "event": f"MSSD below {RIGHT_BELOW:g} of the diameter",
            "estimates": self.estimates,
            "right": self.right,
            "expected_calibration_error": self.plain_error,
            "reliability": None if self.plain is None else [vars(b) for b in self.plain],
            "platt": {"a": self.calibration.a, "b": self.calibration.b},
            "expected_calibration_error_fitted": self.fitted_error,
            "reliability_fitted": None if self.fitted is None else [vars(b) for b in self.fitted],
            "risk_coverage": {
                "area": self.curve.area,
                "least_area": self.curve.least_area,
                f"coverage_at_risk_{_SHOWN_RISK:g}": self.curve.largest_coverage(_SHOWN_RISK),
                "coverage": self.curve.coverage.tolist(),
                "risk": self.curve.risk.tolist(),
            },
        }


def judge_scores(estimates: Sequence[EstimateError]) -> ScoreQuality | None:
    """What the scores of some estimates are worth; None without an estimate."""
    if not estimates:
        return None
    scores = torch.tensor([e.score for e in estimates], dtype=torch.float64)
    events = torch.tensor([e.mssd < RIGHT_BELOW for e in estimates])
    images = [(e.scene_id, e.image_id) for e in estimates]
    within = float(scores.min()) >= 0 and float(scores.max()) <= 1
    fitted = None
    if len(set(images)) > 1:
        fitted = reliability(cross_fitted(scores, events, images), events)
    return ScoreQuality(
        estimates=len(estimates),
        right=float(events.double().mean()),
        plain=reliability(scores, events) if within else None,
        calibration=fit_calibration(scores, events),
        fitted=fitted,
        curve=risk_coverage(scores, events),
    )

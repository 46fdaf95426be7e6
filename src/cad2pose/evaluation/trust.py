"""How far the scores of a results file can be trusted, in one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cad2pose.evaluation.bootstrap import LEVEL
from cad2pose.evaluation.breakdown import Group, break_down
from cad2pose.evaluation.headline import DRAWS, Figures, draw_figures, intervals_json
from cad2pose.evaluation.score_quality import ScoreQuality, judge_scores
from cad2pose.evaluation.score_row import finite_or_none
from cad2pose.evaluation.scores import Scores


@dataclass(frozen=True)
class Trust:
    """Intervals, breakdown and quality of the scores.

    Args:
        draws, seed: of the bootstrap.
        figures: every figure over all targets, with its draws.
        groups: scores by object, visible share, distance and size.
        quality: of the estimates' scores; None without an estimate.
    """

    draws: int
    seed: int
    figures: Figures
    groups: tuple[Group, ...]
    quality: ScoreQuality | None

    def to_json(self) -> dict[str, Any]:
        """As json values."""
        return {
            "bootstrap": {"draws": self.draws, "seed": self.seed, "level": LEVEL, "resampled": "images"},
            "figures": {name: finite_or_none(value) for name, value in self.figures.values.items()},
            "intervals": intervals_json(self.figures.intervals()),
            "breakdown": [group.to_json() for group in self.groups],
            "score_quality": None if self.quality is None else self.quality.to_json(),
        }


def trust(scores: Scores, draws: int = DRAWS, seed: int = 0) -> Trust:
    """Everything that says how far scores can be trusted.

    Args:
        scores: of one results file.
        draws: of the bootstrap.
        seed: of the draws; the same seed gives the same intervals.
    """
    return Trust(
        draws, seed, draw_figures(scores, draws, seed), break_down(scores.table, draws, seed),
        judge_scores(scores.estimates),
    )  # fmt: skip

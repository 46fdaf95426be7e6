"""Scoring anybody's poses: error measures, BOP's matching and average recall, tables."""

from cad2pose.evaluation.pose_error import (
    add_error,
    adi_error,
    frobenius_error,
    mspd_error,
    mssd_error,
    projection_error,
    rotation_error,
    symmetric_errors,
    translation_error,
)
from cad2pose.evaluation.recall import Match, Recall, TargetErrors, compute_recall, match_greedily
from cad2pose.evaluation.scores import EstimateError, ScoreRow, Scores, Spread, evaluate

__all__ = [
    "EstimateError", "Match", "Recall", "ScoreRow", "Scores", "Spread", "TargetErrors", "add_error", "adi_error",
    "compute_recall", "evaluate", "frobenius_error", "match_greedily", "mspd_error", "mssd_error",
    "projection_error", "rotation_error", "symmetric_errors", "translation_error",
]  # fmt: skip

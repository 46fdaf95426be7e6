"""Scoring anybody's poses: error measures, BOP's matching and average recall, tables."""

from cad2pose.evaluation.area_under_curve import toolbox_area
from cad2pose.evaluation.average_precision import interpolated_average_precision
from cad2pose.evaluation.estimate_errors import EstimateError
from cad2pose.evaluation.pose_error import (
    add_error,
    adi_error,
    frobenius_error,
    mspd_error,
    mssd_error,
    projection_error,
    rotation_error,
    symmetric_errors,
    symmetric_projection_error,
    translation_error,
)
from cad2pose.evaluation.recall import Match, Recall, TargetErrors, compute_recall, match_greedily
from cad2pose.evaluation.score_row import ScoreRow, Spread
from cad2pose.evaluation.scores import Scores, ScoringOptions, evaluate
from cad2pose.evaluation.visible_surface import depth_to_distance, visibility_masks, vsd_error

__all__ = [
    "EstimateError", "Match", "Recall", "ScoreRow", "Scores", "ScoringOptions", "Spread", "TargetErrors",
    "add_error", "adi_error", "compute_recall", "depth_to_distance", "evaluate", "frobenius_error",
    "interpolated_average_precision", "match_greedily", "mspd_error", "mssd_error", "projection_error",
    "rotation_error", "symmetric_errors", "symmetric_projection_error", "toolbox_area", "translation_error",
    "visibility_masks", "vsd_error",
]  # fmt: skip

"""Scoring anybody's poses: error measures, BOP's recalls and precisions, and how far the figures can be trusted."""

from cad2pose.confidence import Calibration
from cad2pose.evaluation.area_under_curve import toolbox_area
from cad2pose.evaluation.average_precision import interpolated_average_precision
from cad2pose.evaluation.bootstrap import Interval, PairedTest
from cad2pose.evaluation.breakdown import break_down
from cad2pose.evaluation.calibration import expected_calibration_error, fit_calibration, reliability
from cad2pose.evaluation.estimate_errors import EstimateError
from cad2pose.evaluation.headline import draw_figures, paired_tests
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
from cad2pose.evaluation.risk_coverage import risk_coverage
from cad2pose.evaluation.score_row import ScoreRow, Spread
from cad2pose.evaluation.scores import Scores, ScoringOptions, evaluate
from cad2pose.evaluation.trust import Trust, trust
from cad2pose.evaluation.visible_surface import depth_to_distance, visibility_masks, vsd_error

__all__ = [
    "Calibration", "EstimateError", "Interval", "Match", "PairedTest", "Recall", "ScoreRow", "Scores",
    "ScoringOptions", "Spread", "TargetErrors", "Trust", "add_error", "adi_error", "break_down", "compute_recall",
    "depth_to_distance", "draw_figures", "evaluate", "expected_calibration_error", "fit_calibration",
    "frobenius_error", "interpolated_average_precision", "match_greedily", "mspd_error", "mssd_error",
    "paired_tests", "projection_error", "reliability", "risk_coverage", "rotation_error", "symmetric_errors",
    "symmetric_projection_error", "toolbox_area", "translation_error", "trust", "visibility_masks", "vsd_error",
]  # fmt: skip

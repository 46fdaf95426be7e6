"""Comparisons of methods on equal terms, and what the scores of a model are worth."""

from cad2pose.experiments.calibration import TestedCalibration, calibrate, calibrate_on_images, usual_ways
from cad2pose.experiments.calibration_crops import crops_in_all
from cad2pose.experiments.calibration_images import LabelledBoxes
from cad2pose.experiments.comparison import ComparisonConfig, compare
from cad2pose.experiments.contestants import CONTESTANTS, Contestant
from cad2pose.experiments.finished_runs import Comparison, as_json, finished, from_json
from cad2pose.experiments.photographs import Photographs, PhotographScores
from cad2pose.experiments.report import write_report

__all__ = [
    "CONTESTANTS", "Comparison", "ComparisonConfig", "Contestant", "LabelledBoxes", "PhotographScores", "Photographs",
    "TestedCalibration", "as_json", "calibrate", "calibrate_on_images", "compare", "crops_in_all", "finished",
    "from_json", "usual_ways", "write_report",
]  # fmt: skip

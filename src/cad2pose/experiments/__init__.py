"""Comparisons of methods on equal terms: the same parts, crops, budget and seeds."""

from cad2pose.experiments.comparison import Comparison, ComparisonConfig, as_json, compare, finished, from_json
from cad2pose.experiments.contestants import CONTESTANTS, Contestant
from cad2pose.experiments.report import write_report

__all__ = [
    "CONTESTANTS", "Comparison", "ComparisonConfig", "Contestant", "as_json", "compare", "finished", "from_json",
    "write_report",
]  # fmt: skip

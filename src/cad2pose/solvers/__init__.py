"""From query images to poses: score, refinement, search; batched over hypotheses and crops."""

from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.quick_score import QuickScore
from cad2pose.solvers.refine import DepthPrior, Refined, RefineOptions, refine
from cad2pose.solvers.score import PoseScore, ScoreOptions
from cad2pose.solvers.search import SearchOptions, search
from cad2pose.solvers.surface import Surface

__all__ = [
    "DepthPrior", "Hypotheses", "PoseScore", "QueryMaps", "QuickScore", "RefineOptions", "Refined", "ScoreOptions",
    "SearchOptions", "Surface", "refine", "search",
]  # fmt: skip

"""From query images to poses: proposals, score, refinement, uncertainty; batched over hypotheses and crops."""

from cad2pose.solvers.depth import DepthOptions, DepthRefined, measured_along_ray, other_unit, refine_depth
from cad2pose.solvers.distinct import Gap
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.key_symmetry import KeySymmetry, key_symmetry
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.quick_score import QuickScore
from cad2pose.solvers.refine import DepthPrior, Refined, RefineOptions, refine
from cad2pose.solvers.robust_pnp import CoordinateMaps, PnPOptions, PnPPoses, robust_pnp
from cad2pose.solvers.sampling import SamplingOptions, sample_poses
from cad2pose.solvers.score import PoseScore, ScoreOptions
from cad2pose.solvers.search import SearchOptions, search_poses
from cad2pose.solvers.solution import Solution, SolverStats
from cad2pose.solvers.solve import solve
from cad2pose.solvers.solver_options import Level, SolverOptions, Start
from cad2pose.solvers.surface import Surface

__all__ = [
    "CoordinateMaps", "DepthOptions", "DepthPrior", "DepthRefined", "Gap", "Hypotheses", "KeySymmetry", "Level",
    "PnPOptions", "PnPPoses", "PoseScore", "QueryMaps", "QuickScore", "RefineOptions", "Refined", "SamplingOptions",
    "ScoreOptions", "SearchOptions", "Solution", "SolverOptions", "SolverStats", "Start", "Surface", "key_symmetry",
    "measured_along_ray", "other_unit", "refine", "refine_depth", "robust_pnp", "sample_poses", "search_poses", "solve",
]  # fmt: skip

"""Where climbs begin: poses proposed by the query image, or the most promising of those that are given."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.solvers.distinct import Gap, distinct
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.quick_score import QuickScore
from cad2pose.solvers.sampling import SamplingOptions, sample_poses
from cad2pose.solvers.score import ScoreOptions
from cad2pose.solvers.search import placed_by_mask, search_poses
from cad2pose.solvers.solver_options import SolverOptions
from cad2pose.solvers.surface import Surface

_HOPELESS = 12.0  # log-likelihood below the best pose, of poses that may still climb
_UNSURE = 0.4  # sharpness of the queries by which poses to start from are chosen, which may be far off
_CONTRAST = 1024  # surface samples that unsure probabilities, which change slowly, are normalised over
_FAR = Gap(0.5, 10.0)  # such poses differ by


def propose(
    surface: Surface, keys: Float[Tensor, "m e"], maps: QueryMaps, options: SolverOptions
) -> tuple[Hypotheses, Float[Tensor, "n"]]:
    """Poses with their rough scores."""
    small = _small(maps, options)
    if isinstance(options.proposals, SamplingOptions):
        poses = sample_poses(surface, keys, small, options.proposals)
    else:
        poses = search_poses(surface, keys, small, options.proposals)
    rough = QuickScore(surface, keys, small, options.score)
    return poses, rough(poses.row, poses.rotation, poses.position)


def promising(
    surface: Surface,
    keys: Float[Tensor, "m e"],
    maps: QueryMaps,
    poses: Hypotheses,
    evidence: Float[Tensor, "n"],
    options: SolverOptions,
) -> tuple[Hypotheses, Float[Tensor, "k"]]:
    """Of the poses given to start from, the distinct ones with the best rough scores and evidence; where none of them
    is to climb, the first of every crop."""
    first = torch.ones_like(poses.row, dtype=torch.bool)
    first[1:] = poses.row[1:] != poses.row[:-1]
    if not options.refine or bool(first.all()):
        return poses[first], evidence[first]
    small = _small(maps, options)
    unsure = replace(options.score, sharpness=_UNSURE, contrast=min(options.score.contrast, _CONTRAST))
    rough = QuickScore(surface, keys, small, unsure)
    value = rough(poses.row, poses.rotation, poses.position) + evidence
    index = distinct(poses, hopeful(poses, value, len(maps), options), len(maps), options.starts, _FAR)
    chosen = index[index >= 0]
    return poses[chosen], evidence[chosen]


def _small(maps: QueryMaps, options: SolverOptions) -> QueryMaps:
    """The maps that rough scores are taken on."""
    return maps.coarser(max(1, round(maps.queries.shape[-1] / options.propose_side)))


def better_placed(
    surface: Surface, keys: Float[Tensor, "m e"], maps: QueryMaps, poses: Hypotheses, options: ScoreOptions
) -> Hypotheses:
    """Poses, or the same where the mask would have them, whichever scores higher to begin with."""
    rough = QuickScore(surface, keys, maps, options)
    moved = placed_by_mask(surface, maps, poses)
    better = rough(moved.row, moved.rotation, moved.position) > rough(poses.row, poses.rotation, poses.position)
    return Hypotheses(poses.row, poses.rotation, torch.where(better[:, None], moved.position, poses.position))


def hopeful(poses: Hypotheses, value: Float[Tensor, "n"], crops: int, options: SolverOptions) -> Float[Tensor, "n"]:
    """The values, without those that are too far below the best of their crop."""
    best = torch.full((crops,), -torch.inf, device=value.device).scatter_reduce(0, poses.row, value, "amax")
    return torch.where(options.independent * (best[poses.row] - value) > _HOPELESS, -torch.inf, value)

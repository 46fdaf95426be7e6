"""From query images to poses: propose, score, refine, tell apart; with what is uncertain, or the reason for no pose.

    result = solve(surface, keys, maps, SolverOptions())

Proposals come from sampled correspondences, from a search without randomness, or from outside (a regressed pose). The
best distinct ones climb the score, first of unsure queries on coarse maps, which draws them from afar, then of the
queries as they are on the finest maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.solvers.candidates import better_placed, hopeful, promising, propose
from cad2pose.solvers.distinct import Gap, distinct
from cad2pose.solvers.hypotheses import Believed, Hypotheses
from cad2pose.solvers.key_symmetry import KeySymmetry
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.refine import DepthPrior, refine
from cad2pose.solvers.score import PoseScore, ScoreOptions
from cad2pose.solvers.solution import Solution, SolverStats
from cad2pose.solvers.solver_options import Level, SolverOptions, Start
from cad2pose.solvers.surface import Surface
from cad2pose.solvers.uncertainty import covariance, free_axes
from cad2pose.solvers.usable import unusable

_WORTH_CLIMBING = 25.0  # log-likelihood below the best pose
_MORE_STEPS = 4
_CONTRAST = 4  # keys that probabilities are normalised over, for each surface sample of a level
_NO_HYPOTHESIS = (
    "no hypothesis is left: too few pixels show the part, or every pose proposed lies too near, too far, or shows the "
    "part's back"
)
_NO_START = (
    "no pose to start from is finite and before the camera: the network's output holds numbers that are not, or none "
    "was given"
)
_NO_SCORE = "no pose has a finite score"


Timed = Callable[[str], AbstractContextManager[None]]
"""Measures what happens inside, by the name of a stage."""


def _untimed(stage: str) -> AbstractContextManager[None]:
    return nullcontext()


@torch.no_grad()
def solve(
    surface: Surface,
    keys: Float[Tensor, "m e"],
    maps: QueryMaps,
    options: SolverOptions | None = None,
    start: Start | None = None,
    symmetry: KeySymmetry | None = None,
    timed: Timed = _untimed,
) -> Solution:
    """Poses of one part in B crops.

    Args:
        surface: of the part.
        keys: `(m, E)` of the surface's points.
        maps: of the B crops; those that are of no use get no pose and a reason, and do not affect the others.
        options: settings.
        start: poses to refine; without them, poses are proposed.
        symmetry: of the keys; without it no free axis is found, and only those alternatives that proposals led to.
        timed: enters and leaves the stages: "proposals" (or the choice among poses to refine), "climb", "conclusion".
    """
    options = options or SolverOptions()
    reasons = unusable(maps, start is not None)
    usable = torch.tensor([reason is None for reason in reasons], dtype=torch.bool, device=maps.K.device)
    if not len(maps):
        return Solution.nothing(
            [], maps.K.device, SolverStats.of(torch.zeros(0, dtype=torch.long, device=maps.K.device))
        )
    maps = _blanked(maps, usable)
    with timed("proposals"):
        if start is None:
            poses, evidence = propose(surface, keys, maps, options)
        else:
            order = start.poses.row.argsort(stable=True)
            poses, evidence = start.poses[order].float(), start.log_probability[order].float() / options.independent
        keep = (usable[poses.row] & poses.finite & poses.ahead & evidence.isfinite()).nonzero()[:, 0]
        poses, evidence = poses[keep], evidence[keep]
        proposed = _counts(poses.row, len(maps))
        for crop in (usable & (proposed == 0)).nonzero()[:, 0].tolist():
            reasons[crop] = _NO_HYPOTHESIS if start is None else _NO_START
        if not len(poses):
            return Solution.nothing(reasons, maps.K.device, SolverStats.of(proposed))
        if start is None:
            most = options.distinct if options.refine else options.modes
            index = distinct(poses, evidence, len(maps), most, options.gap)
            poses = poses[index[index >= 0]]
            before, sigma = torch.zeros_like(poses.position[:, 0]), None
        else:
            poses, before = promising(surface, keys, maps, poses, evidence, options)
            sigma = start.depth_sigma
        refined = _counts(poses.row, len(maps))
        believed = Believed(poses, before, poses.position[:, 2])
    with timed("climb"):
        score, believed, value = _climbed(surface, keys, maps, believed, sigma, start is not None, options)
    with timed("conclusion"):
        axes = torch.zeros(len(maps), 3, device=value.device)
        poses = believed.poses
        if symmetry is not None:
            if symmetry.turning:
                axes = free_axes(score, _best(poses, value, len(maps)), symmetry.axis, len(maps), options.independent)
            if start is None or options.refine:  # poses that are to stay as they were given have no siblings
                poses, value = _with_symmetric(score, believed, value, sigma, symmetry, axes, options)
        return _concluded(score, poses, value, axes, reasons, options, SolverStats.of(proposed, refined))


def _counts(row: Int[Tensor, "n"], crops: int) -> Int[Tensor, "crops"]:
    """How many poses every crop has (`bincount` would wait for the device)."""
    return torch.zeros(crops, dtype=torch.long, device=row.device).scatter_add_(0, row, torch.ones_like(row))


def _blanked(maps: QueryMaps, usable: Bool[Tensor, "b"]) -> QueryMaps:
    """Maps with nothing in crops that are of no use, in the types that kernels take."""
    queries = torch.where(usable[:, None, None, None], maps.queries.float(), 0.0)
    logits = torch.where(usable[:, None, None], maps.mask_logits.float(), -20.0)
    return replace(maps, queries=queries, mask_logits=logits, valid=maps.valid.float(), K=maps.K.float())


def _climbed(
    surface: Surface,
    keys: Float[Tensor, "m e"],
    maps: QueryMaps,
    begun: Believed,
    depth_sigma: float | None,
    started: bool,
    options: SolverOptions,
) -> tuple[PoseScore, Believed, Float[Tensor, "k"]]:
    """The finest score, the poses that came to its maxima, and their scores with what was thought of them before."""
    fine = options.fine if options.refine else options.fine[-1:]
    sizes: dict[int, QueryMaps] = {}
    scores: dict[tuple[int, ScoreOptions], PoseScore] = {}

    def sized(level: Level) -> tuple[int, QueryMaps]:
        factor = maps.factor_of_side(level.side)
        if factor not in sizes:
            sizes[factor] = maps.coarser(factor)
        return factor, sizes[factor]

    def climb(level: Level, believed: Believed, moves: bool) -> tuple[PoseScore, Believed, Float[Tensor, "n"]]:
        contrast = min(options.score.contrast, _CONTRAST * level.points)
        settings = replace(options.score, points=level.points, contrast=contrast, sharpness=level.sharpness)
        factor, seen = sized(level)
        score = scores.get((factor, settings))
        if score is None:
            score = scores[factor, settings] = PoseScore(surface, keys, seen, settings)
        if not moves:
            poses = believed.poses
            return score, believed, score(poses.row, poses.rotation, poses.position)
        return score, *_refined(score, believed, depth_sigma, level.iterations, options)

    believed = begun
    if options.refine and options.coarse:
        if depth_sigma is None:
            first = options.coarse[0]
            unsure = replace(options.score, sharpness=first.sharpness)
            begun = replace(begun, poses=better_placed(surface, keys, sized(first)[1], begun.poses, unsure))
        believed = begun
        for level in options.coarse:
            _, believed, _ = climb(level, believed, moves=True)
        if started:  # from afar is not always better: what was given climbs on its own as well
            order = torch.cat((believed.poses.row, begun.poses.row)).argsort(stable=True)
            believed = Believed.join([believed, begun])[order]
    for number, level in enumerate(fine):
        score, believed, value = climb(level, believed, moves=options.refine)
        value = value + believed.before
        if number + 1 < len(fine):
            poses = believed.poses
            index = distinct(
                poses, hopeful(poses, value, len(maps), options), len(maps), options.modes, options.gap
            )  # fmt: skip
            believed = believed[index[index >= 0]]
    return score, believed, value


def _refined(
    score: PoseScore, believed: Believed, depth_sigma: float | None, steps: int, options: SolverOptions
) -> tuple[Believed, Float[Tensor, "n"]]:
    """Where poses climb to, and their scores there, the prior of their depth included."""
    poses, depth, prior = believed.poses, believed.depth, None
    if depth_sigma is not None:
        prior = DepthPrior(depth, depth_sigma, torch.full_like(depth, options.independent))
    limits = replace(options.climb, iterations=steps)
    found = refine(score, poses.row, poses.rotation, poses.position, limits, prior)
    return replace(believed, poses=Hypotheses(poses.row, found.rotation, found.position)), found.score


def _best(poses: Hypotheses, value: Float[Tensor, "n"], crops: int) -> Hypotheses:
    """The best pose of every crop that has one."""
    index = distinct(poses, value, crops, 1, Gap())[:, 0]
    return poses[index[index >= 0]]


def _with_symmetric(
    score: PoseScore,
    believed: Believed,
    value: Float[Tensor, "n"],
    depth_sigma: float | None,
    symmetry: KeySymmetry,
    free: Float[Tensor, "b 3"],
    options: SolverOptions,
) -> tuple[Hypotheses, Float[Tensor, "k"]]:
    """The poses, and the best one of every crop turned by the keys' symmetries where that is about as likely.

    The best one climbs on beside its siblings, from the same prior, so that none of them wins by more steps.
    """
    poses, turns = believed.poses, symmetry.rotations
    if len(turns) < 2:
        return poses, value
    index = distinct(poses, value, len(free), 1, options.gap)[:, 0]
    best = index[index >= 0]
    pose = best.repeat_interleave(len(turns))
    row = poses.row[pose]
    rotation = (poses.rotation[best, None] @ turns).flatten(0, 1)
    siblings = replace(believed[pose], poses=Hypotheses(row, rotation, poses.position[pose]))
    there = score(row, rotation, poses.position[pose]).view(len(best), len(turns))
    likely = options.independent * (there[:, :1] - there) < _WORTH_CLIMBING
    axes = turns @ symmetry.axis
    again = (axes @ axes.T > math.cos(options.gap.rotation)).tril(-1).any(1)  # but for a turn about the free axis
    keep = (likely & ~(again & free[poses.row[best]].any(1)[:, None])).flatten().nonzero()[:, 0]
    siblings = siblings[keep]
    if options.refine:
        siblings, reached = _refined(score, siblings, depth_sigma, _MORE_STEPS, options)
    else:
        reached = there.flatten()[keep]
    order = torch.cat((poses.row, siblings.poses.row)).argsort(stable=True)
    joined = Hypotheses.join([poses, siblings.poses])[order]
    return joined, torch.cat((value, reached + siblings.before))[order]


def _concluded(
    score: PoseScore,
    poses: Hypotheses,
    value: Float[Tensor, "n"],
    free: Float[Tensor, "b 3"],
    reasons: list[str | None],
    options: SolverOptions,
    stats: SolverStats,
) -> Solution:
    """The best pose of every crop, its alternatives and its uncertainty."""
    crops = len(reasons)
    index = distinct(poses, value, crops, options.alternatives, options.gap)
    there = index >= 0
    found = there[:, 0]
    for crop, lost in enumerate((~found).tolist()):
        if lost and reasons[crop] is None:
            reasons[crop] = _NO_SCORE
    best = poses[index[found, 0]]
    curvature = score.linearize(best.row, best.rotation, best.position).information
    spread = torch.full((crops, 6, 6), torch.nan, device=free.device, dtype=torch.float64)
    spread[found] = options.covariance_factor * covariance(curvature, free[found], options.independent)
    safe = index.clamp_min(0)
    rotation, position, values = poses.rotation[safe], poses.position[safe], value[safe]
    there &= ~_repeated(rotation, position, free, options.gap)
    values = torch.where(there, values, -torch.inf)
    probability = torch.softmax(torch.where(found[:, None], values, 0.0) * options.independent, dim=1)
    there &= probability >= options.likely
    there[:, 0] = found
    probability = probability * there
    probability = probability / probability.sum(1, keepdim=True).clamp_min(1e-12)
    order = (~there).to(torch.uint8).argsort(dim=1, stable=True)  # those that are left follow each other
    rotation, position = (t[torch.arange(crops, device=t.device)[:, None], order] for t in (rotation, position))
    nowhere, values, probability = (t.gather(1, order) for t in (~there, values, probability))
    return Solution(
        rotation.masked_fill(nowhere[..., None, None], torch.nan), position.masked_fill(nowhere[..., None], torch.nan),
        values.masked_fill(nowhere, -torch.inf), probability, spread, free, tuple(reasons), stats,
    )  # fmt: skip


def _repeated(
    rotation: Float[Tensor, "b k 3 3"], position: Float[Tensor, "b k 3"], free: Float[Tensor, "b 3"], gap: Gap
) -> Bool[Tensor, "b k"]:
    """Alternatives that are an earlier one turned about the part's free axis, and so no alternatives."""
    axis = rotation[:, 0].transpose(1, 2) @ free[..., None]  # as the part has it
    along = (rotation @ axis[:, None])[..., 0]
    alike = along @ along.transpose(1, 2) > math.cos(gap.rotation)
    near = torch.cdist(position, position) < gap.position
    return (alike & near).tril(-1).any(-1)

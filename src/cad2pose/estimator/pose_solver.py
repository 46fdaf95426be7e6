"""Poses that climb the score of their query image: regressed ones, or ones solved for from that image alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.estimator.missing_poses import no_poses
from cad2pose.estimator.stages import Stages
from cad2pose.geometry import make_transform, nearest_rotation
from cad2pose.methods import QueryImageMethod, QueryMethod, QueryOutput, SurfEmbOutput
from cad2pose.model_file import Model
from cad2pose.solvers import (
    DepthOptions,
    Hypotheses,
    KeySymmetry,
    QueryMaps,
    SamplingOptions,
    SearchOptions,
    Solution,
    SolverOptions,
    Start,
    Surface,
    key_symmetry,
    measured_along_ray,
    other_unit,
    refine_depth,
    solve,
)
from cad2pose.structures import CropBatch, PoseDetails, Poses

Solver = Literal["regression", "sampling", "search"]

_DEPTH_SIGMA, _SIGMA_OF_ERROR = 0.06, 3.0
_PREPARED_SIDE = 64


@dataclass(frozen=True)
class RefinementOptions:
    """Settings of the refinement.

    Attributes:
        modes: the likeliest rotations of the head that differ; they are refined, or those of charts that fit the query
            image better (`SolverOptions.starts` in all, at most).
        depth_sigma: relative standard deviation of the regressed depth, which is believed that far; None: not at all;
            `model`: by how well the model has learnt it, as `believed_depth` says.
        solver: of the climb and of the choice between its results.
        depth: of the depth refinement, where a depth image is given.
    """

    modes: int = 3
    depth_sigma: float | Literal["model"] | None = "model"
    solver: SolverOptions = field(default_factory=SolverOptions)
    depth: DepthOptions = field(default_factory=DepthOptions)

    def __post_init__(self) -> None:
        if self.modes < 1:
            raise ValueError(f"modes is {self.modes}; it must be 1 or more")
        if not isinstance(self.depth_sigma, str | None) and not 0 < self.depth_sigma < math.inf:
            raise ValueError(f"depth_sigma is {self.depth_sigma}; it must be positive, 'model', or None")


class PoseSolver:
    """From what a network says of crops to poses; keeps the surfaces of the models' parts and their keys.

    Args:
        options: settings.
        solver: what is refined: the regressed poses, or poses of the query image alone, sampled or searched for.
    """

    def __init__(self, options: RefinementOptions | None = None, solver: Solver = "regression") -> None:
        self.options = options or RefinementOptions()
        kind = {"sampling": SamplingOptions, "search": SearchOptions}.get(solver)
        self._solves = kind is not None
        self._solver = self.options.solver
        if kind is not None and not isinstance(self._solver.proposals, kind):
            self._solver = replace(self._solver, proposals=kind())
        self._surfaces: dict[tuple[int, int], tuple[Surface, Float[Tensor, "m e"], KeySymmetry]] = {}

    def __call__(
        self,
        model: Model,
        batch: CropBatch,
        output: QueryOutput | SurfEmbOutput,
        depth: Float[Tensor, "b r r"] | None = None,
        stages: Stages | None = None,
    ) -> Poses:
        """Poses T_virt_obj, mm, in the mesh file's frame, with their agreement with the output as scores.

        Args:
            model: whose output it is.
            batch: the crops.
            output: of them.
            depth: z in the crop cameras, mm, 0 where there is none.
            stages: told how long the solver's stages took.

        Raises:
            ValueError: for a method without a query image, or one that regresses no poses where these are asked for.
        """
        method, maps = _query_images(model, output, batch)
        timed = (stages or Stages(maps.K.device)).timed
        starts = None if self._solves else self._starts(method, output)
        found, rows = [], []
        for index in batch.part_index.unique().tolist():
            mine = (batch.part_index == index).nonzero()[:, 0]
            surface, keys, symmetry = self.surface(model, index)
            radius = method.parts.radius[index]
            start = None
            if starts is not None:
                rotation, position, probability = (tensor[mine] for tensor in starts)
                start = self._start(rotation, position / radius, probability, self._depth_sigma(model, index))
            solution = solve(surface, keys, maps[mine], self._solver, start, symmetry, timed)
            if depth is not None:
                K = batch.camera.K_virt[mine]
                solution = moved_to_depth(surface, maps[mine], depth[mine] / radius, K, solution, self.options.depth)
            agreement = self._agreement(method, maps[mine], solution, index)
            found.append(_in_mm(solution, agreement, model.parts[index].center, float(radius)))
            rows.append(mine)
        return Poses.join(found)[torch.cat(rows).argsort().cpu()] if rows else no_poses([])

    def at_depth(
        self,
        model: Model,
        batch: CropBatch,
        output: QueryOutput | SurfEmbOutput,
        depth: Float[Tensor, "b r r"],
        poses: Poses,
    ) -> Poses:
        """Poses moved along their rays to where the depth image has the part; nothing else of them changes.

        Args:
            model, batch, output, depth: as of a call; the output's mask says which measurements count.
            poses: T_virt_obj of the crops; those that are none stay so.

        Raises:
            ValueError: for a method without a query image.
        """
        method, maps = _query_images(model, output, batch)
        T, score, reasons = poses.T_cam_obj.clone(), poses.score.clone(), list(poses.details.reasons)
        there = torch.isfinite(T[:, 0, 0])
        for index in batch.part_index.unique().tolist():
            mine = ((batch.part_index == index).cpu() & there).nonzero()[:, 0]
            rows, radius = mine.to(maps.K.device), float(method.parts.radius[index])
            position = (model.parts[index].middle(T[mine]) / radius).to(maps.queries)
            rotation = T[mine, :3, :3].to(maps.queries)
            start = Hypotheses(torch.arange(len(mine), device=rows.device), rotation, position)
            surface, seen, measured = self.surface(model, index)[0], maps[rows], depth[rows] / radius
            found = refine_depth(surface, seen, measured, batch.camera.K_virt[rows], start, self.options.depth)
            T[mine, :3, 3] += radius * (found.position - position).double().cpu()
            for row, unit in zip(
                mine.tolist(), other_unit(seen, measured, position[:, 2], self.options.depth), strict=True
            ):
                if unit is not None:
                    T[row], score[row], reasons[row] = torch.nan, 0.0, unit
        return Poses(T, score, replace(poses.details, reasons=tuple(reasons)))

    def prepare(self, model: Model, index: int) -> None:
        """Do now what the first call would: surface and keys; loops are compiled by a pose of nothing."""
        surface, keys, symmetry = self.surface(model, index)
        generator, side, device = torch.Generator().manual_seed(0), _PREPARED_SIDE, keys.device
        queries = torch.randn(1, keys.shape[1], side, side, generator=generator)
        middle = (side - 1) / 2
        K = torch.tensor([[[4 * middle, 0, middle], [0, 4 * middle, middle], [0, 0, 1]]])
        there = torch.full((1, side, side), 5.0, device=device)
        maps = QueryMaps(queries.to(device), there, there, K.to(device))
        start = None
        if not self._solves:
            eye, position = torch.eye(3, device=device)[None, None], torch.tensor([[0.0, 0.0, 4.0]], device=device)
            start = self._start(eye, position, torch.ones(1, 1, device=device), _DEPTH_SIGMA)
        with torch.inference_mode():
            solve(surface, keys, maps, self._solver, start, symmetry)

    def surface(self, model: Model, index: int) -> tuple[Surface, Float[Tensor, "m e"], KeySymmetry]:
        """Surface samples of one of a model's parts, their keys, and the keys' symmetries; made at the first call."""
        known = self._surfaces.get((id(model), index))
        if known is None:
            method = model.method
            assert isinstance(method, QueryImageMethod), "as `_query_images` saw to"
            surface = Surface.of_part(model.parts[index]).to(method.parts.radius.device)
            keys = method.surface_keys(index, surface.points)
            known = self._surfaces[(id(model), index)] = (surface, keys, key_symmetry(surface, keys))
        return known

    def _starts(
        self, method: QueryImageMethod, output: QueryOutput | SurfEmbOutput
    ) -> tuple[Float[Tensor, "b k 3 3"], Float[Tensor, "b 3"], Float[Tensor, "b k"]]:
        """Rotations, the regressed position, and the rotations' probabilities."""
        if not isinstance(method, QueryMethod) or not isinstance(output, QueryOutput):
            raise ValueError(f"a {type(method).__name__} regresses no poses; use the solver sampling or search")
        rotation, probability = method.starts(output, self.options.modes)
        return rotation, output.pose.position, probability

    def _start(
        self,
        rotations: Float[Tensor, "b k 3 3"],
        position: Float[Tensor, "b 3"],
        probability: Float[Tensor, "b k"],
        depth_sigma: float | None,
    ) -> Start:
        """All rotations that the head may mean, at the regressed position."""
        count = rotations.shape[1]
        row = torch.arange(len(rotations), device=rotations.device).repeat_interleave(count)
        poses = Hypotheses(row, rotations.flatten(0, 1), position.repeat_interleave(count, dim=0))
        return Start(poses, probability.flatten().clamp_min(1e-6).log(), depth_sigma)

    def _depth_sigma(self, model: Model, index: int) -> float | None:
        given = self.options.depth_sigma
        return believed_depth(model.depth_error(index)) if given == "model" else given

    @staticmethod
    def _agreement(method: QueryImageMethod, maps: QueryMaps, solution: Solution, index: int) -> Float[Tensor, "b"]:
        there = solution.found
        rows = there.nonzero()[:, 0]
        score = torch.zeros(len(solution), dtype=torch.float64, device=rows.device)
        position = solution.position[rows, 0] * method.parts.radius[index]
        parts = torch.full_like(rows, index)
        score[rows] = method.agreement(maps[rows], solution.rotation[rows, 0], position, parts).double()
        return score


def believed_depth(error: float | None) -> float:
    """Standard deviation of log z for a head whose relative depth error is `error` in the median, where it is known.

    Three times as much (errors have long tails, and photographs are harder than the renderings they are measured on),
    and 6 % at least: measured on half-trained and trained models, and on photographs.
    """
    return _DEPTH_SIGMA if error is None else max(_DEPTH_SIGMA, _SIGMA_OF_ERROR * error)


def moved_to_depth(
    surface: Surface,
    maps: QueryMaps,
    depth: Float[Tensor, "b r r"],
    K: Float[Tensor, "b 3 3"],
    solution: Solution,
    options: DepthOptions,
) -> Solution:
    """The solution with every pose and alternative at the distance that the depth image has.

    Crops whose depth can only be in another unit have no pose any more, and the reason.
    """
    there = torch.isfinite(solution.position[..., 0])
    row, place = there.nonzero().unbind(1)
    found = refine_depth(
        surface, maps, depth, K, Hypotheses(row, solution.rotation[row, place], solution.position[row, place]), options
    )
    position = solution.position.clone()
    position[row, place] = found.position
    sigma = torch.full_like(position[:, 0, 0], torch.nan)
    best = place == 0
    sigma[row[best]] = found.sigma[best]
    spread = measured_along_ray(solution.covariance, position[:, 0], sigma)
    units = other_unit(maps, depth, solution.position[:, 0, 2], options)
    reasons = [known or unit for known, unit in zip(solution.reasons, units, strict=True)]
    return replace(solution, position=position, covariance=spread, reasons=tuple(reasons)).without_failed()


def _query_images(
    model: Model, output: QueryOutput | SurfEmbOutput, batch: CropBatch
) -> tuple[QueryImageMethod, QueryMaps]:
    if not isinstance(model.method, QueryImageMethod):
        raise ValueError(f"a {type(model.method).__name__} has no query image to solve for poses with")
    return model.method, model.method.query_maps(output, batch)


def _in_mm(solution: Solution, score: Float[Tensor, "b"], center: Float[Tensor, "3"], radius: float) -> Poses:
    """A solution as poses of the mesh file's frame, float64, on the CPU."""
    rotation, position = solution.rotation.double().cpu(), solution.position.double().cpu() * radius
    there = torch.isfinite(position[..., 0])
    rotation = nearest_rotation(torch.where(there[..., None, None], rotation, torch.eye(3, dtype=rotation.dtype)))
    T = make_transform(rotation, position - rotation @ center.double())
    T = torch.where(there[..., None, None], T, torch.nan)
    scale = torch.tensor([1.0, 1, 1, radius, radius, radius], dtype=torch.float64)
    details = PoseDetails(
        solution.covariance.double().cpu() * scale[:, None] * scale, solution.free_axis.double().cpu(), T,
        solution.probability.double().cpu(), solution.reasons,
    )  # fmt: skip
    return Poses(T[:, 0], score.double().cpu(), details)

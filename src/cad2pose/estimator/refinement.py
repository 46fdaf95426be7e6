"""Poses that climb the score of their query image: regressed ones, or ones solved for from that image alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.methods import QueryMethod, QueryOutput
from cad2pose.methods.pose_head import head_pose
from cad2pose.model_file import Model
from cad2pose.solvers import (
    Hypotheses,
    QueryMaps,
    SamplingOptions,
    SearchOptions,
    SolverOptions,
    Start,
    Surface,
    solve,
)
from cad2pose.structures import CropBatch


@dataclass(frozen=True)
class RefinementOptions:
    """Settings of the refinement.

    Attributes:
        starts: most rotations per crop that are refined, of those that the head finds likely.
        least_probability: less likely ones are not.
        depth_sigma: relative standard deviation of the regressed depth, which is believed that far; None: not at all.
        solver: of the climb and of the choice between its results.
    """

    starts: int = 3
    least_probability: float = 0.05
    depth_sigma: float | None = 0.03
    solver: SolverOptions = field(default_factory=SolverOptions)


class PoseRefiner:
    """Refines what query methods regress; keeps the surfaces of the models' parts and their keys.

    Args:
        options: settings.
        solver: what is refined: the regressed poses, or poses of the query image alone, sampled or searched for.

    Raises:
        ValueError: when called with a model that is no query model.
    """

    def __init__(
        self,
        options: RefinementOptions | None = None,
        solver: Literal["regression", "sampling", "search"] = "regression",
    ) -> None:
        self.options = options or RefinementOptions()
        kind = {"sampling": SamplingOptions, "search": SearchOptions}.get(solver)
        self._solves = kind is not None
        self._solver = self.options.solver
        if kind is not None and not isinstance(self._solver.proposals, kind):
            self._solver = replace(self._solver, proposals=kind())
        self._surfaces: dict[tuple[int, int], tuple[Surface, Float[Tensor, "m e"]]] = {}

    def __call__(
        self, model: Model, batch: CropBatch, output: QueryOutput
    ) -> tuple[Float[Tensor, "b 4 4"], Float[Tensor, "b"]]:
        """Refined poses T_virt_obj (mm, mesh file's frame, float64) and their agreement with the output, in [0, 1]."""
        method = _query_method(model)
        rotation, position = torch.empty_like(output.pose.rotation), torch.empty_like(output.pose.position)
        maps = QueryMaps.of_crops(output.queries, output.full_logits, batch.valid, batch.camera.K_virt)
        rotations, probability = method.starts(output, self.options.starts)
        for index in batch.part_index.unique().tolist():
            mine = (batch.part_index == index).nonzero()[:, 0]
            surface, keys = self._surface(model, index)
            radius = method.parts.radius[index]
            regressed = output.pose.position[mine] / radius
            start = None if self._solves else self._start(rotations[mine], regressed, probability[mine])
            solution = solve(surface, keys, maps[mine], self._solver, start)
            found = solution.found  # where there is nothing to solve or climb, the regressed pose stays
            rotation[mine] = torch.where(found[:, None, None], solution.rotation[:, 0], output.pose.rotation[mine])
            position[mine] = torch.where(found[:, None], solution.position[:, 0], regressed) * radius
        radii = method.parts.radius[batch.part_index]
        pose = head_pose(rotation, position, batch.camera, radii, method.config.pad)
        return method.poses(replace(output, pose=pose), batch)

    def _start(
        self,
        rotations: Float[Tensor, "b k 3 3"],
        position: Float[Tensor, "b 3"],
        probability: Float[Tensor, "b k"],
    ) -> Start:
        """The rotations that the head finds likely, at the regressed position."""
        likely = probability >= self.options.least_probability
        likely[:, 0] = True
        row, start = likely.nonzero().unbind(1)
        poses = Hypotheses(row, rotations[row, start], position[row])
        return Start(poses, probability[row, start].clamp_min(1e-6).log(), self.options.depth_sigma)

    def _surface(self, model: Model, index: int) -> tuple[Surface, Float[Tensor, "m e"]]:
        known = self._surfaces.get((id(model), index))
        if known is None:
            method = _query_method(model)
            device = method.parts.radius.device
            surface = Surface.of_part(model.parts[index]).to(device)
            with torch.no_grad():
                keys = method.keys(surface.points[None], torch.tensor([index], device=device))[0]
            known = self._surfaces[(id(model), index)] = (surface, keys)
        return known


def _query_method(model: Model) -> QueryMethod:
    if not isinstance(model.method, QueryMethod):
        raise ValueError(f"a {type(model.method).__name__} regresses no pose that could be refined; use a query model")
    return model.method

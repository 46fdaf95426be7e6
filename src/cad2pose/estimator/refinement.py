"""Regress, then refine: regressed poses climb the score of their own query image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.methods import QueryMethod, QueryOutput
from cad2pose.methods.pose_head import head_pose
from cad2pose.model_file import Model
from cad2pose.solvers import DepthPrior, PoseScore, QueryMaps, RefineOptions, ScoreOptions, Surface, refine
from cad2pose.structures import CropBatch


@dataclass(frozen=True)
class RefinementOptions:
    """Settings of the refinement.

    Attributes:
        starts: most rotations per crop that are refined, of those that the head finds likely.
        least_probability: less likely ones are not.
        independent_share: share of the crop's pixels that counts as independent, where scores meet the head's
            probabilities: neighbouring pixels say the same.
        depth_sigma: relative standard deviation of the regressed depth, which is believed that far; None: not at all.
        score: of the score that is climbed.
        refine: of the climb.
    """

    starts: int = 3
    least_probability: float = 0.05
    independent_share: float = 0.2
    depth_sigma: float | None = 0.03
    score: ScoreOptions = field(default_factory=ScoreOptions)
    refine: RefineOptions = field(default_factory=RefineOptions)


class PoseRefiner:
    """Refines what query methods regress; keeps the surfaces of the models' parts and their keys.

    Args:
        options: settings.

    Raises:
        ValueError: when called with a model that is no query model.
    """

    def __init__(self, options: RefinementOptions | None = None) -> None:
        self.options = options or RefinementOptions()
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
            score = PoseScore(surface, keys, maps[mine], self.options.score)
            radius = method.parts.radius[index]
            rotation[mine], in_radii = self._best(
                score, rotations[mine], output.pose.position[mine] / radius, probability[mine]
            )
            position[mine] = in_radii * radius
        radii = method.parts.radius[batch.part_index]
        pose = head_pose(rotation, position, batch.camera, radii, method.config.pad)
        return method.poses(replace(output, pose=pose), batch)

    def _best(
        self,
        score: PoseScore,
        rotations: Float[Tensor, "b k 3 3"],
        position: Float[Tensor, "b 3"],
        probability: Float[Tensor, "b k"],
    ) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
        """Refine all likely starts; of a crop's results the one that score and head together find likeliest."""
        likely = probability >= self.options.least_probability
        likely[:, 0] = True
        row, start = likely.nonzero().unbind(1)
        prior = None
        if self.options.depth_sigma is not None:
            samples = score.pixels[row] * self.options.independent_share
            prior = DepthPrior(position[row, 2], self.options.depth_sigma, samples)
        found = refine(score, row, rotations[row, start], position[row], self.options.refine, prior)
        evidence = found.score * score.pixels[row] * self.options.independent_share
        evidence = evidence + probability[row, start].clamp_min(1e-6).log()
        table = torch.full(likely.shape, -torch.inf, device=evidence.device, dtype=evidence.dtype)
        table[row, start] = evidence
        place = likely.flatten().cumsum(0).view_as(likely) - 1  # of every start among the likely ones
        pick = place.gather(1, table.argmax(1, keepdim=True))[:, 0]
        return found.rotation[pick], found.position[pick]

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

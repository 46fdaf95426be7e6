"""The parts that an estimator's models know, and what their scores are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.confidence import Calibration, pose_spread
from cad2pose.estimator.looking import Look
from cad2pose.model_file import Model
from cad2pose.parts.bounds import hull_indices
from cad2pose.parts.part import Part
from cad2pose.structures import Poses


@dataclass(frozen=True)
class KnownPart:
    """Where an object id is served, and what is needed of its part.

    Attributes:
        model, part, part_index: which.
        symmetry: `(k, 3, 3)` its rotation group.
        hull: `(v, 3)` vertices of its convex hull, mm.
    """

    model: Model
    part: Part
    part_index: int
    symmetry: Float[Tensor, "k 3 3"]
    hull: Float[Tensor, "v 3"]


class KnownParts:
    """By object id.

    Args:
        models: which know them; they are moved to the device.
        look: how poses are come to.
        device: where.

    Raises:
        ValueError: if an object id occurs twice, or for a model that has no poses of the kind that is looked for.
    """

    def __init__(self, models: Sequence[Model], look: Look, device: torch.device) -> None:
        self._look = look
        self._known: dict[int, KnownPart] = {}
        for model in models:
            look.check(model)
            model.method.to(device).eval()
            for index, part in enumerate(model.parts):
                if part.object_id in self._known:
                    other = self._known[part.object_id].part.name
                    raise ValueError(f"object id {part.object_id} is claimed by two parts, {other} and {part.name}")
                vertices = part.mesh.used_vertices
                hull = vertices[hull_indices(vertices)]
                known = KnownPart(model, part, index, part.symmetries.rotation_group(), hull)
                self._known[part.object_id] = known

    def __getitem__(self, object_id: int) -> KnownPart:
        self.check([object_id])
        return self._known[object_id]

    @property
    def parts(self) -> dict[int, Part]:
        """The parts by object id, in order."""
        return {object_id: known.part for object_id, known in sorted(self._known.items())}

    def check(self, object_ids: Sequence[int]) -> None:
        """Raise ValueError for an object id that no model knows."""
        unknown = sorted(set(object_ids) - set(self._known))
        if unknown:
            known = ", ".join(f"{object_id} ({part.name})" for object_id, part in self.parts.items())
            raise ValueError(f"object id {unknown[0]} is not known; the model knows {known or 'none'}")

    def calibration(self, known: KnownPart, with_depth: bool) -> Calibration | None:
        """What the scores of a part are worth, where its model was calibrated for poses of this kind."""
        if with_depth or not self._look.options.calibrated:
            return None
        of_parts = known.model.calibrations.get(self._look.way(known.model))
        return None if of_parts is None else of_parts[known.part_index]

    def confidence(self, object_id: Int[Tensor, "n"], found: Poses, with_depth: bool) -> Float[Tensor, "n"]:
        """The chance that each pose is right; 0 where there is none, NaN where it is not known."""
        confidence = torch.full_like(found.score, torch.nan)
        for i in object_id.unique().tolist():
            known, rows = self._known[i], object_id == i
            calibration = self.calibration(known, with_depth)
            if calibration is not None:
                part = known.part
                spread = pose_spread(found.T_cam_obj[rows], found.details.covariance[rows], part.center, part.radius)
                confidence[rows] = calibration.probability(found.score[rows], spread)
                confidence[rows & torch.isnan(found.T_cam_obj[:, 0, 0])] = 0.0
        return confidence

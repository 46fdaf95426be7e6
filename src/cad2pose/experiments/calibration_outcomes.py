"""Poses that a model finds in given boxes, and whether they are right: what a calibration is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.confidence import RIGHT_BELOW, Way, pose_spread
from cad2pose.estimator import EstimatorOptions, PoseEstimator
from cad2pose.evaluation.pose_error import mssd_error
from cad2pose.experiments.calibration_crops import WITHOUT, BoxedPart
from cad2pose.model_file import Model
from cad2pose.structures import Detections, PoseEstimates

OPTIONS: dict[Way, EstimatorOptions] = {
    "regression": EstimatorOptions(refine=False),
    "refined": EstimatorOptions(),
    "sampling": EstimatorOptions(solver="sampling"),
    "search": EstimatorOptions(solver="search"),
    "pnp": EstimatorOptions(solver="pnp"),
}
"""What leads an estimator each way."""


@dataclass(frozen=True)
class Outcomes:
    """Scores of poses, and whether they were right.

    Args:
        part_index: `(N,)`.
        score: `(N,)`, of poses that were found.
        spread: `(N,)` how far they may be off (see `pose_spread`).
        right: `(N,)` MSSD below a tenth of the diameter.
        kind: `(N,)` kind of the box (see `calibration_crops`).
        image: `(N,)` number of the image it was found in.
    """

    part_index: Tensor
    score: Float[Tensor, "n"]
    spread: Float[Tensor, "n"]
    right: Bool[Tensor, "n"]
    kind: Tensor
    image: Tensor

    def __getitem__(self, rows: Bool[Tensor, "n"]) -> Outcomes:
        return Outcomes(*(getattr(self, f.name)[rows] for f in fields(self)))


def estimators_of(model: Model, ways: Sequence[Way], device: torch.device) -> dict[Way, PoseEstimator]:
    """An estimator for every way; ValueError for one that the model does not have."""
    estimators: dict[Way, PoseEstimator] = {way: PoseEstimator([model], device, OPTIONS[way]) for way in ways}
    for way, estimator in estimators.items():
        if (has := estimator.way_of(model)) != way:
            raise ValueError(
                f"a {type(model.method).__name__} has no poses by {way!r}; asked for these it gives {has!r}"
            )
    return estimators


def outcomes_of(
    model: Model,
    estimators: Mapping[Way, PoseEstimator],
    images: Iterable[tuple[int, Sequence[BoxedPart]]],
    report: Callable[[Way, int], None],
) -> dict[Way, Outcomes]:
    """Of boxes in images with their numbers, the same for all ways."""
    found: dict[Way, list[tuple[int, BoxedPart, PoseEstimates]]] = {way: [] for way in estimators}
    for done, (number, every) in enumerate(images, start=1):
        for way, estimator in estimators.items():
            for seen in every:
                boxes = Detections(torch.tensor([model.parts[seen.part_index].object_id]), seen.box, torch.ones(1))
                estimates = _estimate(estimator, seen, boxes)
                if bool(estimates.found[0]):
                    found[way].append((number, replace(seen, image=seen.image[:, :0, :0].clone()), estimates))
            report(way, done)
    return {way: judged(model, of_way) for way, of_way in found.items()}


def _estimate(estimator: PoseEstimator, seen: BoxedPart, boxes: Detections) -> PoseEstimates:
    return estimator.estimate(seen.image, seen.camera, boxes)


def judged(model: Model, found: Sequence[tuple[int, BoxedPart, PoseEstimates]]) -> Outcomes:
    """Of poses with the numbers of their images, their parts and the truth."""
    numbers = [(seen.part_index, seen.kind, number) for number, seen, _ in found]
    part_index, kind, image = torch.tensor(numbers, dtype=torch.int64).reshape(-1, 3).unbind(1)
    score, spread = torch.zeros(len(found), dtype=torch.float64), torch.ones(len(found), dtype=torch.float64)
    right = torch.zeros(len(found), dtype=torch.bool)
    for index, part in enumerate(model.parts):
        rows = (part_index == index).nonzero()[:, 0]
        if len(rows):
            mine = [found[row] for row in rows.tolist()]
            T = torch.cat([estimates.T_cam_obj for _, _, estimates in mine])
            score[rows] = torch.cat([estimates.score for _, _, estimates in mine])
            covariance = torch.cat([estimates.details.covariance for _, _, estimates in mine])
            spread[rows] = pose_spread(T, covariance, part.center, part.radius)
            points, symmetries = part.mesh.used_vertices.double(), part.symmetries.transforms().double()
            there = kind[rows] != WITHOUT
            truth = torch.stack([seen.T_cam_obj for _, seen, _ in mine])[there]
            error = mssd_error(T[there], truth, points, symmetries)
            right[rows[there]] = error < RIGHT_BELOW * part.diameter
    return Outcomes(part_index, score, spread, right, kind, image)

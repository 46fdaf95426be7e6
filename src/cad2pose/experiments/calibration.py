"""What the scores of a model are worth, learnt and tested on fresh rendered crops.

Every crop is rendered wider than the network takes it and given to the estimator as a photograph of its own, cut to
what the source image holds, with the disturbed box as a detector's, so that both passes of the estimator are what they
are on photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.confidence import RIGHT_BELOW, Calibration, Calibrations, Way, pose_spread
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.estimator import EstimatorOptions, PoseEstimator
from cad2pose.evaluation.calibration import ReliabilityBin, calibration_gap, fit_calibration, reliability
from cad2pose.evaluation.pose_error import mssd_error
from cad2pose.geometry import Camera
from cad2pose.methods import PoseMethod, QueryImageMethod, RegressionMethod
from cad2pose.model_file import Model
from cad2pose.structures import CropBatch, Detections, PoseEstimates

_WIDER = 1.5  # than the network's crops
_BATCH = 16
_FIT_SEED, _TEST_SEED = 3_000_000, 4_000_000  # crops that no training, validation or comparison has seen

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
    """

    part_index: Tensor
    score: Float[Tensor, "n"]
    spread: Float[Tensor, "n"]
    right: Bool[Tensor, "n"]


@dataclass(frozen=True)
class TestedCalibration:
    """A fit, and what came of it on other crops.

    Args:
        way, part: what it is about; part is a name, or "all parts" for those of all parts together.
        calibration: the fit; None for all parts together.
        fitted, tested: poses it was made from, and tested on.
        right: share of the tested ones that were right.
        error: expected calibration error on them.
        bins: reliability on them.
    """

    way: Way
    part: str
    calibration: Calibration | None
    fitted: int
    tested: int
    right: float
    error: float
    bins: tuple[ReliabilityBin, ...]


def usual_ways(model: Model) -> tuple[Way, ...]:
    """The ways to a pose that a model has and that take milliseconds; sampling where it has no other.

    Raises:
        ValueError: for a model that gives no poses.
    """
    method = model.method
    if isinstance(method, RegressionMethod) and method.regresses_coordinates:
        return ("regression", "pnp")
    if isinstance(method, PoseMethod):
        return ("regression", "refined") if isinstance(method, QueryImageMethod) else ("regression",)
    if isinstance(method, QueryImageMethod):
        return ("sampling",)
    raise ValueError(f"a {type(method).__name__} gives no poses whose scores could be calibrated")


def calibrate(
    model: Model,
    style: SyntheticConfig,
    ways: Sequence[Way],
    device: torch.device,
    fitted: int = 400,
    tested: int = 400,
    report: Callable[[Way, int], None] = lambda way, done: None,
) -> tuple[Calibrations, list[TestedCalibration]]:
    """Fit the scores of every part and way on some fresh crops, and test the fits on others.

    Args:
        model: whose.
        style: of the crops; size and padding are the model's.
        ways: to a pose.
        device: where.
        fitted, tested: crops of each part.
        report: told how many crops of a way are done.

    Returns:
        The calibrations for the model file, those of other ways that it has included, and the tests: part by part, and
        where there are several parts, of all together.

    Raises:
        ValueError: for a way that the model does not have, or too few crops.
    """
    if min(fitted, tested) < 1:
        raise ValueError(f"calibration needs crops to fit on and to test on, got {fitted} and {tested} a part")
    config = model.method.config
    size = 2 * round(_WIDER * config.crop_size / 2)
    wide = replace(style, crop_size=size, pad=config.pad * size / config.crop_size)
    estimators: dict[Way, PoseEstimator] = {way: PoseEstimator([model], device, OPTIONS[way]) for way in ways}
    done = fitted * len(model.parts)
    fit = _outcomes(model, estimators, wide, _FIT_SEED, fitted, device, report)
    test = _outcomes(model, estimators, wide, _TEST_SEED, tested, device, lambda way, more: report(way, done + more))
    known, tests = dict(model.calibrations), []
    for way in estimators:
        known[way] = fits = tuple(_fit(fit[way], index) for index in range(len(model.parts)))
        tests += _tests(way, model, fits, fit[way], test[way])
    return known, tests


def _fit(outcomes: Outcomes, index: int) -> Calibration | None:
    """Of one part; None where not a single pose was found."""
    mine = outcomes.part_index == index
    if not bool(mine.any()):
        return None
    fit = fit_calibration(outcomes.score[mine], outcomes.right[mine], outcomes.spread[mine])
    return replace(fit, least_spread=float(outcomes.spread[mine].min()))


def _tests(
    way: Way, model: Model, fits: Sequence[Calibration | None], fit: Outcomes, test: Outcomes
) -> list[TestedCalibration]:
    promised = torch.full_like(test.score, torch.nan)
    for index, calibration in enumerate(fits):
        mine = test.part_index == index
        if calibration is not None:
            promised[mine] = calibration.probability(test.score[mine], test.spread[mine])
    told = ~torch.isnan(promised)

    def tested(part: str, calibration: Calibration | None, of_fit: Tensor, of_test: Tensor) -> TestedCalibration:
        bins = reliability(promised[of_test], test.right[of_test])
        right = float(test.right[of_test].double().mean())
        return TestedCalibration(
            way, part, calibration, int(of_fit.sum()), int(of_test.sum()), right, calibration_gap(bins), bins
        )

    found = [
        tested(part.name, fits[index], fit.part_index == index, rows)
        for index, part in enumerate(model.parts)
        if bool((rows := told & (test.part_index == index)).any())
    ]
    if len(found) > 1:
        found.append(tested("all parts", None, torch.ones_like(fit.right), told))
    return found


def _outcomes(
    model: Model,
    estimators: Mapping[Way, PoseEstimator],
    style: SyntheticConfig,
    seed: int,
    count: int,
    device: torch.device,
    report: Callable[[Way, int], None],
) -> dict[Way, Outcomes]:
    """Of `count` fresh crops of every part, the same for all ways."""
    source = SyntheticCrops(model.parts, style, device, seed)
    found: dict[Way, list[tuple[int, Tensor, PoseEstimates]]] = {way: [] for way in estimators}
    total = count * len(model.parts)  # parts take turns
    for begun in range(0, total, _BATCH):
        batch = source.batch(begun // _BATCH, _BATCH)
        assert batch.truth is not None, "rendered crops know the truth"
        for row, index in enumerate(batch.part_index[: total - begun].tolist()):
            truth = batch.truth.T_virt_obj[row].double().cpu()
            for way, estimator in estimators.items():
                estimates = _estimate(estimator, batch, row, style.pad, model.parts[index].object_id)
                if bool(estimates.found[0]):
                    found[way].append((index, truth, estimates))
                report(way, begun + row + 1)
    return {way: _judged(model, of_way) for way, of_way in found.items()}


def _estimate(estimator: PoseEstimator, batch: CropBatch, row: int, pad: float, object_id: int) -> PoseEstimates:
    """Of one crop, as of a photograph."""
    size = batch.image.shape[-1]
    side = size / pad
    top, bottom, left, right = _within(batch.valid[row, 0] == 1)
    K = batch.camera.K_virt[row].double().cpu().clone()
    K[:2, 2] -= torch.tensor([left, top], dtype=K.dtype)
    camera = Camera(K, right - left, bottom - top)
    box = torch.tensor([[(size - side) / 2 - left, (size - side) / 2 - top, side, side]])
    boxes = Detections(torch.tensor([object_id]), box, torch.ones(1))
    return estimator.estimate(batch.image[row, :, top:bottom, left:right], camera, boxes)


def _within(valid: Bool[Tensor, "h w"]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a rectangle without an invalid pixel, found by taking the worst edge off."""
    top, left = 0, 0
    bottom, right = valid.shape
    while not bool((inside := valid[top:bottom, left:right]).all()):
        edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
        worst = min(range(4), key=lambda edge: float(edges[edge].float().mean()))
        top, left = top + (worst == 0), left + (worst == 2)
        bottom, right = bottom - (worst == 1), right - (worst == 3)
    return top, bottom, left, right


def _judged(model: Model, found: Sequence[tuple[int, Tensor, PoseEstimates]]) -> Outcomes:
    """Of poses with their parts and the truth."""
    part_index = torch.tensor([index for index, _, _ in found], dtype=torch.int64)
    score, spread = torch.zeros(len(found), dtype=torch.float64), torch.ones(len(found), dtype=torch.float64)
    right = torch.zeros(len(found), dtype=torch.bool)
    for index, part in enumerate(model.parts):
        rows = (part_index == index).nonzero()[:, 0]
        if len(rows):
            mine = [found[row] for row in rows.tolist()]
            T = torch.cat([one.T_cam_obj for _, _, one in mine])
            score[rows] = torch.cat([one.score for _, _, one in mine])
            covariance = torch.cat([one.details.covariance for _, _, one in mine])
            spread[rows] = pose_spread(T, covariance, part.center, part.radius)
            points, symmetries = part.mesh.used_vertices.double(), part.symmetries.transforms().double()
            true = torch.stack([truth for _, truth, _ in mine])
            right[rows] = mssd_error(T, true, points, symmetries) < RIGHT_BELOW * part.diameter
    return Outcomes(part_index, score, spread, right)

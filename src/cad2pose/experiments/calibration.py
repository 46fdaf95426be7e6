"""What the scores of a model are worth, learnt and tested on fresh rendered crops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.confidence import RIGHT_BELOW, Calibration, Calibrations, Way, pose_spread
from cad2pose.data.synthetic_config import SyntheticConfig
from cad2pose.estimator import EstimatorOptions, PoseEstimator
from cad2pose.evaluation.calibration import ReliabilityBin, calibration_gap, fit_calibration, reliability
from cad2pose.evaluation.pose_error import mssd_error
from cad2pose.experiments.calibration_crops import ROUGH, USUAL, WITHOUT, BoxedPart, calibration_crops, crops_in_all
from cad2pose.methods import PoseMethod, QueryImageMethod, RegressionMethod
from cad2pose.model_file import Model
from cad2pose.structures import Detections, PoseEstimates

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
        kind: `(N,)` kind of the box (see `calibration_crops`).
    """

    part_index: Tensor
    score: Float[Tensor, "n"]
    spread: Float[Tensor, "n"]
    right: Bool[Tensor, "n"]
    kind: Tensor


@dataclass(frozen=True)
class TestedCalibration:
    """A fit, and what came of it on other crops.

    Args:
        way, part: what it is about; part is a name, or "all parts" for those of all parts together.
        calibration: the fit; None for all parts together.
        fitted, tested: poses it was made from, and tested on, all of them with boxes as detectors give.
        right: share of the tested ones that were right.
        error: expected calibration error on them.
        bins: reliability on them.
        rough: tested poses of rough boxes.
        rough_right: share of them that was right.
        rough_promised: and what was promised in the mean.
        without: tested poses of boxes that do not show the part.
        without_promised: what was promised of them in the mean.
        without_likely: share of them that was called likely right (0.5 or more). These are None where there are none.
    """

    way: Way
    part: str
    calibration: Calibration | None
    fitted: int
    tested: int
    right: float
    error: float
    bins: tuple[ReliabilityBin, ...]
    rough: int
    rough_right: float | None
    rough_promised: float | None
    without: int
    without_promised: float | None
    without_likely: float | None


def usual_ways(model: Model) -> tuple[Way, ...]:
    """The ways to a pose that a model has and that take milliseconds; sampling where it has no other.

    Raises:
        ValueError: for a model that gives no poses.
    """
    method = model.method
    ways: list[Way] = ["regression"] if isinstance(method, PoseMethod) else []
    if isinstance(method, QueryImageMethod):
        ways.append("refined" if ways else "sampling")
    if isinstance(method, RegressionMethod) and method.regresses_coordinates:
        ways.append("pnp")
    if ways:
        return tuple(ways)
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
        fitted, tested: crops of each part with boxes as detectors give; half as many others are added.
        report: told how many of `crops_in_all` crops of a way are done.

    Returns:
        The calibrations for the model file, those of other ways that it has included, and the tests: part by part, and
        where there are several parts, of all together.

    Raises:
        ValueError: for a way that the model does not have, or too few crops.
    """
    if min(fitted, tested) < 1:
        raise ValueError(f"calibration needs crops to fit on and to test on, got {fitted} and {tested} a part")
    estimators: dict[Way, PoseEstimator] = {way: PoseEstimator([model], device, OPTIONS[way]) for way in ways}
    for way, estimator in estimators.items():
        if (has := estimator.way_of(model)) != way:
            raise ValueError(
                f"a {type(model.method).__name__} has no poses by {way!r}; asked for these it gives {has!r}"
            )
    done = crops_in_all(fitted) * len(model.parts)
    fit = _outcomes(model, estimators, style, _FIT_SEED, fitted, device, report)
    test = _outcomes(model, estimators, style, _TEST_SEED, tested, device, lambda way, more: report(way, done + more))
    known, tests = dict(model.calibrations), []
    for way in estimators:
        known[way] = fits = tuple(_fit(fit[way], index) for index in range(len(model.parts)))
        tests += _tests(way, model, fits, fit[way], test[way])
    return known, tests


def _fit(outcomes: Outcomes, index: int) -> Calibration | None:
    """Of one part; None where not a single pose was found."""
    mine = outcomes.part_index == index
    there = mine & (outcomes.kind != WITHOUT)
    if not bool(there.any()):
        return None
    fit = fit_calibration(outcomes.score[there], outcomes.right[there], outcomes.spread[there])
    shown = None
    if bool((mine & ~there).any()):
        of_box = fit_calibration(outcomes.score[mine], outcomes.kind[mine] != WITHOUT)
        shown = (of_box.a, of_box.b)
    return replace(fit, least_spread=float(outcomes.spread[there].min()), shown=shown)


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
        usual, rough, without = (of_test & (test.kind == kind) for kind in (USUAL, ROUGH, WITHOUT))
        bins = reliability(promised[usual], test.right[usual])
        return TestedCalibration(
            way, part, calibration,
            fitted=int((of_fit & (fit.kind == USUAL)).sum()),
            tested=int(usual.sum()), right=float(test.right[usual].double().mean()),
            error=calibration_gap(bins), bins=bins,
            rough=int(rough.sum()), rough_right=_mean(test.right[rough]), rough_promised=_mean(promised[rough]),
            without=int(without.sum()), without_promised=_mean(promised[without]),
            without_likely=_mean(promised[without] >= 0.5),
        )  # fmt: skip

    found = [
        tested(part.name, fits[index], fit.part_index == index, rows)
        for index, part in enumerate(model.parts)
        if bool(((rows := told & (test.part_index == index)) & (test.kind == USUAL)).any())
    ]
    if len(found) > 1:
        found.append(tested("all parts", None, torch.ones_like(fit.right), told))
    return found


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


def _outcomes(
    model: Model,
    estimators: Mapping[Way, PoseEstimator],
    style: SyntheticConfig,
    seed: int,
    count: int,
    device: torch.device,
    report: Callable[[Way, int], None],
) -> dict[Way, Outcomes]:
    """Of fresh crops of every part, `count` of them with usual boxes, the same for all ways."""
    found: dict[Way, list[tuple[BoxedPart, PoseEstimates]]] = {way: [] for way in estimators}
    for done, seen in enumerate(calibration_crops(model, style, seed, count, device), start=1):
        boxes = Detections(torch.tensor([model.parts[seen.part_index].object_id]), seen.box, torch.ones(1))
        for way, estimator in estimators.items():
            estimates = _estimate(estimator, seen, boxes)
            if bool(estimates.found[0]):
                found[way].append((seen, estimates))
            report(way, done)
    return {way: _judged(model, of_way) for way, of_way in found.items()}


def _estimate(estimator: PoseEstimator, seen: BoxedPart, boxes: Detections) -> PoseEstimates:
    return estimator.estimate(seen.image, seen.camera, boxes)


def _judged(model: Model, found: Sequence[tuple[BoxedPart, PoseEstimates]]) -> Outcomes:
    """Of poses with their parts and the truth."""
    part_index = torch.tensor([seen.part_index for seen, _ in found], dtype=torch.int64)
    kind = torch.tensor([seen.kind for seen, _ in found], dtype=torch.int64)
    score, spread = torch.zeros(len(found), dtype=torch.float64), torch.ones(len(found), dtype=torch.float64)
    right = torch.zeros(len(found), dtype=torch.bool)
    for index, part in enumerate(model.parts):
        rows = (part_index == index).nonzero()[:, 0]
        if len(rows):
            mine = [found[row] for row in rows.tolist()]
            T = torch.cat([estimates.T_cam_obj for _, estimates in mine])
            score[rows] = torch.cat([estimates.score for _, estimates in mine])
            covariance = torch.cat([estimates.details.covariance for _, estimates in mine])
            spread[rows] = pose_spread(T, covariance, part.center, part.radius)
            points, symmetries = part.mesh.used_vertices.double(), part.symmetries.transforms().double()
            there = kind[rows] != WITHOUT
            truth = torch.stack([seen.T_cam_obj for seen, _ in mine])[there]
            error = mssd_error(T[there], truth, points, symmetries)
            right[rows[there]] = error < RIGHT_BELOW * part.diameter
    return Outcomes(part_index, score, spread, right, kind)

"""What the scores of a model are worth, learnt and tested on fresh rendered crops or on labelled images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.confidence import Calibration, Calibrations, Way
from cad2pose.data.synthetic_config import SyntheticConfig
from cad2pose.evaluation.calibration import ReliabilityBin, calibration_gap, fit_calibration, reliability, rescaled
from cad2pose.experiments.calibration_crops import ROUGH, USUAL, WITHOUT, calibration_crops, crops_in_all
from cad2pose.experiments.calibration_images import LabelledBoxes
from cad2pose.experiments.calibration_outcomes import Outcomes, estimators_of, outcomes_of
from cad2pose.methods import PoseMethod, QueryImageMethod, RegressionMethod
from cad2pose.model_file import Model

_FIT_SEED, _TEST_SEED = 3_000_000, 4_000_000  # crops that no training, validation or comparison has seen
_LEAST_SHOWN, _LEAST_MISTAKEN = 20, 10  # boxes of a part, and boxes that do not show it, that something is learnt from
_PIECES = 5


@dataclass(frozen=True)
class TestedCalibration:
    """A fit, and what came of it on other crops, or other images.

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
    estimators = estimators_of(model, ways, device)

    def outcomes(seed: int, count: int, done: int) -> dict[Way, Outcomes]:
        crops = calibration_crops(model, style, seed, count, device)
        images = ((number, [crop]) for number, crop in enumerate(crops))
        return outcomes_of(model, estimators, images, lambda way, more: report(way, done + more))

    fit = outcomes(_FIT_SEED, fitted, 0)
    test = outcomes(_TEST_SEED, tested, crops_in_all(fitted) * len(model.parts))
    known, tests = dict(model.calibrations), []
    for way in estimators:
        known[way] = fits = tuple(_fit(fit[way], index) for index in range(len(model.parts)))
        tests += _tests(way, model, fits, _promised(fits, test[way]), fit[way], test[way])
    return known, tests


def calibrate_on_images(
    model: Model,
    boxes: LabelledBoxes,
    ways: Sequence[Way],
    device: torch.device,
    report: Callable[[Way, int], None] = lambda way, done: None,
) -> tuple[Calibrations, list[TestedCalibration]]:
    """As `calibrate`, on labelled images of the user's own.

    The chance of a pose where the box shows the part is fitted on the poses of boxes that do: what the model knows of
    it, from rendered crops, is scaled and shifted, so that few images suffice. The chance that a box shows the part is
    fitted on all, where a detector is mistaken ten times or more; else it stays what is known of it.
    Tests are cross-fitted: of five pieces of the images, in their order, each is promised what was learnt of the other
    four, as neighbours may be alike.

    Args:
        model: whose.
        boxes: in the images.
        ways: to a pose.
        device: where.
        report: told how many images of a way are done.

    Returns:
        The calibrations, those of parts that too few boxes show as they were before, and the tests.

    Raises:
        ValueError: for a way that the model does not have, or if no part is shown by 20 boxes.
    """
    found = outcomes_of(model, estimators_of(model, ways, device), boxes, report)
    if boxes.broken:
        (scene, image), why = next(iter(boxes.broken.items()))
        warnings.warn(
            f"{len(boxes.broken)} of {len(boxes)} images were left out; scene {scene}, image {image}: {why}",
            stacklevel=2,
        )
    known, tests = dict(model.calibrations), []
    for way, outcomes in found.items():
        before = known.get(way) or (None,) * len(model.parts)
        piece = outcomes.image * _PIECES // len(boxes)
        seen = [_count(outcomes, piece, index, shown=True) for index in range(len(model.parts))]
        if max(seen) < _LEAST_SHOWN:
            counts = ", ".join(f"{part.name} {count}" for part, count in zip(model.parts, seen, strict=True))
            raise ValueError(
                f"boxes of the parts that gave a pose ({way}): {counts}; a calibration needs {_LEAST_SHOWN} of a part, "
                "not all in one fifth of the images: label more, or calibrate on rendered crops"
            )
        enough = [_count(outcomes, piece, index, shown=False) >= _LEAST_MISTAKEN for index in range(len(seen))]
        known[way] = _fits_of_images(outcomes, seen, enough, before)
        promised = torch.full_like(outcomes.score, torch.nan)
        for one in piece.unique().tolist():
            fits = _fits_of_images(outcomes[piece != one], seen, enough, before)
            learnt = [fit if count >= _LEAST_SHOWN else None for fit, count in zip(fits, seen, strict=True)]
            promised[piece == one] = _promised(learnt, outcomes[piece == one])
        tests += _tests(way, model, known[way], promised, outcomes, outcomes)
    return known, tests


def _count(outcomes: Outcomes, piece: Int[Tensor, "n"], index: int, shown: bool) -> int:
    """Boxes that show a part, or do not; none where all of them are in one piece, as nothing could be tested."""
    rows = (outcomes.part_index == index) & ((outcomes.kind != WITHOUT) == shown)
    return int(rows.sum()) if len(piece[rows].unique()) > 1 else 0


def _fits_of_images(
    outcomes: Outcomes, seen: Sequence[int], mistaken: Sequence[bool], before: Sequence[Calibration | None]
) -> tuple[Calibration | None, ...]:
    """Of every part, as it was where there are too few boxes of it; so is the chance that a box shows the part where
    too few are mistaken. Both are decided for all pieces alike, so that what is tested is what is kept."""
    fits = [_fit(outcomes, i, before[i]) if count >= _LEAST_SHOWN else before[i] for i, count in enumerate(seen)]
    for index, (fit, old) in enumerate(zip(fits, before, strict=True)):
        if fit is not None and not mistaken[index]:
            fits[index] = replace(fit, shown=None if old is None else old.shown)
    return tuple(fits)


def _fit(outcomes: Outcomes, index: int, before: Calibration | None = None) -> Calibration | None:
    """Of one part; None where not a single pose was found.

    What was known before is scaled and shifted only: two numbers, which few poses tell well enough.
    """
    mine = outcomes.part_index == index
    there = mine & (outcomes.kind != WITHOUT)
    if not bool(there.any()):
        return None
    if before is None:
        fit = fit_calibration(outcomes.score[there], outcomes.right[there], outcomes.spread[there])
        fit = replace(fit, least_spread=float(outcomes.spread[there].min()))
    else:
        fit = rescaled(before, outcomes.score[there], outcomes.right[there], outcomes.spread[there])
    shown = None
    if bool((mine & ~there).any()):
        of_box = fit_calibration(outcomes.score[mine], outcomes.kind[mine] != WITHOUT)
        shown = (of_box.a, of_box.b)
    return replace(fit, shown=shown)


def _promised(fits: Sequence[Calibration | None], of: Outcomes) -> Float[Tensor, "n"]:
    """NaN for parts without a fit."""
    promised = torch.full_like(of.score, torch.nan)
    for index, calibration in enumerate(fits):
        mine = of.part_index == index
        if calibration is not None:
            promised[mine] = calibration.probability(of.score[mine], of.spread[mine])
    return promised


def _tests(
    way: Way,
    model: Model,
    fits: Sequence[Calibration | None],
    promised: Float[Tensor, "n"],
    fit: Outcomes,
    test: Outcomes,
) -> list[TestedCalibration]:
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

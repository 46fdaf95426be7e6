"""Is a score a probability? Platt's fit, the reliability diagram, and the expected calibration error.

Platt, "Probabilistic Outputs for Support Vector Machines" (1999); Guo et al., "On Calibration of Modern Neural
Networks" (2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.confidence import Calibration

_BINS = 10
_SCALED = (0.5, 3.0)  # how far log odds of elsewhere are thought to be scaled and shifted (standard deviations)
_NEWTON_STEPS = 100
_HALVINGS = 30
_LEAST_DEVIATION = 1e-12  # of what has a say


@dataclass(frozen=True)
class ReliabilityBin:
    """What was promised and what came true in one bin of the reliability diagram.

    Args:
        low, high: of the probabilities.
        count: of the estimates in the bin.
        promised: their mean probability.
        frequency: share of them whose event happened.
    """

    low: float
    high: float
    count: int
    promised: float
    frequency: float


def fit_calibration(
    scores: Float[Tensor, "n"], events: Bool[Tensor, "n"], spread: Float[Tensor, "n"] | None = None
) -> Calibration:
    """Platt's fit by maximum likelihood.

    The likelihood has no maximum where all events are equal, or where a threshold on the score parts them without an
    error. In the first case, and where all scores are equal, a = 0 and p is (happened + 1) / (n + 2) or the share that
    happened; in the second the events are softened as Platt does, to (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), and the fit
    is finite.

    Args:
        scores: any finite numbers.
        events: what happened.
        spread: positive; where it is given, its logarithm has a say as well (and events are softened always).

    Raises:
        ValueError: if there are no scores, or one is not finite.
    """
    scores = _checked(scores, events)
    happened, count = int(events.sum()), len(events)
    if happened in (0, count):
        return Calibration(0.0, math.log((happened + 1) / (count - happened + 1)))
    if spread is not None:
        return _fit_of_both(scores, _checked(spread, events).log(), _softened(events))
    centre, deviation = float(scores.mean()), float(scores.std())
    if deviation <= _LEAST_DEVIATION * max(1.0, abs(centre)):
        return Calibration(0.0, math.log(happened / (count - happened)))
    wanted = events.double()
    true, false = scores[events], scores[~events]
    if bool(true.min() >= false.max()) or bool(true.max() <= false.min()):
        wanted = _softened(events)
    slope, offset = _logistic_fit(((scores - centre) / deviation)[:, None], wanted)
    return Calibration(slope / deviation, offset - slope * centre / deviation)


def rescaled(
    before: Calibration, scores: Float[Tensor, "n"], events: Bool[Tensor, "n"], spread: Float[Tensor, "n"]
) -> Calibration:
    """What was known of scores elsewhere, scaled and shifted to a few events here.

    The log odds become s times what they were plus t, of the highest posterior probability with s about 1 +- 0.5 and
    t about 0 +- 3, so that no single event turns the order round; s is never negative. `shown` stays.

    Args:
        before: the fit.
        scores, events, spread: as of `fit_calibration`.

    Raises:
        ValueError: as `fit_calibration`.
    """
    logit, wanted = before.logit(_checked(scores, events), _checked(spread, events))[:, None], _softened(events)
    scale, shift = _logistic_fit(logit, wanted, ((1.0, 0.0), _SCALED))
    if scale < 0:
        scale, shift = 0.0, _logistic_fit(logit[:, :0], wanted, ((0.0,), _SCALED[1:]))[0]
    return replace(before, a=scale * before.a, b=scale * before.b + shift, c=scale * before.c)


def reliability(
    probabilities: Float[Tensor, "n"], events: Bool[Tensor, "n"], bins: int = _BINS
) -> tuple[ReliabilityBin, ...]:
    """The reliability diagram: bins of equal width on [0, 1], those without an estimate left out.

    Raises:
        ValueError: if there is no estimate, no bin, or a number outside of [0, 1].
    """
    values = _checked(probabilities, events)
    if bins < 1:
        raise ValueError(f"a reliability diagram needs at least one bin, got {bins}")
    if float(values.min()) < 0 or float(values.max()) > 1:
        raise ValueError(
            f"probabilities lie in [0, 1], these in [{float(values.min()):g}, {float(values.max()):g}]; "
            "turn scores into probabilities first (fit_calibration)"
        )
    place = (values * bins).long().clamp(max=bins - 1)
    found = []
    for index in place.unique().tolist():
        mine = place == index
        promised, frequency = float(values[mine].mean()), float(events[mine].double().mean())
        found.append(ReliabilityBin(index / bins, (index + 1) / bins, int(mine.sum()), promised, frequency))
    return tuple(found)


def expected_calibration_error(
    probabilities: Float[Tensor, "n"], events: Bool[Tensor, "n"], bins: int = _BINS
) -> float:
    """Mean over the estimates of |promised - frequency| of their bin, in [0, 1].

    Arguments and errors as of `reliability`.
    """
    return calibration_gap(reliability(probabilities, events, bins))


def calibration_gap(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error of a reliability diagram."""
    return sum(b.count * abs(b.promised - b.frequency) for b in bins) / sum(b.count for b in bins)


def cross_fitted(
    scores: Float[Tensor, "n"], events: Bool[Tensor, "n"], groups: Sequence[object], folds: int = 5
) -> Float[Tensor, "n"]:
    """Probabilities from fits that have not seen the estimate's own group: an honest test of the fit.

    Args:
        scores, events: as of `fit_calibration`.
        groups: of each estimate (its image); groups are dealt to the folds in turn.
        folds: at most as many as there are groups.

    Raises:
        ValueError: as `fit_calibration`, or if there are fewer than two groups.
    """
    numbers = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    if len(numbers) < 2:
        raise ValueError("a fit cannot be tested on other images where there is only one; give estimates of more")
    folds = min(folds, len(numbers))
    fold = torch.tensor([numbers[group] % folds for group in groups])
    found = torch.zeros(len(scores), dtype=torch.float64)
    for index in range(folds):
        fit = fit_calibration(scores[fold != index], events[fold != index])
        found[fold == index] = fit.probability(scores[fold == index])
    return found


def _softened(events: Bool[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Platt's targets, which no fit reaches with certainty."""
    happened, count = int(events.sum()), len(events)
    return torch.where(events, (happened + 1) / (happened + 2), 1 / (count - happened + 2)).double()


def _fit_of_both(scores: Float[Tensor, "n"], log_spread: Float[Tensor, "n"], wanted: Float[Tensor, "n"]) -> Calibration:
    both = torch.stack((scores, log_spread), dim=1)
    centre, deviation = both.mean(0), both.std(0)
    varies = deviation > _LEAST_DEVIATION * centre.abs().clamp_min(1)
    scale = torch.where(varies, deviation, 1.0)
    slope_a, slope_c, offset = _logistic_fit((both - centre) / scale * varies, wanted)
    a, c = slope_a / float(scale[0]), slope_c / float(scale[1])
    return Calibration(a, offset - a * float(centre[0]) - c * float(centre[1]), c)


def _logistic_fit(
    x: Float[Tensor, "n k"], wanted: Float[Tensor, "n"], prior: tuple[Sequence[float], Sequence[float]] | None = None
) -> list[float]:
    """Slopes and offset of the highest likelihood: Newton steps, halved until the loss does not rise.

    With a prior, means and standard deviations of slopes and offset, of the highest posterior probability.
    """
    design = torch.cat((x, torch.ones(len(x), 1, dtype=x.dtype)), dim=1)
    mean = torch.zeros(design.shape[1], dtype=torch.float64)
    precision = torch.zeros_like(mean)
    if prior is not None:
        mean, precision = torch.tensor(prior[0]).double(), 1 / torch.tensor(prior[1]).double().square()
    weights = mean

    def loss(w: Tensor) -> float:
        z = design @ w
        of_prior = (precision * (w - mean).square()).sum() / 2
        return float((torch.nn.functional.softplus(z) - wanted * z).sum() + of_prior)

    now = loss(weights)
    for _ in range(_NEWTON_STEPS):
        p = torch.sigmoid(design @ weights)
        gradient = design.T @ (p - wanted) + precision * (weights - mean)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + torch.diag(precision + 1e-12)
        step = torch.linalg.solve(hessian, gradient)
        for _ in range(_HALVINGS):
            if (then := loss(weights - step)) <= now:
                break
            step = step / 2
        else:
            break
        weights, done, now = weights - step, float(step.abs().amax()) < 1e-10, then
        if done:
            break
    return weights.tolist()


def _checked(scores: Float[Tensor, "n"], events: Bool[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The scores in float64, if there are any and all are finite."""
    if not len(scores):
        raise ValueError("calibration needs at least one estimate with its outcome, and there is none")
    if bad := int((~scores.isfinite()).sum()):
        raise ValueError(f"{bad} of {len(scores)} scores are not finite numbers; leave those estimates out")
    return scores.double()

from __future__ import annotations

import math

import pytest
import torch

from cad2pose.evaluation.calibration import (
    Calibration,
    cross_fitted,
    expected_calibration_error,
    fit_calibration,
    reliability,
)
from cad2pose.evaluation.risk_coverage import risk_coverage


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def happened(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_planted_numbers_are_found(generator):
    scores = 5 * torch.rand(20_000, generator=generator, dtype=torch.float64) - 1
    truth = Calibration(1.7, -2.5)
    events = torch.rand(20_000, generator=generator, dtype=torch.float64) < truth.probability(scores)
    found = fit_calibration(scores, events)
    assert (found.a, found.b) == (pytest.approx(1.7, abs=0.1), pytest.approx(-2.5, abs=0.15))


def test_the_fit_is_the_maximum_of_the_likelihood(generator):
    scores = 1000 + torch.randn(80, generator=generator, dtype=torch.float64)  # far from 0, which must not matter
    events = torch.rand(80, generator=generator) < 0.4
    fit = fit_calibration(scores, events)

    def likelihood(a, b):
        z = a * (scores - 1000) + b
        return float((torch.nn.functional.logsigmoid(z) * events + torch.nn.functional.logsigmoid(-z) * ~events).sum())

    b = fit.b + 1000 * fit.a
    best = likelihood(fit.a, b)
    steps = [(0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01), (0.01, 0.01), (-0.01, 0.01)]
    assert all(likelihood(fit.a + da, b + db) < best for da, db in steps)


def test_equal_events_have_a_safe_answer():
    scores = column(0.1, 0.5, 0.9)
    for events, p in ((happened(1, 1, 1), 4 / 5), (happened(0, 0, 0), 1 / 5)):
        fit = fit_calibration(scores, events)
        assert fit.a == 0
        assert fit.probability(scores).tolist() == pytest.approx([p] * 3)


def test_equal_scores_give_the_share():
    fit = fit_calibration(column(0.3, 0.3, 0.3, 0.3), happened(1, 0, 0, 0))
    assert (fit.a, float(fit.probability(column(0.3)))) == (0, pytest.approx(0.25))


def test_events_that_a_threshold_parts_give_a_finite_fit():
    scores = column(0.1, 0.2, 0.8, 0.9)
    rising, falling = (fit_calibration(scores, happened(*e)) for e in ((0, 0, 1, 1), (1, 1, 0, 0)))
    assert 0 < rising.a < 100
    assert falling.a == pytest.approx(-rising.a)
    touching = fit_calibration(column(0.1, 0.5, 0.5, 0.9), happened(0, 0, 1, 1))
    assert 0 < touching.a < 100
    assert 0.5 < float(rising.probability(column(0.9))) < 1


def test_bad_scores():
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        fit_calibration(column(0.1, math.nan), happened(1, 0))
    with pytest.raises(ValueError, match="at least one estimate"):
        fit_calibration(column(), happened())
    with pytest.raises(ValueError, match="these in \\[0.2, 7\\]"):
        reliability(column(0.2, 7.0), happened(1, 0))
    with pytest.raises(ValueError, match="where there is only one"):
        cross_fitted(column(0.2, 0.7), happened(1, 0), [3, 3])


def test_reliability_and_its_error_by_hand():
    p, events = column(0.05, 0.15, 0.15, 1.0, 0.95), happened(0, 1, 0, 1, 0)
    bins = reliability(p, events)
    assert [(b.low, b.count) for b in bins] == [(0, 1), (0.1, 2), (0.9, 2)]
    assert [b.promised for b in bins] == pytest.approx([0.05, 0.15, 0.975])
    assert [b.frequency for b in bins] == [0, 0.5, 0.5]
    assert expected_calibration_error(p, events) == pytest.approx((0.05 + 2 * 0.35 + 2 * 0.475) / 5)
    assert expected_calibration_error(column(0, 1), happened(0, 1)) == 0
    assert expected_calibration_error(column(0, 1), happened(1, 0)) == 1


def test_a_fit_is_judged_on_images_that_it_has_not_seen():
    """The events of an image are equal and have nothing to do with its score, which is its own."""
    groups = [image for image in range(10) for _ in range(20)]
    scores = torch.tensor(groups).double() / 10
    events = torch.tensor([image in (0, 3, 5, 6, 9) for image in groups])
    probabilities = cross_fitted(scores, events, groups)
    for fold in range(5):
        mine = torch.tensor([image % 5 == fold for image in groups])
        alone = fit_calibration(scores[~mine], events[~mine]).probability(scores[mine])
        assert torch.equal(probabilities[mine], alone)


def test_risk_over_coverage_by_hand():
    curve = risk_coverage(column(0.9, 0.1, 0.5, 0.7), happened(1, 0, 0, 1))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert curve.risk.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert (curve.area, curve.least_area) == (pytest.approx(5 / 24), pytest.approx(5 / 24))
    assert (curve.largest_coverage(0.1), curve.largest_coverage(0.4)) == (0.5, 0.75)
    worst = risk_coverage(column(0.1, 0.9), happened(1, 0))
    assert (worst.area, worst.least_area, worst.largest_coverage(0.2)) == (0.75, 0.25, 0)


def test_equal_scores_have_no_order():
    events = happened(1, 0, 1, 0, 0)
    scores = column(0.5, 0.5, 0.5, 0.5, 0.2)
    for order in ([0, 1, 2, 3, 4], [3, 1, 0, 2, 4], [4, 0, 2, 1, 3]):
        curve = risk_coverage(scores[order], events[order])
        assert curve.risk.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.6])

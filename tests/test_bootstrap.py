from __future__ import annotations

import math
import statistics

import pytest
import torch

from cad2pose.evaluation.bootstrap import Interval, PairedTest, image_weights, weighted_medians


def test_draws_have_as_many_images_as_there_are():
    weights = image_weights(7, 50, seed=3)
    assert weights.shape == (50, 7)
    assert weights.sum(1).tolist() == [7] * 50
    assert torch.equal(weights, image_weights(7, 50, seed=3))
    assert not torch.equal(weights, image_weights(7, 50, seed=4))


def test_the_interval_of_a_mean_is_that_of_theory(generator):
    values = torch.rand(400, generator=generator, dtype=torch.float64)
    interval = Interval.of(image_weights(400, 4000) @ values / 400)
    half = 1.96 * float(values.std()) / 20
    assert interval.low == pytest.approx(float(values.mean()) - half, abs=0.1 * half)
    assert interval.high == pytest.approx(float(values.mean()) + half, abs=0.1 * half)


def test_intervals_cover_the_truth_about_as_often_as_they_say(generator):
    """Hits of images whose targets err together: resampling targets would cover far less."""
    weights, covered = image_weights(60, 300), 0
    for _ in range(200):
        share = torch.rand(60, generator=generator, dtype=torch.float64)  # the mean over images is 0.5
        interval = Interval.of(weights @ share / 60)
        covered += interval.low <= 0.5 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_undefined_draws_are_left_out():
    assert Interval.of(torch.tensor([math.nan, 1.0, 1.0])) == Interval(1.0, 1.0)
    assert math.isnan(Interval.of(torch.tensor([math.nan])).low)


def test_medians_are_those_of_the_repeated_values(generator):
    values = torch.rand(9, generator=generator, dtype=torch.float64)
    weights = torch.cat((image_weights(9, 20), torch.tensor([[0.0] * 9, [2.0] + [0.0] * 8, [1.0, 1.0] + [0.0] * 7])))
    found = weighted_medians(values, weights.double())
    for row, median in zip(weights.long(), found.tolist(), strict=True):
        repeated = values.repeat_interleave(row).tolist()
        assert median == statistics.median(repeated) if repeated else math.isnan(median)
    assert bool(weighted_medians(values[:0], weights[:, :0].double()).isnan().all())


def test_paired_tests_find_a_small_steady_difference(generator):
    """The files differ from each other by less than either from draw to draw."""
    first = torch.rand(100, generator=generator, dtype=torch.float64)
    second = first + 0.02 + 0.02 * torch.randn(100, generator=generator, dtype=torch.float64)
    weights = image_weights(100, 1000)
    one, other = weights @ first / 100, weights @ second / 100
    assert Interval.of(one).high > Interval.of(other).low  # the intervals overlap
    test = PairedTest.of(float((second - first).mean()), other - one)
    assert test.interval.low > 0.01
    assert test.p_value == pytest.approx(2 / 1001)
    back = PairedTest.of(-test.difference, one - other)
    assert (back.p_value, back.interval.high) == (test.p_value, pytest.approx(-test.interval.low))


def test_p_values_are_even_where_there_is_no_difference(generator):
    weights, values = image_weights(50, 400), []
    for _ in range(300):
        difference = torch.randn(50, generator=generator, dtype=torch.float64)
        values.append(PairedTest.of(float(difference.mean()), weights @ difference / 50).p_value)
    assert 0.02 <= sum(p < 0.05 for p in values) / 300 <= 0.1
    assert 0.4 <= sum(p < 0.5 for p in values) / 300 <= 0.6
    assert PairedTest.of(0.0, torch.zeros(100)).p_value == 1


def test_no_images():
    with pytest.raises(ValueError, match="at least one image and one draw, got 0 and 10"):
        image_weights(0, 10)

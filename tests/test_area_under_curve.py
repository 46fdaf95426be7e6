from __future__ import annotations

import math

import pytest
import torch

from cad2pose.evaluation.area_under_curve import area_credit, toolbox_area


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_exact_area_is_the_integral_of_the_curve(generator):
    errors = torch.cat((130 * torch.rand(60, generator=generator, dtype=torch.float64), column(math.inf, 0.0, 100.0)))
    middles = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 1000
    curve = (errors[:, None] < middles).double().mean(0)
    assert float(area_credit(errors).mean()) == pytest.approx(float(curve.mean()), abs=1e-5)


def test_the_toolbox_takes_the_right_end_of_each_step():
    assert toolbox_area(column(20, 60, math.inf, 150)) == pytest.approx((20 * 0.25 + 40 * 0.5 + 40 * 0.5) / 100)
    assert toolbox_area(column(0, 0)) == 1
    assert toolbox_area(column(math.inf, 101)) == 0


def test_the_toolbox_is_a_bit_higher_up_to_one_target(generator):
    errors = 200 * torch.rand(37, generator=generator, dtype=torch.float64)
    more = toolbox_area(errors) - float(area_credit(errors).mean())
    assert 0 < more < 1 / 37


def test_no_targets():
    with pytest.raises(ValueError, match="no targets"):
        toolbox_area(column())

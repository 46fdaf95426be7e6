"""Rotation charts: anchors, what each chart is taught, how one rotation is chosen."""

import math

import pytest
import torch

from cad2pose.geometry import geodesic_distance, random_rotations, rotation_about_z
from cad2pose.methods.pose_head import decode_charts, initial_numbers, pose_numbers
from cad2pose.methods.rotation_charts import RotationCharts, anchor_rotations, chart_targets
from cad2pose.parts import builtin_part


@pytest.mark.parametrize(("count", "farthest"), [(24, 62.8), (60, 44.5)])
def test_anchors_are_a_group_that_covers_all_rotations(count, farthest):
    anchors = anchor_rotations(count)
    assert anchors.shape == (count, 3, 3)
    products = (anchors[:, None] @ anchors).flatten(0, 1)
    traces = torch.einsum("pij,cij->pc", products, anchors)
    assert (traces.amax(1) > 3 - 1e-6).all()
    some = random_rotations(3000).double()
    closeness = torch.einsum("pij,cij->pc", some, anchors).amax(1)
    assert math.degrees(math.acos((float(closeness.min()) - 1) / 2)) < farthest


def test_other_counts_are_refused():
    with pytest.raises(ValueError, match="charts is 7"):
        anchor_rotations(7)


def test_an_untrained_head_says_the_anchors():
    anchors = anchor_rotations(24)
    numbers = initial_numbers(anchors)
    assert len(numbers) == pose_numbers(24) == 24 * 7 + 3
    charts = decode_charts(numbers[None], 24)
    torch.testing.assert_close(charts.rotation[0], anchors.float(), rtol=0, atol=1e-6)
    assert (charts.logits == 0).all()


def test_charts_are_taught_the_equivalent_truth_nearest_to_their_anchor():
    nut = builtin_part("nut")
    anchors, truth = anchor_rotations(60).float(), random_rotations(20)
    group = nut.symmetries.rotation_group().float()
    wanted, weight = chart_targets(truth, group.expand(20, -1, -1, -1), torch.zeros(20, 3), anchors)
    torch.testing.assert_close(weight.sum(1), torch.ones(20))
    for row in range(20):
        for chart in (0, 17, 59):
            angles = geodesic_distance((truth[row] @ group), anchors[chart].expand_as(group))
            own = geodesic_distance(wanted[row, chart], anchors[chart])
            torch.testing.assert_close(own, angles.min(), rtol=1e-3, atol=1e-3)
        angle = geodesic_distance(wanted[row], anchors)
        assert weight[row].argmax() == angle.argmin()
    _, moved = chart_targets(truth @ group[5], group.expand(20, -1, -1, -1), torch.zeros(20, 3), anchors)
    torch.testing.assert_close(moved, weight, rtol=1e-3, atol=1e-4)


def test_the_target_of_a_chart_does_not_hang_on_the_turn_that_nobody_sees():
    """About a continuous axis the target is the very nearest rotation, from wherever the truth was turned to."""
    bushing = builtin_part("bushing")
    group = bushing.symmetries.rotation_group(36).float().expand(20, -1, -1, -1)
    axis, anchors, truth = torch.tensor([[0.0, 0, 1]]).expand(20, 3), anchor_rotations(60).float(), random_rotations(20)
    wanted, weight = chart_targets(truth, group, axis, anchors)
    again, other = chart_targets(truth @ rotation_about_z(torch.tensor(1.2345)), group, axis, anchors)
    torch.testing.assert_close(again, wanted, rtol=0, atol=2e-3)
    torch.testing.assert_close(other, weight, rtol=0, atol=1e-4)
    fine = truth[:, None] @ bushing.symmetries.rotation_group(3600).float()
    closeness = torch.einsum("bkij,cij->bck", fine, anchors).amax(2)
    torch.testing.assert_close((wanted * anchors).sum((2, 3)), closeness, rtol=0, atol=1e-4)


def test_the_chosen_rotation_is_the_mean_of_the_charts_that_agree():
    base, other = random_rotations(1)[0], random_rotations(1)[0]
    assert float(geodesic_distance(base, other)) > math.radians(30)
    near = base @ rotation_about_z(torch.tensor(math.radians(10.0)))
    rotation = torch.stack((base, near, other))[None]
    charts = RotationCharts(rotation, torch.log(torch.tensor([[0.4, 0.4, 0.2]])))
    half = base @ rotation_about_z(torch.tensor(math.radians(5.0)))
    torch.testing.assert_close(charts.mode()[0], half, rtol=0, atol=1e-5)
    alone = RotationCharts(rotation, torch.log(torch.tensor([[0.2, 0.2, 0.6]])))
    torch.testing.assert_close(alone.mode()[0], other, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone.best()[0], other)


def test_modes_differ_and_share_the_probability():
    base = random_rotations(1)[0]
    turns = rotation_about_z(torch.deg2rad(torch.tensor([0.0, 10.0, 90.0, 95.0, 180.0])))
    charts = RotationCharts((base @ turns)[None], torch.log(torch.tensor([[0.3, 0.2, 0.2, 0.2, 0.1]])))
    rotation, share = charts.modes(4)
    torch.testing.assert_close(share[0], torch.tensor([0.5, 0.4, 0.1, 0.0]))
    found = [math.degrees(float(geodesic_distance(base, mode))) for mode in rotation[0]]
    assert found == pytest.approx([4.0, 92.5, 180.0, 4.0], abs=0.2)


def test_numbers_that_are_not_finite_spoil_their_own_row_alone():
    rotation, logits = random_rotations(6).view(2, 3, 3, 3), torch.zeros(2, 3)
    alone = RotationCharts(rotation[1:], logits[1:]).modes(2)
    for broken in (logits.clone(), rotation.clone()):
        broken[0] = math.nan
        charts = RotationCharts(*((rotation, broken) if broken.dim() == 2 else (broken, logits)))
        found, share = charts.modes(2)
        assert found[0].isnan().any() or share[0].isnan().any()
        torch.testing.assert_close((found[1:], share[1:]), alone)

"""Steady poses of symmetric parts in a video."""

import math

import pytest
import torch

from cad2pose.geometry import geodesic_distance, make_transform, random_rotations, rotation_from_axis_angle
from cad2pose.parts import ContinuousSymmetry, Symmetries, builtin_part, nearest_equivalent
from cad2pose.parts.rotation_groups import dihedral

OFFSET = torch.tensor([3.0, -4, 5]).double()


def poses(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    position = torch.randn(count, 3, generator=generator, dtype=torch.float64) * 50
    return make_transform(random_rotations(count, generator, torch.float64), position)


def small_steps(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    omega = 0.02 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return make_transform(rotation_from_axis_angle(omega), torch.zeros(count, 3).double())


@pytest.mark.parametrize("order", [2, 6, 0])
def test_the_least_turned_of_all_equivalents(order: int) -> None:
    """Against all of BOP's discretised motions, and the pose is an equivalent one."""
    frame = random_rotations(1, torch.Generator().manual_seed(5), torch.float64)[0]
    symmetries = dihedral(order).symmetries(frame, OFFSET)
    previous, current = poses(8, 0), poses(8, 1)
    chosen = nearest_equivalent(previous, current, symmetries)
    all_of_them = current[:, None] @ symmetries.transforms(0.005)
    angle = geodesic_distance(all_of_them[..., :3, :3], previous[:, None, :3, :3].expand_as(all_of_them[..., :3, :3]))
    reached = geodesic_distance(chosen[:, :3, :3], previous[:, :3, :3])
    assert float((reached - angle.amin(1)).max()) < 1e-9
    assert float((angle.amin(1) - reached).max()) < 0.02
    gaps = (all_of_them - chosen[:, None]).abs().amax((-1, -2)).amin(1)
    assert float(gaps.max()) < (1e-9 if order else 0.6)
    center = torch.cat((OFFSET, torch.ones(1).double()))
    assert torch.allclose(chosen @ center, current @ center)


def test_jumps_between_equivalents_are_undone() -> None:
    symmetries = builtin_part("nut").symmetries
    steady = poses(1, 2)[0]
    for step, jump in zip(
        small_steps(20, 3), torch.randint(11, (20,), generator=torch.Generator().manual_seed(4)), strict=True
    ):
        true = step @ steady
        chosen = nearest_equivalent(steady, true @ symmetries.discrete[jump], symmetries)
        assert torch.allclose(chosen, true, atol=1e-9)
        steady = chosen


def test_motions_that_were_typed_by_hand_give_rotations() -> None:
    turn = torch.eye(4).double()
    turn[:2, :2] = torch.tensor([[0.707, -0.707], [0.707, 0.707]])
    chosen = nearest_equivalent(poses(1, 1) @ turn, poses(1, 1), Symmetries(turn[None]))
    R = chosen[:, :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).double()[None], rtol=0, atol=1e-9)
    assert not torch.equal(chosen, poses(1, 1))


def test_ball_no_symmetry_and_missing_poses() -> None:
    axes = tuple(ContinuousSymmetry(axis, OFFSET) for axis in torch.eye(3).double())
    previous, current = poses(3, 6), poses(3, 7)
    chosen = nearest_equivalent(previous, current, Symmetries(continuous=axes))
    assert torch.allclose(chosen[:, :3, :3], previous[:, :3, :3])
    point = torch.cat((OFFSET, torch.ones(1).double()))
    assert torch.allclose(chosen @ point, current @ point)
    assert torch.equal(nearest_equivalent(previous, current, Symmetries()), current)
    elsewhere = torch.zeros(3, 4, 4, dtype=torch.float64, device="meta")
    for some in (axes, axes[:1]):
        assert nearest_equivalent(elsewhere, elsewhere, Symmetries(continuous=some)).device.type == "meta"
    previous[0], current[1] = math.nan, math.nan
    chosen = nearest_equivalent(previous.float(), current.float(), builtin_part("nut").symmetries)
    assert chosen.dtype == torch.float32
    assert torch.equal(chosen[0], current[0].float())
    assert bool(chosen[1].isnan().all())
    assert bool(torch.isfinite(chosen[2]).all())

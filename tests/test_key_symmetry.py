"""Symmetries that are read off the keys, and what the solver makes of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cad2pose.geometry import geodesic_distance
from cad2pose.parts import Part, builtin_part
from cad2pose.parts.solids import SurfaceBuilder
from cad2pose.solvers import Level, SamplingOptions, SolverOptions, Start, Surface, key_symmetry, solve
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.key_symmetry import turns_apart
from cad2pose.solvers.score import PoseScore
from planted_queries import Planted, gaussian_keys, plant

SMALL = SolverOptions(
    proposals=SamplingOptions(samples=2000, kept=300), fine=(Level(56, 1.0, 1024, 10),), distinct=12
)  # fmt: skip


def invariant(name, points):
    """Coordinates that the part's symmetries leave as they are, spread about as far as the points."""
    x, y, z = points.unbind(-1)
    radius, angle = torch.hypot(x, y), torch.atan2(y, x)
    if name == "nut":  # six turns, and upside down
        return torch.stack((radius, z * z, z * (6 * angle).sin(), 0.3 * radius * (6 * angle).cos()), -1)
    if name == "gear":  # twelve turns, no way up
        return torch.stack((radius, z, 0.5 * radius * (12 * angle).sin(), 0.5 * radius * (12 * angle).cos()), -1)
    return torch.stack((radius, z * z), -1)


def gear(teeth):
    """A flat ring with as many teeth, no way up alike."""
    angle = np.arange(4 * teeth) * (2 * math.pi / (4 * teeth))
    radius = np.where(np.arange(4 * teeth) % 4 < 2, 40.0, 32.0)
    solid = SurfaceBuilder()
    low, high = (np.stack((radius * s * np.cos(angle), radius * s * np.sin(angle), np.full(4 * teeth, z)), 1)
                 for s, z in ((1.0, 0.0), (0.9, 12.0)))  # fmt: skip
    solid.strip(low, high, (0.5, 0.5, 0.5))
    solid.polygon(low[::-1], (0.5, 0.5, 0.5))
    solid.polygon(high, (0.5, 0.5, 0.5))
    return Part.from_mesh("gear", solid.mesh())


def symmetric_crops(name, surface, count, part=None):
    """As `plant` makes them, with keys and queries of invariant coordinates."""
    planted = plant(part or builtin_part(name), surface, count, 64, width=0.06, seed=5)
    places = planted.maps.queries[:, :3] * 0.06**2
    shown = planted.maps.mask_logits > 0
    features = invariant(name, places.movedim(1, -1))
    queries = torch.cat((features, torch.full_like(features[..., :1], -0.5)), -1).movedim(-1, 1) / 0.06**2
    maps = replace(planted.maps, queries=queries * shown[:, None])
    return Planted(maps, gaussian_keys(invariant(name, surface.points)), planted.rotation, planted.position)


@pytest.fixture(scope="module")
def surfaces():
    return {name: Surface.of_part(builtin_part(name), 12_000) for name in ("bracket", "nut", "bushing")}


def test_a_part_without_symmetry_has_the_identity_alone(surfaces):
    found = key_symmetry(surfaces["bracket"], gaussian_keys(surfaces["bracket"].points))
    torch.testing.assert_close(found.rotations, torch.eye(3)[None])
    assert not found.axis.any()


def test_the_twelve_turns_of_a_nut_are_found(surfaces):
    surface = surfaces["nut"]
    found = key_symmetry(surface, gaussian_keys(invariant("nut", surface.points)))
    true = builtin_part("nut").symmetries.rotation_group()
    assert len(true) == 12
    assert not found.axis.any()
    apart = geodesic_distance(
        found.rotations.double()[:, None].expand(-1, 12, 3, 3), true[None].expand(len(found.rotations), -1, -1, -1)
    )  # fmt: skip
    assert (apart.amin(0) < math.radians(4)).all()
    assert len(found.rotations) == 12
    torch.testing.assert_close(found.rotations[0], torch.eye(3))


def test_an_axis_is_found(surfaces):
    surface = surfaces["bushing"]
    found = key_symmetry(surface, gaussian_keys(invariant("bushing", surface.points)))
    assert abs(float(found.axis[2])) > math.cos(math.radians(3))
    assert len(found.rotations) > 10


def test_all_modes_of_a_nut_are_alternatives_and_as_likely_as_each_other(surfaces):
    surface = surfaces["nut"]
    crops = symmetric_crops("nut", surface, 3)
    symmetry = key_symmetry(surface, crops.keys)
    solution = solve(surface, crops.keys, crops.maps, SMALL, symmetry=symmetry)
    assert solution.found.all()
    group = builtin_part("nut").symmetries.rotation_group()
    assert (solution.free_axis == 0).all()
    for row in range(3):
        known = solution.rotation[row][solution.probability[row] > 0].double()
        own = solution.rotation[row, 0].double() @ group
        apart = geodesic_distance(known[:, None].expand(-1, 12, 3, 3), own[None].expand(len(known), -1, -1, -1))
        assert (apart.amin(0) < 0.2).all()
        assert float(solution.probability[row].max()) < 0.3
    torch.testing.assert_close(solution.probability.sum(1), torch.ones(3))


def test_a_bushing_may_turn_about_its_axis(surfaces):
    surface = surfaces["bushing"]
    crops = symmetric_crops("bushing", surface, 3)
    solution = solve(surface, crops.keys, crops.maps, SMALL, symmetry=key_symmetry(surface, crops.keys))
    assert solution.found.all()
    along = (solution.free_axis * solution.rotation[:, 0, :, 2]).sum(1).abs()
    assert (along > math.cos(math.radians(4))).all()
    axis = torch.cat((solution.free_axis, torch.zeros(3, 3)), 1).double()
    variance = torch.einsum("bi,bij,bj->b", axis, solution.covariance, axis)
    assert (variance.abs() < 1e-9).all()
    assert (torch.linalg.eigvalsh(solution.covariance)[:, 1:] > 0).all()
    # what is left of its symmetry is upside down
    assert ((solution.probability > 0).sum(1) <= 2).all()


def rod():
    """A cylinder."""
    angle = np.arange(48) * (2 * math.pi / 48)
    solid = SurfaceBuilder()
    low, high = (np.stack((20 * np.cos(angle), 20 * np.sin(angle), np.full(48, z)), 1) for z in (-30.0, 30.0))
    solid.strip(low, high, (0.5, 0.5, 0.5))
    solid.polygon(low[::-1], (0.5, 0.5, 0.5))
    solid.polygon(high, (0.5, 0.5, 0.5))
    return Part.from_mesh("rod", solid.mesh())


@pytest.mark.parametrize("started", [False, True])
def test_a_rod_upside_down_is_one_alternative_however_it_is_turned(started):
    part = rod()
    surface = Surface.of_part(part, 8000)
    crops = symmetric_crops("rod", surface, 3, part)
    symmetry = key_symmetry(surface, crops.keys)
    assert symmetry.turning
    start = Start(
        Hypotheses(torch.arange(3), crops.rotation.float(), crops.position.float()), torch.zeros(3), 0.1
    ) if started else None  # fmt: skip
    solution = solve(surface, crops.keys, crops.maps, SMALL, start, symmetry)
    assert (solution.probability > 0).sum(1).tolist() == [2, 2, 2]
    axis = solution.rotation[:, :2, :, 2]
    assert ((axis[:, 0] * axis[:, 1]).sum(-1) < -0.9).all()
    assert (solution.probability[:, 0] < 0.8).all()


def test_siblings_of_a_pose_believe_its_depth_as_well(surfaces):
    """A depth that is off by a tenth pulls on the one that was given and on those that look the same alike."""
    surface = surfaces["nut"]
    crops = symmetric_crops("nut", surface, 3)
    symmetry = key_symmetry(surface, crops.keys)
    start = Start(
        Hypotheses(torch.arange(3), crops.rotation.float(), 0.85 * crops.position.float()), torch.zeros(3), 0.06
    )  # fmt: skip
    solution = solve(surface, crops.keys, crops.maps, SMALL, start, symmetry)
    depth = solution.position[..., 2]
    apart = (depth.log() - start.poses.position[:, 2:3].log()) / 0.06
    level = SMALL.fine[-1]
    score = PoseScore(surface, crops.keys, crops.maps, replace(SMALL.score, points=level.points, contrast=4096))
    rows, there = torch.arange(3)[:, None].expand_as(depth), solution.probability > 0
    assert (there.sum(1) > 6).all()
    image = score(rows[there], solution.rotation[there], solution.position[there])
    expected = image - 4.5 * torch.log1p(apart[there].square() / 8) / SMALL.independent
    torch.testing.assert_close(solution.score[there], expected, rtol=0, atol=2e-3)


def test_keys_that_say_nothing_leave_the_shape(surfaces):
    surface = surfaces["nut"]
    found = key_symmetry(surface, torch.ones(len(surface.points), 4))
    torch.testing.assert_close(found.rotations[0], torch.eye(3))


def test_twelve_teeth_are_not_a_free_turn():
    part = gear(12)
    surface = Surface.of_part(part, 12_000)
    crops = symmetric_crops("gear", surface, 3, part)
    symmetry = key_symmetry(surface, crops.keys)
    assert not symmetry.axis.any()
    solution = solve(surface, crops.keys, crops.maps, SMALL, symmetry=symmetry)
    assert solution.found.all()
    assert (solution.free_axis == 0).all()
    assert ((solution.probability > 0).sum(1) >= 6).all(), "the other teeth are alternatives"
    about = torch.cat((solution.rotation[:, 0, :, 2], torch.zeros(3, 3)), 1).double()
    assert (torch.einsum("bi,bij,bj->b", about, solution.covariance, about) > 1e-7).all()


def test_turns_fall_between_the_teeth_of_any_part():
    """Up to 40 teeth, one turn at least is a fifth of a tooth or more away from all of them."""
    for teeth in range(2, 41):
        phase = turns_apart() * teeth / (2 * math.pi) % 1
        assert float(torch.minimum(phase, 1 - phase).max()) > 0.2

"""The whole solver: planted poses found, alternatives of symmetric parts, reasons in place of poses."""

from dataclasses import replace

import pytest
import torch

from cad2pose.geometry import geodesic_distance, rotation_about_z
from cad2pose.parts import builtin_part
from cad2pose.solvers import KeySymmetry, Level, SamplingOptions, SearchOptions, SolverOptions, Start, Surface, solve
from cad2pose.solvers.distinct import Gap, distinct
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.solve import _repeated
from cad2pose.solvers.uncertainty import covariance, fit_factor, squared_distance, within_90
from cad2pose.solvers.usable import unusable
from planted_queries import plant

SMALL = SolverOptions(
    proposals=SamplingOptions(samples=2000, kept=300), fine=(Level(56, 1.0, 1024, 10),), distinct=12
)  # fmt: skip
SIDE = 64


@pytest.fixture(scope="module")
def surface():
    return Surface.of_part(builtin_part("bracket"), 8000)


@pytest.fixture(scope="module")
def planted(surface):
    return plant(builtin_part("bracket"), surface, 5, SIDE, width=0.06, seed=2)


def errors(solution, planted, rows):
    angle = geodesic_distance(solution.rotation[rows, 0].double(), planted.rotation[rows].double()).rad2deg()
    shift = (solution.position[rows, 0] - planted.position[rows]).norm(dim=1) / planted.position[rows, 2]
    return angle, shift


@pytest.mark.parametrize("proposals", [SMALL.proposals, SearchOptions(directions=96, turns=18)])
def test_planted_poses_are_found_from_either_kind_of_proposal(surface, planted, proposals):
    solution = solve(surface, planted.keys, planted.maps, replace(SMALL, proposals=proposals))
    angle, shift = errors(solution, planted, range(5))
    assert (angle < 3).sum() >= 4
    assert (shift < 0.02).sum() >= 4
    assert solution.reasons == (None,) * 5
    torch.testing.assert_close(solution.probability.sum(1), torch.ones(5))
    assert (solution.free_axis == 0).all()
    assert (torch.linalg.eigvalsh(solution.covariance) > 0).all()
    assert (solution.stats.refined >= 1).all()


def test_crops_of_no_use_say_why_and_leave_the_others_alone(surface, planted):
    queries, logits = planted.maps.queries.clone(), planted.maps.mask_logits.clone()
    queries[0, 1, 3, 3] = torch.nan
    logits[1] = -6.0
    logits[2] = -6.0
    logits[2, 10, 10:13] = 6.0
    logits[3] = -6.0
    logits[3, 30] = 6.0
    solution = solve(surface, planted.keys, replace(planted.maps, queries=queries, mask_logits=logits), SMALL)
    says = ("not finite", "no pixel shows the part", "3 pixels show the part", "lie on a line")
    for reason, words in zip(solution.reasons, says, strict=False):
        assert reason is not None
        assert words in reason
    assert solution.found.tolist() == [False] * 4 + [True]
    assert torch.isnan(solution.rotation[:4]).all()
    assert torch.isnan(solution.covariance[:4]).all()
    angle, shift = errors(solution, planted, [4])
    assert angle < 3
    assert shift < 0.02


def test_pixels_on_a_line_do_not_lose_a_pose_that_is_known(planted):
    logits = torch.full_like(planted.maps.mask_logits, -6.0)
    logits[:, 30] = 6.0
    maps = replace(planted.maps, mask_logits=logits)
    assert all("on a line" in (reason or "") for reason in unusable(maps))
    assert unusable(maps, started=True) == [None] * len(maps)


def test_a_crop_without_hypotheses_says_so(surface, planted):
    near = replace(SMALL, proposals=replace(SMALL.proposals, distance=(50.0, 60.0)))
    solution = solve(surface, planted.keys, planted.maps, near)
    assert not solution.found.any()
    assert all("no hypothesis is left" in (reason or "") for reason in solution.reasons)


def test_distinct_takes_the_best_of_each_neighbourhood():
    turn = torch.eye(3).repeat(4, 1, 1)
    position = torch.tensor([[0.0, 0, 9], [0.1, 0, 9], [2.0, 0, 9], [0.0, 0, 9]])
    poses = Hypotheses(torch.tensor([0, 0, 0, 1]), turn, position)
    index = distinct(poses, torch.tensor([1.0, 2.0, 0.5, -torch.inf]), 2, 3, Gap())
    assert index.tolist() == [[1, 2, -1], [-1, -1, -1]]


def test_the_factor_makes_nine_of_ten_ellipsoids_right():
    generator = torch.Generator().manual_seed(0)
    squared = 4.0 * torch.randn(4000, 6, generator=generator, dtype=torch.float64).square().sum(1)
    degrees = torch.full((4000,), 6)
    factor = fit_factor(squared, degrees)
    assert abs(factor - 4) < 0.25
    assert abs(within_90(squared, degrees, factor).double().mean() - 0.9) < 1e-3
    assert within_90(squared, degrees).double().mean() < 0.3


def test_nothing_is_claimed_along_a_free_axis():
    information = torch.diag(torch.tensor([4.0, 2, 1e-3, 1, 1, 1])).expand(1, 6, 6)
    axis = torch.tensor([[0.0, 0, 1]])
    found = covariance(information, axis, 10.0)[0]
    torch.testing.assert_close(
        found.diagonal(), torch.tensor([1 / 40, 1 / 20, 0, 0.1, 0.1, 0.1]).double(), rtol=1e-3, atol=1e-9
    )
    turned = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    still, place = torch.eye(3)[None], torch.zeros(1, 3)
    assert float(squared_distance(still, place, turned, place, found[None])) < 1e-6


@pytest.mark.parametrize("each", [1, 2])
def test_a_start_that_is_no_pose_costs_no_other_crop_its_own(surface, planted, each):
    rotation, position = (t.repeat_interleave(each, dim=0).clone() for t in (planted.rotation, planted.position))
    row = torch.arange(5).repeat_interleave(each)
    rotation[row == 0] = torch.nan
    position[row == 1, 2] = torch.inf
    start = Start(Hypotheses(row, rotation.float(), position.float()), torch.zeros(5 * each), 0.1)
    solution = solve(surface, planted.keys, planted.maps, SMALL, start)
    assert solution.found.tolist() == [False, False, True, True, True]
    assert all("not" in (reason or "") for reason in solution.reasons[:2])
    assert torch.isnan(solution.rotation[:2]).all()
    angle, _ = errors(solution, planted, [2, 3, 4])
    assert (angle < 3).all()


def test_poses_that_are_not_to_be_refined_stay_as_they_are_given(surface, planted):
    """Those that symmetries of the keys make of them are no poses that were given."""
    half = torch.stack((torch.eye(3), rotation_about_z(torch.tensor(3.14159265))))
    start = Start(
        Hypotheses(torch.arange(5), planted.rotation.float() @ half[1], planted.position.float()), torch.zeros(5)
    )
    options = replace(SMALL, refine=False)
    solution = solve(surface, planted.keys, planted.maps, options, start, KeySymmetry(half, torch.zeros(3)))
    assert torch.equal(solution.rotation[:, 0], start.poses.rotation)
    assert torch.equal(solution.position[:, 0], start.poses.position)


def test_only_turns_in_place_are_no_alternatives():
    free = torch.tensor([[0.0, 0.0, 1.0]])
    rotation = rotation_about_z(torch.tensor([0.0, 1.0, 1.0]))[None]
    position = torch.tensor([[[0.0, 0, 9], [0, 0, 9], [1.5, 0, 9]]])
    assert _repeated(rotation, position, free, Gap()).tolist() == [[False, True, False]]
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    flipped = torch.stack((torch.eye(3), flip, rotation[0, 1] @ flip))[None]
    still = position[:, :1].expand(1, 3, 3)
    assert _repeated(flipped, still, free, Gap()).tolist() == [[False, False, True]]
    assert _repeated(flipped, still, torch.zeros(1, 3), Gap()).tolist() == [[False] * 3]


def test_crops_of_starts_come_in_any_order_and_type(surface, planted):
    row = torch.tensor([2, 2, 0, 0, 4, 4])
    start = Start(Hypotheses(row, planted.rotation[row], planted.position[row]), torch.zeros(6).double(), 0.1)
    maps = replace(planted.maps, K=planted.maps.K.double())
    solution = solve(surface, planted.keys, maps, SMALL, start)
    assert solution.found.tolist() == [True, False, True, False, True]
    assert (errors(solution, planted, [0, 2, 4])[0] < 3).all()


def test_a_start_behind_the_camera_is_none(surface, planted):
    start = Start(Hypotheses(torch.arange(5), planted.rotation.float(), -planted.position.float()), torch.zeros(5))
    solution = solve(surface, planted.keys, planted.maps, SMALL, start)
    assert not solution.found.any()
    assert all("before the camera" in (reason or "") for reason in solution.reasons)


def test_no_crops_have_no_poses(surface, planted):
    nothing = solve(surface, planted.keys, planted.maps[torch.zeros(0, dtype=torch.long)], SMALL)
    assert len(nothing) == 0
    assert nothing.found.dtype == torch.bool

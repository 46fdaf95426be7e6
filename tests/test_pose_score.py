"""The score of poses: its derivatives, that the truth wins it, and its rough copy."""

import math

import pytest
import torch

from cad2pose.geometry import resized_intrinsics, rotation_from_axis_angle
from cad2pose.parts import builtin_part
from cad2pose.solvers import kernels
from cad2pose.solvers.distinct import Gap, distinct
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.quick_score import QuickScore
from cad2pose.solvers.refine import DepthPrior, RefineOptions, perturb, refine
from cad2pose.solvers.score import PoseScore, ScoreOptions
from cad2pose.solvers.search import SearchOptions, rotation_grid, search_poses
from cad2pose.solvers.surface import Surface
from planted_queries import plant

COUNT = 8
OPTIONS = ScoreOptions(points=1024, contrast=2048)


@pytest.fixture(scope="module")
def surface():
    return Surface.of_part(builtin_part("bracket"), 8000)


@pytest.fixture(scope="module")
def planted(surface):
    return plant(builtin_part("bracket"), surface, COUNT, 64, width=0.08)


@pytest.fixture(scope="module")
def score(surface, planted):
    return PoseScore(surface, planted.keys, planted.maps, OPTIONS)


def angles(a, b):
    trace = torch.einsum("nij,nij->n", a, b)
    return torch.rad2deg(torch.acos(((trace - 1) / 2).clamp(-1, 1)))


def test_derivatives_are_those_of_the_score(score, planted, monkeypatch):
    monkeypatch.setattr(kernels, "climbed_on_cpu", lambda *pose: None)
    row = torch.arange(COUNT)
    rotation, position = perturb(torch.full((COUNT, 6), 0.02), planted.rotation, planted.position)
    shown = score._visible(rotation, position)
    monkeypatch.setattr(score, "_visible", lambda *pose: shown)  # it changes in jumps
    found = score.linearize(row, rotation, position)
    torch.testing.assert_close(found.value, score(row, rotation, position))
    numeric = []
    for axis in range(6):
        step = torch.zeros(COUNT, 6)
        step[:, axis] = 5e-4
        up, down = (score(row, *perturb(sign * step, rotation, position)) for sign in (1, -1))
        numeric.append((up - down) / 1e-3)
    numeric = torch.stack(numeric, dim=1)
    exact = (numeric - found.gradient).norm(dim=1) < 0.1 * found.gradient.norm(dim=1)
    assert exact.sum() >= COUNT - 1  # sharp queries make the score kink between pixels
    assert (torch.linalg.eigvalsh(found.information.double()) > -1e-6).all()


def test_the_true_pose_wins(score, planted):
    row = torch.arange(COUNT)
    truth = score(row, planted.rotation, planted.position)
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        axis = torch.nn.functional.normalize(torch.randn(COUNT, 3, generator=generator), dim=1)
        turned = rotation_from_axis_angle(axis * math.radians(8)) @ planted.rotation
        assert (score(row, turned, planted.position) < truth).all()
    for factor in (0.96, 1.04):
        assert (score(row, planted.rotation, planted.position * factor) < truth).all()
    aside = planted.position + torch.tensor([0.1, 0.0, 0.0])
    assert (score(row, planted.rotation, aside) < truth).all()


def test_a_pose_beside_the_crop_gets_what_the_mask_says_of_nothing(score, planted):
    row = torch.arange(COUNT)
    away = planted.position + torch.tensor([9.0, 0.0, 0.0])
    nothing = torch.nn.functional.logsigmoid(-planted.maps.mask_logits.clamp(-5, 5)).mean((1, 2))
    torch.testing.assert_close(score(row, planted.rotation, away), nothing, rtol=1e-4, atol=1e-4)


def test_rows_do_not_mix(surface, score, planted):
    row = torch.tensor([5, 0, 5])
    together = score(row, planted.rotation[row], planted.position[row])
    alone = PoseScore(surface, planted.keys, planted.maps[torch.tensor([5])], OPTIONS)
    single = alone(torch.zeros(1, dtype=torch.long), planted.rotation[5:6], planted.position[5:6])
    torch.testing.assert_close(together[[0, 2]], single.expand(2), rtol=1e-4, atol=1e-5)


def test_the_rough_copy_agrees(surface, score, planted):
    rough = QuickScore(surface, planted.keys, planted.maps, OPTIONS)
    generator = torch.Generator().manual_seed(5)
    row = torch.arange(COUNT).repeat(20)
    step = torch.randn(len(row), 6, generator=generator) * torch.tensor([0.3, 0.3, 0.3, 0.1, 0.1, 0.5])
    poses = perturb(step, planted.rotation.repeat(20, 1, 1), planted.position.repeat(20, 1))
    pair = torch.stack((rough(row, *poses), score(row, *poses)))
    assert torch.corrcoef(pair)[0, 1] > 0.97


def test_settings_that_do_not_fit_are_refused(surface, planted):
    with pytest.raises(ValueError, match="points is 77"):
        PoseScore(surface, planted.keys, planted.maps, ScoreOptions(points=77))
    with pytest.raises(ValueError, match="keys have 3 numbers, queries 4"):
        PoseScore(surface, planted.keys[:, :3], planted.maps)


def test_refinement_finds_the_pose_and_never_lowers_the_score(score, planted):
    row = torch.arange(COUNT)
    generator = torch.Generator().manual_seed(1)
    axis = torch.nn.functional.normalize(torch.randn(COUNT, 3, generator=generator), dim=1)
    rotation = rotation_from_axis_angle(axis * math.radians(6)) @ planted.rotation
    position = planted.position * 1.03
    before = score(row, rotation, position)
    last = before
    for iterations in (1, 2, 4, 8, 16, 30):
        found = refine(score, row, rotation, position, RefineOptions(iterations=iterations))
        torch.testing.assert_close(found.score, score(row, found.rotation, found.position), rtol=1e-4, atol=1e-5)
        assert (found.score >= last - 1e-6).all()
        last = found.score
    assert (last > before).all()
    assert angles(found.rotation, planted.rotation).median() < 2.0
    assert ((found.position - planted.position).norm(dim=1) / planted.position[:, 2]).median() < 0.01


@pytest.mark.parametrize("fused", [True, False], ids=["compiled", "torch"])
def test_depth_is_found_from_far_away_as_from_near(surface, monkeypatch, fused):
    """From 10 radii to 320: the picture is all but the same, and so is what a start 6 % off ends at."""
    if not fused:
        monkeypatch.setattr(kernels, "climbed_on_cpu", lambda *pose: None)
    off = {}
    for lens in (3.0, 100.0):
        planted = plant(builtin_part("bracket"), surface, COUNT, 64, width=0.08, lens=lens)
        assert planted.position[:, 2].min() > 3 * lens
        score = PoseScore(surface, planted.keys, planted.maps, OPTIONS)
        found = refine(score, torch.arange(COUNT), planted.rotation, planted.position * 1.06)
        off[lens] = (found.position[:, 2] / planted.position[:, 2] - 1).abs().median()
    assert off[3.0] < 0.01
    assert off[100.0] < 0.01


def test_a_depth_prior_is_students_t_in_the_logarithm(score, planted):
    row = torch.arange(COUNT)
    position = planted.position * 1.04
    samples = torch.full((COUNT,), 500.0)
    prior = DepthPrior(planted.position[:, 2] * 1.05, 0.02, samples)
    plain = score.linearize(row, planted.rotation, position)
    found = prior.added_to(plain, position)
    off = math.log(1.04 / 1.05) / 0.02
    known = torch.distributions.StudentT(8.0)
    lost = (known.log_prob(torch.tensor(off)) - known.log_prob(torch.tensor(0.0))) / samples
    torch.testing.assert_close(found.value - plain.value, lost, rtol=1e-3, atol=1e-7)
    ahead = position + torch.tensor([0.0, 0.0, 1e-3])
    rise = (prior.added_to(plain, ahead).value - found.value) / 1e-3
    torch.testing.assert_close((found.gradient - plain.gradient)[:, 5], rise, rtol=0.05, atol=1e-5)


def test_a_sure_prior_holds_the_depth(score, planted):
    row = torch.arange(COUNT)
    wrong = planted.position * 1.04
    sure = DepthPrior(wrong[:, 2], 1e-4, torch.full((COUNT,), 100.0))
    held = refine(score, row, planted.rotation, wrong, prior=sure)
    free = refine(score, row, planted.rotation, wrong)
    assert ((held.position[:, 2] / wrong[:, 2] - 1).abs() < 2e-3).all()
    assert ((free.position[:, 2] / planted.position[:, 2] - 1).abs() < 0.02).all()


def test_the_search_finds_planted_poses_without_a_start(surface, planted):
    maps = planted.maps.coarser(2)
    rough = QuickScore(surface, planted.keys, maps, OPTIONS)
    found = search_poses(surface, planted.keys, maps, SearchOptions(directions=96, turns=18))
    assert found.row.tolist() == [crop for crop in range(COUNT) for _ in range(96 * 18 * 3)]
    again = search_poses(surface, planted.keys, maps, SearchOptions(directions=96, turns=18))
    assert torch.equal(found.position, again.position)
    index = distinct(found, rough(found.row, found.rotation, found.position), COUNT, 8, Gap())
    found = found[index.flatten()]
    refined = refine(PoseScore(surface, planted.keys, maps, OPTIONS), found.row, found.rotation, found.position)
    best = refined.score.view(COUNT, 8).argmax(1) + 8 * torch.arange(COUNT)
    assert (angles(refined.rotation[best], planted.rotation) < 10).sum() >= COUNT - 1


def test_the_rotation_grid_leaves_no_large_gap():
    grid = rotation_grid(96, 18)
    some = rotation_from_axis_angle(
        torch.randn(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    )
    closest = torch.einsum("aij,bij->ab", some, grid).amax(1)
    assert math.degrees(math.acos((float(closest.min()) - 1) / 2)) < 30


def test_coarser_maps_see_the_same_rays(planted):
    K = planted.maps.K
    small = resized_intrinsics(K, 1 / 4)
    fine, coarse = torch.tensor([4 * 3 + 1.5, 4 * 5 + 1.5, 1.0]), torch.tensor([3.0, 5.0, 1.0])
    torch.testing.assert_close(torch.linalg.inv(K) @ fine, torch.linalg.inv(small) @ coarse)
    maps = planted.maps.coarser(2)
    assert maps.queries.shape == (COUNT, 4, 32, 32)
    assert isinstance(maps, QueryMaps)
    torch.testing.assert_close(maps.mask_logits[0, 3, 5], planted.maps.mask_logits[0, 6:8, 10:12].mean())

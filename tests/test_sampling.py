"""Sampled correspondences: drawn by their weights, solved to poses near the truth, nothing where there is no mask."""

from dataclasses import replace

import pytest
import torch

from cad2pose.parts import builtin_part
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.quick_score import QuickScore
from cad2pose.solvers.sampling import SamplingOptions, _pixels, _points, sample_poses
from cad2pose.solvers.score import ScoreOptions
from cad2pose.solvers.surface import Surface
from planted_queries import plant

OPTIONS = SamplingOptions(samples=2000, pixels=200, draws=40)


@pytest.fixture(scope="module")
def surface():
    return Surface.of_part(builtin_part("bracket"), 8000)


@pytest.fixture(scope="module")
def planted(surface):
    return plant(builtin_part("bracket"), surface, 3, 48, width=0.06)


def angles(a, b):
    return torch.rad2deg(torch.acos(((torch.einsum("nij,ij->n", a, b) - 1) / 2).clamp(-1, 1)))


def test_points_are_drawn_by_their_weights():
    keys = torch.tensor([[0.0], [1.0], [2.0]])
    queries = torch.tensor([[[1.0, 0.0]]])
    options = replace(OPTIONS, draws=60_000)
    drawn, total = _points(queries, torch.tensor([[0, 1]]), keys, options, torch.Generator().manual_seed(0))
    weight = torch.softmax(queries[0].T @ keys.T, dim=1) ** 1.5
    torch.testing.assert_close(total[0], weight.sum(1))
    shares = torch.stack([torch.bincount(row, minlength=3) / 60_000 for row in drawn[0]])
    torch.testing.assert_close(shares, weight / weight.sum(1, keepdim=True), rtol=0, atol=0.01)


def test_the_best_sampled_pose_is_near_the_truth(surface, planted):
    rough = QuickScore(surface, planted.keys, planted.maps, ScoreOptions(contrast=2048))
    found = sample_poses(surface, planted.keys, planted.maps, OPTIONS)
    values = rough(found.row, found.rotation, found.position)
    for crop in range(3):
        mine = (found.row == crop).nonzero()[:, 0]
        assert 100 < len(mine) <= OPTIONS.kept
        best = mine[values[mine].argmax()]
        assert angles(found.rotation[best, None], planted.rotation[crop]) < 8
        assert (found.position[best] - planted.position[crop]).norm() < 0.1 * planted.position[crop].norm()


def test_the_same_seed_gives_the_same_poses(surface, planted):
    first, again = (sample_poses(surface, planted.keys, planted.maps, OPTIONS) for _ in range(2))
    other = sample_poses(surface, planted.keys, planted.maps, replace(OPTIONS, seed=1))
    assert torch.equal(first.rotation, again.rotation)
    assert len(other) != len(first) or not torch.equal(first.rotation, other.rotation)


def test_without_mask_pixels_there_is_no_pose(surface, planted):
    logits = planted.maps.mask_logits.clone()
    logits[1] = -6.0
    found = sample_poses(surface, planted.keys, replace(planted.maps, mask_logits=logits), OPTIONS)
    assert set(found.row.tolist()) == {0, 2}


def test_what_is_sampled_in_a_crop_does_not_depend_on_those_beside_it(surface, planted):
    together = sample_poses(surface, planted.keys, planted.maps, OPTIONS)
    for crop in range(3):
        alone = sample_poses(surface, planted.keys, planted.maps[torch.tensor([crop])], OPTIONS)
        mine = (together.row == crop).nonzero()[:, 0]
        assert len(mine) == len(alone)
        same = (together.rotation[mine] - alone.rotation).abs().amax((1, 2)) < 1e-3
        assert same.float().mean() > 0.98, "but for roundings"


@pytest.mark.parametrize("usable", [100, 256, 257, 300, 1000])
def test_pixels_stand_for_what_the_mask_says_of_them_however_many_are_left_out(usable):
    """Half of the pixels at 0.95, half at 0.35: the share of the unlikely half among correspondences."""
    logits = torch.full((64 * 64,), -6.0)
    logits[: usable // 2] = torch.logit(torch.tensor(0.35))
    logits[usable // 2 : usable] = torch.logit(torch.tensor(0.95))
    logits = logits.view(1, 64, 64)
    maps = QueryMaps(torch.zeros(1, 2, 64, 64), logits, torch.ones(1, 64, 64), torch.eye(3)[None])
    options, shares = SamplingOptions(), []
    for seed in range(20):
        pixel, weight = _pixels(maps, options, torch.Generator().manual_seed(seed))
        shares.append(float(weight[0, pixel[0] < usable // 2].sum() / weight.sum()))
    weights = torch.tensor([0.35, 0.95]) ** 1.5
    wanted = float(weights[0] * (usable // 2) / (weights @ torch.tensor([usable // 2, usable - usable // 2]).float()))
    assert sum(shares) / len(shares) == pytest.approx(wanted, abs=0.01)

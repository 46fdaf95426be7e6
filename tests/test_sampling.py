"""Sampled correspondences: drawn by their weights, solved to poses near the truth, nothing where there is no mask."""

from dataclasses import replace

import pytest
import torch

from cad2pose.parts import builtin_part
from cad2pose.solvers.quick_score import QuickScore
from cad2pose.solvers.sampling import SamplingOptions, _points, sample_poses
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

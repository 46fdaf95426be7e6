"""Poses keep to what the prior states."""

from __future__ import annotations

import math

import pytest
import torch

from cad2pose.data.draws import Draws, mixed_seed
from cad2pose.data.pose_prior import PosePrior
from cad2pose.geometry import project_points, rotation_to_ray

COUNT = 400
CENTER = torch.tensor([[100.0, -2000.0, 30.0]], dtype=torch.float64).expand(COUNT, 3)
RADIUS = torch.full((COUNT,), 50.0, dtype=torch.float64)
K = torch.tensor([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]], dtype=torch.float64).expand(COUNT, 3, 3)
SIZE = torch.tensor([640.0, 480.0], dtype=torch.float64).expand(COUNT, 2)


def middle(transforms: torch.Tensor) -> torch.Tensor:
    """Centres in the camera."""
    return (transforms[:, :3, :3] @ CENTER[..., None])[..., 0] + transforms[:, :3, 3]


def camera_directions(transforms: torch.Tensor) -> torch.Tensor:
    """Directions from the part's centre to the camera, in the part's frame."""
    there = -(transforms[:, :3, :3].transpose(1, 2) @ middle(transforms)[..., None])[..., 0]
    return torch.nn.functional.normalize(there, dim=-1)


def sample(prior: PosePrior, seed: int = 0) -> torch.Tensor:
    return prior.sample(Draws(seed), CENTER, RADIUS, K, SIZE)


def test_free_poses_cover_all_rotations() -> None:
    directions = camera_directions(sample(PosePrior()))
    assert directions.mean(dim=0).abs().max() < 0.1
    assert (directions.T @ directions / COUNT - torch.eye(3) / 3).abs().max() < 0.05


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, 0.0, -2.0), (1.0, 0.0, 0.0), (0.3, -1.0, 0.2)])
def test_viewpoints_keep_to_elevation_and_lean(up: tuple[float, float, float]) -> None:
    prior = PosePrior(free_share=0.0, elevation=(10.0, 60.0), camera_roll=20.0, up_axis=up)
    transforms = sample(prior)
    axis = torch.nn.functional.normalize(torch.tensor(up, dtype=torch.float64), dim=0)
    elevation = torch.rad2deg(torch.asin(camera_directions(transforms) @ axis))
    assert elevation.min() >= 10 - 1e-6
    assert elevation.max() <= 60 + 1e-6
    assert elevation.min() < 15
    assert elevation.max() > 55
    upright = rotation_to_ray(middle(transforms)).transpose(1, 2) @ transforms[:, :3, :3] @ axis
    lean = torch.rad2deg(torch.atan2(upright[:, 0], -upright[:, 1]))
    assert lean.abs().max() <= 20 + 1e-6
    assert lean.abs().max() > 15
    assert transforms[:, :3, :3].det().sub(1).abs().max() < 1e-9


def test_distance_and_apparent_size() -> None:
    depth = middle(sample(PosePrior(distance=(346.0, 1500.0))))[:, 2]
    assert depth.min() >= 346
    assert depth.max() <= 1500
    assert depth.max() - depth.min() > 1000
    apparent = 600 * 100 / middle(sample(PosePrior(apparent_size=(40.0, 250.0))))[:, 2]
    assert apparent.min() >= 40 - 1e-6
    assert apparent.max() <= 250 + 1e-6
    assert apparent.max() - apparent.min() > 180


def test_parts_stay_inside_the_image_unless_they_may_be_cut() -> None:
    for share in (0.0, 1.0):
        there = middle(sample(PosePrior(border_share=share)))
        pixel = project_points(K, there[:, None])[:, 0]
        reach = (600 * RADIUS / there[:, 2])[:, None] * (1 if share == 0 else 0.2)
        assert (pixel + 0.5 - reach >= -1e-6).all()
        assert (pixel + 0.5 + reach <= SIZE + 1e-6).all()
    assert ((pixel - 5 * reach < 0) | (pixel + 5 * reach > SIZE)).any()


def test_same_seed_same_poses() -> None:
    prior = PosePrior(free_share=0.5)
    assert torch.equal(sample(prior, 3), sample(prior, 3))
    assert not torch.equal(sample(prior, 3), sample(prior, 4))


def test_seeds_do_not_collide() -> None:
    seeds = {mixed_seed(run, index) for run in range(-3, 30) for index in range(100)}
    assert len(seeds) == 33 * 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mixed_seed(1, 2) != mixed_seed(2, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"free_share": 1.5}, "free_share"),
        ({"elevation": (50.0, 20.0)}, "elevation"),
        ({"elevation": (-100.0, 20.0)}, "elevation"),
        ({"distance": (0.0, 100.0)}, "distance"),
        ({"apparent_size": (200.0, 100.0)}, "apparent_size"),
        ({"apparent_size": (200.0, math.inf)}, "apparent_size"),
        ({"distance": (200.0, math.inf)}, "distance"),
        ({"up_axis": (0.0, 0.0, 0.0)}, "up_axis"),
        ({"up_axis": (math.nan, 0.0, 0.0)}, "up_axis"),
        ({"camera_roll": -1.0}, "camera_roll"),
    ],
)
def test_impossible_priors_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PosePrior(**changes)


def test_whole_parts_are_whole_where_pixels_are_not_square() -> None:
    tall = torch.tensor([[400.0, 0, 320], [0, 900, 240], [0, 0, 1]], dtype=torch.float64).expand(COUNT, 3, 3)
    prior = PosePrior(border_share=0.0, distance=(600.0, 900.0))
    where = middle(prior.sample(Draws(0), CENTER, RADIUS, tall, SIZE))
    u, v = project_points(tall, where[:, None])[:, 0].unbind(-1)
    for place, focal, size in ((u, 400.0, 640), (v, 900.0, 480)):
        reach = RADIUS * focal / where[:, 2]
        assert bool((place - reach > -0.6).all())
        assert bool((place + reach < size - 0.4).all())

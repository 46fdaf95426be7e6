"""Which of the poses that are given a climb begins from."""

from dataclasses import replace

import pytest
import torch

from cad2pose.geometry import geodesic_distance, random_rotations, rotation_from_axis_angle
from cad2pose.parts import builtin_part
from cad2pose.solvers import SolverOptions, Start, Surface, solve
from cad2pose.solvers.candidates import promising
from cad2pose.solvers.hypotheses import Hypotheses
from planted_queries import plant

CROPS, GIVEN = 3, 20
OPTIONS = SolverOptions(starts=4)


@pytest.fixture(scope="module")
def scene():
    surface = Surface.of_part(builtin_part("bracket"), 8000)
    return surface, plant(builtin_part("bracket"), surface, CROPS, 64, width=0.06, seed=2)


@pytest.fixture(scope="module")
def given(scene):
    """Random rotations of every crop, the seventh of them 12 degrees from the true one."""
    _, planted = scene
    rotation = random_rotations(CROPS * GIVEN, torch.Generator().manual_seed(5), torch.float32).view(CROPS, GIVEN, 3, 3)
    off = rotation_from_axis_angle(torch.tensor([0.0, 0.21, 0.0]))
    rotation[:, 6] = off @ planted.rotation
    row = torch.arange(CROPS).repeat_interleave(GIVEN)
    return Hypotheses(row, rotation.flatten(0, 1), planted.position[row])


def chosen(scene, poses, log_probability, options=OPTIONS):
    surface, planted = scene
    return promising(surface, planted.keys, planted.maps, poses, log_probability / options.independent, options)


def test_the_query_image_finds_the_one_near_the_truth(scene, given):
    poses, evidence = chosen(scene, given, torch.zeros(len(given)))
    first = [int((poses.row == crop).nonzero()[0]) for crop in range(CROPS)]
    torch.testing.assert_close(poses.rotation[first], given.rotation[6::GIVEN])
    assert (torch.bincount(poses.row) <= 4).all()
    assert len(evidence) == len(poses)


def test_what_is_thought_of_them_before_counts_too(scene, given):
    believed = torch.full((CROPS, GIVEN), -200.0)
    believed[:, 3] = 0
    poses, evidence = chosen(scene, given, believed.flatten())
    torch.testing.assert_close(poses.rotation, given.rotation[3::GIVEN])  # the others are hopeless
    assert (evidence == 0).all()


def test_without_a_climb_the_first_is_the_pose(scene, given):
    surface, planted = scene
    options = replace(OPTIONS, refine=False)
    poses, _ = chosen(scene, given, torch.zeros(len(given)), options)
    assert torch.equal(poses.rotation, given.rotation[::GIVEN])
    found = solve(surface, planted.keys, planted.maps, options, Start(given, torch.zeros(len(given))))
    assert torch.equal(found.rotation[:, 0], given.rotation[::GIVEN])


def test_a_start_among_many_is_climbed_to_the_truth(scene, given):
    surface, planted = scene
    found = solve(surface, planted.keys, planted.maps, OPTIONS, Start(given, torch.zeros(len(given))))
    assert geodesic_distance(found.rotation[:, 0].double(), planted.rotation.double()).rad2deg().max() < 5
    assert (found.stats.refined <= 4).all()

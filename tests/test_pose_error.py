from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from bop_world import pose
from cad2pose.evaluation import pose_error
from cad2pose.evaluation.pose_error import (
    add_error,
    adi_error,
    frobenius_error,
    mspd_error,
    mssd_error,
    nearest_symmetric_errors,
    offsets,
    projection_error,
    rotation_error,
    symmetric_errors,
    symmetric_projection_error,
    translation_error,
)
from cad2pose.geometry import (
    make_transform,
    project_points,
    random_rotations,
    rotation_from_axis_angle,
    transform_points,
)
from cad2pose.parts import ContinuousSymmetry, Symmetries, load_bop_parts

GOLDEN = Path(__file__).parent / "golden"


def matrix(numbers):
    return torch.tensor(numbers, dtype=torch.float64).reshape(1, 3, 3)


def random_poses(count: int, generator: torch.Generator) -> torch.Tensor:
    R = random_rotations(count, generator, torch.float64)
    t = torch.tensor([0, 0, 700.0]) + 60 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return make_transform(R, t)


@pytest.mark.parametrize("index", range(3))
def test_continuous_symmetries_against_golden_values(index):
    thing = json.loads((GOLDEN / "continuous_symmetry.json").read_text())["objects"][index]
    points = torch.tensor(thing["vertices"], dtype=torch.float64)
    symmetries = Symmetries.from_bop(thing["model_info"])
    identity = torch.eye(4, dtype=torch.float64)[None]
    for case in thing["cases"]:
        est, true = pose(case["R_est"], case["t_est"])[None], pose(case["R_gt"], case["t_gt"])[None]
        found = {
            "mssd": mssd_error(est, true, points, symmetries.transforms()),
            "mspd": mspd_error(est, true, matrix(case["K"]), points, symmetries.transforms()),
            "add": add_error(est, true, points),
            "adi": adi_error(est, true, points),
            "mssd_without_symmetries": mssd_error(est, true, points, identity),
            "mssd_max_sym_disc_step_0.05": mssd_error(est, true, points, symmetries.transforms(0.05)),
        }
        for name, value in found.items():
            assert float(value) == pytest.approx(case["expected"][name], abs=1e-9), (case["kind"], name)


def test_lmo_poses_against_golden_values(reference_path, bop_path):
    cases = json.loads((reference_path / "golden" / "pose_errors.json").read_text())["cases"]
    parts = {part.object_id: part for part in load_bop_parts(bop_path / "lmo" / "models_eval")}
    for object_id, part in parts.items():
        mine = [case for case in cases if case["obj_id"] == object_id]
        est = torch.stack([pose(case["R_est"], case["t_est"]) for case in mine])
        true = torch.stack([pose(case["R_gt"], case["t_gt"]) for case in mine])
        K = torch.cat([matrix(case["K"]) for case in mine])
        points, symmetries = part.mesh.vertices, part.symmetries.transforms()
        found = {
            "re": rotation_error(est[:, :3, :3], true[:, :3, :3]),
            "te": translation_error(est[:, :3, 3], true[:, :3, 3]),
            "add": add_error(est, true, points),
            "adi": adi_error(est, true, points),
            "mssd": mssd_error(est, true, points, symmetries),
            "mspd": mspd_error(est, true, K, points, symmetries),
            "proj": projection_error(est, true, K, points),
        }
        for name, values in found.items():
            for case, value in zip(mine, values.tolist(), strict=True):
                steep = name == "re" and not 0.1 < case["expected"]["re"] < 179.9
                bound = 1e-5 if steep else 1e-9
                assert value == pytest.approx(case["expected"][name], abs=bound), (name, case["case_id"], case["kind"])


def test_batches_equal_their_plain_twins(generator):
    points = 40 * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    axis = ContinuousSymmetry(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([3.0, -2.0, 1.0]))
    symmetries = Symmetries(continuous=(axis,)).transforms(0.1)
    est, true = random_poses(5, generator), random_poses(5, generator)
    K = matrix([600, 0.5, 320, 0, 610, 240, 0, 0, 1]).expand(5, 3, 3)
    moved = transform_points(est, points.expand(5, -1, -1))
    for i in range(5):
        surface, projected = [], []
        for S in symmetries:
            other = transform_points(true[i] @ S, points)
            surface.append(float((moved[i] - other).norm(dim=1).max()))
            projected.append(float((project_points(K[i], moved[i]) - project_points(K[i], other)).norm(dim=1).max()))
        one = slice(i, i + 1)
        assert float(mssd_error(est, true, points, symmetries)[i]) == pytest.approx(min(surface), abs=1e-9)
        assert float(mspd_error(est, true, K, points, symmetries)[i]) == pytest.approx(min(projected), abs=1e-9)
        plain = transform_points(true[i], points)
        nearest = torch.cdist(plain, moved[i], compute_mode="donot_use_mm_for_euclid_dist").amin(1).mean()
        assert float(adi_error(est[one], true[one], points)) == pytest.approx(float(nearest), abs=1e-9)
        assert float(add_error(est, true, points)[i]) == pytest.approx(float((moved[i] - plain).norm(dim=1).mean()))


def test_rotation_error_is_the_angle_even_of_matrices_that_are_no_rotations(generator):
    true = random_rotations(8, generator, torch.float64)
    angle = torch.linspace(1, 170, 8, dtype=torch.float64)
    turn = make_transform(torch.eye(3, dtype=torch.float64).expand(8, 3, 3), torch.zeros(8, 3, dtype=torch.float64))
    turn[:, 0, 0] = turn[:, 1, 1] = torch.cos(torch.deg2rad(angle))
    turn[:, 1, 0] = torch.sin(torch.deg2rad(angle))
    turn[:, 0, 1] = -turn[:, 1, 0]
    for scale in (1.0, 1.013):  # LM-O's annotations are off by so much; the transpose would be wrong by degrees
        error = rotation_error(turn[:, :3, :3] @ (scale * true), scale * true)
        torch.testing.assert_close(error, angle, atol=1e-9, rtol=0)
    chord = 2 * math.sqrt(2) * torch.sin(torch.deg2rad(angle) / 2)
    torch.testing.assert_close(frobenius_error(turn[:, :3, :3] @ true, true), chord, atol=1e-9, rtol=0)


def test_symmetric_versions_of_the_true_pose_have_no_error(generator):
    half_turn = pose([-1, 0, 0, 0, -1, 0, 0, 0, 1], [8, 4, 0])
    symmetries = Symmetries(half_turn[None]).transforms()
    true = random_poses(3, generator)
    rotation, frobenius, translation = symmetric_errors(true @ half_turn, true, symmetries)
    assert rotation.shape == (3, 2)
    assert rotation.argmin(1).tolist() == [1, 1, 1]
    assert float(rotation[:, 1].max()) < 1e-4
    assert float(torch.maximum(frobenius[:, 1], translation[:, 1]).max()) < 1e-9
    torch.testing.assert_close(rotation[:, 0], torch.full((3,), 180.0, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_mssd_of_flat_and_tiny_sets_is_exact(count, generator):
    flat = torch.cat((torch.randn(count, 2, generator=generator), torch.zeros(count, 1)), 1).double()
    estimated, true = random_poses(5, generator), random_poses(5, generator)
    moved = [transform_points(T, flat.expand(5, -1, 3)) for T in (estimated, true)]
    farthest = (moved[0] - moved[1]).norm(dim=-1).amax(1)
    found = mssd_error(estimated, true, flat, torch.eye(4, dtype=torch.float64)[None])
    torch.testing.assert_close(found, farthest)


def test_empty_batches():
    none, points = torch.zeros(0, 4, 4, dtype=torch.float64), torch.rand(9, 3, dtype=torch.float64)
    K, symmetries = torch.zeros(0, 3, 3, dtype=torch.float64), torch.eye(4, dtype=torch.float64)[None]
    for values in (
        add_error(none, none, points), adi_error(none, none, points), mssd_error(none, none, points, symmetries),
        mspd_error(none, none, K, points, symmetries), projection_error(none, none, K, points),
    ):  # fmt: skip
        assert values.shape == (0,)


@pytest.mark.parametrize("step", [0.5, 0.05])
def test_symmetric_projection_is_the_lowest_over_the_symmetries(generator, step):
    """Few symmetries, and more than are compared over all points."""
    points = 40 * torch.randn(300, 3, generator=generator, dtype=torch.float64)
    axis = ContinuousSymmetry(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([3.0, -2.0, 1.0]))
    symmetries = Symmetries(continuous=(axis,)).transforms(step).double()
    assert (len(symmetries) > 8) == (step < 0.1)
    est, true = random_poses(6, generator), random_poses(6, generator)
    K = torch.tensor([[500.0, 3, 320], [0, 510, 240], [0, 0, 1]], dtype=torch.float64).expand(6, 3, 3)
    each = torch.stack([projection_error(est, true @ symmetry, K, points) for symmetry in symmetries])
    found = symmetric_projection_error(est, true, K, points, symmetries)
    assert found.tolist() == pytest.approx(each.amin(0).tolist(), abs=1e-9)
    assert bool((found < projection_error(est, true, K, points) - 0.1).any())


def test_adi_of_rotations_that_are_not_quite_orthonormal(generator):
    """One tree of the model serves exact rotations only."""
    points = 40 * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    est, true = random_poses(4, generator), random_poses(4, generator)
    est[::2, 0, :3] *= 1.01
    moved = [transform_points(T, points.expand(4, -1, -1)) for T in (est, true)]
    plain = torch.cdist(moved[1], moved[0], compute_mode="donot_use_mm_for_euclid_dist").amin(2).mean(1)
    assert adi_error(est, true, points).tolist() == pytest.approx(plain.tolist(), abs=1e-9)


def test_offsets_have_signs():
    K = torch.tensor([[500.0, 0, 320], [0, 600, 240], [0, 0, 1]], dtype=torch.float64)
    center = torch.tensor([10.0, -20, 30], dtype=torch.float64)
    turns = random_rotations(3, torch.Generator().manual_seed(1), torch.float64)
    seen = torch.tensor([[50.0, -40, 1000], [0, 0, 800], [-30, 90, 600]], dtype=torch.float64)
    ray = seen / seen[:, 2:]
    moved = (ray + torch.tensor([3 / 500, -2 / 600, 0], dtype=torch.float64)) * seen[:, 2:]
    moved *= 1.05 * (seen.norm(dim=1) / moved.norm(dim=1))[:, None]
    true = make_transform(turns, seen - (turns @ center))
    found = make_transform(turns, moved - (turns @ center))
    expected = torch.tensor([3.0, -2, 5], dtype=torch.float64).expand(3, 3)
    torch.testing.assert_close(offsets(found, true, K.expand(3, 3, 3), center), expected)
    half_turn = make_transform(torch.diag(torch.tensor([-1.0, -1, 1], dtype=torch.float64)), torch.zeros(3).double())
    middle = torch.tensor([0.0, 0, 30], dtype=torch.float64)  # on the axis
    same = offsets(found @ half_turn, found, K.expand(3, 3, 3), middle)
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-9, rtol=0)


def test_regular_meshes_have_no_worse_symmetric_projection_than_irregular_ones(generator):
    """Vertices in rings: every 64th lies at one angle, from which the right turn could not be told."""
    angle = torch.arange(64, dtype=torch.float64) * (2 * math.pi / 64)
    ring = torch.stack((30 * angle.cos(), 30 * angle.sin(), torch.zeros(64)), dim=-1)
    heights = torch.linspace(-40, 40, 64, dtype=torch.float64)[:, None, None]
    points = (ring[None] + heights * torch.tensor([0.0, 0, 1], dtype=torch.float64)).view(-1, 3)
    axis = ContinuousSymmetry(torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3))
    symmetries = Symmetries(continuous=(axis,)).transforms(0.02).double()
    true = random_poses(10, generator)
    tilt = rotation_from_axis_angle(torch.randn(10, 3, generator=generator, dtype=torch.float64) * 0.1)
    est = true.clone()
    est[:, :3, :3] = tilt @ true[:, :3, :3] @ matrix([0.0, -1, 0, 1, 0, 0, 0, 0, 1])
    K = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]], dtype=torch.float64).expand(10, 3, 3)
    each = torch.stack([projection_error(est, true @ symmetry, K, points) for symmetry in symmetries])
    found = symmetric_projection_error(est, true, K, points, symmetries)
    assert found.tolist() == pytest.approx(each.amin(0).tolist(), rel=0.02)


def test_nearest_symmetric_errors_are_those_of_all_symmetries(generator, monkeypatch):
    axis = ContinuousSymmetry(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([3.0, -2.0, 1.0]))
    symmetries = Symmetries(continuous=(axis,)).transforms(0.5).double()
    est, true = random_poses(7, generator), random_poses(7, generator)
    monkeypatch.setattr(pose_error, "_TURNS", 3 * len(symmetries))  # pieces of three
    rotation, frobenius, translation = symmetric_errors(est, true, symmetries)
    nearest = rotation.argmin(1)[:, None]
    found = nearest_symmetric_errors(est, true, symmetries)
    wanted = [values.gather(1, nearest)[:, 0] for values in (rotation, frobenius, translation)]
    wanted.append(torch.maximum(rotation, translation / 10).amin(1))
    torch.testing.assert_close(found, torch.stack(wanted, dim=1))
    assert nearest_symmetric_errors(est[:0], true[:0], symmetries).shape == (0, 4)

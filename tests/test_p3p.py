"""P3P: planted poses are found, every root is one, and what is degenerate is said to be so and disturbs nobody."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from cad2pose.geometry import geodesic_distance, random_rotations, rotation_from_axis_angle, rotation_to_ray
from cad2pose.solvers.p3p import _BLOCK, P3PRoots, _isolated_root, choose_by_fourth, p3p

F64 = torch.float64
Scene = tuple[Tensor, Tensor, Tensor, Tensor]  # points, rays, and the rotation and translation they were made with


def seen(points: Tensor, rotation: Tensor, translation: Tensor) -> Scene:
    """The rays are pixels' (z = 1)."""
    camera = points @ rotation.transpose(-1, -2) + translation[:, None]
    return points, camera / camera[..., 2:], rotation, translation


def planted(count: int) -> Scene:
    """Points of size 1 around the origin, 3 to 7 units in front of the camera and off its axis."""
    points = torch.randn(count, 3, 3, dtype=F64)
    translation = torch.cat((torch.randn(count, 2, dtype=F64), 6 + 2 * torch.rand(count, 1, dtype=F64)), dim=-1)
    return seen(points, random_rotations(count, dtype=F64), translation)


def looking_from(points: Tensor, eye: Tensor) -> Scene:
    """From `eye` towards the points' mean."""
    rotation = rotation_to_ray(points.mean(1) - eye).transpose(-1, -2)
    return seen(points, rotation, -(rotation @ eye[..., None])[..., 0])


def errors(roots: P3PRoots, rotation: Tensor, translation: Tensor) -> Tensor:
    """Of each row the smaller one, over its roots, of max(angle in rad, relative error of the translation)."""
    angle = geodesic_distance(roots.rotation, rotation[:, None].expand_as(roots.rotation))
    shift = (roots.translation - translation[:, None]).norm(dim=-1) / translation.norm(dim=-1)[:, None]
    return torch.where(roots.valid, torch.maximum(angle, shift), torch.inf).amin(1)


def log_uniform(count: int, low: float, high: float) -> Tensor:
    return low * (high / low) ** torch.rand(count, dtype=F64)


def ray_errors(roots: P3PRoots, points: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, 4): the largest sine between a point and its ray, and the smallest depth along a ray."""
    shown = points[:, None] @ roots.rotation.transpose(-1, -2) + roots.translation[:, :, None]
    unit = torch.nn.functional.normalize(rays, dim=-1)[:, None].expand_as(shown)
    depth = (shown * unit).sum(-1)
    return ((shown - depth[..., None] * unit).norm(dim=-1) / depth.abs()).amax(-1), depth.amin(-1)


def test_planted_poses_are_found_and_every_root_is_one() -> None:
    points, rays, rotation, translation = planted(2000)
    roots = p3p(points, rays)
    assert float(errors(roots, rotation, translation).quantile(0.99)) < 1e-12
    assert float(errors(roots, rotation, translation).max()) < 1e-6
    sine, depth = ray_errors(roots, points, rays)
    assert float(sine[roots.valid].max()) < 1e-10
    assert float(depth[roots.valid].min()) > 0
    rotations = roots.rotation[roots.valid]
    eye = torch.eye(3, dtype=F64)
    torch.testing.assert_close(rotations @ rotations.transpose(-1, -2), eye.expand_as(rotations), rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(len(rotations), dtype=F64), rtol=0, atol=1e-14)
    counts = roots.valid.sum(1).bincount(minlength=5)
    assert counts[0] == 0
    assert bool((counts[[1, 2, 4]] > 0).all())


def test_pairs_that_no_pose_explains_have_no_root() -> None:
    """Points and rays that have nothing to do with one another: often there is no pose, and never a wrong one."""
    points, rays = torch.randn(5000, 3, 3, dtype=F64), torch.rand(5000, 3, 3, dtype=F64) - 0.5
    rays[..., 2] = 1
    roots = p3p(points, rays)
    assert 0.1 < float(roots.valid.any(1).double().mean()) < 0.9
    sine, depth = ray_errors(roots, points, rays)
    assert float(sine[roots.valid].max()) < 1e-9
    assert float(depth[roots.valid].min()) > 0
    theirs = opencv_roots(points[:500], rays[:500])
    sine, depth = ray_errors(theirs, points[:500], rays[:500])
    assert torch.equal(roots.valid[:500].sum(1), (theirs.valid & (sine < 1e-6) & (depth > 0)).sum(1))


def opencv_roots(points: Tensor, rays: Tensor) -> P3PRoots:
    """AP3P, row by row."""
    count = len(points)
    rotation, translation = torch.zeros(count, 4, 3, 3, dtype=F64), torch.zeros(count, 4, 3, dtype=F64)
    valid = torch.zeros(count, 4, dtype=torch.bool)
    image = (rays[..., :2] / rays[..., 2:])[:, :, None].numpy()
    for i in range(count):
        found, vectors, shifts = cv2.solveP3P(points[i].numpy(), image[i], np.eye(3), None, flags=cv2.SOLVEPNP_AP3P)
        for slot in range(found):
            rotation[i, slot] = rotation_from_axis_angle(torch.from_numpy(vectors[slot][:, 0]))
            translation[i, slot] = torch.from_numpy(shifts[slot][:, 0])
            valid[i, slot] = True
    return P3PRoots(rotation, translation, valid)


def test_the_roots_are_those_of_opencv() -> None:
    points, rays, _, _ = planted(400)
    ours, theirs = p3p(points, rays), opencv_roots(points, rays)
    sine, depth = ray_errors(theirs, points, rays)
    right = theirs.valid & (sine < 1e-6) & (depth > 0)  # its list holds others too
    assert int(right.sum()) > 700
    assert torch.equal(ours.valid.sum(1), right.sum(1))
    distance = (ours.rotation[:, :, None] - theirs.rotation[:, None]).abs().amax((3, 4))
    distance = torch.where(ours.valid[:, :, None] & right[:, None], distance, torch.inf)
    assert float(distance.amin(1)[right].max()) < 1e-6
    assert float(distance.amin(2)[ours.valid].max()) < 1e-6


def test_the_four_roots_of_a_known_scene() -> None:
    """Fischler and Bolles (1981): three equal sides, three equal angles between rays, cosine 5/8."""
    angle = torch.arange(3, dtype=F64) * (2 * torch.pi / 3)
    circle = torch.stack((angle.cos(), angle.sin(), torch.zeros(3, dtype=F64)), dim=-1)
    rays = 0.5 * circle + torch.tensor([0, 0, 0.75**0.5], dtype=F64)
    roots = p3p(2 * circle[None], rays[None])
    shown = circle @ (2 * roots.rotation[0]).transpose(-1, -2) + roots.translation[0, :, None]
    depths = sorted([round(depth, 9) for depth in row] for row in shown.norm(dim=-1).tolist())
    assert bool(roots.valid.all())
    assert depths == [[1, 4, 4], [4, 1, 4], [4, 4, 1], [4, 4, 4]]


TRIANGLES = {
    "right": [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
    "3-4-5": [[0, 0, 0], [3, 0, 0], [0, 4, 0]],
    "isosceles": [[-1, 0, 0], [1, 0, 0], [0, 2, 0]],
    "equilateral": [[1, 0, 0], [-0.5, 3**0.5 / 2, 0], [-0.5, -(3**0.5) / 2, 0]],
}


@pytest.mark.parametrize("name", TRIANGLES)
@pytest.mark.parametrize("eye", [(0, 0, -2), (1, 0, -2), (0.5, 0, -2), (0, 0.5, -2), (1, 1, -3), (0, 0, -1000)])
def test_symmetric_scenes_and_double_roots_in_every_order_of_the_points(
    name: str, eye: tuple[float, float, float]
) -> None:
    """Whole numbers make coefficients vanish; above a corner the camera is on the danger cylinder: a double root."""
    points = torch.tensor(TRIANGLES[name], dtype=F64)[torch.tensor(list(itertools.permutations(range(3))))]
    rotation = torch.eye(3, dtype=F64).expand(6, 3, 3)
    scene = seen(points, rotation, -torch.tensor(eye, dtype=F64).expand(6, 3))
    assert float(errors(p3p(*scene[:2]), *scene[2:]).max()) < 1e-5


def test_a_double_root_fills_two_slots() -> None:
    angle = torch.tensor([0.3, 2.0, 4.4], dtype=F64)
    points = torch.stack((angle.cos(), angle.sin(), torch.zeros(3, dtype=F64)), dim=-1)[None].expand(200, 3, 3)
    around, height = torch.rand(200, dtype=F64) * 6.28, 1 + 3 * torch.rand(200, dtype=F64)
    scene = looking_from(points, torch.stack((around.cos(), around.sin(), -height), dim=-1))
    roots = p3p(*scene[:2])
    assert float(errors(roots, *scene[2:]).max()) < 1e-6
    near = (roots.rotation - scene[2][:, None]).abs().amax((2, 3)) < 1e-5
    assert float(((near & roots.valid).sum(1) >= 2).double().mean()) > 0.99


def nearly_collinear() -> Scene:
    edge, share, height = torch.randn(1000, 3, dtype=F64), torch.rand(1000, 1, dtype=F64), log_uniform(1000, 1e-5, 1e-2)
    across = torch.linalg.cross(edge, torch.randn(1000, 3, dtype=F64))
    first = torch.randn(1000, 3, dtype=F64)
    points = torch.stack((first, first + edge, first + share * edge + height[:, None] * across), dim=1)
    return seen(points, random_rotations(1000, dtype=F64), torch.tensor([[0.3, 0.2, 9.0]], dtype=F64).expand(1000, 3))


def tiny_in_the_image() -> Scene:
    far = 1 / log_uniform(1000, 1e-6, 1e-3)
    translation = far[:, None] * torch.cat((torch.rand(1000, 2, dtype=F64) - 0.5, torch.ones(1000, 1, dtype=F64)), -1)
    return seen(torch.randn(1000, 3, 3, dtype=F64), random_rotations(1000, dtype=F64), translation)


def in_the_plane_of_the_points() -> Scene:
    points = torch.cat((torch.randn(1000, 3, 2, dtype=F64), torch.zeros(1000, 3, 1, dtype=F64)), dim=-1)
    eye = torch.stack((torch.full((1000,), 5, dtype=F64), torch.randn(1000, dtype=F64), log_uniform(1000, 1e-6, 1e-2)))
    return looking_from(points, eye.T)


def close_to_one_point() -> Scene:
    points = torch.randn(1000, 3, 3, dtype=F64)
    away = torch.nn.functional.normalize(torch.randn(1000, 3, dtype=F64), dim=-1)
    points_, camera, rotation, translation = looking_from(
        points, points[:, 0] + log_uniform(1000, 1e-6, 0.1)[:, None] * away
    )
    return points_, points_ @ rotation.transpose(-1, -2) + translation[:, None], rotation, translation


@pytest.mark.parametrize(
    "family", [nearly_collinear, tiny_in_the_image, in_the_plane_of_the_points, close_to_one_point]
)
def test_nearly_degenerate_scenes(family) -> None:  # type: ignore[no-untyped-def]
    points, rays, rotation, translation = family()
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        found = errors(p3p(points[:, order], rays[:, order]), rotation, translation)
        assert float((found < 1e-4).double().mean()) >= 0.999


def degenerate() -> Iterator[tuple[str, Tensor, Tensor]]:
    points, rays, _, _ = planted(1)
    points, rays = points[0], rays[0]
    for i, direction in enumerate(torch.randn(50, 3, dtype=F64)):
        line = points[0] + torch.tensor([[0.0], [1.0], [0.3]], dtype=F64) * direction
        yield f"collinear {i}", line, rays
        yield f"far collinear {i}", line + 1000, rays
        yield f"collinear {i}, truly seen", line, line + torch.tensor([0, 0, 9], dtype=F64)
        yield f"far collinear {i}, truly seen", line + 1000, line + torch.tensor([0, 0, 9], dtype=F64)
    for i, j in itertools.permutations(range(3), 2):
        same = list(range(3))
        same[i] = j
        yield f"points {i} and {j}", points[same], rays
        yield f"rays {i} and {j}", points, rays[same]
        yield f"points {i} and {j}, truly seen", points[same], rays[same]
    yield "one point", points[[0, 0, 0]], rays
    yield "one ray", points, rays[[0, 0, 0]]
    yield "zeros", torch.zeros(3, 3, dtype=F64), torch.zeros(3, 3, dtype=F64)
    for value in (torch.nan, torch.inf, -torch.inf):
        for i, j in itertools.product(range(3), range(3)):
            broken, ray = points.clone(), rays.clone()
            broken[i, j] = ray[i, j] = value
            yield f"point {i} {j} {value}", broken, rays
            yield f"ray {i} {j} {value}", points, ray


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_degenerate_rows_have_no_root_and_finite_numbers(dtype: torch.dtype) -> None:
    names, points, rays = zip(*degenerate(), strict=True)
    roots = p3p(torch.stack(points).to(dtype), torch.stack(rays).to(dtype))
    assert [name for name, valid in zip(names, roots.valid.any(1).tolist(), strict=True) if valid] == []
    assert bool(torch.isfinite(roots.rotation).all() and torch.isfinite(roots.translation).all())


def test_numbers_of_any_size_raise_nothing_and_stay_finite() -> None:
    values = torch.tensor([0, 1, -1, 1e-300, 1e300, 1e20, 1e-20, torch.nan, torch.inf], dtype=F64)
    points, rays = values[torch.randint(len(values), (2, 3000, 3, 3))]
    roots = p3p(points, rays)
    assert bool(torch.isfinite(roots.rotation).all() and torch.isfinite(roots.translation).all())


def test_rows_do_not_touch_one_another() -> None:
    points, rays, _, _ = planted(_BLOCK + 300)
    alone = p3p(points, rays)
    kinds = list(degenerate())
    broken_points, broken_rays = points.clone(), rays.clone()
    for row in range(0, len(points), 3):
        _, broken_points[row], broken_rays[row] = kinds[row // 3 % len(kinds)]
    mixed = p3p(broken_points, broken_rays)
    kept = torch.arange(len(points)) % 3 > 0
    assert not mixed.valid[~kept].any()
    for one, other in zip(vars(alone).values(), vars(mixed).values(), strict=True):
        assert torch.equal(one[kept], other[kept])


def test_a_batch_of_any_size_and_none() -> None:
    points, rays, rotation, translation = planted(2 * _BLOCK + 1)
    assert float(errors(p3p(points, rays), rotation, translation).max()) < 1e-4  # across blocks
    for count in (0, 1, 2):
        roots = p3p(points[:count], rays[:count])
        assert roots.valid.shape == (count, 4)
        assert bool((errors(roots, rotation[:count], translation[:count]) < 1e-8).all())


def test_units_frames_and_lengths_of_rays_do_not_matter() -> None:
    points, rays, rotation, translation = planted(300)
    turn, shift = random_rotations(300, dtype=F64), torch.randn(300, 3, dtype=F64)
    moved = 1000 * (points @ turn.transpose(-1, -2) + shift[:, None])  # X' = 1000 (Q X + s)
    roots = p3p(moved, rays * torch.rand(300, 3, 1, dtype=F64).add(0.1))
    new_rotation = rotation @ turn.transpose(-1, -2)
    new_translation = 1000 * (translation - (new_rotation @ shift[..., None])[..., 0])
    assert float(errors(roots, new_rotation, new_translation).max()) < 1e-6


def test_single_precision_input_is_solved_in_double_precision() -> None:
    points, rays, rotation, translation = planted(500)
    single = p3p(points.float(), rays.float())
    assert single.rotation.dtype == single.translation.dtype == F64
    double = p3p(points.float().double(), rays.float().double())
    for one, other in zip(vars(single).values(), vars(double).values(), strict=True):
        assert torch.equal(one, other)
    assert float(errors(single, rotation, translation).median()) < 1e-5


def test_the_isolated_root_of_a_cubic() -> None:
    roots = torch.randn(400, 3, dtype=F64)
    roots[:100, 1] = roots[:100, 0]  # double
    roots[100:200, 1] = roots[100:200, 0] + 1e-6
    roots[200:210] = roots[200:210, :1]  # triple
    lead, (a, b, c) = torch.randn(400, dtype=F64).exp(), roots.unbind(1)
    t = _isolated_root(-lead * a * b * c, lead * (a * b + b * c + c * a), -lead * (a + b + c), lead)
    middle = roots.sort(1).values
    expected = torch.where(middle[:, 1] - middle[:, 0] > middle[:, 2] - middle[:, 1], middle[:, 0], middle[:, 2])
    torch.testing.assert_close(t[:200], expected[:200])
    torch.testing.assert_close(t[200:210], expected[200:210], rtol=0, atol=1e-4)
    torch.testing.assert_close(t[210:], expected[210:])


def test_the_fourth_pair_chooses() -> None:
    points, rays, rotation, translation = planted(1000)
    roots = p3p(points, rays)
    fourth = torch.randn(1000, 3, dtype=F64)
    ray = (rotation @ fourth[..., None])[..., 0] + translation
    turn = rotation_from_axis_angle(1e-4 * torch.randn(1000, 3, dtype=F64))  # an error of measurement
    chosen, shift, valid, error = choose_by_fourth(roots, fourth, 3 * (turn @ ray[..., None])[..., 0])
    assert bool(valid.all())
    right = geodesic_distance(chosen, rotation) < 1e-6
    assert float(right.double().mean()) > 0.98  # now and then another root explains a wrong fourth ray better
    torch.testing.assert_close(shift[right], translation[right], rtol=1e-6, atol=1e-6)
    shown = (chosen @ fourth[..., None])[..., 0] + shift
    cosine = torch.nn.functional.cosine_similarity(shown, (turn @ ray[..., None])[..., 0], dim=-1)
    torch.testing.assert_close(error, torch.acos(cosine.clamp(max=1)), rtol=0, atol=1e-7)
    assert float(error.max()) < 1e-3


def test_no_root_and_no_fourth_pair_leave_nothing_to_choose() -> None:
    points, rays, _, _ = planted(4)
    points[1, 2] = points[1, 0]
    fourth, ray = torch.randn(2, 4, 3)
    fourth[2, 1] = torch.nan
    ray[3, 0] = torch.inf
    rotation, translation, valid, error = choose_by_fourth(p3p(points, rays), fourth, ray)
    assert valid.tolist() == [True, False, False, False]
    assert error.isfinite().tolist() == valid.tolist()
    assert bool(torch.isfinite(rotation).all() and torch.isfinite(translation).all())


def test_no_value_is_waited_for() -> None:
    """On the meta device tensors have no values, so that whatever asks for one fails."""
    roots = p3p(torch.empty(7, 3, 3, device="meta"), torch.empty(7, 3, 3, device="meta"))
    chosen = choose_by_fourth(roots, torch.empty(7, 3, device="meta"), torch.empty(7, 3, device="meta"))
    assert [tuple(x.shape) for x in (*vars(roots).values(), *chosen)] == [
        (7, 4, 3, 3), (7, 4, 3), (7, 4), (7, 3, 3), (7, 3), (7,), (7,)
    ]  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_the_same_without_waiting() -> None:
    points, rays, rotation, translation = planted(3000)
    fourth = torch.randn(3000, 3, dtype=F64)
    ray = (rotation @ fourth[..., None])[..., 0] + translation
    there = [x.cuda() for x in (points, rays, fourth, ray)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        roots = p3p(*there[:2])
        chosen = choose_by_fourth(roots, *there[2:])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(roots.valid.cpu(), p3p(points, rays).valid)
    assert float(geodesic_distance(chosen[0].cpu(), rotation).quantile(0.99)) < 1e-6

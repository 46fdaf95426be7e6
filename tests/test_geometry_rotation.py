"""Rotations: every map against its inverse or its definition, where angles are easy and where they are not."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from cad2pose.geometry import (
    axis_angle_from_rotation,
    geodesic_distance,
    nearest_rotation,
    quaternion_from_rotation,
    random_rotations,
    rotation_about_z,
    rotation_from_6d,
    rotation_from_axis_angle,
    rotation_from_quaternion,
    rotation_to_ray,
    rotations_towards,
    six_d_from_rotation,
    skew,
)
from cad2pose.geometry.rotation import degrees

F64 = torch.float64
BATCH_SHAPES = [(), (0,), (5,), (2, 1, 3)]
ANGLES = [0.0, 1e-12, 1e-8, 9.99e-5, 1.01e-4, 1e-3, 1.0, math.pi / 2, 3.0, math.pi - 1e-4, math.pi - 1e-8, math.pi]
EYE = torch.eye(3, dtype=F64)


def unit_vectors(shape: tuple[int, ...], dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, 3, dtype=dtype), dim=-1)


def is_rotation(matrix: torch.Tensor, tolerance: float = 1e-12) -> bool:
    square = matrix.transpose(-1, -2) @ matrix
    orthonormal = torch.allclose(square, torch.eye(3, dtype=matrix.dtype).expand_as(square), rtol=0, atol=tolerance)
    return orthonormal and bool((torch.linalg.det(matrix) > 0).all())


def rotation_by_matrix_exponential(omega: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_exp(skew(omega))


@pytest.mark.parametrize("shape", BATCH_SHAPES)
def test_all_forms_round_trip_on_any_batch_shape(shape: tuple[int, ...]) -> None:
    rotation = random_rotations(math.prod(shape), dtype=F64).reshape(*shape, 3, 3)
    assert is_rotation(rotation)
    for again in (
        rotation_from_6d(six_d_from_rotation(rotation)),
        rotation_from_quaternion(quaternion_from_rotation(rotation)),
        rotation_from_axis_angle(axis_angle_from_rotation(rotation)),
        nearest_rotation(rotation),
    ):
        torch.testing.assert_close(again, rotation, rtol=0, atol=1e-13)


def test_six_d_takes_any_two_independent_vectors_and_keeps_the_first_direction() -> None:
    six = torch.randn(50, 6, dtype=F64) * 10
    rotation = rotation_from_6d(six)
    assert is_rotation(rotation)
    torch.testing.assert_close(rotation[..., 0], torch.nn.functional.normalize(six[..., :3], dim=-1))
    # the second column lies in the plane of both vectors, on the second one's side
    assert bool(((rotation[..., 1] * six[..., 3:]).sum(-1) > 0).all())
    torch.testing.assert_close((rotation[..., 2] * six[..., 3:]).sum(-1), torch.zeros(50, dtype=F64))
    torch.testing.assert_close(six_d_from_rotation(rotation)[..., 3:], rotation[..., 1])


def test_skew_is_the_cross_product() -> None:
    v, w = torch.randn(2, 7, 3, dtype=F64)
    torch.testing.assert_close((skew(v) @ w[..., None])[..., 0], torch.linalg.cross(v, w))


@pytest.mark.parametrize("angle", ANGLES)
def test_exponential_agrees_with_the_matrix_exponential(angle: float) -> None:
    omega = unit_vectors((20,)) * angle
    rotation = rotation_from_axis_angle(omega)
    assert is_rotation(rotation)
    torch.testing.assert_close(rotation, rotation_by_matrix_exponential(omega), rtol=0, atol=2e-14)


@pytest.mark.parametrize("angle", ANGLES)
def test_logarithm_recovers_angle_and_axis(angle: float) -> None:
    omega = unit_vectors((50,)) * angle
    recovered = axis_angle_from_rotation(rotation_from_axis_angle(omega))
    if angle > math.pi - 1e-7:  # both signs of the axis are (nearly) right
        recovered = recovered * (recovered * omega).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(recovered, omega, rtol=1e-9, atol=1e-15 + 1e-14 * angle)


def test_logarithm_of_rotations_by_pi_about_the_axes() -> None:
    for axis in range(3):
        diagonal = -torch.ones(3, dtype=F64)
        diagonal[axis] = 1
        omega = axis_angle_from_rotation(torch.diag(diagonal))
        torch.testing.assert_close(omega.abs(), math.pi * EYE[axis])


@pytest.mark.parametrize("angle", [a for a in ANGLES if a < math.pi - 1e-6])
def test_logarithm_and_exponential_are_differentiable(angle: float) -> None:
    omega = (unit_vectors((3,)) * angle).requires_grad_()
    assert gradcheck(rotation_from_axis_angle, (omega,), atol=1e-6)
    rotation = rotation_from_axis_angle(omega.detach()).requires_grad_()
    assert gradcheck(axis_angle_from_rotation, (rotation,), atol=1e-6)
    round_trip = torch.autograd.functional.jacobian(
        lambda w: axis_angle_from_rotation(rotation_from_axis_angle(w)), omega.detach()[0]
    )
    torch.testing.assert_close(round_trip, EYE, rtol=0, atol=1e-8)


@pytest.mark.parametrize("angle", [math.pi - 1e-8, math.pi])
def test_gradients_stay_finite_at_pi(angle: float) -> None:
    rotation = rotation_from_axis_angle(unit_vectors((20,)) * angle).requires_grad_()
    axis_angle_from_rotation(rotation).sum().backward()
    assert rotation.grad is not None
    assert bool(torch.isfinite(rotation.grad).all())
    assert float(rotation.grad.abs().max()) < 1e3


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("angle", ANGLES)
def test_geodesic_distance_has_all_its_digits(angle: float, dtype: torch.dtype) -> None:
    first = random_rotations(50, dtype=F64)
    second = first @ rotation_from_axis_angle(unit_vectors((50,)) * angle)
    expected = torch.full((50,), angle, dtype=dtype)
    if dtype == F64:
        torch.testing.assert_close(geodesic_distance(first, second), expected, rtol=0, atol=2e-15)
    # float32 inputs are rounded themselves: 1e-6, where arccos of the trace would be off by 5e-4
    single = geodesic_distance(first.float(), second.float())
    torch.testing.assert_close(single.to(dtype), expected, rtol=0, atol=1e-6)


def test_geodesic_distance_is_symmetric_and_the_same_seen_from_both_sides() -> None:
    a, b, c = random_rotations(60, dtype=F64).reshape(3, 20, 3, 3)
    distance = geodesic_distance(a, b)
    for other in (geodesic_distance(b, a), geodesic_distance(c @ a, c @ b), geodesic_distance(a @ c, b @ c)):
        torch.testing.assert_close(other, distance)
    chord = 2 * math.sqrt(2) * torch.sin(distance / 2)
    torch.testing.assert_close((a - b).square().sum((-1, -2)).sqrt(), chord)
    torch.testing.assert_close(degrees(torch.tensor(math.pi)), torch.tensor(180.0))


@pytest.mark.parametrize("angle", [*ANGLES, None])
def test_gradient_of_the_geodesic_distance(angle: float | None) -> None:
    first = random_rotations(10, dtype=F64)
    second = first if angle is None else first @ rotation_from_axis_angle(unit_vectors((10,)) * angle)
    step = torch.zeros(10, 3, dtype=F64, requires_grad=True)
    geodesic_distance(first, second @ rotation_from_axis_angle(step)).sum().backward()
    assert step.grad is not None
    assert bool(torch.isfinite(step.grad).all())
    if angle is not None and 1e-8 <= angle <= math.pi - 1e-4:  # a distance changes at unit speed
        torch.testing.assert_close(step.grad.norm(dim=-1), torch.ones(10, dtype=F64), rtol=1e-6, atol=0)


def test_gradient_of_the_geodesic_distance_at_zero_is_zero() -> None:
    eye = EYE.clone().requires_grad_()
    geodesic_distance(EYE, eye).backward()
    assert eye.grad is not None
    assert not eye.grad.any()


def test_quaternions_have_a_non_negative_real_part_and_any_length_is_taken() -> None:
    quaternion = torch.randn(100, 4, dtype=F64) * 5
    rotation = rotation_from_quaternion(quaternion)
    assert is_rotation(rotation)
    again = quaternion_from_rotation(rotation)
    assert bool((again[:, 0] >= 0).all())
    unit = torch.nn.functional.normalize(quaternion, dim=-1)
    torch.testing.assert_close(again, unit * unit[:, :1].sign())


def test_nearest_rotation_undoes_small_errors_and_never_reflects() -> None:
    rotation = random_rotations(30, dtype=F64)
    noisy = rotation + 0.01 * torch.randn(30, 3, 3, dtype=F64)
    nearest = nearest_rotation(noisy)
    assert is_rotation(nearest)
    for _ in range(20):  # no rotation close by is closer
        other = nearest @ rotation_from_axis_angle(0.01 * torch.randn(30, 3, dtype=F64))
        assert bool(((nearest - noisy).square().sum((-1, -2)) <= (other - noisy).square().sum((-1, -2))).all())
    assert is_rotation(nearest_rotation(-rotation + 0.1 * torch.randn(30, 3, 3, dtype=F64)))
    torch.testing.assert_close(nearest_rotation(3 * rotation), rotation)


def test_nearest_rotation_is_differentiable_at_a_rotation_itself() -> None:
    rotation = random_rotations(4, dtype=F64)
    reflected = 0.3 * torch.randn(4, 3, 3, dtype=F64) - rotation @ torch.diag(torch.tensor([1.0, 2, 3], dtype=F64))
    for matrix in (rotation, rotation * 2, rotation + 0.05 * torch.randn(4, 3, 3, dtype=F64), reflected):
        assert gradcheck(nearest_rotation, (matrix.clone().requires_grad_(),), atol=1e-5)


def test_rotation_to_ray_is_the_smallest_that_gets_there() -> None:
    ray = torch.randn(50, 3, dtype=F64)
    rotation = rotation_to_ray(ray)
    assert is_rotation(rotation)
    direction = torch.nn.functional.normalize(ray, dim=-1)
    torch.testing.assert_close(rotation[..., 2], direction)
    torch.testing.assert_close(geodesic_distance(rotation, EYE.expand(50, 3, 3)), torch.acos(direction[:, 2]))
    torch.testing.assert_close(rotation_to_ray(5 * EYE[2]), EYE)
    tilted = torch.tensor([[1e-9, -1e-9, 1.0], [0.3, 0.2, 1.0]], dtype=F64, requires_grad=True)
    assert gradcheck(rotation_to_ray, (tilted,))


def test_rotation_about_z_turns_x_towards_y() -> None:
    rotation = rotation_about_z(torch.tensor([math.pi / 2], dtype=F64))
    torch.testing.assert_close(rotation[0] @ EYE[0], EYE[1])
    torch.testing.assert_close(rotation[0] @ EYE[2], EYE[2])


def test_cameras_look_at_the_origin_from_their_elevation_and_are_turned_by_their_roll() -> None:
    elevation = torch.tensor([-1.2, 0.0, 0.7, math.pi / 2], dtype=F64)
    azimuth = torch.tensor([0.3, 2.0, -2.5, 1.0], dtype=F64)
    upright = rotations_towards(elevation.sin(), azimuth, torch.zeros(4, dtype=F64))
    assert is_rotation(upright)
    place = torch.stack((elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()), dim=-1)
    torch.testing.assert_close((upright @ place[..., None])[..., 0], (-EYE[2]).expand(4, 3))
    up = upright @ EYE[2]
    torch.testing.assert_close(up[:, 0], torch.zeros(4, dtype=F64))
    assert bool((up[:3, 1] < 0).all())  # y points down
    roll = torch.tensor([0.1, -0.4, 1.0, 3.0], dtype=F64)
    torch.testing.assert_close(rotations_towards(elevation.sin(), azimuth, roll), rotation_about_z(roll) @ upright)


def test_random_rotations_are_even_and_follow_their_generator() -> None:
    first, again = (random_rotations(4000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert float(first.mean(0).abs().max()) < 0.03
    # for even rotations the angle has density (1 - cos a) / pi, mean pi / 2 + 2 / pi
    angle = geodesic_distance(first, torch.eye(3).expand_as(first))
    assert abs(float(angle.mean()) - (math.pi / 2 + 2 / math.pi)) < 0.03

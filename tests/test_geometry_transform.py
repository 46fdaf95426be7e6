"""SE(3): transforms as 4x4 matrices, their exponential and logarithm."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from cad2pose.geometry import (
    exp_se3,
    invert_transform,
    log_se3,
    make_transform,
    random_rotations,
    rotate_transform,
    skew,
    transform_points,
)

F64 = torch.float64
BATCH_SHAPES = [(), (0,), (4,), (2, 1, 3)]
ANGLES = [0.0, 1e-10, 1e-8, 1e-4, 9.9e-3, 1.01e-2, 0.5, 2.0, 3.0, math.pi - 1e-6]


def random_transforms(shape: tuple[int, ...]) -> torch.Tensor:
    rotation = random_rotations(math.prod(shape), dtype=F64).reshape(*shape, 3, 3)
    return make_transform(rotation, 100 * torch.randn(*shape, 3, dtype=F64))


def twists(count: int, angle: float) -> torch.Tensor:
    axis = torch.nn.functional.normalize(torch.randn(count, 3, dtype=F64), dim=-1)
    return torch.cat((angle * axis, 50 * torch.randn(count, 3, dtype=F64)), dim=-1)


@pytest.mark.parametrize("shape", BATCH_SHAPES)
def test_composition_inverse_and_points_agree(shape: tuple[int, ...]) -> None:
    T_cam_obj, T_obj_tool = random_transforms(shape), random_transforms(shape)
    points = torch.randn(*shape, 6, 3, dtype=F64)
    composed = transform_points(T_cam_obj @ T_obj_tool, points)
    torch.testing.assert_close(composed, transform_points(T_cam_obj, transform_points(T_obj_tool, points)))
    torch.testing.assert_close(invert_transform(T_cam_obj), torch.linalg.inv(T_cam_obj))
    homogeneous = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1)
    by_matrix = (T_cam_obj[..., None, :, :] @ homogeneous[..., None])[..., :3, 0]
    torch.testing.assert_close(transform_points(T_cam_obj, points), by_matrix)


def test_rotate_transform_is_a_product_from_the_left() -> None:
    transform, rotation = random_transforms((5,)), random_rotations(5, dtype=F64)
    product = make_transform(rotation, torch.zeros(5, 3, dtype=F64)) @ transform
    torch.testing.assert_close(rotate_transform(rotation, transform), product)


@pytest.mark.parametrize("angle", ANGLES)
def test_exponential_agrees_with_the_matrix_exponential(angle: float) -> None:
    twist = twists(10, angle)
    generator = torch.zeros(10, 4, 4, dtype=F64)
    generator[:, :3, :3] = skew(twist[:, :3])
    generator[:, :3, 3] = twist[:, 3:]
    torch.testing.assert_close(exp_se3(twist), torch.linalg.matrix_exp(generator), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("angle", ANGLES)
def test_logarithm_is_the_inverse_of_the_exponential(angle: float) -> None:
    twist = twists(20, angle)
    torch.testing.assert_close(log_se3(exp_se3(twist)), twist, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", BATCH_SHAPES)
def test_exponential_is_the_inverse_of_the_logarithm_on_any_batch_shape(shape: tuple[int, ...]) -> None:
    transform = random_transforms(shape)
    torch.testing.assert_close(exp_se3(log_se3(transform)), transform, rtol=0, atol=1e-8)


@pytest.mark.parametrize("angle", ANGLES)
def test_exponential_and_logarithm_are_differentiable(angle: float) -> None:
    twist = twists(2, angle)
    twist[:, 3:] /= 50
    assert gradcheck(exp_se3, (twist.clone().requires_grad_(),), atol=1e-6)
    if angle < 3.1:
        round_trip = torch.autograd.functional.jacobian(lambda x: log_se3(exp_se3(x)), twist[0])
        torch.testing.assert_close(round_trip, torch.eye(6, dtype=F64), rtol=0, atol=1e-6)


def test_single_precision_keeps_six_digits_across_the_switch_to_series() -> None:
    for angle in (9.9e-3, 1.01e-2, 2e-2):
        twist = twists(20, angle)
        torch.testing.assert_close(exp_se3(twist.float()).double(), exp_se3(twist), rtol=2e-6, atol=2e-5)

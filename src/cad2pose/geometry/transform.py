"""Rigid transforms, SE(3), as 4x4 matrices.

`T_cam_obj` takes object coordinates to camera coordinates, and composition reads `T_a_b @ T_b_c`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry.rotation import axis_angle_from_rotation, rotation_from_axis_angle, skew


def make_transform(
    rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """[R t; 0 1]."""
    top = torch.cat((rotation, translation[..., None]), dim=-1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1
    return torch.cat((top, bottom), dim=-2)


def invert_transform(transform: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of a rigid transform, by the transpose; the rotation part must be orthonormal."""
    transposed = transform[..., :3, :3].transpose(-1, -2)
    return make_transform(transposed, -(transposed @ transform[..., :3, 3:])[..., 0])


def transform_points(
    transform: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch n 3"]
) -> Float[Tensor, "*batch n 3"]:
    """R x + t for a set of points per transform."""
    return points @ transform[..., :3, :3].transpose(-1, -2) + transform[..., None, :3, 3]


def _left_jacobian(omega: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """V of exp([omega, v]) = [R(omega), V(omega) v]."""
    square = (omega * omega).sum(-1)
    small = square < 1e-4
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    first = torch.where(small, 0.5 - square / 24 + square**2 / 720, 2 * (torch.sin(angle / 2) / angle) ** 2)
    second = torch.where(small, 1 / 6 - square / 120 + square**2 / 5040, (angle - torch.sin(angle)) / (safe * angle))
    cross = skew(omega)
    eye = torch.eye(3, dtype=omega.dtype, device=omega.device)
    return eye + first[..., None, None] * cross + second[..., None, None] * (cross @ cross)


def exp_se3(twist: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """Exponential map of SE(3); twist = (rotation vector in rad, translation part)."""
    omega, velocity = twist[..., :3], twist[..., 3:]
    translation = (_left_jacobian(omega) @ velocity[..., None])[..., 0]
    return make_transform(rotation_from_axis_angle(omega), translation)


def log_se3(transform: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6"]:
    """Logarithm of SE(3), inverse of `exp_se3` for rotation angles below pi."""
    omega = axis_angle_from_rotation(transform[..., :3, :3])
    velocity = torch.linalg.solve(_left_jacobian(omega), transform[..., :3, 3:])[..., 0]
    return torch.cat((omega, velocity), dim=-1)

"""Rotations of three-dimensional space: matrices, the 6D form, axis-angle, and distances between them.

Matrices are `(*batch, 3, 3)` and act on columns. Every map here is differentiable wherever the
mathematical map is, which includes rotation angles 0 and (up to the choice of sign) pi.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_SMALL_ANGLE = 1e-4


def rotation_from_6d(six: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Orthonormalise the first two columns of a matrix (Zhou et al. 2019).

    With a, b the two halves: r1 = n(a), r3 = n(r1 x b), r2 = r3 x r1, so the result has determinant +1.
    Undefined where a and b are parallel; there the norms are clamped and the result is not a rotation.
    """
    a, b = six[..., :3], six[..., 3:]
    r1 = torch.nn.functional.normalize(a, dim=-1)
    r3 = torch.nn.functional.normalize(torch.linalg.cross(r1, b), dim=-1)
    r2 = torch.linalg.cross(r3, r1)
    return torch.stack((r1, r2, r3), dim=-1)


def six_d_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """The first two columns, one after the other; `rotation_from_6d` is its inverse."""
    return torch.cat((rotation[..., :, 0], rotation[..., :, 1]), dim=-1)


def skew(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix [v]x with [v]x w = v x w."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = (zero, -z, y, z, zero, -x, -y, x, zero)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def rotation_from_axis_angle(omega: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Exponential map of SO(3): axis times angle in radians -> matrix (Rodrigues).

    Near angle 0 the two coefficients are evaluated by their series, so gradients stay finite there.
    """
    square = (omega * omega).sum(-1)
    small = square < _SMALL_ANGLE**2
    safe = torch.where(small, torch.ones_like(square), square).sqrt()
    first = torch.where(small, 1 - square / 6, torch.sin(safe) / safe)
    second = torch.where(small, 0.5 - square / 24, 2 * (torch.sin(safe / 2) / safe) ** 2)
    cross = skew(omega)
    eye = torch.eye(3, dtype=omega.dtype, device=omega.device)
    return eye + first[..., None, None] * cross + second[..., None, None] * (cross @ cross)


def quaternion_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion (w, x, y, z) with w >= 0.

    Of the four expressions for it the one with the largest divisor is taken, so it is accurate for
    every angle.
    """
    m = rotation
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    squares = torch.stack((1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22), -1)
    candidates = torch.stack(
        (
            torch.stack((squares[..., 0], a, b, c), -1),
            torch.stack((a, squares[..., 1], d, e), -1),
            torch.stack((b, d, squares[..., 2], f), -1),
            torch.stack((c, e, f, squares[..., 3]), -1),
        ),
        dim=-2,
    )
    best = squares.argmax(-1)
    picked = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = torch.nn.functional.normalize(picked, dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def rotation_from_quaternion(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Matrix of a quaternion (w, x, y, z); it is normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def axis_angle_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Logarithm of SO(3): matrix -> axis times angle, angle in [0, pi].

    At angle pi both signs of the axis are right and one of them is returned. Differentiable from 0
    up to pi, as it goes by the quaternion, whose vector part does not vanish there.
    """
    quaternion = quaternion_from_rotation(rotation)
    w, vector = quaternion[..., 0], quaternion[..., 1:]
    square = (vector * vector).sum(-1)
    small = square < _SMALL_ANGLE**2
    norm = torch.where(small, torch.ones_like(square), square).sqrt()
    angle_by_sine = 2 * torch.atan2(norm, w) / norm
    series = 2 + square / 3
    return torch.where(small, series, angle_by_sine)[..., None] * vector


def geodesic_distance(
    first: Float[Tensor, "*batch 3 3"], second: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """Angle in radians, in [0, pi], of the rotation that takes `first` to `second`.

    atan2(sin, cos) of the half angle is used in place of arccos of the trace, which loses half of the
    digits near 0 and pi. The gradient at angle 0, where the distance has a corner, is set to zero.
    """
    quaternion = quaternion_from_rotation(first.transpose(-1, -2) @ second)
    square = quaternion[..., 1:].square().sum(-1)
    zero = square < torch.finfo(square.dtype).tiny
    sine = torch.where(zero, torch.ones_like(square), square).sqrt()
    return torch.where(zero, torch.zeros_like(square), 2 * torch.atan2(sine, quaternion[..., 0]))


def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation nearest to a matrix in the Frobenius norm (orthogonal Procrustes, determinant +1).

    The gradient of the decomposition does not exist where singular values coincide, which they do at every
    rotation, although that of the result does: with M = U S V^T and R = U V^T, signs in U and S,
    dR = U [(U^T dM V - V^T dM^T U)_ij / (s_i + s_j)] V^T. It is added to R here, with dM of value zero.
    """
    u, s, vh = torch.linalg.svd(matrix.detach())
    sign = torch.ones_like(s)
    sign[..., 2] = torch.linalg.det(u @ vh)
    u, s = u * sign[..., None, :], s * sign
    rotation = u @ vh
    if not matrix.requires_grad:
        return rotation
    change = u.transpose(-1, -2) @ (matrix - matrix.detach()) @ vh.transpose(-1, -2)
    pairs = s[..., :, None] + s[..., None, :]
    pairs = torch.where(pairs.abs() < torch.finfo(pairs.dtype).tiny, torch.inf, pairs)
    return rotation + u @ ((change - change.transpose(-1, -2)) / pairs) @ vh


def rotation_to_ray(ray: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The minimal rotation that takes (0, 0, 1) to the direction of `ray`.

    I + [v]x + [v]x^2 / (1 + cos) with v = z x ray: no arccos and no division by the axis' length, so it
    is smooth on the optical axis. Undefined for rays that point straight back (0, 0, -1).
    """
    direction = torch.nn.functional.normalize(ray, dim=-1)
    x, y, cosine = direction.unbind(-1)
    cross = skew(torch.stack((-y, x, torch.zeros_like(x)), dim=-1))
    eye = torch.eye(3, dtype=ray.dtype, device=ray.device)
    return eye + cross + (cross @ cross) / (1 + cosine)[..., None, None]


def rotation_about_z(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation by `angle` radians about the z axis (clockwise in an image whose y axis points down)."""
    zero = torch.zeros_like(angle)
    return rotation_from_axis_angle(torch.stack((zero, zero, angle), dim=-1))


def rotations_towards(
    elevation_sine: Float[Tensor, "*batch"], azimuth: Float[Tensor, "*batch"], roll: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """R_cam_world of cameras that look at the world's origin, z up, and are then turned about their axis.

    Args:
        elevation_sine: sine of the camera's elevation over the plane z = 0.
        azimuth: its direction about z, radians from x.
        roll: the camera's turn, radians; upright at 0.
    """
    cosine = (1 - elevation_sine.square()).clamp_min(0).sqrt()
    forward = -torch.stack((cosine * azimuth.cos(), cosine * azimuth.sin(), elevation_sine), dim=-1)
    right = torch.stack((-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)), dim=-1)
    look = torch.stack((right, torch.linalg.cross(forward, right), forward), dim=-2)
    return rotation_about_z(roll) @ look


def random_rotations(
    count: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "count 3 3"]:
    """`count` rotations drawn evenly from all of SO(3) (normalised Gaussian quaternions)."""
    return rotation_from_quaternion(torch.randn(count, 4, generator=generator, dtype=dtype, device=device))


def degrees(radians: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Radians to degrees."""
    return radians * (180 / math.pi)

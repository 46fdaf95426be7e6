"""Among poses that look the same, the one nearest to the previous pose: videos of symmetric parts become steady."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry.rotation import nearest_rotation, skew
from cad2pose.geometry.transform import make_transform
from cad2pose.parts.symmetry import ContinuousSymmetry, Symmetries

_PARALLEL = 1e-2  # sine of the angle between axes that count as one


def nearest_equivalent(
    previous: Float[Tensor, "*batch 4 4"], current: Float[Tensor, "*batch 4 4"], symmetries: Symmetries
) -> Float[Tensor, "*batch 4 4"]:
    """The pose that looks like `current` and is turned least against `previous`.

    Discrete symmetries are tried one by one; the best angle about a continuous axis has a closed form: with A the
    rotation from the previous to the current pose, in the part's frame, and u the axis, trace(A R(u, t)) is largest at
    t = atan2(trace(A [u]x), trace(A) - u.A u). Continuous axes of different directions allow any rotation (a ball),
    so the previous one is kept. A pose that is not finite, or has no finite predecessor, is returned as it is.

    Args:
        previous: T_cam_obj of the previous image, as it was returned.
        current: T_cam_obj as estimated.
        symmetries: of the part.

    Returns:
        T_cam_obj S for a symmetry S of the part (in the precision and on the device of `current`).
    """
    before, now = previous.double(), current.double()
    discrete = make_transform(nearest_rotation(symmetries.discrete[:, :3, :3]), symmetries.discrete[:, :3, 3]).to(now)
    members = torch.cat((torch.eye(4, dtype=now.dtype, device=now.device)[None], discrete))
    options = now[..., None, :, :] @ members  # (*batch, k, 4, 4)
    if symmetries.continuous:
        turned = [_turned(before, options, axis) for axis in symmetries.continuous]
        options = torch.cat(turned, dim=-3)
        first = symmetries.continuous[0]
        others = symmetries.continuous[1:]
        if any(float(torch.linalg.cross(first.direction, o.direction).norm()) > _PARALLEL for o in others):
            options = _moved_about(now, now[..., :3, :3].mT @ before[..., :3, :3], _meeting(symmetries).to(now))[
                ..., None, :, :
            ]
    agreement = (options[..., :3, :3] * before[..., None, :3, :3]).sum((-1, -2))
    best = agreement.nan_to_num(-torch.inf).argmax(-1)
    index = best[..., None, None, None].expand(*best.shape, 1, 4, 4)
    chosen = options.gather(-3, index).squeeze(-3)
    finite = torch.isfinite(previous).all(-1).all(-1) & torch.isfinite(current).all(-1).all(-1)
    return torch.where(finite[..., None, None], chosen.to(current), current)


def _turned(
    before: Float[Tensor, "*batch 4 4"], options: Float[Tensor, "*batch k 4 4"], axis: ContinuousSymmetry
) -> Float[Tensor, "*batch k 4 4"]:
    """Every option turned about the axis until it is nearest to the pose before."""
    between = before[..., None, :3, :3].mT @ options[..., :3, :3]
    turn = nearest_turn(between, axis.direction.to(options).expand(between.shape[:-1]))
    return _moved_about(options, turn, axis.offset.to(options))


def nearest_turn(between: Float[Tensor, "*batch 3 3"], axis: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotations about axes after which others turn least.

    Args:
        between: rotations A; A R(u, t) is to have the least angle.
        axis: u, of length 1, or 0, of which nothing is turned.
    """
    trace = between.diagonal(dim1=-2, dim2=-1).sum(-1)
    along = (axis * (between @ axis[..., None])[..., 0]).sum(-1)
    cross = skew(axis)
    sine = (between * cross.mT).sum((-1, -2))  # the trace of the product
    angle = torch.atan2(sine, trace - along)[..., None, None]
    return torch.eye(3).to(axis) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)


def _moved_about(
    poses: Float[Tensor, "*batch 4 4"], rotations: Float[Tensor, "*batch 3 3"], center: Float[Tensor, "3"]
) -> Float[Tensor, "*batch 4 4"]:
    """Poses of a part that was first rotated about a point of its own."""
    return poses @ make_transform(rotations, center - (rotations @ center[:, None])[..., 0])


def _meeting(symmetries: Symmetries) -> Float[Tensor, "3"]:
    """The point nearest to all continuous axes."""
    across = [torch.eye(3, dtype=torch.float64) - torch.outer(a.direction, a.direction) for a in symmetries.continuous]
    right = sum((p @ a.offset for p, a in zip(across, symmetries.continuous, strict=True)), torch.zeros(3).double())
    return torch.linalg.lstsq(sum(across, torch.zeros(3, 3).double()), right[:, None]).solution[:, 0]

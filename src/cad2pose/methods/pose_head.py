"""What heads regress, and how it becomes a pose in the crop camera.

Rotation: 6D per chart, allocentric about the predicted ray of the part's centre. Translation: the projection of the
bounding sphere's centre, from the crop's centre, in units of the crop side; and
dz = log(z r / (2 rho f)) - log(pad) with z that centre's depth, rho the sphere's radius, f the crop's focal
length. Both are dimensionless and nearly independent of camera, part and crop scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry.crop import VirtualCamera
from cad2pose.geometry.rotation import rotation_from_6d, rotation_to_ray, six_d_from_rotation
from cad2pose.methods.rotation_charts import RotationCharts

_MAX_CENTRE = 2.0
_MAX_LOG_DEPTH = 4.0


@dataclass(frozen=True)
class HeadPose:
    """A pose as heads express it.

    Args:
        rotation: `(B, 3, 3)` R_virt_obj (egocentric, in the crop camera).
        centre: `(B, 2)` projection of the sphere's centre, from the crop centre, in crop sides.
        log_depth: `(B,)` dz.
        position: `(B, 3)` the sphere's centre in the crop camera, mm.
    """

    rotation: Float[Tensor, "batch 3 3"]
    centre: Float[Tensor, "batch 2"]
    log_depth: Float[Tensor, "batch"]
    position: Float[Tensor, "batch 3"]


def pose_numbers(charts: int) -> int:
    """How many numbers a head regresses: 6 and a logit per chart (no logit for a single one), centre, dz."""
    return 6 * charts + (charts if charts > 1 else 0) + 3


def decode_charts(numbers: Float[Tensor, "batch n"], charts: int) -> RotationCharts:
    """The part of the head's output that speaks of the allocentric rotation."""
    rotation = rotation_from_6d(numbers[:, : 6 * charts].unflatten(1, (charts, 6)))
    logits = numbers[:, 6 * charts : 7 * charts] if charts > 1 else numbers.new_zeros(len(numbers), 1)
    return RotationCharts(rotation, logits)


def decode_pose(
    numbers: Float[Tensor, "batch n"],
    allocentric: Float[Tensor, "batch 3 3"],
    camera: VirtualCamera,
    radius: Float[Tensor, "batch"],
    pad: float,
) -> HeadPose:
    """Chosen allocentric rotation and the last three of the head's numbers (centre, dz) -> pose in the crop camera."""
    centre = numbers[:, -3:-1].clamp(-_MAX_CENTRE, _MAX_CENTRE)
    log_depth = numbers[:, -1].clamp(-_MAX_LOG_DEPTH, _MAX_LOG_DEPTH)
    focal = camera.K_virt[:, 0, 0].to(numbers.dtype)
    ray = torch.cat((centre * camera.size / focal[:, None], torch.ones_like(centre[:, :1])), dim=-1)
    depth = torch.exp(log_depth + math.log(pad)) * 2 * radius.to(numbers.dtype) * focal / camera.size
    return HeadPose(rotation_to_ray(ray) @ allocentric, centre, log_depth, ray * depth[:, None])


def encode_pose(
    T_virt_obj: Float[Tensor, "batch 4 4"],
    camera: VirtualCamera,
    sphere_centre: Float[Tensor, "batch 3"],
    radius: Float[Tensor, "batch"],
    pad: float,
) -> HeadPose:
    """The same record for a known pose; `sphere_centre` `(B, 3)` in the mesh file's frame, mm."""
    rotation = T_virt_obj[:, :3, :3]
    position = (rotation @ sphere_centre.to(rotation)[..., None])[..., 0] + T_virt_obj[:, :3, 3]
    return head_pose(rotation, position, camera, radius, pad)


def head_pose(
    rotation: Float[Tensor, "batch 3 3"],
    position: Float[Tensor, "batch 3"],
    camera: VirtualCamera,
    radius: Float[Tensor, "batch"],
    pad: float,
) -> HeadPose:
    """The same for a rotation and the position of the sphere's centre, mm, in the crop camera."""
    focal = camera.K_virt[:, 0, 0].to(position)
    centre = position[:, :2] / position[:, 2:] * (focal / camera.size)[:, None]
    log_depth = torch.log(position[:, 2] * camera.size / (2 * radius.to(position) * focal)) - math.log(pad)
    return HeadPose(rotation, centre, log_depth, position)


def initial_numbers(anchors: Float[Tensor, "charts 3 3"]) -> Float[Tensor, "n"]:
    """Bias of an untrained head: every chart at its anchor, none preferred; centred, in the usual range of dz."""
    charts = len(anchors)
    logits = torch.zeros(charts if charts > 1 else 0)
    return torch.cat((six_d_from_rotation(anchors).flatten().float(), logits, torch.tensor([0.0, 0.0, -0.3])))

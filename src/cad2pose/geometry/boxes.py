"""Boxes x, y, w, h around what is projected or masked (COCO: edges measured from the image's left and upper edge)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.geometry.camera import project_points
from cad2pose.geometry.transform import transform_points

_NEAREST = 1.0  # mm; points nearer to the camera plane are projected from here
_LEAST_SIDE = 4.0  # pixels


def projected_box(
    points: Float[Tensor, "batch n 3"], T_cam_obj: Float[Tensor, "batch 4 4"], K: Float[Tensor, "batch 3 3"]
) -> Float[Tensor, "batch 4"]:
    """Box of projected points; not clipped."""
    camera = transform_points(T_cam_obj, points)
    camera = torch.cat((camera[..., :2], camera[..., 2:].clamp_min(_NEAREST)), dim=-1)
    pixels = project_points(K, camera)
    least, most = pixels.amin(dim=-2), pixels.amax(dim=-2)
    return torch.cat((least + 0.5, most - least), dim=-1)


def clip_box(box: Float[Tensor, "batch 4"], image_size: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch 4"]:
    """The part of each box inside the image (width, height), at least a few pixels wide and high."""
    least = torch.minimum(box[:, :2].clamp_min(0), image_size - _LEAST_SIDE)
    most = torch.minimum(box[:, :2] + box[:, 2:], image_size)
    return torch.cat((least, (most - least).clamp_min(_LEAST_SIDE)), dim=-1)


def mask_box(mask: Bool[Tensor, "h w"]) -> tuple[float, float, float, float]:
    """Box of the pixels that are set.

    Raises:
        ValueError: if none is.
    """
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if len(rows) == 0:
        raise ValueError("the mask is empty")
    left, top = int(columns[0]), int(rows[0])
    return float(left), float(top), float(columns[-1] + 1 - left), float(rows[-1] + 1 - top)

"""Boxes x, y, w, h around what is projected or masked (COCO: edges measured from the image's left and upper edge)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.geometry.camera import Camera
from cad2pose.geometry.intrinsics import project_points
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


def box_overlap(first: Float[Tensor, "*batch 4"], second: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """Intersection over union."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    both = (high - low).clamp_min(0).prod(-1)
    return both / (first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - both)


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


def pixel_window(
    points: Float[Tensor, "n 3"], K: Float[Tensor, "3 3"], low: tuple[int, int], high: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom (behind the last) of the pixels that points, and what lies between them, can cover.

    Args:
        points: in the camera frame, mm; where some lie behind the camera, the rest may show anywhere.
        K: its intrinsics.
        low, high: first column and row that are looked at, and those behind the last.

    Returns:
        None where there is no such pixel.
    """
    if float(points[:, 2].max()) <= _NEAREST:
        return None
    if float(points[:, 2].min()) <= _NEAREST:
        return *low, *high
    pixels = project_points(K, points)
    first, behind = torch.tensor([low, high], dtype=pixels.dtype, device=pixels.device)
    least = (pixels.amin(0).floor() - 1).clamp(first, behind).int().tolist()
    most = (pixels.amax(0).ceil() + 2).clamp(first, behind).int().tolist()
    left, top, right, bottom = *least, *most
    return (left, top, right, bottom) if right > left and bottom > top else None


def undistort_boxes(box: Float[Tensor, "n 4"], camera: Camera) -> tuple[Float[Tensor, "n 4"], Bool[Tensor, "n"]]:
    """The boxes in a camera without distortion, with the same K: around where their outlines go.

    What of a box is outside the image does not count, as the lens shows nothing there, nor what lies where the lens
    model cannot be inverted. The boxes may lie outside the image, near the border of what the lens saw. The flags say
    where there is such a box at all; others stay as they are.
    """
    there = torch.ones(len(box), dtype=torch.bool, device=box.device)
    if not any(camera.distortion) or len(box) == 0:
        return box, there
    inside = clip_box(box, torch.tensor([[camera.width, camera.height]]).to(box).expand(len(box), -1))
    steps = torch.linspace(0, 1, 9, dtype=box.dtype, device=box.device)
    zero, one = torch.zeros_like(steps), torch.ones_like(steps)
    outline = torch.stack((torch.cat((steps, steps, zero, one)), torch.cat((zero, one, steps, steps))), dim=-1)
    straight = camera.straighten(inside[:, None, :2] - 0.5 + inside[:, None, 2:] * outline).to(box) + 0.5
    least, most = straight.nan_to_num(torch.inf).amin(1), straight.nan_to_num(-torch.inf).amax(1)
    there = (most > least).all(1)
    return torch.where(there[:, None], torch.cat((least, most - least), dim=-1), box), there


def undistorted_image_box(camera: Camera) -> Float[Tensor, "4"]:
    """The box of all that the lens saw, in a camera without distortion; the image's own where that cannot be told."""
    whole = torch.tensor([0.0, 0, camera.width, camera.height], dtype=torch.float64)
    return undistort_boxes(whole[None], camera)[0][0]

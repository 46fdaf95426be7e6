"""Boxes on their way to the crops: checked, scaled, and moved to where a pose says."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.geometry import Camera, clip_box, projected_box

_MOST_GROWTH = 9.0  # in area, between a detector's box and that of the pose found from it
_LEAST_OVERLAP = 0.5  # of the smaller of the two


def box_faults(box: Float[Tensor, "n 4"], camera: Camera) -> list[str | None]:
    """What is wrong with every box: it has no pixel of the image, or is smaller than one; None where nothing is."""
    outside = (box[:, :2] + box[:, 2:] <= 0).any(-1)
    outside |= (box[:, 0] >= camera.width) | (box[:, 1] >= camera.height)
    tiny = (box[:, 2:] < 1).any(-1)
    faults: list[str | None] = [None] * len(box)
    for row in (outside | tiny).nonzero()[:, 0].tolist():
        faults[row] = f"box {row} is {box[row].tolist()}" + (
            f" and lies outside the image of {camera.width} x {camera.height} pixels; a box is x y w h in pixels, x y "
            "its upper left corner"
            if bool(outside[row])
            else ", narrower than a pixel; a box is x y w h in pixels (not in shares)"
        )
    return faults


def check_boxes(box: Float[Tensor, "n 4"], camera: Camera) -> None:
    """Raise ValueError where there are boxes, and all of them have a fault; names the first."""
    faults = box_faults(box, camera)
    if faults and faults[0] is not None and None not in faults:
        raise ValueError(faults[0])


def zoom_boxes(box: Float[Tensor, "n 4"], zooms: Float[Tensor, "z"]) -> Float[Tensor, "n z 4"]:
    """Every box scaled about its centre by every factor."""
    centre, side = box[:, None, :2] + box[:, None, 2:] / 2, box[:, None, 2:] * zooms[None, :, None]
    return torch.cat((centre - side / 2, side), dim=-1)


def posed_boxes(
    box: Float[Tensor, "n 4"],
    T_cam_obj: Float[Tensor, "n 4 4"],
    vertices: Float[Tensor, "v 3"],
    K: Float[Tensor, "3 3"],
    image: Float[Tensor, "4"],
) -> Float[Tensor, "n 4"]:
    """The box of the whole part in its estimated pose, cut off at the border of the image's box as a detector's is.

    Where a pose puts the part somewhere else altogether, or makes its box much larger or smaller, the pose is
    not to be trusted and the box stays as it was.
    """
    count = len(box)
    whole = projected_box(vertices.expand(count, -1, -1), T_cam_obj, K.expand(count, -1, -1))
    corner = torch.nn.functional.pad(image[:2], (0, 2))
    posed = clip_box(whole - corner, image[2:].expand(count, -1)) + corner
    return torch.where(_agree(box, posed)[:, None], posed, box)


def _agree(first: Float[Tensor, "n 4"], second: Float[Tensor, "n 4"]) -> Bool[Tensor, "n"]:
    least = torch.maximum(first[:, :2], second[:, :2])
    most = torch.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    common = (most - least).clamp_min(0).prod(-1)
    areas = torch.stack((first[:, 2:].prod(-1), second[:, 2:].prod(-1)))
    smaller, larger = areas.amin(0), areas.amax(0)
    return (common >= _LEAST_OVERLAP * smaller) & (larger <= _MOST_GROWTH * smaller)

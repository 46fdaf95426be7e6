"""Axes of symmetry on one sheet: each with the part from both sides, painted with what deviates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry import project_points, rotation_from_axis_angle, transform_points
from cad2pose.parts.part import Part
from cad2pose.pictures.colour_maps import GROUND, colour_bar, heat
from cad2pose.pictures.contact_sheet import contact_sheet
from cad2pose.pictures.image_file import from_bytes, to_bytes
from cad2pose.pictures.painted_surface import visible_surface
from cad2pose.pictures.six_views import look_from

_DISTANCE, _MARGIN = 6.0, 1.25  # of the camera in radii, and around the part
_REACH = 1.2  # of the drawn axis to either side, in radii
_AXIS_COLOR, _MARK_COLOR, _BLACK = (86, 180, 233), (0, 230, 160), (0, 0, 0)
_ASIDE = 0.6  # rad
_BAR_STEPS = 256
_BITS = 3


@dataclass(frozen=True, eq=False)
class AxisView:
    """An axis to be drawn.

    Args:
        label: beneath its pictures.
        direction: `(3,)` unit vector.
        offset: `(3,)` a point of the axis, mm.
        place: `(3,)` the point to be marked, mm.
        points: `(M, 3)` points of the surface, mm.
        values: `(M,)` to be painted there.
        marked: draw a ring about `place`; without it, the picture is only taken from there.
    """

    label: str
    direction: Float[Tensor, "3"]
    offset: Float[Tensor, "3"]
    place: Float[Tensor, "3"]
    points: Float[Tensor, "m 3"]
    values: Float[Tensor, "m"]
    marked: bool = True


def symmetry_sheet(
    part: Part, axes: Sequence[AxisView], highest: float, unit: str, size: int = 320
) -> Float[Tensor, "3 H W"]:
    """The part for each axis: from where the marked point is seen, and from the other side.

    Args:
        part: to be drawn.
        axes: at least one.
        highest: value at the bright end of the colours, from 0 at the dark one.
        unit: of the values, for the colour bar.
        size: of each picture in pixels.

    Raises:
        ValueError: without axes, or unless `highest` is positive.
    """
    if not axes or not highest > 0:
        raise ValueError(f"there are {len(axes)} axes, painted up to {highest}; there must be one, and values above 0")
    pictures, labels = [], []
    for axis in axes:
        for side in (1, -1):
            pictures.append(_view(part, axis, side, highest, size))
            labels.append(axis.label if side > 0 else "the same from the other side")
    sheet = to_bytes(contact_sheet(pictures, labels, columns=2 if len(axes) < 3 else 4, tile_width=size))
    texts = [f"{share * highest:.3g} {unit}" for share in (0.0, 0.5, 1.0)]
    bar = colour_bar(heat(torch.linspace(0, 1, _BAR_STEPS)), min(size, sheet.shape[0]), texts, max(9, size // 24))
    column = np.full((sheet.shape[0], bar.shape[1], 3), GROUND, dtype=np.uint8)
    column[: bar.shape[0]] = bar
    return from_bytes(np.concatenate((sheet, column), axis=1))


def _view(part: Part, axis: AxisView, side: int, highest: float, size: int) -> np.ndarray:
    T_cam_obj, K = _camera(part, axis, side, size)
    surface = visible_surface(part, T_cam_obj, K, size)
    values = surface.values(axis.points, axis.values[:, None])[:, 0] / highest
    canvas = to_bytes(surface.picture(heat(values) * (0.45 + 0.55 * surface.facing[:, None]), GROUND / 255))
    ends = torch.stack([axis.offset + sign * _reach(part, axis, sign) * axis.direction for sign in (-1, 1)])
    tips = _pixels(T_cam_obj, K, ends)
    for color, width in ((_BLACK, 5), (_AXIS_COLOR, 2)):
        cv2.line(canvas, tips[0], tips[1], color, width, cv2.LINE_AA, _BITS)
    if side > 0 and axis.marked:
        (mark,) = _pixels(T_cam_obj, K, axis.place[None])
        for color, width in ((_BLACK, 5), (_MARK_COLOR, 2)):
            cv2.circle(canvas, mark, (size // 24) << _BITS, color, width, cv2.LINE_AA, _BITS)
    return canvas


def _camera(part: Part, axis: AxisView, side: int, size: int) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """Looking at the part aslant of the axis, which points up; from the marked point's side or against it."""
    u = axis.direction
    out = axis.place - axis.offset
    along = 1.0 if float((axis.place - part.center) @ u) >= 0 else -1.0
    out = out - (out @ u) * u
    if float(out.norm()) < 1e-3 * part.radius:
        out = torch.linalg.cross(u, torch.eye(3, dtype=torch.float64)[int(u.abs().argmin())])
    out = rotation_from_axis_angle(_ASIDE * u) @ out  # the axis must not run through the mark
    towards = side * torch.nn.functional.normalize(out + along * 0.6 * out.norm() * u, dim=0)
    up = torch.nn.functional.normalize(u - (u @ towards) * towards, dim=0)
    focal = size / 2 * (_DISTANCE**2 - 1) ** 0.5 / _MARGIN
    middle = (size - 1) / 2
    K = torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1]], dtype=torch.float32)
    return look_from(towards, up, part.center, part.radius), K


def _reach(part: Part, axis: AxisView, sign: int) -> float:
    """How far the axis is drawn from its offset: to a little beyond the bounding sphere."""
    return _REACH * part.radius - sign * float((axis.offset - part.center) @ axis.direction)


def _pixels(
    T_cam_obj: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], points: Float[Tensor, "n 3"]
) -> list[tuple[int, int]]:
    """Pixels in fixed point, as OpenCV draws them."""
    pixels = project_points(K.double(), transform_points(T_cam_obj, points)) * 2**_BITS
    return [(int(x), int(y)) for x, y in pixels.round().tolist()]

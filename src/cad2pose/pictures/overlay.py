"""Estimated poses drawn over the image they were estimated from: contours, axes, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from cad2pose.geometry import Camera, pixel_window, project_points, transform_points
from cad2pose.parts.part import Part
from cad2pose.pictures.image_file import from_bytes, to_bytes
from cad2pose.rendering.meshes import MeshSet
from cad2pose.rendering.render import Rendering, render
from cad2pose.structures import PoseEstimates

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

# Okabe and Ito's palette, which people with any kind of colour blindness can tell apart (black and yellow left out:
# they drown in shadows and highlights).
OBJECT_COLORS: tuple[Color, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167), (0, 114, 178),
)  # fmt: skip
AXIS_COLORS: tuple[Color, ...] = ((213, 94, 0), (0, 158, 115), (86, 180, 233))
_BLACK = (0, 0, 0)
_NEAR = 1.0  # mm
_SUBPIXEL_BITS = 3


@dataclass(frozen=True)
class OverlayStyle:
    """What is drawn of every pose."""

    contour: bool = True
    """outline of the part's silhouette, as if nothing stood before it"""
    axes: bool = True
    """x (vermilion), y (green) and z (blue) of the mesh file's frame, from the part's centre, half a radius long"""
    label: bool = True
    """name and pose score"""
    blend: float = 0.0
    """opacity of the shaded part over the image, 0 to 1"""

    def __post_init__(self) -> None:
        if not 0 <= self.blend <= 1:
            raise ValueError(f"blend is {self.blend}; it must lie between 0 (nothing) and 1 (opaque)")


def draw_poses(
    image: Float[Tensor, "3 h w"],
    camera: Camera,
    parts: Mapping[int, Part],
    estimates: PoseEstimates,
    style: OverlayStyle | None = None,
) -> Float[Tensor, "3 h w"]:
    """The image with all poses drawn, each object in a colour of its own, the best score last and so on top.

    Args:
        image: RGB in [0, 1] without lens distortion (`camera.undistort_image`).
        camera: its camera; distortion is ignored.
        parts: by object id; every estimated object must be there.
        estimates: what to draw.
        style: what is drawn of each.
    """
    style = style or OverlayStyle()
    canvas = to_bytes(image)
    width = max(1, round(max(canvas.shape[:2]) / 320))
    colors = {object_id: OBJECT_COLORS[i % len(OBJECT_COLORS)] for i, object_id in enumerate(sorted(parts))}
    order, found = estimates.score.argsort(), estimates.found
    poses = [
        (int(estimates.object_id[i]), estimates.T_cam_obj[i].double().cpu(), i) for i in order.tolist() if found[i]
    ]
    for object_id, T_cam_obj, _ in poses:
        _draw_surface(canvas, camera, parts[object_id], T_cam_obj, colors[object_id], width, style)
    taken: list[Rectangle] = []
    for object_id, T_cam_obj, index in reversed(poses):
        part = parts[object_id]
        if style.axes:
            _draw_axes(canvas, camera, part, T_cam_obj, width)
        if style.label:
            text = f"{part.name} {float(estimates.score[index]):.2f}"
            _draw_label(canvas, visible_window(camera, part, T_cam_obj), text, colors[object_id], taken)
    return from_bytes(canvas)


def draw_text(
    canvas: UInt8[np.ndarray, "h w 3"], text: str, corner: tuple[int, int], height: int, color: Color
) -> None:
    """Text with a dark rim, readable on any ground; `corner` is its upper left, `height` in pixels; draws in place."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, height / 22
    thickness = max(1, round(scale * 1.6))
    x, y = corner[0], corner[1] + height
    plain = text.encode("ascii", "replace").decode("ascii")
    # The rim is the text itself, shifted: bolder text may be wider.
    for dx, dy in ((-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)):
        cv2.putText(canvas, plain, (x + dx, y + dy), font, scale, _BLACK, thickness, cv2.LINE_AA)
    cv2.putText(canvas, plain, (x, y), font, scale, color, thickness, cv2.LINE_AA)


def text_width(text: str, height: int) -> int:
    """Pixels that `draw_text` takes."""
    scale = height / 22
    plain = text.encode("ascii", "replace").decode("ascii")
    return cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, scale, max(1, round(scale * 1.6)))[0][0]


def _draw_surface(
    canvas: UInt8[np.ndarray, "h w 3"], camera: Camera, part: Part, T_cam_obj: Float[Tensor, "4 4"], color: Color,
    width: int, style: OverlayStyle,
) -> None:  # fmt: skip
    """Blend the shaded part in and trace its silhouette; only the window that it can touch is rendered."""
    seen = render_window(camera, part, T_cam_obj) if style.contour or style.blend > 0 else None
    if seen is None:
        return
    drawn, (left, top, right, bottom) = seen
    mask, view = drawn.mask[0], canvas[top:bottom, left:right]
    if style.blend > 0:
        light = 0.25 + 0.75 * drawn.normals[0, 2].abs()
        shaded = to_bytes(drawn.colors[0] * light).astype(np.float32)
        opacity = style.blend * mask.numpy()[..., None]
        view[:] = (view * (1 - opacity) + shaded * opacity + 0.5).astype(np.uint8)
    if style.contour:
        lines = contours(mask, (left, top))
        cv2.drawContours(canvas, lines, -1, _BLACK, width + 2, cv2.LINE_AA)
        cv2.drawContours(canvas, lines, -1, color, width, cv2.LINE_AA)


def contours(mask: Bool[Tensor, "h w"], corner: tuple[int, int]) -> list[np.ndarray]:
    """Borders of a mask as lists of pixels of the picture in which its upper left is `corner`."""
    lines, _ = cv2.findContours(mask.to(torch.uint8).numpy(), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=corner)
    return list(lines)


def render_window(camera: Camera, part: Part, T_cam_obj: Float[Tensor, "4 4"]) -> tuple[Rendering, Rectangle] | None:
    """The part in the pixels that it can cover, and which these are; None where it is out of sight."""
    window = visible_window(camera, part, T_cam_obj)
    if window is None:
        return None
    left, top, right, bottom = window
    K = camera.K.clone()
    K[0, 2] -= left
    K[1, 2] -= top
    meshes, index = MeshSet.from_meshes([part.mesh]), torch.zeros(1, 1, dtype=torch.int64)
    return render(meshes, index, T_cam_obj[None, None], K[None], bottom - top, right - left), window


def visible_window(camera: Camera, part: Part, T_cam_obj: Float[Tensor, "4 4"]) -> Rectangle | None:
    """Left, top, right, bottom of the pixels that the part can cover; None where it is out of sight."""
    points = transform_points(T_cam_obj, part.mesh.vertices)
    return pixel_window(points, camera.K, (0, 0), (camera.width, camera.height))


def _draw_axes(
    canvas: UInt8[np.ndarray, "h w 3"], camera: Camera, part: Part, T_cam_obj: Float[Tensor, "4 4"], width: int
) -> None:
    tips = torch.cat((torch.zeros(1, 3), torch.eye(3))).double() * part.radius / 2
    points = transform_points(T_cam_obj, part.center + tips)
    if float(points[:, 2].min()) <= _NEAR:
        return
    pixels = (project_points(camera.K, points) * 2**_SUBPIXEL_BITS).round().clamp(-1e6, 1e6).int().tolist()
    for axis in points[1:, 2].argsort(descending=True).tolist():  # the farthest tip first
        ends = (tuple(pixels[0]), tuple(pixels[1 + axis]))
        cv2.line(canvas, *ends, _BLACK, width + 2, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.line(canvas, *ends, AXIS_COLORS[axis], width, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_label(
    canvas: UInt8[np.ndarray, "h w 3"], window: Rectangle | None, text: str, color: Color, taken: list[Rectangle]
) -> None:
    """Above the part's window, inside the image, and moved upwards (or else down) off the labels already there."""
    height = max(8, round(canvas.shape[0] / 40))
    width, line = text_width(text, height), height + 6
    left, top, _, bottom = window or (0, 0, 0, 0)
    x = min(max(2, left), max(2, canvas.shape[1] - width - 2))
    places = [*range(top - line, 0, -line), *range(bottom, canvas.shape[0] - line, line), top - line]
    free = (y for y in places if not any(_overlap((x, y, x + width, y + line), other) for other in taken))
    y = min(max(2, next(free, top - line)), max(2, canvas.shape[0] - line))
    taken.append((x, y, x + width, y + line))
    bright: Color = tuple((value + 255) // 2 for value in color)  # type: ignore[assignment]
    draw_text(canvas, text, (x, y), height, bright)


def _overlap(first: Rectangle, second: Rectangle) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]

"""Outlines of several poses of one part on one picture: what is true, and what was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from cad2pose.geometry import Camera
from cad2pose.parts.part import Part
from cad2pose.pictures.overlay import Color, contours, render_window

TRUTH_COLOR: Color = (86, 180, 233)
"""Okabe and Ito's sky blue; drawn in dashes, so that it can be told apart without colours, too."""

ESTIMATE_COLOR: Color = (240, 150, 0)
"""Their orange, drawn as a line."""

_BLACK = (0, 0, 0)
_DASH = 7  # px of a picture 240 px wide


@dataclass(frozen=True)
class Outline:
    """One pose to be drawn.

    Args:
        T_cam_obj: `(4, 4)` mm, in the picture's camera.
        color: of its line.
        dashed: whether the line is broken.
    """

    T_cam_obj: Float[Tensor, "4 4"]
    color: Color
    dashed: bool = False


def truth_and_estimate(
    part: Part, T_true: Float[Tensor, "4 4"], T_found: Float[Tensor, "4 4"] | None
) -> tuple[Outline, ...]:
    """The estimate as a line, if there is one before the camera, and over it the truth in dashes."""
    truth = Outline(T_true, TRUTH_COLOR, dashed=True)
    if T_found is None or not part.is_ahead(T_found):
        return (truth,)
    return (Outline(T_found, ESTIMATE_COLOR), truth)


def draw_outlines(
    canvas: UInt8[np.ndarray, "h w 3"], K: Float[Tensor, "3 3"], part: Part, outlines: Sequence[Outline]
) -> None:
    """Trace the part's silhouette in every pose, the last on top; draws in place.

    Args:
        canvas: RGB.
        K: its camera's intrinsics, in its pixels.
        part: whose outline it is.
        outlines: what to draw; poses that are out of sight leave no line.
    """
    camera = Camera(K.double().cpu(), canvas.shape[1], canvas.shape[0])
    width = max(1, round(canvas.shape[1] / 110))
    lines = [_silhouette(camera, part, outline.T_cam_obj.double().cpu()) for outline in outlines]
    for each in lines:
        cv2.polylines(canvas, each, True, _BLACK, width + 2, cv2.LINE_AA)
    dash = max(3, round(_DASH * canvas.shape[1] / 240))
    for outline, each in zip(outlines, lines, strict=True):
        for line in each:
            if not outline.dashed:
                cv2.polylines(canvas, [line], True, outline.color, width, cv2.LINE_AA)
                continue
            for start in range(0, len(line), 2 * dash):
                cv2.polylines(canvas, [line[start : start + dash]], False, outline.color, width, cv2.LINE_AA)


def _silhouette(camera: Camera, part: Part, T_cam_obj: Float[Tensor, "4 4"]) -> list[np.ndarray]:
    """Borders of the silhouette as lists of pixels; none where the part is out of sight."""
    seen = render_window(camera, part, T_cam_obj)
    return contours(seen[0].mask[0], seen[1][:2]) if seen else []

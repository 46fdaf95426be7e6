"""Numbers in colour: maps that colour-blind people can read too, and the bar that says what they mean."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cad2pose.pictures.overlay import Color, draw_text, text_width

GROUND = 32
"""Gray value around pictures, as on contact sheets."""
TEXT_COLOR: Color = (235, 235, 235)

_STEPS = 256
_HEAT_START = 0.32  # the darkest part of the map is left out: it would drown in the dark gray that it is laid on
# Blue and vermilion, both ends equally dark; they differ for every kind of colour blindness.
_DIVERGING = ((0, 58, 112), (25, 132, 196), (226, 226, 226), (222, 106, 16), (118, 37, 0))


def heat(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape 3"]:
    """Values in [0, 1] as RGB from dark purple over orange to pale yellow, lighter all the way (OpenCV's inferno)."""
    table = cv2.applyColorMap(np.arange(_STEPS, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    return _looked_up(table, _HEAT_START + (1 - _HEAT_START) * values.clamp(0, 1))


def diverging(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape 3"]:
    """Values in [-1, 1] as RGB: blue below 0, light gray at 0, vermilion above, darker to both ends."""
    anchors = np.array(_DIVERGING, dtype=np.float64)
    at = np.linspace(0, _STEPS, len(anchors))
    table = np.stack([np.interp(np.arange(_STEPS + 1), at, channel) for channel in anchors.T], axis=1)
    return _looked_up(table, 0.5 + 0.5 * values.clamp(-1, 1))


def colour_bar(
    colours: Float[Tensor, "n 3"], height: int, texts: Sequence[str], text_height: int
) -> UInt8[np.ndarray, "{height} width 3"]:
    """A standing bar of colours, the first at the bottom, and beside it texts spread evenly from bottom to top."""
    margin, gap = text_height // 2 + 2, text_height // 2
    width = 3 * gap + text_height + max(text_width(text, text_height) for text in texts)
    canvas = np.full((height, width, 3), GROUND, dtype=np.uint8)
    length = max(1, height - 2 * margin)
    rows = (np.arange(length)[::-1] * len(colours)) // length
    canvas[margin : margin + length, gap : gap + text_height] = (colours.numpy()[rows, None] * 255).round()
    for text, share in zip(texts, np.linspace(0, 1, len(texts)), strict=True):
        middle = margin + (1 - share) * (length - 1)
        draw_text(canvas, text, (2 * gap + text_height, round(middle - text_height / 2)), text_height, TEXT_COLOR)
    return canvas


def _looked_up(table: np.ndarray, share: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape 3"]:
    """Rows of a table of bytes at shares of its length in [0, 1]."""
    row = (share * (len(table) - 1)).round().long().cpu()
    return torch.from_numpy(table.astype(np.float32) / 255)[row]

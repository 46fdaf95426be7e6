"""Everything that a query image says of one detection, on one sheet."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cad2pose.geometry import Camera
from cad2pose.parts.part import Part
from cad2pose.pictures.colour_maps import GROUND, TEXT_COLOR
from cad2pose.pictures.contact_sheet import contact_sheet
from cad2pose.pictures.distribution import VIEWS, distribution_views, most_certain_pixel, view_name
from cad2pose.pictures.embedding_checks import check_mask
from cad2pose.pictures.false_colour import EmbeddingPalette, key_picture, query_picture
from cad2pose.pictures.image_file import to_bytes
from cad2pose.pictures.overlay import Color, draw_text, text_width
from cad2pose.pictures.score_map import score_map_picture

_COLUMNS = 4
_OUTLINE: Color = (240, 228, 66)  # Okabe and Ito's yellow
_RING: Color = (255, 255, 255)
_BLACK = (0, 0, 0)


def debug_sheet(
    crop: Float[Tensor, "3 r r"], queries: Float[Tensor, "e h w"], mask: Float[Tensor, "h2 w2"], part: Part,
    palette: EmbeddingPalette, T_virt_obj: Float[Tensor, "4 4"] | None, K_virt: Float[Tensor, "3 3"],
    scores: Float[Tensor, "h3 w3"] | None = None, tile_width: int = 320, decades: int | None = None,
) -> Float[Tensor, "3 H W"]:  # fmt: skip
    """One detection's crop, mask, query image, pose in key colours, surest pixel's distribution, and score map.

    A ring marks the surest pixel, the longest query in the mask, wherever it can be seen. Where no pixel is in the
    mask, or there is no pose, the panels say so.

    Args:
        crop: RGB in [0, 1].
        queries: `(E, h, w)` of the crop, not normalised.
        mask: `(h, w)` probability of the silhouette.
        part: the one detected.
        palette: of this part's keys, from `embedding_colours`.
        T_virt_obj: estimated pose in the crop camera, mm; None where there is none.
        K_virt: the crop camera's intrinsics, in pixels of the crop.
        scores: of the pose, per pixel, as `score_map_picture` takes them.
        tile_width: of a panel in pixels.
        decades: as of `distribution_views`.

    Raises:
        ValueError: for queries of another dimension than the palette's keys, a mask of another size or beyond [0, 1],
            or numbers that are not finite.
    """
    check_mask(queries, mask)
    side = crop.shape[-1]
    K = Camera(K_virt.detach().cpu(), side, side).resized(tile_width / side).K
    image = _enlarged(crop, tile_width, cv2.INTER_CUBIC)
    panels = [
        image, _outlined(image, mask),
        _enlarged(query_picture(queries, mask, palette), tile_width, cv2.INTER_NEAREST),
        _empty("no pose", tile_width) if T_virt_obj is None
        else to_bytes(key_picture(part, palette, T_virt_obj, K, tile_width)),
    ]  # fmt: skip
    labels = ["crop", "where the mask is one half", "query image", "keys in the estimated pose"]
    labels += [f"surest pixel, {view_name(view)}" for view in VIEWS]
    if T_virt_obj is not None and bool((mask >= 0.5).any()):
        row, column = most_certain_pixel(queries, mask)
        views = distribution_views(
            part, palette.points, palette.keys, queries[:, row, column], T_virt_obj, K, tile_width, VIEWS, decades
        )
        panels += [to_bytes(view) for view in views]
        for panel in panels[: -len(VIEWS) + 1]:  # those that show the crop
            _ring(panel, (row + 0.5) / mask.shape[0], (column + 0.5) / mask.shape[1])
    else:
        text = "no pixel in the mask" if T_virt_obj is not None else "no pose"
        panels += [_empty(text, tile_width)] * len(VIEWS)
    if scores is not None:
        panels.append(to_bytes(score_map_picture(scores, width=tile_width)))
        labels.append("score of the pose")
    return contact_sheet(panels, labels, columns=_COLUMNS, tile_width=tile_width)


def _enlarged(picture: Float[Tensor, "3 h w"], size: int, interpolation: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    return cv2.resize(to_bytes(picture), (size, size), interpolation=interpolation)


def _outlined(image: UInt8[np.ndarray, "s s 3"], mask: Float[Tensor, "h w"]) -> UInt8[np.ndarray, "s s 3"]:
    """The image with the line where the mask, interpolated, is one half."""
    canvas = image.copy()
    fine = torch.nn.functional.interpolate(
        mask.detach().cpu().float()[None, None], size=canvas.shape[:2], mode="bilinear", align_corners=False
    )
    inside = (fine[0, 0] >= 0.5).to(torch.uint8).numpy()
    lines = list(cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0])
    width = max(1, round(canvas.shape[0] / 160))
    cv2.drawContours(canvas, lines, -1, _BLACK, width + 2, cv2.LINE_AA)
    cv2.drawContours(canvas, lines, -1, _OUTLINE, width, cv2.LINE_AA)
    return canvas


def _ring(canvas: UInt8[np.ndarray, "s s 3"], down: float, across: float) -> None:
    """A ring about a place given as shares of the canvas' sides; draws in place."""
    side = canvas.shape[0]
    centre, radius, width = (round(across * side - 0.5), round(down * side - 0.5)), max(5, side // 22), side // 240 + 1
    cv2.circle(canvas, centre, radius, _BLACK, width + 2, cv2.LINE_AA)
    cv2.circle(canvas, centre, radius, _RING, width, cv2.LINE_AA)


def _empty(text: str, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """A panel that only says why it is empty."""
    canvas = np.full((size, size, 3), GROUND + 16, dtype=np.uint8)
    height = max(8, size // 20)
    draw_text(canvas, text, (max(2, (size - text_width(text, height)) // 2), (size - height) // 2), height, TEXT_COLOR)
    return canvas

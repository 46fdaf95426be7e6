"""Many pictures on one sheet, each with a line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from cad2pose.pictures.image_file import from_bytes, to_bytes
from cad2pose.pictures.overlay import draw_text, text_width

_GROUND = 32
_TEXT_COLOR = (235, 235, 235)
_GAP = 6

AnyPicture = Float[Tensor, "..."] | UInt8[np.ndarray, "..."]
"""As `save_png` takes them; sizes may differ."""


def contact_sheet(
    pictures: Sequence[AnyPicture], labels: Sequence[str] = (), columns: int | None = None, tile_width: int = 320
) -> Float[Tensor, "3 H W"]:
    """A grid of pictures in reading order.

    Args:
        pictures: RGB or gray, of any sizes; each is scaled to fit its tile, nothing is cut or stretched.
        labels: one text per picture, drawn beneath it; none at all for a sheet without texts.
        columns: of the grid; by default about as many as rows.
        tile_width: of a picture in pixels; its height follows the tallest picture's shape.

    Raises:
        ValueError: if there are no pictures, or another number of labels.
    """
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    if labels and len(labels) != len(pictures):
        raise ValueError(f"there are {len(pictures)} pictures and {len(labels)} labels; give one each, or no labels")
    images = [_colour(to_bytes(picture)) for picture in pictures]
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    tile_height = max(1, round(tile_width * max(image.shape[0] / image.shape[1] for image in images)))
    text_height = max(8, tile_width // 24) if labels else 0
    pitch = (tile_height + _GAP + (text_height + 2 * _GAP if labels else 0), tile_width + _GAP)
    sheet = np.full((rows * pitch[0] + _GAP, columns * pitch[1] + _GAP, 3), _GROUND, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (_GAP + pitch[axis] * place for axis, place in enumerate(divmod(index, columns)))
        tile = _fitted(image, tile_width, tile_height)
        y, x = top + (tile_height - tile.shape[0]) // 2, left + (tile_width - tile.shape[1]) // 2
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        if labels:
            height = text_height
            while height > 6 and text_width(labels[index], height) > tile_width:
                height -= 1
            draw_text(sheet, labels[index], (left, top + tile_height + _GAP // 2), height, _TEXT_COLOR)
    return from_bytes(sheet)


def _colour(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def _fitted(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The image scaled to touch the tile's sides."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, min(width, round(image.shape[1] * scale))), max(1, min(height, round(image.shape[0] * scale))))
    if size == (image.shape[1], image.shape[0]):
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)

"""Signed scores per pixel in colour, with the scale beside them."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.pictures.colour_maps import colour_bar, diverging
from cad2pose.pictures.embedding_checks import check_finite
from cad2pose.pictures.image_file import from_bytes, to_bytes

_SHARES = (-1.0, -0.5, 0.0, 0.5, 1.0)


def score_map_picture(
    values: Float[Tensor, "h w"], limit: float | None = None, width: int = 320
) -> Float[Tensor, "3 H {width}"]:
    """Scores as blue (below 0), light gray (0) and vermilion (above 0), and a bar with numbers to their right.

    Args:
        values: any numbers in which 0 is neutral, such as log p(rendered point | query) - log p(chance).
        limit: the score that gets the full colour, as does its negative; scores beyond are cut. By default the
            largest in size.
        width: of the picture in pixels, bar included; the map keeps its shape.

    Raises:
        ValueError: if there are no values, or they are not finite, or the limit is not positive.
    """
    if not values.numel():
        raise ValueError(f"the score map has the shape {tuple(values.shape)}; give at least one pixel")
    check_finite("score map", values)
    if limit is None:
        limit = float(values.abs().max()) or 1.0
    if not limit > 0:
        raise ValueError(f"the limit of the colours is {limit}; it must be positive, or None for the largest score")
    colours = to_bytes(diverging(values.detach().cpu().double() / limit).movedim(-1, 0))
    texts = [f"{limit * share:+.3g}" if share else "0" for share in _SHARES]
    table = diverging(torch.linspace(-1, 1, 256))
    text_height = max(8, width // 24)
    bar_width = colour_bar(table, 4 * text_height, texts, text_height).shape[1]
    map_width = max(1, width - bar_width)
    map_height = max(1, round(map_width * values.shape[0] / values.shape[1]))
    enlarged = cv2.resize(colours, (map_width, map_height), interpolation=cv2.INTER_NEAREST)
    bar = colour_bar(table, map_height, texts, text_height)
    return from_bytes(np.concatenate((enlarged, bar), axis=1)[:, :width])

"""Colours as mesh files state them: numbers of several ranges, linear light."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

_WIDE = 5123  # unsigned 16-bit integers, in glTF


class ContentError(ValueError):
    """About a file that can be read, but not used as it is."""


def unit_range(values: np.ndarray) -> np.ndarray:
    """Colours in [0, 1], float32: integers without sign are shares of their type's largest, others of 255.

    Floats that exceed 1 are taken as 0 to 255.

    Raises:
        ContentError: for numbers that are not finite, negative, or larger than 255 where that is the most.
    """
    if values.dtype.kind == "u":
        return (values / np.iinfo(values.dtype).max).astype(np.float32)
    most = float(values.max(initial=0.0))
    if not np.isfinite(values).all() or values.min(initial=0.0) < 0 or most > 255:
        raise ContentError("it has colours that are no numbers from 0 to 1, nor from 0 to 255; export them as bytes")
    return (values / (255 if values.dtype.kind == "i" or most > 1 else 1)).astype(np.float32)


def displayed(linear: np.ndarray) -> np.ndarray:
    """Linear light, as glTF has factors and colours of vertices (its textures are sRGB), as values of sRGB."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


def as_linear(shown: np.ndarray) -> np.ndarray:
    """Values of sRGB as linear light."""
    return np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4).astype(np.float32)


def refuse_wide_colors(path: Path) -> None:
    """Raise ContentError for a GLB with 16-bit colours of vertices, of which the library keeps the lower bytes."""
    with path.open("rb") as file:
        _, _, _, length, _ = struct.unpack("<4sIII4s", file.read(20))
        content = json.loads(file.read(length))
    accessors = content.get("accessors", [])
    used = [
        primitive["attributes"]["COLOR_0"]
        for mesh in content.get("meshes", [])
        for primitive in mesh["primitives"]
        if "COLOR_0" in primitive["attributes"] and "material" not in primitive
    ]
    if any(accessors[index]["componentType"] == _WIDE for index in used):
        raise ContentError(
            "it has 16-bit colours of vertices without a material, which are not understood; export them as bytes or "
            "as floats"
        )

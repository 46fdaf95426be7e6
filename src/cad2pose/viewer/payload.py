"""Scenes as the JSON that a page carries: numbers as base64, little-endian, no wider than they need to be."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.pictures.image_file import data_uri, jpeg_bytes, png_bytes
from cad2pose.viewer.scene import DrawnPart, Photograph, QueryScene, Scene

_JPEG_QUALITY = 88
_STEPS = 65535


def payload_of(photograph: Photograph, scenes: Sequence[Scene], parts: Sequence[DrawnPart]) -> dict[str, object]:
    """All that a page shows, ready for `json`.

    Arrays are objects with `kind` (f16, u16, u32, i8, u8), `data` (base64), and `low` and `step` per column where
    the value is low + step * number. Matrices are lists, row by row.
    """
    camera = photograph.camera
    return {
        "photograph": {
            "name": photograph.name,
            "source": data_uri("image/jpeg", jpeg_bytes(photograph.image, _JPEG_QUALITY)),
            "width": camera.width,
            "height": camera.height,
            "full": list(photograph.full_size),
            "K": camera.K.flatten().tolist(),
        },
        "parts": {str(part.object_id): _part(part) for part in parts},
        "scenes": [_scene(scene) for scene in scenes],
        "colours": {"cividis": _colour_table(cv2.COLORMAP_CIVIDIS), "viridis": _colour_table(cv2.COLORMAP_VIRIDIS)},
    }


def _part(part: DrawnPart) -> dict[str, object]:
    wide = len(part.vertices) > _STEPS
    faces = part.faces.numpy()
    return {
        "name": part.name,
        "objectId": part.object_id,
        "center": part.center.tolist(),
        "radius": part.radius,
        "triangles": part.triangles,
        "area": part.area,
        "vertices": _steps(part.vertices),
        "normals": _normals(part.normals),
        "colors": None if part.colors is None else _bytes(part.colors),
        "faces": _array("u32" if wide else "u16", faces.astype("<u4" if wide else "<u2")),
        "points": _steps(part.points),
        "pointNormals": _normals(part.point_normals),
        "keys": None if part.keys is None else _half(part.keys),
        "keyColors": None if part.key_colors is None else _bytes(part.key_colors),
    }


def _scene(scene: Scene) -> dict[str, object]:
    probability = scene.probability
    return {
        "objectId": scene.object_id,
        "crop": _png(scene.crop),
        "side": scene.crop.shape[-1],
        "K": scene.K_virt.flatten().tolist(),
        "R": scene.R_virt_cam.flatten().tolist(),
        "query": None if scene.query is None else _query(scene.query),
        "poses": [pose.flatten().tolist() for pose in scene.poses],
        "probability": None if probability is None else probability.tolist(),
        "freeAxis": None if scene.free_axis is None else scene.free_axis.tolist(),
        "score": scene.score,
        "confidence": scene.confidence,
        "reason": scene.reason,
        "box": list(scene.box),
    }


def _query(query: QueryScene) -> dict[str, object]:
    height, width, size = query.queries.shape
    return {
        "height": height,
        "width": width,
        "size": size,
        "queries": _half(query.queries),
        "logPartition": query.log_partition.flatten().tolist(),
        "mask": _bytes(query.mask),
        "picture": _png(query.picture),
    }


def _array(kind: str, values: np.ndarray) -> dict[str, object]:
    return {"kind": kind, "data": base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")}


def _half(values: Tensor) -> dict[str, object]:
    return _array("f16", values.numpy().astype("<f2"))


def _bytes(values: Tensor) -> dict[str, object]:
    return _array("u8", (values.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def _normals(values: Float[Tensor, "n 3"]) -> dict[str, object]:
    return _array("i8", (values.nan_to_num(0).clamp(-1, 1) * 127).round().to(torch.int8).numpy())


def _steps(values: Float[Tensor, "n 3"]) -> dict[str, object]:
    if not len(values):
        return {**_array("u16", np.zeros((0, 3), "<u2")), "low": [0.0] * 3, "step": [1.0] * 3}
    low, high = values.aminmax(dim=0)
    step = (high - low).clamp_min(1e-9) / _STEPS
    numbers = ((values - low) / step).round().clamp(0, _STEPS)
    return {**_array("u16", numbers.numpy().astype("<u2")), "low": low.tolist(), "step": step.tolist()}


def _png(image: Float[Tensor, "3 h w"]) -> str:
    return data_uri("image/png", png_bytes(image))


def _colour_table(number: int) -> dict[str, object]:
    """256 colours, RGB."""
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], number)
    return _array("u8", table[:, 0, ::-1])

"""What a PLY says, as the library that reads it keeps it beside the mesh: polygons, and colours of any type."""

from __future__ import annotations

from typing import Any

import numpy as np
import trimesh

from cad2pose.parts.stated_colors import unit_range

_CORNERS = ("vertex_index", "vertex_indices")


def ply_polygons(geometry: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray] | None:
    """Corners `(c,)` of all polygons, one after the other, and how many `(f,)` each has; None where no polygon has more
    than three.
    """
    data = _data(geometry, "face")
    if data is None:
        return None
    if isinstance(data, dict):
        faces = next((data[name] for name in _CORNERS if name in data), None)
    else:
        names = data.dtype.names or ()
        name = next((name for name in names if name in _CORNERS), names[0] if len(names) == 1 else None)
        faces = None if name is None else data[name]["f1"]
    if faces is None or np.shape(faces)[1:] == (3,):
        return None
    sizes = np.fromiter(map(len, faces), dtype=np.int64, count=len(faces))
    if not (sizes > 3).any():
        return None
    return np.concatenate([np.asarray(face, dtype=np.int64).reshape(-1) for face in faces]), sizes


def ply_vertices(geometry: trimesh.Trimesh) -> np.ndarray:
    """`(v, 3)` of the file, of which the mesh may have more, where a texture has seams."""
    data = _data(geometry, "vertex")
    assert data is not None, "a PLY with polygons has vertices"
    return np.column_stack([np.asarray(data[axis], dtype=np.float64) for axis in "xyz"])


def ply_colors(geometry: trimesh.Trimesh) -> np.ndarray | None:
    """`(v, 3)` RGB in [0, 1] of the vertices; None where the file is no PLY, has none, or the mesh has other vertices.

    Raises:
        ContentError: for numbers that are no colours.
    """
    data = _data(geometry, "vertex")
    names = () if data is None else data.keys() if isinstance(data, dict) else data.dtype.names or ()
    if data is None or not {"red", "green", "blue"} <= set(names):
        return None
    colors = np.stack([np.asarray(data[name]).reshape(-1) for name in ("red", "green", "blue")], axis=1)
    return unit_range(colors) if len(colors) == len(geometry.vertices) else None


def _data(geometry: trimesh.Trimesh, element: str) -> Any:
    return geometry.metadata.get("_ply_raw", {}).get(element, {}).get("data")

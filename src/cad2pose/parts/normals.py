"""Normals of triangle meshes: per face, per vertex, and vertices split where a surface has an edge."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

CREASE_DEGREES = 25.0


def face_cross_products(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "f 3"]:
    """Normal of every triangle (by the right-hand rule), as long as twice its area."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "v 3"]:
    """Unit normals per vertex: face normals weighted by the triangle's angle there (Thürmer and Wüthrich, 1998).

    Vertices that belong to no triangle with area get (0, 0, 1).
    """
    flat = torch.nn.functional.normalize(face_cross_products(vertices, faces), dim=-1)
    corners = vertices[faces]
    ahead = torch.nn.functional.normalize(corners.roll(-1, 1) - corners, dim=-1)
    back = torch.nn.functional.normalize(corners.roll(1, 1) - corners, dim=-1)
    angles = torch.linalg.vecdot(ahead, back).clamp(-1, 1).arccos()
    weighted = angles[..., None] * flat[:, None]
    total = torch.zeros_like(vertices).index_add_(0, faces.flatten(), weighted.flatten(0, 1))
    return unit_normals(total)


def unit_normals(normals: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
    """Normals scaled to length 1; those without a direction become (0, 0, 1)."""
    lengths = torch.linalg.vector_norm(normals, dim=-1, keepdim=True)
    usable = torch.isfinite(lengths) & (lengths > 1e-12)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=normals.dtype)
    return torch.where(usable, normals / torch.where(usable, lengths, torch.ones_like(lengths)), up)


def coinciding_vertices(
    vertices: Float[Tensor, "v 3"], tolerance: float = 1e-6
) -> tuple[Int[Tensor, "m"], Int[Tensor, "v"]]:
    """(index of the first vertex at every place, the place of every vertex), places being `tolerance` wide."""
    _, first, place = np.unique(
        np.round(vertices.numpy() / tolerance).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    return torch.from_numpy(first.astype(np.int64)), torch.from_numpy(place.reshape(-1).astype(np.int64))


def merge_vertices(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], tolerance: float = 1e-6
) -> tuple[Float[Tensor, "m 3"], Int[Tensor, "g 3"]]:
    """Vertices at one place become one; triangles that thereby collapse go."""
    first, place = coinciding_vertices(vertices, tolerance)
    merged = place[faces]
    a, b, c = merged.unbind(-1)
    return vertices[first], merged[(a != b) & (b != c) & (c != a)]


def split_sharp_edges(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    group: Int[Tensor, "f"] | None = None,
    crease_degrees: float = CREASE_DEGREES,
) -> tuple[Int[Tensor, "w"], Int[Tensor, "f 3"]]:
    """Split a mesh with shared vertices so that normals do not blur over its edges.

    Triangle corners at one vertex stay together when their triangles share an edge there that bends by
    less than `crease_degrees` and belong to the same `group`. Returns the old vertex index of every new
    vertex, and the new faces.
    """
    flat = torch.nn.functional.normalize(face_cross_products(vertices, faces), dim=-1)
    group = torch.zeros(len(faces), dtype=torch.long) if group is None else group
    start, end = faces.flatten(), faces.roll(-1, 1).flatten()
    # Edge e of face f runs from corner 3 f + e to corner 3 f + (e + 1) % 3.
    corner = torch.arange(3 * len(faces))
    corner_after = corner.reshape(-1, 3).roll(-1, 1).flatten()
    forward = start < end
    low, high = torch.where(forward, corner, corner_after), torch.where(forward, corner_after, corner)
    key = torch.minimum(start, end) * len(vertices) + torch.maximum(start, end)
    order = key.argsort(stable=True)
    first, second = order[:-1], order[1:]
    joined = (
        (key[first] == key[second])
        & (torch.linalg.vecdot(flat[first // 3], flat[second // 3]) > np.cos(np.deg2rad(crease_degrees)))
        & (group[first // 3] == group[second // 3])
    )
    first, second = first[joined], second[joined]
    rows, columns = torch.cat((low[first], high[first])).numpy(), torch.cat((low[second], high[second])).numpy()
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(len(corner), len(corner)))
    count, label = connected_components(graph, directed=False)
    label = torch.from_numpy(label.astype(np.int64))
    source = torch.empty(count, dtype=torch.long)
    source[label] = start
    return source, label.reshape(-1, 3)


def crease_normals(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], keep_seams: bool, tolerance: float = 1e-6
) -> tuple[Int[Tensor, "w"], Int[Tensor, "f 3"], Float[Tensor, "w 3"]]:
    """Normals for a mesh that has none, smooth but for its sharp edges, where vertices are split.

    Vertices at one place are taken as one, so a soup of triangles is shaded as the surface it is. With
    `keep_seams` they stay apart all the same, as their colours may differ.

    Returns:
        The old index of every new vertex, the new faces, the normals of the new vertices.
    """
    first, place = coinciding_vertices(vertices, tolerance)
    merged = vertices[first]
    source, shared = split_sharp_edges(merged, place[faces])
    normals = vertex_normals(merged[source], shared)
    old = faces if keep_seams else first[place[faces]]
    pairs = torch.stack((shared.flatten(), old.flatten()), dim=-1)
    unique, label = pairs.unique(dim=0, return_inverse=True)
    return unique[:, 1], label.reshape(-1, 3), normals[unique[:, 0]]

"""What a mesh is like, and what may be wrong with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from cad2pose.geometry.rotation import axis_angle_from_rotation
from cad2pose.parts.mesh import Mesh, Units
from cad2pose.parts.normals import coinciding_vertices, face_cross_products, merge_vertices
from cad2pose.parts.symmetry import Symmetries

_ODD_SMALL, _ODD_LARGE = 10.0, 1500.0


@dataclass(frozen=True)
class MeshDiagnosis:
    """Properties of a surface, judged after vertices at one place are merged.

    Args:
        open_edges: edges with a triangle on one side only.
        crowded_edges: edges with more than two triangles.
        twisted_edges: edges whose two triangles disagree about which side is outside.
        components: connected pieces.
        volume: signed, mm^3; negative when a closed surface is inside out; the sum over the pieces.
        inverted_components: closed pieces that are inside out (a cavity is one, rightly).
        flipped_normals: share of the triangles whose vertex normals point against their winding.
        flat_faces: triangles without area.
        unused_vertices: vertices without a triangle.
    """

    open_edges: int
    crowded_edges: int
    twisted_edges: int
    components: int
    volume: float
    inverted_components: int
    flipped_normals: float
    flat_faces: int
    unused_vertices: int

    @property
    def watertight(self) -> bool:
        """Every edge has two triangles."""
        return self.open_edges == 0 and self.crowded_edges == 0

    @property
    def inside_out(self) -> bool:
        """A closed surface all of which faces inward."""
        return self.watertight and not self.twisted_edges and self.volume < 0

    @property
    def orientation(self) -> str:
        """In words, which way the triangles face."""
        if self.twisted_edges:
            return f"inconsistent: triangles disagree along {self.twisted_edges} edges"
        if self.volume < 0:
            return "inside out" if self.watertight else "probably inside out (the surface is not closed)"
        return "outward" if self.watertight else "probably outward (the surface is not closed)"


def diagnose(mesh: Mesh) -> MeshDiagnosis:
    """Measure what `MeshDiagnosis` holds."""
    vertices, faces = merge_vertices(mesh.vertices, mesh.faces, mesh.merging_distance)
    edge, uses, balance = _edges(faces)
    piece, components = _pieces(faces, len(vertices))
    volumes = _signed_volumes(vertices, faces, piece, components)
    closed = torch.ones(components, dtype=torch.bool)
    closed[piece[(uses != 2)[edge].nonzero()[:, 0] // 3]] = False
    cross = face_cross_products(mesh.vertices, mesh.faces)
    against = (mesh.normals[mesh.faces] * cross[:, None]).sum((-1, -2)) < 0
    return MeshDiagnosis(
        open_edges=int((uses == 1).sum()),
        crowded_edges=int((uses > 2).sum()),
        twisted_edges=int(((uses == 2) & (balance != 0)).sum()),
        components=components,
        volume=float(volumes.sum()),
        inverted_components=int((closed & (volumes < 0)).sum()),
        flipped_normals=float(against.double().mean()),
        flat_faces=int((torch.linalg.vector_norm(cross, dim=-1) == 0).sum()),
        unused_vertices=len(mesh.vertices) - len(mesh.used_vertices),
    )


def outward_normals(mesh: Mesh) -> Float64[Tensor, "f 3"]:
    """Unit normals of the triangles that point out of the closed piece which they belong to, whatever its winding.

    Those of pieces that are not closed, or disagree about their sides, point to where their vertex normals do.
    """
    first, place = coinciding_vertices(mesh.vertices, mesh.merging_distance)
    faces = place[mesh.faces]
    whole = ((faces != faces.roll(1, 1)).all(1)).nonzero()[:, 0]
    edge, uses, balance = _edges(faces[whole])
    piece, components = _pieces(faces, len(first))
    closed = torch.ones(components, dtype=torch.bool)
    closed[piece[whole[((uses != 2) | (balance != 0))[edge].nonzero()[:, 0] // 3]]] = False
    inward = (_signed_volumes(mesh.vertices[first], faces, piece, components) < 0)[piece]
    normals = mesh.face_normals
    against = (mesh.normals[mesh.faces].sum(1) * normals).sum(1) < 0
    return torch.where(torch.where(closed[piece], inward, against)[:, None], -normals, normals)


def _edges(faces: Int[Tensor, "f 3"]) -> tuple[Int[Tensor, "f3"], Int[Tensor, "e"], Int[Tensor, "e"]]:
    """The edge that every side of a triangle is, how many triangles it has, and those in excess that run up it."""
    start, end = faces.flatten(), faces.roll(-1, 1).flatten()
    key = torch.minimum(start, end) * (faces.max() + 1) + torch.maximum(start, end)
    _, edge, uses = key.unique(return_inverse=True, return_counts=True)
    balance = torch.zeros(len(uses), dtype=torch.long).index_add_(0, edge, (start < end).long() * 2 - 1)
    return edge, uses, balance


def _pieces(faces: Int[Tensor, "f 3"], vertex_count: int) -> tuple[Int[Tensor, "f"], int]:
    """Connected piece of every triangle, and the number of pieces."""
    rows, columns = faces[:, [0, 1]].flatten().numpy(), faces[:, [1, 2]].flatten().numpy()
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(vertex_count, vertex_count))
    label = torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64))[faces[:, 0]]
    names, piece = label.unique(return_inverse=True)  # vertices without a triangle are no piece
    return piece, len(names)


def _signed_volumes(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], piece: Int[Tensor, "f"], components: int
) -> Float[Tensor, "components"]:
    """Volume of the tetrahedra between the triangles and the middle of their own piece, mm^3."""
    corners = vertices[faces]
    count = torch.zeros(components, dtype=torch.float64).index_add_(0, piece, torch.ones(len(faces)).double())
    middle = torch.zeros(components, 3, dtype=torch.float64).index_add_(0, piece, corners.mean(1)) / count[:, None]
    a, b, c = (corners - middle[piece, None]).unbind(1)
    tetrahedra = torch.linalg.vecdot(a, torch.linalg.cross(b, c)) / 6
    return torch.zeros(components, dtype=torch.float64).index_add_(0, piece, tetrahedra)


def units_remark(diameter: float, units: Units) -> str:
    """What to think of a diameter (mm) that is allowed, but odd; empty for ordinary ones."""
    if diameter < _ODD_SMALL:
        larger = {"mm": "cm or inch", "cm": "inch or m", "inch": "m", "m": "m"}[units]
        return f"small for a part: if the file is not in {units}, pass --units {larger}"
    if diameter > _ODD_LARGE:
        smaller = {"mm": "mm", "cm": "mm", "inch": "cm or mm", "m": "inch, cm or mm"}[units]
        return f"large for a part: if the file is not in {units}, pass --units {smaller}"
    return ""


def describe_symmetries(symmetries: Symmetries) -> list[str]:
    """One sentence per declared symmetry; a single one when there is none."""
    lines = [
        f"any rotation about {axis_words(item.direction)} through {vector_words(item.offset)} mm"
        for item in symmetries.continuous
    ]
    for transform in symmetries.discrete:
        omega = axis_angle_from_rotation(transform[:3, :3])
        angle = float(torch.linalg.vector_norm(omega))
        if angle < 1e-6:
            lines.append(f"shift by {vector_words(transform[:3, 3])} mm")
            continue
        axis = omega / angle
        if math.pi - angle < 1e-6 and float(axis[axis.abs().argmax()]) < 0:
            axis = -axis  # half a turn is the same either way
        lines.append(f"{math.degrees(angle):.4g} degrees about {axis_words(axis)}")
    return lines or ["none declared"]


def axis_words(axis: Float[Tensor, "3"], digits: int = 4) -> str:
    """`x`, `-z`, or the direction in numbers."""
    for index, name in enumerate("xyz"):
        if abs(float(axis[index])) > 1 - 1e-9:
            return name if axis[index] > 0 else f"-{name}"
    return vector_words(axis, digits)


def vector_words(vector: Float[Tensor, "3"], digits: int = 4) -> str:
    """Three numbers in brackets."""
    return "(" + ", ".join(f"{round(value, 6) + 0.0:.{digits}g}" for value in vector.tolist()) + ")"

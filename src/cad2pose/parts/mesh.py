"""Triangle meshes in millimetres: reading PLY, OBJ, STL and GLB, checking them, writing PLY."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.files import write_bytes
from cad2pose.parts.bounds import largest_distance
from cad2pose.parts.mesh_reader import MESH_SUFFIXES, MeshPiece, read_pieces
from cad2pose.parts.normals import crease_normals, face_cross_products, unit_normals, vertex_normals

Units = Literal["mm", "cm", "m", "inch"]
MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "inch": 25.4}
SMALLEST_DIAMETER, LARGEST_DIAMETER = 2.0, 5000.0
_FARTHEST = 1e4  # diameters from the origin: a coordinate in single precision is off by up to 0.1 % of the part there
_GRAY = 0.6


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh.

    Args:
        vertices: `(V, 3)` in mm, kept in float64.
        faces: `(F, 3)` vertex indices, counter-clockwise seen from outside.
        normals: `(V, 3)` unit vertex normals, float64.
        colors: `(V, 3)` RGB in [0, 1], float32, or None.

    Raises:
        ValueError: for a mesh without triangles or without area, vertices that are not finite, or
            triangles that name vertices that do not exist.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    normals: Float[Tensor, "v 3"]
    colors: Float[Tensor, "v 3"] | None = None

    def __post_init__(self) -> None:
        if len(self.faces) == 0:
            raise ValueError(
                f"the mesh has {len(self.vertices)} vertices but no triangles (a point cloud?); a surface is needed"
            )
        bad = ~torch.isfinite(self.vertices).all(-1)
        if bool(bad.any()):
            raise ValueError(
                f"{int(bad.sum())} of {len(bad)} vertices are NaN or infinite (the first is vertex "
                f"{int(bad.nonzero()[0])}); export the mesh again or remove them"
            )
        low, high = int(self.faces.min()), int(self.faces.max())
        if low < 0 or high >= len(self.vertices):
            raise ValueError(
                f"a triangle names vertex {low if low < 0 else high}, but there are only vertices 0 to "
                f"{len(self.vertices) - 1}; the file is damaged, export the mesh again"
            )
        object.__setattr__(self, "vertices", self.vertices.double())
        object.__setattr__(self, "faces", self.faces.long())
        object.__setattr__(self, "normals", self.normals.double())
        if self.colors is not None:
            object.__setattr__(self, "colors", self.colors.float())
        if not float(self.face_areas.sum()) > 0:
            raise ValueError("all triangles of the mesh have zero area; a surface is needed")

    @classmethod
    def from_arrays(
        cls, vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], colors: Float[Tensor, "v 3"] | None = None
    ) -> Mesh:
        """Mesh with normals averaged from its triangles; vertices must be split where the surface has edges."""
        blank = cls(vertices, faces, torch.zeros_like(vertices), colors)  # validates before normals are computed
        return cls(blank.vertices, blank.faces, vertex_normals(blank.vertices, blank.faces), blank.colors)

    @property
    def face_areas(self) -> Float[Tensor, "f"]:
        """Areas in mm^2."""
        return torch.linalg.vector_norm(face_cross_products(self.vertices, self.faces), dim=-1) / 2

    @property
    def face_normals(self) -> Float[Tensor, "f 3"]:
        """Unit normals of the triangles by the right-hand rule; (0, 0, 1) for those without area."""
        return unit_normals(face_cross_products(self.vertices, self.faces))

    @property
    def used_vertices(self) -> Float[Tensor, "u 3"]:
        """The vertices that belong to a triangle; stray ones must not count as part of the object."""
        return self.vertices[self.faces.unique()]

    @property
    def merging_distance(self) -> float:
        """Vertices so close to each other (mm) are at one place."""
        low, high = self.used_vertices.aminmax(dim=0)
        return 1e-7 * float((high - low).max())


def load_mesh(path: Path | str, units: Units = "mm", keep_vertices: bool = False) -> Mesh:
    """Read a mesh file and convert it to millimetres.

    PLY, OBJ, STL and GLB. A scene is flattened with its transforms. Colours come from the vertices, the
    faces or a texture, for which triangles larger than its detail are divided. Where the file states no
    normals, they are computed, and vertices are split at edges sharper than 25 degrees. With
    `keep_vertices` they stay one by one as they are in the file (BOP's errors are means over them).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another format, unknown units, an empty, damaged or unusable mesh, or a diameter
            below 2 mm or above 5 m.
    """
    path = Path(path)
    if units not in get_args(Units):
        raise ValueError(f"units {units!r} are not known; use one of {', '.join(get_args(Units))}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a mesh file is needed ({', '.join(MESH_SUFFIXES)})")
    if not path.is_file():
        raise FileNotFoundError(f"there is no mesh file {path}")
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise ValueError(f"{path}: meshes are read from {', '.join(MESH_SUFFIXES)} files, not from {path.suffix!r}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    try:
        pieces = read_pieces(path, keep_vertices)
        surfaces = [piece for piece in pieces if _has_area(piece)] or pieces
        mesh = _join([_as_mesh(piece, MILLIMETRES[units], keep_vertices) for piece in surfaces])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _check_size(path, mesh, units)
    return mesh


def _has_area(piece: MeshPiece) -> bool:
    """Whether a piece has a surface; others (lines, points, collapsed triangles) may lie in a file beside it."""
    vertices, faces = torch.from_numpy(piece.vertices), torch.from_numpy(piece.faces)
    inside = len(faces) > 0 and int(faces.min()) >= 0 and int(faces.max()) < len(vertices)
    return len(faces) > 0 and (not inside or float(face_cross_products(vertices.double(), faces).abs().sum()) != 0)


def _as_mesh(piece: MeshPiece, scale: float, keep_vertices: bool) -> Mesh:
    vertices, faces = torch.from_numpy(piece.vertices) * scale, torch.from_numpy(piece.faces)
    colors = None if piece.colors is None else torch.from_numpy(piece.colors).clamp(0, 1)
    if piece.normals is not None:
        return Mesh(vertices, faces, unit_normals(torch.from_numpy(piece.normals)), colors)
    mesh = Mesh.from_arrays(vertices, faces, colors)
    if keep_vertices:
        return mesh
    source, faces, normals = crease_normals(mesh.vertices, mesh.faces, colors is not None, mesh.merging_distance)
    return Mesh(mesh.vertices[source], faces, normals, None if mesh.colors is None else mesh.colors[source])


def _join(meshes: list[Mesh]) -> Mesh:
    """One mesh of all; gray where only some of them have colours."""
    if len(meshes) == 1:
        return meshes[0]
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]]).tolist()
    colors = None
    if any(mesh.colors is not None for mesh in meshes):
        colors = torch.cat([torch.full(m.vertices.shape, _GRAY) if m.colors is None else m.colors for m in meshes])
    return Mesh(
        torch.cat([mesh.vertices for mesh in meshes]),
        torch.cat([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
        torch.cat([mesh.normals for mesh in meshes]),
        colors,
    )


def _check_size(path: Path, mesh: Mesh, units: Units) -> None:
    diameter = largest_distance(mesh.used_vertices)
    away = float(mesh.used_vertices.abs().max())
    if SMALLEST_DIAMETER <= diameter <= LARGEST_DIAMETER:
        if away <= _FARTHEST * diameter:
            return
        raise ValueError(
            f"{path}: the part is {diameter:.6g} mm across and up to {away:.6g} mm away from the origin of its file, "
            f"where numbers are too coarse for it; {_FARTHEST:.0f} times its size is allowed. Move the mesh to "
            "its origin, and poses by as much"
        )
    raw = diameter / MILLIMETRES[units]
    fitting = [unit for unit in ("m", "mm", "inch", "cm") if 10 <= raw * MILLIMETRES[unit] <= 2000]
    names = {"m": "metres", "mm": "millimetres", "inch": "inches", "cm": "centimetres"}
    advice = "scale the mesh, or state its unit with --units"
    if fitting:
        advice = f"this looks like {names[fitting[0]]}: pass --units {fitting[0]}"
    raise ValueError(
        f"{path}: read in {units}, the part is {diameter:.6g} mm across; 2 mm to 5 m is allowed. The file's numbers "
        f"span {raw:.6g}; {advice} (of {', '.join(get_args(Units))})"
    )


def save_ply(path: Path | str, mesh: Mesh) -> None:
    """Write a binary PLY in mm: positions in double precision, normals, and 8-bit colours where there are any."""
    columns = [(name, "<f8") for name in ("x", "y", "z")] + [(name, "<f4") for name in ("nx", "ny", "nz")]
    if mesh.colors is not None:
        columns += [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(mesh.vertices), dtype=columns)
    for axis, (position, normal) in enumerate((("x", "nx"), ("y", "ny"), ("z", "nz"))):
        rows[position], rows[normal] = mesh.vertices[:, axis].numpy(), mesh.normals[:, axis].numpy()
    if mesh.colors is not None:
        for axis, name in enumerate(("red", "green", "blue")):
            rows[name] = np.rint(mesh.colors[:, axis].numpy() * 255)
    triangles = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("indices", "<i4", 3)])
    triangles["count"], triangles["indices"] = 3, mesh.faces.numpy()
    kinds = {"<f8": "double", "<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind in columns]
    header += [f"element face {len(triangles)}", "property list uchar int vertex_indices", "end_header", ""]
    write_bytes(path, "\n".join(header).encode("ascii") + rows.tobytes() + triangles.tobytes())

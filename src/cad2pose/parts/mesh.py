"""Triangle meshes in millimetres: reading PLY, OBJ, STL and GLB, checking them, writing PLY."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor
from trimesh.visual import TextureVisuals

from cad2pose.files import write_bytes
from cad2pose.parts.bounds import largest_distance
from cad2pose.parts.normals import (
    face_cross_products,
    merge_vertices,
    split_sharp_edges,
    unit_normals,
    vertex_normals,
)

Units = Literal["mm", "cm", "m", "inch"]
MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "inch": 25.4}
MESH_SUFFIXES = (".ply", ".obj", ".stl", ".glb")
SMALLEST_DIAMETER, LARGEST_DIAMETER = 2.0, 5000.0
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


def load_mesh(path: Path | str, units: Units = "mm") -> Mesh:
    """Read a mesh file and convert it to millimetres.

    PLY, OBJ, STL and GLB. A scene is flattened with its transforms. Colours come from the vertices, the
    faces or a texture. PLY vertices are kept one by one, in order (BOP's errors are means over them).
    STL has no shared vertices: they are merged, then split at edges sharper than 25 degrees.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another format, unknown units, an empty, damaged or unusable mesh, or a diameter
            below 2 mm or above 5 m.
    """
    path = Path(path)
    if units not in get_args(Units):
        raise ValueError(f"units {units!r} are not known; use one of {', '.join(get_args(Units))}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no mesh file {path}")
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise ValueError(f"{path}: meshes are read from {', '.join(MESH_SUFFIXES)} files, not from {path.suffix!r}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    try:
        mesh = _flatten(_read_pieces(path), MILLIMETRES[units])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _check_size(path, mesh, units)
    return mesh


@dataclass(frozen=True)
class _Piece:
    """One geometry of a file, in the file's units and frame."""

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None
    colors: np.ndarray | None


def _read_pieces(path: Path) -> list[_Piece]:
    """Geometries of a file with the scene's transforms applied."""
    try:
        scene = trimesh.load_scene(path, process=False)
        geometries = scene.dump()
    except Exception as error:  # a damaged file makes the reader raise almost anything
        raise ValueError(
            f"cannot be read as a {path.suffix.lower()[1:].upper()} mesh, it is damaged or cut short ({error})"
        ) from error
    if not geometries:
        raise ValueError("the file holds no geometry")
    return [_piece(geometry, soup=path.suffix.lower() == ".stl") for geometry in geometries]


def _piece(geometry: object, soup: bool) -> _Piece:
    if not isinstance(geometry, trimesh.Trimesh):
        points = np.asarray(getattr(geometry, "vertices", np.zeros((0, 3))), dtype=np.float64).reshape(-1, 3)
        return _Piece(points, np.zeros((0, 3), dtype=np.int64), None, None)
    vertices = np.array(geometry.vertices, dtype=np.float64).reshape(-1, 3)
    faces = np.array(geometry.faces, dtype=np.int64).reshape(-1, 3)
    usable = len(faces) > 0 and faces.min() >= 0 and faces.max() < len(vertices) and bool(np.isfinite(vertices).all())
    if not usable:  # `Mesh` says what is wrong; normals and colours would only fail in obscure ways
        return _Piece(vertices, faces, None, None)
    if soup:
        span = float(np.ptp(vertices, axis=0).max()) or 1.0
        merged, shared = merge_vertices(torch.from_numpy(vertices), torch.from_numpy(faces), 1e-7 * span)
        source, shared = split_sharp_edges(merged, shared)
        return _Piece(merged[source].numpy(), shared.numpy(), None, None)
    return _Piece(vertices, faces, np.array(geometry.vertex_normals, dtype=np.float64), _vertex_colors(geometry))


def _vertex_colors(geometry: trimesh.Trimesh) -> np.ndarray | None:
    """RGB in [0, 1] per vertex from vertex colours, face colours, a texture or a plain material; or None."""
    visual = geometry.visual
    if visual is None or not visual.defined:
        return None
    if isinstance(visual, TextureVisuals):
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        plain = getattr(material, "baseColorFactor", None) is None and getattr(material, "diffuse", None) is None
        if image is None and plain:
            return None
        if image is None or visual.uv is None:
            return np.tile(np.asarray(material.main_color[:3], dtype=np.float32) / 255, (len(geometry.vertices), 1))
        visual = visual.to_color()
    colors = np.asarray(getattr(visual, "vertex_colors", ()), dtype=np.float32).reshape(-1, 4)[:, :3] / 255
    return colors if len(colors) == len(geometry.vertices) else None


def _flatten(pieces: list[_Piece], scale: float) -> Mesh:
    """One mesh in mm of all pieces; gray where only some of them have colours."""
    surfaces = [piece for piece in pieces if len(piece.faces)] or pieces
    starts = np.cumsum([0] + [len(piece.vertices) for piece in surfaces[:-1]])
    vertices = torch.from_numpy(np.concatenate([piece.vertices for piece in surfaces])) * scale
    faces = torch.from_numpy(np.concatenate([p.faces + start for p, start in zip(surfaces, starts, strict=True)]))
    colors = None
    if any(piece.colors is not None for piece in surfaces):
        gray = [np.full((len(p.vertices), 3), _GRAY, np.float32) if p.colors is None else p.colors for p in surfaces]
        colors = torch.from_numpy(np.concatenate(gray)).clamp(0, 1)
    mesh = Mesh.from_arrays(vertices, faces, colors)
    if any(piece.normals is None for piece in surfaces):
        return mesh
    given = unit_normals(torch.from_numpy(np.concatenate([p.normals for p in surfaces if p.normals is not None])))
    return Mesh(mesh.vertices, mesh.faces, given, mesh.colors)


def _check_size(path: Path, mesh: Mesh, units: Units) -> None:
    diameter = largest_distance(mesh.used_vertices)
    if SMALLEST_DIAMETER <= diameter <= LARGEST_DIAMETER:
        return
    raw = diameter / MILLIMETRES[units]
    fitting = [unit for unit in ("m", "mm", "inch", "cm") if 10 <= raw * MILLIMETRES[unit] <= 2000]
    names = {"m": "metres", "mm": "millimetres", "inch": "inches", "cm": "centimetres"}
    advice = "scale the mesh, or state its unit with --units"
    if fitting:
        advice = f"this looks like {names[fitting[0]]}: pass --units {fitting[0]}"
    raise ValueError(
        f"{path}: read in {units}, the part is {diameter:.4g} mm across; 2 mm to 5 m is allowed. The file's numbers "
        f"span {raw:.4g}; {advice} (of {', '.join(get_args(Units))})"
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

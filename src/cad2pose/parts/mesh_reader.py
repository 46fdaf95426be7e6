"""What a mesh file says, as plain arrays: geometries in the scene's frame, with the normals and colours it has."""

from __future__ import annotations

import io
import logging
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.resolvers import FilePathResolver
from trimesh.visual import TextureVisuals

from cad2pose.parts.texture import refine_for_texture

MESH_SUFFIXES = (".ply", ".obj", ".stl", ".glb")
_PLY_HEADER_BYTES = 8192
_SHORTEST_NORMAL = 1e-6


@dataclass(frozen=True)
class MeshPiece:
    """One geometry of a file, in the file's units, as the scene places it.

    Args:
        vertices: `(v, 3)` float64.
        faces: `(f, 3)` int64, as in the file: not checked, and none for a point cloud.
        normals: `(v, 3)` if the file states them.
        colors: `(v, 3)` float32 RGB in [0, 1] if the file has any.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None

    def placed(self, transform: np.ndarray) -> MeshPiece:
        """Moved by a `(4, 4)` affine transform; a mirroring one turns the triangles round."""
        linear = transform[:3, :3]
        determinant = float(np.linalg.det(linear))
        normals = None
        if self.normals is not None and abs(determinant) > 1e-12:
            normals = self.normals @ np.linalg.inv(linear)
        faces = self.faces[:, ::-1] if determinant < 0 else self.faces
        return replace(self, vertices=self.vertices @ linear.T + transform[:3, 3], faces=faces.copy(), normals=normals)


def read_pieces(path: Path, keep_vertices: bool = False) -> list[MeshPiece]:
    """All geometries of a PLY, OBJ, STL or GLB file.

    A texture becomes colours of the vertices, of which more are made where it has detail (not with `keep_vertices`).
    Where its picture is missing there is a warning, and no colour.

    Raises:
        ValueError: if the file is damaged, cut short, or holds nothing; or for colours that belong to no triangle.
    """
    logger = logging.getLogger("trimesh")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # what matters of it is said here
    try:
        scene = _open(path)
        placed = [scene.graph.get(node) for node in scene.graph.nodes_geometry]
        pieces = [
            _piece(scene.geometry[name], keep_vertices, path.suffix.lower() == ".glb").placed(np.asarray(transform))
            for transform, name in placed
        ]
    except _ContentError:
        raise
    except Exception as error:  # a damaged file makes the reader raise almost anything
        kind = path.suffix.lower().lstrip(".").upper()
        reason = "" if isinstance(error, ImportError) else f" ({error})"  # it looks for a decoder of what is no text
        polygons = ", or has polygons of several sizes (export it triangulated)" if kind == "PLY" else ""
        raise ValueError(f"cannot be read as {kind}: the file is damaged or cut short{polygons}{reason}") from error
    finally:
        logger.setLevel(level)
    if not any(len(piece.vertices) for piece in pieces):
        raise ValueError("the file holds no geometry")
    if path.suffix.lower() == ".ply":
        _check_ply_counts(path, pieces)
    if not keep_vertices and (missing := _missing_picture(path)):
        warnings.warn(
            f"{path}: the picture {missing}, which colours the part, is not there; it is taken to have no colours. Put "
            "the picture beside it",
            stacklevel=2,
        )
        return [replace(piece, colors=None) for piece in pieces]
    return pieces


class _ContentError(ValueError):
    """About a file that can be read."""


def _open(path: Path) -> trimesh.Scene:
    if path.suffix.lower() != ".obj":
        return trimesh.load_scene(path, process=False)
    # OBJ is plain text, of which only comments and names may be in an old code page.
    text = io.StringIO(path.read_bytes().decode("utf-8", errors="replace"))
    return trimesh.load_scene(text, file_type="obj", resolver=FilePathResolver(str(path)), process=False)


def _piece(geometry: object, keep_vertices: bool, linear: bool) -> MeshPiece:
    """A geometry; `linear` colours (all but textures) are made displayed ones."""
    vertices = np.array(getattr(geometry, "vertices", np.zeros((0, 3))), dtype=np.float64).reshape(-1, 3)
    if not isinstance(geometry, trimesh.Trimesh):
        return MeshPiece(vertices, np.zeros((0, 3), dtype=np.int64))
    faces = np.array(geometry.faces, dtype=np.int64).reshape(-1, 3)
    usable = len(faces) > 0 and faces.min() >= 0 and faces.max() < len(vertices) and bool(np.isfinite(vertices).all())
    if not usable:  # whoever checks it can say what is wrong; normals and colours would fail in obscure ways
        return MeshPiece(vertices, faces)
    # Asking for `vertex_normals` would compute them; only the cache knows whether the file had any.
    normals = np.array(geometry.vertex_normals, np.float64) if "vertex_normals" in geometry._cache else None
    if normals is not None and not (np.linalg.norm(normals, axis=1) > _SHORTEST_NORMAL).all():
        normals = None  # some exporters state zeros for those that they do not know
    if geometry.visual is not None and geometry.visual.kind == "face":  # every triangle has vertices of its own colour
        colors = np.asarray(getattr(geometry.visual, "face_colors", ()), dtype=np.float32).reshape(-1, 4)[:, :3] / 255
        if len(colors) != len(faces):
            raise _ContentError(
                f"it has colours of {len(colors)} faces, and {len(faces)} triangles; export it triangulated, or with "
                "colours of its vertices"
            )
        corners = faces.reshape(-1)
        apart = np.arange(len(corners)).reshape(-1, 3)
        return MeshPiece(
            vertices[corners], apart, None if normals is None else normals[corners], np.repeat(colors, 3, axis=0)
        )
    visual = geometry.visual
    image = _texture(visual) if isinstance(visual, TextureVisuals) and not keep_vertices else None
    if image is None or not isinstance(visual, TextureVisuals) or len(np.shape(visual.uv)) != 2:
        return MeshPiece(vertices, faces, normals, _vertex_colors(geometry, linear))
    uv = np.asarray(visual.uv, dtype=np.float64)
    if len(uv) != len(vertices) or not np.isfinite(uv).all():
        return MeshPiece(vertices, faces, normals, _vertex_colors(geometry, linear))
    vertices, faces, uv, normals = refine_for_texture(vertices, faces, uv, normals, image.size)
    fine = TextureVisuals(uv=uv, material=visual.material).to_color()
    return MeshPiece(vertices, faces, normals, np.asarray(fine.vertex_colors, dtype=np.float32)[:, :3] / 255)


def _texture(visual: TextureVisuals) -> Image.Image | None:
    """The picture that colours a surface, where there is one."""
    image = getattr(visual.material, "baseColorTexture", None) or getattr(visual.material, "image", None)
    return image if isinstance(image, Image.Image) else None


def _vertex_colors(geometry: trimesh.Trimesh, linear: bool) -> np.ndarray | None:
    """RGB in [0, 1] per vertex from vertex colours, a texture or a plain material; or None."""
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
            plain_color = np.asarray(material.main_color[:3], dtype=np.float32) / 255
            return np.tile(_displayed(plain_color) if linear else plain_color, (len(geometry.vertices), 1))
        visual, linear = visual.to_color(), False
    colors = np.asarray(getattr(visual, "vertex_colors", ()), dtype=np.float32).reshape(-1, 4)[:, :3] / 255
    if len(colors) != len(geometry.vertices):
        return None
    return _displayed(colors) if linear else colors


def _displayed(linear: np.ndarray) -> np.ndarray:
    """Linear light, as glTF has factors and colours of vertices (its textures are sRGB), as values of sRGB."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


def _missing_picture(path: Path) -> str:
    """The picture of a texture that a PLY, or the material file of an OBJ, names and that is not there; or nothing."""
    files, pattern = [path], rb"(?m)^comment\s+TextureFile\s+(.+?)\s*$"
    if path.suffix.lower() == ".obj":
        text = path.read_bytes()
        named = [name.decode("utf-8", "replace") for name in re.findall(rb"(?m)^mtllib\s+(.+?)\s*$", text)]
        files, pattern = [path.parent / name for name in named], rb"(?m)^\s*map_Kd\s+(.+?)\s*$"
    elif path.suffix.lower() != ".ply":
        return ""
    for file in files:
        if not file.is_file():
            continue
        with file.open("rb") as opened:
            content = opened.read(_PLY_HEADER_BYTES if file is path else -1)
        for found in re.findall(pattern, content):
            name = found.decode("utf-8", "replace").replace("\\", "/")
            words = name.split()  # options come before the name, which may hold spaces
            if not any((file.parent / " ".join(words[start:])).is_file() for start in range(len(words))):
                return name
    return ""


def _check_ply_counts(path: Path, pieces: list[MeshPiece]) -> None:
    """A PLY in plain text that was cut short reads like a smaller one; its header knows better."""
    with path.open("rb") as file:
        header = file.read(_PLY_HEADER_BYTES)
    for name, found in (("vertex", "vertices"), ("face", "faces")):
        stated = re.search(rb"element\s+%s\s+(\d+)" % name.encode(), header)
        count = sum(len(getattr(piece, found)) for piece in pieces)
        if stated and count < int(stated[1]):
            raise ValueError(f"the file is cut short: its header states {int(stated[1])} {found}, it has {count}")

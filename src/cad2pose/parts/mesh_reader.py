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

from cad2pose.parts.obj_text import plain_obj
from cad2pose.parts.ply_elements import ply_colors, ply_polygons, ply_vertices
from cad2pose.parts.polygon_faces import fans_of, triangulate_faces
from cad2pose.parts.stated_colors import ContentError, as_linear, displayed, refuse_wide_colors, unit_range
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
        pictures = _pictures(path)
        scene = _open(path, bool(pictures))
        placed = [scene.graph.get(node) for node in scene.graph.nodes_geometry]
        pieces = [
            _piece(path, scene.geometry[name], keep_vertices).placed(np.asarray(transform))
            for transform, name in placed
        ]
    except ContentError:
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
    if not keep_vertices and (missing := _missing_picture(pictures)):
        warnings.warn(
            f"{path}: the picture {missing}, which colours the part, is not there; it is taken to have no colours. Put "
            "the picture beside it",
            stacklevel=2,
        )
        return [replace(piece, colors=None) for piece in pieces]
    return pieces


def _open(path: Path, has_picture: bool) -> trimesh.Scene:
    if path.suffix.lower() != ".obj":
        return trimesh.load_scene(path, process=False)
    # OBJ is plain text, of which only comments and names may be in an old code page.
    text, crossed = plain_obj(path.read_bytes().decode("utf-8", errors="replace"), has_picture)
    if crossed:
        _warn_of_crossed(path, crossed)
    return trimesh.load_scene(io.StringIO(text), file_type="obj", resolver=_Resolver(str(path)), process=False)


class _Resolver(FilePathResolver):
    """Finds what an OBJ and its material files name: after options (map_Kd -s 1 1 1 wood.png), or several in a line."""

    def get(self, name: str) -> bytes:
        words = name.split()
        if len(words) > 1 and all((Path(self.parent) / word).is_file() for word in words):
            return b"\n".join(super(_Resolver, self).get(word) for word in words)
        for start in range(len(words)):
            try:
                return super().get(" ".join(words[start:]))
            except OSError:
                continue
        return super().get(name)


def _piece(path: Path, geometry: object, keep_vertices: bool) -> MeshPiece:
    """A geometry; the linear colours of glTF (all but textures) are made displayed ones."""
    linear = path.suffix.lower() == ".glb"
    vertices = np.array(getattr(geometry, "vertices", np.zeros((0, 3))), dtype=np.float64).reshape(-1, 3)
    if not isinstance(geometry, trimesh.Trimesh):
        return MeshPiece(vertices, np.zeros((0, 3), dtype=np.int64))
    faces = _faces(path, geometry)
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
            raise ContentError(
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
        return MeshPiece(vertices, faces, normals, _vertex_colors(path, geometry, linear))
    uv = np.asarray(visual.uv, dtype=np.float64)
    if len(uv) != len(vertices) or not np.isfinite(uv).all():
        return MeshPiece(vertices, faces, normals, _vertex_colors(path, geometry, linear))
    vertices, faces, uv, normals = refine_for_texture(vertices, faces, uv, normals, image.size)
    fine = TextureVisuals(uv=uv, material=visual.material)
    return MeshPiece(vertices, faces, normals, _picture_colors(fine, linear))


def _texture(visual: TextureVisuals) -> Image.Image | None:
    """The picture that colours a surface, where there is one."""
    image = getattr(visual.material, "baseColorTexture", None) or getattr(visual.material, "image", None)
    return image if isinstance(image, Image.Image) else None


def _picture_colors(visual: TextureVisuals, linear: bool) -> np.ndarray:
    """RGB in [0, 1] per vertex from a texture, and of glTF (`linear`) from the factor of its material."""
    colors = np.asarray(visual.to_color().vertex_colors, dtype=np.float32)[:, :3] / 255
    factor = _factor(visual.material) if linear else None
    return colors if factor is None else displayed(as_linear(colors) * factor)


def _factor(material: object) -> np.ndarray | None:
    """By what glTF multiplies a texture, or colours of vertices, in linear light; None for 1."""
    factor = getattr(material, "baseColorFactor", None)
    return None if factor is None else unit_range(np.asarray(factor)[:3])


def _vertex_colors(path: Path, geometry: trimesh.Trimesh, linear: bool) -> np.ndarray | None:
    """RGB in [0, 1] per vertex from vertex colours, a texture or a plain material; or None."""
    visual = geometry.visual
    if (stated := ply_colors(geometry)) is not None:
        return stated
    if visual is None or not visual.defined:
        return None
    if isinstance(visual, TextureVisuals):
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        plain = getattr(material, "baseColorFactor", None) is None and getattr(material, "diffuse", None) is None
        stated = np.asarray(visual.vertex_attributes.get("color", ()))
        if image is None and linear and len(stated) == len(geometry.vertices):
            factor = _factor(material)
            return displayed(unit_range(stated[:, :3]) * (1.0 if factor is None else factor))
        if image is None and plain:
            return None
        if image is None or visual.uv is None:
            plain_color = np.asarray(material.main_color[:3], dtype=np.float32) / 255
            return np.tile(displayed(plain_color) if linear else plain_color, (len(geometry.vertices), 1))
        return _picture_colors(visual, linear) if len(visual.uv) == len(geometry.vertices) else None
    colors = np.asarray(getattr(visual, "vertex_colors", ()), dtype=np.float32).reshape(-1, 4)[:, :3] / 255
    if len(colors) != len(geometry.vertices):
        return None
    if linear:
        refuse_wide_colors(path)
    return displayed(colors) if linear else colors


def _faces(path: Path, geometry: trimesh.Trimesh) -> np.ndarray:
    """`(f, 3)` triangles; of a PLY those that cover its polygons, where the library's fans do not."""
    faces = np.array(geometry.faces, dtype=np.int64).reshape(-1, 3)
    polygons = ply_polygons(geometry)
    if polygons is None:
        return faces
    corners, sizes = polygons
    vertices = ply_vertices(geometry)
    fans, cut = fans_of(sizes), triangulate_faces(vertices, corners, sizes)
    if cut.unclear:
        _warn_of_crossed(path, cut.unclear)
    if np.array_equal(fans, cut.corners):
        return faces
    if len(vertices) != len(geometry.vertices):
        raise ContentError("it has concave polygons with a texture; export it triangulated")
    return corners[cut.corners]


def _warn_of_crossed(path: Path, count: int) -> None:
    warnings.warn(
        f"{path}: {count} polygons cross themselves, and nobody can tell what they cover; export it triangulated",
        stacklevel=2,
    )


def _missing_picture(pictures: list[tuple[Path, str]]) -> str:
    """The first of some pictures, each named in a folder, that is not there; or nothing."""
    for folder, name in pictures:
        words = name.split()  # options come before the name, which may hold spaces
        if not any((folder / " ".join(words[start:])).is_file() for start in range(len(words))):
            return name
    return ""


def _pictures(path: Path) -> list[tuple[Path, str]]:
    """The pictures of textures that a PLY, or the material files of an OBJ, name, and the folders they are named in."""
    files, pattern = [path], rb"(?m)^comment\s+TextureFile\s+(.+?)\s*$"
    if path.suffix.lower() == ".obj":
        text = path.read_bytes()
        named = [name.decode("utf-8", "replace") for name in re.findall(rb"(?m)^mtllib\s+(.+?)\s*$", text)]
        names = dict.fromkeys(each for name in named for each in (name, *name.split()))
        files, pattern = [path.parent / name for name in names], rb"(?m)^\s*map_Kd\s+(.+?)\s*$"
    elif path.suffix.lower() != ".ply":
        return []
    found = []
    for file in files:
        if not file.is_file():
            continue
        with file.open("rb") as opened:
            content = opened.read(_PLY_HEADER_BYTES if file is path else -1)
        names_there = (name.decode("utf-8", "replace").replace("\\", "/") for name in re.findall(pattern, content))
        found += [(file.parent, name) for name in names_there]
    return found


def _check_ply_counts(path: Path, pieces: list[MeshPiece]) -> None:
    """A PLY in plain text that was cut short reads like a smaller one; its header knows better."""
    with path.open("rb") as file:
        header = file.read(_PLY_HEADER_BYTES)
    for name, found in (("vertex", "vertices"), ("face", "faces")):
        stated = re.search(rb"element\s+%s\s+(\d+)" % name.encode(), header)
        count = sum(len(getattr(piece, found)) for piece in pieces)
        if stated and count < int(stated[1]):
            raise ValueError(f"the file is cut short: its header states {int(stated[1])} {found}, it has {count}")

"""OBJ files as plain text that the library which reads them understands: no counting back, no concave polygons."""

from __future__ import annotations

import re

import numpy as np

from cad2pose.parts.polygon_faces import fans_of, triangulate_faces
from cad2pose.parts.stated_colors import ContentError

_COUNTED = {"v": 0, "vt": 1, "vn": 2}  # by the place of their index in a corner v/vt/vn
_BACK = re.compile(r"(?m)^[ \t]*f\b[^\n]*-\d")
_POLYGON = re.compile(r"(?m)^[ \t]*f(?:[ \t]+[^\s#]+){4}")
_COLORED = re.compile(r"(?m)^[ \t]*v(?:[ \t]+[^\s#]+){6}")
_MATERIAL = re.compile(r"(?m)^[ \t]*(?:usemtl|mtllib|vt)\b[^\n]*")
_FACE = re.compile(r"(?m)^[ \t]*f\b[^\n]*")
_TEXTURE_INDEX = re.compile(r"(?<!/)/-?\d+(/?)")  # and the slash before a normal's


def plain_obj(text: str, has_picture: bool) -> tuple[str, int]:
    """The same surface, with indices that count from the beginning and triangles in place of concave polygons.

    Where vertices have colours, materials and places in a picture that there is none of are left out: the library would
    take the materials' colours.

    Args:
        text: of the file.
        has_picture: whether a material of it has a picture.

    Returns:
        The text, and how many polygons cross themselves, so that nobody can tell what they cover.

    Raises:
        ContentError: for colours beyond 1.
    """
    text = text.replace("\r\n", "\n").replace("\\\n", " ")
    if not has_picture and _COLORED.search(text):
        most = max(float(number) for colour in _COLORED.finditer(text) for number in colour[0].split()[4:7])
        if most > 1:
            raise ContentError(f"its vertices have colours up to {most:g}; OBJ has them from 0 to 1")
        text = _FACE.sub(lambda face: _TEXTURE_INDEX.sub(_rest, face[0]), _MATERIAL.sub("", text))
    if not _BACK.search(text) and not _POLYGON.search(text):
        return text, 0
    lines, places = text.split("\n"), []
    faces: dict[int, list[str]] = {}
    seen = [0, 0, 0]
    for number, line in enumerate(lines):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if words[0] in _COUNTED:
            seen[_COUNTED[words[0]]] += 1
            if words[0] == "v":
                places.append(words[1:4])
        elif words[0] == "f":
            corners = [_counted(corner, seen) for corner in words[1:]]
            faces[number] = corners
            if "-" in line:
                lines[number] = "f " + " ".join(corners)
    polygons = {number: corners for number, corners in faces.items() if len(corners) > 3}
    if not polygons:
        return "\n".join(lines), 0
    sizes = np.array([len(corners) for corners in polygons.values()], dtype=np.int64)
    first = np.array([int(corner.split("/")[0]) for corners in polygons.values() for corner in corners], dtype=np.int64)
    cut = triangulate_faces(np.array(places, dtype=np.float64).reshape(-1, 3), first - 1, sizes)
    begins, ends = np.cumsum(sizes) - sizes, np.cumsum(sizes - 2)[:-1]
    cuts, fans = np.split(cut.corners, ends), np.split(fans_of(sizes), ends)
    for (number, corners), triangles, fan, begin in zip(polygons.items(), cuts, fans, begins, strict=True):
        if not np.array_equal(triangles, fan):  # a fan is what the library makes of it
            lines[number] = "\n".join("f " + " ".join(corners[at - begin] for at in triangle) for triangle in triangles)
    return "\n".join(lines), cut.unclear


def _rest(texture_index: re.Match[str]) -> str:
    """What stays of a corner v/vt or v/vt/vn where its texture index was: nothing, or two slashes."""
    return "//" if texture_index[1] else ""


def _counted(corner: str, seen: list[int]) -> str:
    """A corner v/vt/vn whose indices count from 1; negative ones count back from the last of what was read so far."""
    indices = corner.split("/")
    return "/".join(
        str(seen[place] + 1 + int(index)) if index.startswith("-") else index for place, index in enumerate(indices)
    )

"""Textures as vertex colours: long edges are halved until the texture is told by the colours at the vertices."""

from __future__ import annotations

import numpy as np

_FINEST = 1 / 160  # of the size of the part; crops show hardly more
_TEXELS = 2.0
_MOST_FACES = 200_000
_ROUNDS = 9


def refine_for_texture(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, normals: np.ndarray | None, texels: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """The same surface with more vertices where the texture has detail that the triangles are too large for.

    Edges longer than 1/160 of the part and than two texels are halved, round by round; both triangles at an edge halve
    it, also where the texture has a seam and they share no vertices, so no gaps arise. It stops before there are more
    than 200,000 triangles.

    Args:
        vertices: `(v, 3)`.
        faces: `(f, 3)`.
        uv: `(v, 2)` texture coordinates.
        normals: `(v, 3)` or None.
        texels: width and height of the texture.

    Returns:
        vertices, faces, uv, normals.
    """
    span = float(np.ptp(vertices[faces.reshape(-1)], axis=0).max())
    place = np.unique(vertices, axis=0, return_inverse=True)[1].reshape(-1)  # the same of vertices at a seam
    for _ in range(_ROUNDS):
        edges, of_face = _edges(faces)
        first, second = edges[:, 0], edges[:, 1]
        length = np.linalg.norm(vertices[first] - vertices[second], axis=1)
        shown = np.linalg.norm((uv[first] - uv[second]) * np.array(texels), axis=1)
        _, same = _unordered(place[edges])
        long = np.bincount(same, (length > _FINEST * span) & (shown > _TEXELS))[same] > 0
        if not long.any() or len(faces) + 2 * int(long.sum()) > _MOST_FACES:
            break
        middle = np.full(len(edges), -1)
        middle[long] = len(vertices) + np.arange(int(long.sum()))
        first, second = first[long], second[long]
        vertices = np.concatenate((vertices, (vertices[first] + vertices[second]) / 2))
        place = np.concatenate((place, place.max() + 1 + same[long]))
        uv = np.concatenate((uv, (uv[first] + uv[second]) / 2))
        if normals is not None:
            between = normals[first] + normals[second]
            size = np.linalg.norm(between, axis=1, keepdims=True)
            between = np.where(size > 1e-6, between / np.maximum(size, 1e-6), normals[first])
            normals = np.concatenate((normals, between))
        faces = _split(faces, middle[of_face])
    return vertices, faces, uv, normals


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All edges once, `(e, 2)`, and which of them the edges 01, 12, 20 of every face are, `(f, 3)`."""
    edges, index = _unordered(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2))
    return edges, index.reshape(-1, 3)


def _unordered(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different pairs of numbers, the smaller one first, and which of them each pair is."""
    end = int(pairs.max()) + 1
    different, index = np.unique(pairs.min(axis=1) * end + pairs.max(axis=1), return_inverse=True)
    return np.stack((different // end, different % end), axis=1), index


def _split(faces: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Faces whose edges 01, 12, 20 have these new vertices in the middle (-1: none), in 1 to 4 pieces each."""
    pieces = [faces[(middle < 0).all(axis=1)]]
    for turn in range(3):  # each pattern of halved edges once, turned so that it begins at the same corner
        a, b, c = np.roll(faces, -turn, axis=1).T
        ab, bc, ca = np.roll(middle, -turn, axis=1).T
        one = (ab >= 0) & (bc < 0) & (ca < 0)
        two = (ab >= 0) & (bc >= 0) & (ca < 0)
        pieces += [np.stack(corners, axis=1)[one] for corners in ((a, ab, c), (ab, b, c))]
        pieces += [np.stack(corners, axis=1)[two] for corners in ((a, ab, c), (ab, bc, c), (ab, b, bc))]
    a, b, c = faces.T
    ab, bc, ca = middle.T
    all_three = (middle >= 0).all(axis=1)
    for corners in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)):
        pieces.append(np.stack(corners, axis=1)[all_three])
    return np.concatenate(pieces)

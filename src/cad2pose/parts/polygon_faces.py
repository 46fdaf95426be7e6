"""Polygons of a surface as triangles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cad2pose.parts.polygon import clip_ears, crosses_itself

_CORNERS_AT_ONCE = 400_000
_ROUNDING = 1e-6  # of the area of a polygon


class FaceTriangles(NamedTuple):
    """Triangles of polygons, in their order.

    Args:
        corners: `(t, 3)` int64, which of the polygons' corners they have.
        face: `(t,)` int64, which polygon each is of.
        unclear: how many polygons cross themselves, so that there is no telling what they cover.
    """

    corners: np.ndarray
    face: np.ndarray
    unclear: int


def fans_of(sizes: np.ndarray) -> np.ndarray:
    """`(t, 3)` int64 triangles of polygons with so many corners as fans from their first ones, as `FaceTriangles` has
    them.
    """
    counts = np.maximum(sizes - 2, 0)
    face = np.repeat(np.arange(len(sizes)), counts)
    step = np.arange(len(face)) - (np.cumsum(counts) - counts)[face]
    first = (np.cumsum(sizes) - sizes)[face]
    return first[:, None] + np.stack((np.zeros_like(step), step + 1, step + 2), axis=1)


def triangulate_faces(vertices: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> FaceTriangles:
    """Cut polygons into triangles; those with fewer than three corners have none.

    A polygon becomes a fan from its first corner where that covers it: all convex ones, and most that are warped.
    Others are cut in the plane across their normal (Newell's, the mean over the area). Those that cross themselves stay
    fans, and so do those with a corner that is no vertex, or not finite, which others report.

    Args:
        vertices: `(v, 3)` float64.
        corners: `(c,)` int64 indices of vertices, polygon after polygon.
        sizes: `(f,)` int64, how many corners each polygon has.
    """
    counts = np.maximum(sizes - 2, 0)
    first_triangle = np.cumsum(counts) - counts
    start = np.cumsum(sizes) - sizes
    triangles, unclear = fans_of(sizes), 0
    for size in np.unique(sizes[sizes > 3]).tolist():
        of_size = np.flatnonzero(sizes == size)
        at_once = max(1, _CORNERS_AT_ONCE // size)
        for at in range(0, len(of_size), at_once):
            polygons, points = _sound(of_size[at : at + at_once], vertices, corners, start, size)
            wrong, normals = _wrong_fans(points)
            cuts, clear = (_cut_quads if size == 4 else _cut)(points[wrong], normals[wrong])
            cut = polygons[wrong][clear]
            triangles[first_triangle[cut][:, None] + np.arange(size - 2)] = start[cut][:, None, None] + cuts[clear]
            unclear += int((~clear).sum())
    return FaceTriangles(triangles, np.repeat(np.arange(len(sizes)), counts), unclear)


def _sound(
    polygons: np.ndarray, vertices: np.ndarray, corners: np.ndarray, start: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Those of the polygons of one size whose corners are finite vertices, and their points `(p, size, 3)`."""
    own = corners[start[polygons][:, None] + np.arange(size)]
    inside = ((own >= 0) & (own < len(vertices))).all(axis=1)
    polygons, points = polygons[inside], vertices[own[inside]]
    finite = np.isfinite(points).all(axis=(1, 2))
    return polygons[finite], points[finite]


def _wrong_fans(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the polygons `(p, n, 3)` that their fans do not cover once, and the area vectors of all."""
    spokes = points[:, 1:] - points[:, :1]
    sides = np.cross(spokes[:, :-1], spokes[:, 1:])
    normals = sides.sum(axis=1)
    total = np.linalg.norm(normals, axis=1)
    most = np.linalg.norm(sides, axis=2).sum(axis=1)
    signed = np.einsum("pti,pi->pt", sides, normals / np.maximum(total, 1e-300)[:, None])
    wrong = (signed.min(axis=1) < -_ROUNDING * most) | (total < _ROUNDING * most)
    if points.shape[1] > 4:  # a fan of more than a turn lies over itself, as a pentagram's does
        angles = np.arctan2(signed, np.einsum("pti,pti->pt", spokes[:, :-1], spokes[:, 1:]))
        wrong |= angles.sum(axis=1) > 2 * np.pi
    return np.flatnonzero(wrong), normals


def _cut_quads(points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quads `(p, 4, 3)` along their other diagonal: triangles `(p, 2, 3)` of corners, and whether they cover them."""
    a, b, c, d = points.transpose(1, 0, 2)
    sides = np.stack((np.cross(b - a, d - a), np.cross(c - b, d - b)), axis=1)
    signed, squares = np.einsum("pti,pi->pt", sides, normals), np.einsum("pi,pi->p", normals, normals)
    clear = (signed.min(axis=1) >= -_ROUNDING * squares) & (squares > 0)
    return np.tile([[0, 1, 3], [1, 2, 3]], (len(points), 1, 1)), clear


def _cut(points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Polygons `(p, n, 3)` by clipping ears: triangles `(p, n - 2, 3)` of corners, and whether they cover them."""
    count, size = points.shape[:2]
    triangles, clear = np.zeros((count, size - 2, 3), dtype=np.int64), np.zeros(count, dtype=bool)
    for at in range(count):
        cut = _clip(points[at], normals[at])
        if cut is not None:
            triangles[at], clear[at] = cut, True
    return triangles, clear


def _clip(outline: np.ndarray, normal: np.ndarray) -> np.ndarray | None:
    """Triangles of a polygon `(n, 3)` as `(n - 2, 3)` of its corners; None if it crosses itself."""
    length = float(np.linalg.norm(normal))
    if length == 0:
        return None
    axis = int(np.abs(normal).argmin())
    across = np.cross(normal, np.eye(3)[axis])
    across /= np.linalg.norm(across)
    flat = (outline - outline[0]) @ np.stack((across, np.cross(normal / length, across)), axis=1)
    if crosses_itself(flat):
        return None
    triangles, rest = clip_ears(flat, range(len(flat)))
    corners, ahead = flat[rest], flat[np.roll(rest, -1)]
    area = float((corners[:, 0] * ahead[:, 1] - corners[:, 1] * ahead[:, 0]).sum())
    if area < -_ROUNDING * length or (len(rest) > 3 and area > _ROUNDING * length):
        return None
    return np.array(triangles + [(rest[0], rest[at], rest[at + 1]) for at in range(1, len(rest) - 1)])

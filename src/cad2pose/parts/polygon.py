"""Triangulation of planar polygons with holes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def triangulate(outer: np.ndarray, holes: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Cut a simple polygon into triangles by clipping ears (Meisters, 1975); every given vertex is used.

    Args:
        outer: `(n, 2)` corners, counter-clockwise.
        holes: each `(m, 2)`, clockwise, inside and apart from each other.

    Returns:
        `(t, 3)` counter-clockwise triangles of indices into the corners of outer and holes, one after the other.
    """
    points = np.concatenate((outer, *holes))
    loop = list(range(len(outer)))
    starts = np.cumsum([len(outer)] + [len(hole) for hole in holes])
    rings = [list(range(int(start), int(start) + len(hole))) for start, hole in zip(starts, holes, strict=False)]
    for ring in sorted(rings, key=lambda ring: -points[ring, 0].max()):
        loop = _bridge(points, loop, ring, [other for other in rings if other is not ring])
    triangles = []
    while len(loop) > 3:
        ear = _best_ear(points, loop)
        triangles.append((loop[ear - 1], loop[ear], loop[(ear + 1) % len(loop)]))
        del loop[ear]
    return np.array([*triangles, tuple(loop)], dtype=np.int64)


def _bridge(points: np.ndarray, loop: list[int], ring: list[int], others: list[list[int]]) -> list[int]:
    """Join a hole to the loop by the shortest cut, there and back, that crosses no edge."""
    gaps = np.linalg.norm(points[loop][:, None] - points[ring][None], axis=-1)
    closed = [[*path, path[0]] for path in (loop, ring, *others)]
    edges = np.array([pair for path in closed for pair in zip(path[:-1], path[1:], strict=True)])
    for flat in gaps.argsort(axis=None, kind="stable"):
        at, to = divmod(int(flat), len(ring))
        if not _crosses(points, loop[at], ring[to], edges):
            return loop[: at + 1] + ring[to:] + ring[: to + 1] + loop[at:]
    raise AssertionError("holes must lie inside the polygon and apart from each other")


def _crosses(points: np.ndarray, start: int, end: int, edges: np.ndarray) -> bool:
    """Whether the segment start-end properly crosses any of the edges that do not share an end with it."""
    edges = edges[~np.isin(edges, (start, end)).any(axis=1)]
    a, b, p, q = points[edges[:, 0]], points[edges[:, 1]], points[start], points[end]
    apart = _turn(a, b, p) * _turn(a, b, q) <= 0
    return bool((apart & (_turn(p, q, a) * _turn(p, q, b) <= 0)).any())


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area of the triangle a b c."""
    return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])


def _best_ear(points: np.ndarray, loop: list[int]) -> int:
    """Position of the convex corner with an empty triangle whose smallest angle is largest."""
    corners = points[loop]
    before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
    area = _turn(before, corners, after)
    sides = [np.linalg.norm(p - q, axis=1) for p, q in ((before, corners), (corners, after), (after, before))]
    longest, second = np.sort(np.stack(sides), axis=0)[:0:-1]
    smallest_sine = area / (longest * second)
    for ear in (-smallest_sine).argsort(kind="stable"):
        if smallest_sine[ear] <= 1e-9:
            break
        a, b, c = before[ear], corners[ear], after[ear]
        inside = (_turn(a, b, corners) >= 0) & (_turn(b, c, corners) >= 0) & (_turn(c, a, corners) >= 0)
        own = [(corners == corner).all(axis=1) for corner in (a, b, c)]
        if not (inside & ~own[0] & ~own[1] & ~own[2]).any():
            return int(ear)
    raise AssertionError("the polygon must be simple and counter-clockwise")

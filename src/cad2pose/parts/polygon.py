"""Triangulation of planar polygons with holes."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import sqrt

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
    triangles, rest = clip_ears(points, loop)
    assert len(rest) == 3, "the polygon must be simple and counter-clockwise"
    return np.array([*triangles, tuple(rest)], dtype=np.int64)


def clip_ears(points: np.ndarray, loop: Sequence[int]) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Clip ears, always the one whose smallest angle is largest, until three corners are left or no ear is.

    Corners may lie at the same place, as where a cut leads to a hole and back.

    Args:
        points: `(n, 2)`.
        loop: indices of the polygon's corners, counter-clockwise.

    Returns:
        The triangles that were clipped, counter-clockwise, and the loop that is left: the last triangle, or more
        corners where the polygon crosses itself, runs clockwise or has no area.
    """
    corners = points[np.asarray(loop)]
    places = corners.tolist()
    count = len(places)
    before, after = [*range(-1, count - 1)], [*range(1, count + 1)]
    before[0], after[-1] = count - 1, 0
    left = np.ones(count, dtype=bool)
    changes = [0] * count
    ears = [(-_smallest_sine(places[before[at]], places[at], places[after[at]]), at, 0) for at in range(count)]
    heapify(ears)
    waiting: dict[int, list[tuple[float, int, int]]] = {}  # by the corner that lies in their triangle
    triangles = []
    while len(triangles) < count - 3 and ears and ears[0][0] < -1e-9:
        ear = heappop(ears)
        at = ear[1]
        if not left[at] or ear[2] != changes[at]:
            continue
        inside = _corner_inside(corners, left, before[at], at, after[at])
        if inside is not None:
            waiting.setdefault(inside, []).append(ear)
            continue
        triangles.append((loop[before[at]], loop[at], loop[after[at]]))
        left[at] = False
        after[before[at]], before[after[at]] = after[at], before[at]
        for other in (before[at], after[at]):
            changes[other] += 1
            sine = _smallest_sine(places[before[other]], places[other], places[after[other]])
            heappush(ears, (-sine, other, changes[other]))
        for freed in waiting.pop(at, ()):
            heappush(ears, freed)
    return triangles, [loop[at] for at in np.flatnonzero(left).tolist()]


def crosses_itself(loop: np.ndarray) -> bool:
    """Whether two edges of the polygon with `(n, 2)` corners cross by more than 1e-6 of its size."""
    ends = np.roll(loop, -1, axis=0)
    along = ends - loop
    margin = 1e-6 * float(np.ptp(loop, axis=0).max()) * np.linalg.norm(along, axis=1)
    block = max(1, 1_000_000 // len(loop))
    for first in range(0, len(loop), block):
        a, b, near = loop[first : first + block, None], ends[first : first + block, None], margin[first : first + block]
        start, end = _turn(a, b, loop), _turn(a, b, ends)
        start[np.abs(start) < near[:, None]] = 0
        end[np.abs(end) < near[:, None]] = 0
        back, ahead = _turn(loop, ends, a), _turn(loop, ends, b)
        back[np.abs(back) < margin] = 0
        ahead[np.abs(ahead) < margin] = 0
        if ((start * end < 0) & (back * ahead < 0)).any():
            return True
    return False


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


def _smallest_sine(before: list[float], corner: list[float], after: list[float]) -> float:
    """Sine of the smallest angle of the triangle at a corner; negative where the corner is reflex."""
    ax, ay, bx, by, cx, cy = *before, *corner, *after
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    _, second, longest = sorted(
        sqrt(x * x + y * y) for x, y in ((bx - ax, by - ay), (cx - bx, cy - by), (ax - cx, ay - cy))
    )
    return area / max(longest * second, 1e-300)


def _corner_inside(corners: np.ndarray, left: np.ndarray, before: int, at: int, after: int) -> int | None:
    """A corner that is left, in the triangle or on its border, and not at the place of one of the triangle's own."""
    a, b, c = corners[before], corners[at], corners[after]
    inside = left & (_turn(a, b, corners) >= 0) & (_turn(b, c, corners) >= 0) & (_turn(c, a, corners) >= 0)
    for found in np.flatnonzero(inside).tolist():
        if found not in (before, at, after) and not (corners[found] == (a, b, c)).all(axis=1).any():
            return found
    return None

"""Extent of a set of points: convex hull, largest distance, smallest enclosing sphere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

_CHUNK = 1024
_MANY = 20_000  # points
_RELATIVE_TOLERANCE = 1e-10


def hull_indices(points: Float[Tensor, "n 3"]) -> Int[Tensor, "m"]:
    """Indices of points among which all vertices of the convex hull are.

    A flat set is treated in its plane; a set on a line, or of fewer than four points, is returned whole.
    """
    array = points.double().numpy(force=True)
    centred = array - array.mean(axis=0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    for candidate in (array, plane):
        try:
            return torch.from_numpy(ConvexHull(candidate).vertices.astype(np.int64))
        except (QhullError, ValueError):  # flat, or too few points
            continue
    return torch.arange(len(points))


def extreme_points(points: Float[Tensor, "n 3"], directions: int = 600) -> Float[Tensor, "m 3"]:
    """The points that lie farthest out in evenly spread directions (a Fibonacci lattice), float64.

    600 directions tell the extent in any direction to one in a thousand of the size.
    """
    if len(points) > _MANY:  # a product with all directions would take gigabytes
        points = points[hull_indices(points).sort().values]
    index = torch.arange(directions, dtype=torch.float64)
    z = 1 - (2 * index + 1) / directions
    angle = index * (torch.pi * (3 - 5**0.5))
    ring = (1 - z.square()).sqrt()
    spread = torch.stack((ring * angle.cos(), ring * angle.sin(), z), dim=-1)
    return points.double()[(points.double() @ spread.T).argmax(dim=0).unique()]


def padded(outlines: Sequence[Float[Tensor, "_ 3"]]) -> Float[Tensor, "n k 3"]:
    """Sets of points as one tensor: the last one of each repeated."""
    longest = max(map(len, outlines))
    return torch.stack([points[torch.arange(longest).clamp_max(len(points) - 1)] for points in outlines])


def largest_distance(points: Float[Tensor, "n 3"]) -> float:
    """Largest distance between two of the points (BOP's diameter), exact, through the convex hull."""
    hull = points[hull_indices(points)].double()
    hull = hull - hull.mean(0)
    squares = hull.square().sum(-1)
    best = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(hull), _CHUNK):
        part = slice(start, start + _CHUNK)
        distances = squares[part, None] + squares - 2 * hull[part] @ hull.T
        best = torch.maximum(best, distances.max())
    return float(best.sqrt())


def bounding_sphere(points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "3"], float]:
    """Centre and radius of the smallest sphere that holds all points.

    Pivoting: while a point lies outside, the farthest one joins the (at most four) points that carry
    the sphere, and the smallest sphere of those five is found by trying all subsets. The radius grows
    in every step, so it ends, at the exact answer. The sphere is unique; hence every symmetry of the
    points leaves its centre where it is.
    """
    hull = points[hull_indices(points)].double().numpy(force=True)
    support = hull[:1]
    center, radius = support[0], 0.0
    tolerance = _RELATIVE_TOLERANCE * float(np.ptp(hull, axis=0).max())
    while True:
        distances = np.linalg.norm(hull - center, axis=1)
        farthest = int(distances.argmax())
        if distances[farthest] <= radius + tolerance:
            return torch.from_numpy(center.copy()), float(distances[farthest])
        support = np.concatenate((support, hull[farthest : farthest + 1]))
        support, center, grown = _smallest_sphere_of_few(support, tolerance)
        if grown <= radius:  # rounding: no progress is possible any more
            return torch.from_numpy(center.copy()), float(np.linalg.norm(hull - center, axis=1).max())
        radius = grown


def _smallest_sphere_of_few(points: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, float]:
    """(points that carry it, centre, radius) of the smallest sphere of at most five points."""
    best = (points, points.mean(axis=0), np.inf)
    for size in range(2, min(len(points), 4) + 1):
        for chosen in combinations(range(len(points)), size):
            subset = points[list(chosen)]
            center = _circumcenter(subset)
            radius = float(np.linalg.norm(subset - center, axis=1).max())
            if radius < best[2] and np.linalg.norm(points - center, axis=1).max() <= radius + tolerance / 2:
                best = (subset, center, radius)
    return best


def _circumcenter(points: np.ndarray) -> np.ndarray:
    """The point in the affine hull of two to four points that is equally far from all of them."""
    edges = points[1:] - points[0]
    return points[0] + np.linalg.lstsq(2 * edges, (edges**2).sum(axis=1), rcond=None)[0]

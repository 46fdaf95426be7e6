"""Which points of a surface can be seen from outside, and from where."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from cad2pose.geometry.rotation import rotation_to_ray
from cad2pose.parts.diagnosis import MeshDiagnosis

_POINTS_PER_CELL = 16  # of those that may hide, in the mean over the buffer's cells
_SLACK = (1.5, 12.0)  # depth tolerance in cells: times 1 + slope of the surface, and at most
_STRICT = (0.6, 3.0)  # the same where being seen from one of many directions is enough
_GRAZING = 0.05  # cosine to the viewing direction below which a surface does not count as seen
_NOTHING = -2.0
_LEAST_VIEWS = 2
_SHEET_SHARE = 6  # one in so many views that show the other side of a sheet, too


def sphere_directions(count: int) -> Float[Tensor, "count 3"]:
    """Unit vectors spread over the sphere along a golden-angle spiral."""
    step = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * step + 1) / count
    angle = step * (torch.pi * (3 - 5**0.5))
    across = (1 - z * z).sqrt()
    return torch.stack((across * angle.cos(), across * angle.sin(), z), dim=1)


def visibility(
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    hiding: Float[Tensor, "m 3"],
    directions: Float[Tensor, "d 3"],
    slack: tuple[float, float] = _SLACK,
) -> Bool[Tensor, "d n"]:
    """Which points are not hidden behind others, seen from far away along each direction.

    The points that may hide are entered in a depth buffer across each direction; a point is hidden where something
    lies before it by more than the surface itself may rise within a cell.

    Args:
        points: to be judged, in the unit ball.
        normals: of the surface there; it may face away.
        hiding: points dense over the surface.
        directions: unit vectors from the ball's centre towards the viewpoints.
        slack: depth tolerance in cells of the buffer: per 1 + slope, and at most.
    """
    cells = max(8, int((len(hiding) / _POINTS_PER_CELL) ** 0.5))
    result = torch.empty(len(directions), len(points), dtype=torch.bool)
    facing = (normals @ directions.T).abs().clamp_min(1e-3)
    tolerance = (slack[0] * (1 + (1 - facing.square()).clamp_min(0).sqrt() / facing)).clamp_max(slack[1])
    for row, direction in enumerate(directions):
        across = rotation_to_ray(direction)[:, :2]
        buffer = torch.full((cells * cells,), _NOTHING, dtype=hiding.dtype)
        buffer.scatter_reduce_(0, _cell(hiding @ across, cells), hiding @ direction, reduce="amax")
        spread = max_pool2d(buffer.view(1, cells, cells), 3, 1, 1).flatten()
        buffer = torch.where(buffer == _NOTHING, spread, buffer)  # cells that no point happened to fall into
        behind = buffer[_cell(points @ across, cells)] - points @ direction
        result[row] = behind < tolerance[:, row] * (2 / cells)
    return result


def count_views(
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    hiding: Float[Tensor, "m 3"],
    directions: Float[Tensor, "d 3"],
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """From how many of the directions each point is seen on the side of its normal, and on the other side.

    A point of a surface that can be seen from outside is seen from two directions or more; the arguments are those of
    `visibility`, with a stricter tolerance, as being seen from one of many directions is enough.
    """
    seen = visibility(points, normals, hiding, directions, _STRICT)
    facing = (normals @ directions.T).T
    return (seen & (facing > _GRAZING)).sum(0), (seen & (facing < -_GRAZING)).sum(0)


def seen_sides(
    front: Int[Tensor, "n"], back: Int[Tensor, "n"], mesh: MeshDiagnosis, directions: int
) -> tuple[Bool[Tensor, "n"], Bool[Tensor, "n"]]:
    """Which points count as seen on the side of their normals, and which on the other side.

    A closed surface shows one side, that of its normals unless triangles are turned round. Only where it is open both
    sides count, if many views show the other one.

    Args:
        front, back: `(n,)` from how many directions each side is seen (`count_views`).
        mesh: what is known of the surface.
        directions: number of all directions.
    """
    seen, from_behind = front >= _LEAST_VIEWS, back >= _LEAST_VIEWS
    if not mesh.watertight:
        return seen, from_behind & (~seen | (back >= directions // _SHEET_SHARE))
    if mesh.twisted_edges or mesh.inverted_components:
        return seen & (front >= back), from_behind & (back > front)
    return seen, torch.zeros_like(seen)


def _cell(across: Float[Tensor, "n 2"], cells: int) -> Int[Tensor, "n"]:
    """Flat index of the cell of a raster over [-1, 1]^2."""
    index = ((across * 0.98 + 1) * (cells / 2)).long().clamp_(0, cells - 1)
    return index[:, 1] * cells + index[:, 0]

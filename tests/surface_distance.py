"""Distances from points to a triangle mesh by brute force, for tests."""

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.parts.mesh import Mesh


def nearest_on_surface(points: Float[Tensor, "n 3"], mesh: Mesh) -> tuple[Tensor, Tensor]:
    """(distance to the nearest triangle, its index) of every point."""
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    distance = _to_plane_inside(points, a, b, c)
    for start, end in ((a, b), (b, c), (c, a)):
        distance = torch.minimum(distance, _to_segment(points, start, end))
    nearest = distance.min(1)
    return nearest.values, nearest.indices


def _to_plane_inside(p: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    offset = p[:, None] - a
    inside = torch.ones(len(p), len(a), dtype=torch.bool)
    for start, end in ((a, b), (b, c), (c, a)):
        inward = torch.linalg.cross(normal, end - start)
        inside &= torch.linalg.vecdot(p[:, None] - start, inward.expand(len(p), -1, -1)) >= 0
    return torch.where(inside, torch.linalg.vecdot(offset, normal.expand(len(p), -1, -1)).abs(), torch.inf)


def _to_segment(p: Tensor, start: Tensor, end: Tensor) -> Tensor:
    along = end - start
    share = torch.linalg.vecdot(p[:, None] - start, along.expand(len(p), -1, -1)) / along.square().sum(-1)
    return torch.linalg.vector_norm(p[:, None] - start - share.clamp(0, 1)[..., None] * along, dim=-1)

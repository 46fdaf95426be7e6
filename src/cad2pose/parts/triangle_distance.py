"""Distances of points from triangles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def distance_to_triangles(
    points: Float[Tensor, "*batch 3"], corners: Float[Tensor, "*batch2 3 3"]
) -> Float[Tensor, "*batch2"]:
    """Distance of each point to its triangle, in the corners' unit."""
    a, b, c = corners.unbind(-2)
    points = points.expand(a.shape)
    normal = torch.linalg.cross(b - a, c - a)
    square = normal.square().sum(-1)
    height = ((points - a) * normal).sum(-1) / square.clamp_min(1e-300)
    foot = points - height[..., None] * normal
    inside = square > 0
    to_edges = torch.full(square.shape, torch.inf, dtype=points.dtype)
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        inside &= (torch.linalg.cross(edge, foot - start) * normal).sum(-1) >= 0
        share = ((points - start) * edge).sum(-1) / edge.square().sum(-1).clamp_min(1e-300)
        gap = points - start - share.clamp(0, 1)[..., None] * edge
        to_edges = torch.minimum(to_edges, gap.square().sum(-1))
    return torch.where(inside, height.abs() * square.sqrt(), to_edges.sqrt())

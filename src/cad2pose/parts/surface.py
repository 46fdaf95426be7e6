"""Points spread evenly over a surface."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.parts.mesh import Mesh

_OVERSAMPLING = 5


@dataclass(frozen=True, eq=False)
class SurfaceSamples:
    """Points on a mesh.

    Args:
        points: `(N, 3)` mm, float64.
        normals: `(N, 3)` unit vertex normals interpolated there.
        faces: `(N,)` the triangles they lie on.
    """

    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    faces: Int[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Int[Tensor, "m"]) -> SurfaceSamples:
        return SurfaceSamples(self.points[index], self.normals[index], self.faces[index])


def sample_surface(mesh: Mesh, count: int, seed: int = 0) -> SurfaceSamples:
    """`count` points evenly over the surface: five times as many drawn by area, thinned to the farthest ones.

    The same seed gives the same points. The order is that of `farthest_points`, so the first m are an
    even, coarser set themselves.

    Raises:
        ValueError: unless count is at least 1.
    """
    if count < 1:
        raise ValueError(f"{count} surface samples were asked for; ask for at least 1")
    drawn = sample_by_area(mesh, _OVERSAMPLING * count, torch.Generator().manual_seed(seed))
    return drawn[farthest_points(drawn.points, count)]


def sample_by_area(mesh: Mesh, count: int, generator: torch.Generator) -> SurfaceSamples:
    """Independent points, uniform over the area (fast, but they clump)."""
    steps = mesh.face_areas.cumsum(0)
    draw = torch.rand(count, generator=generator, dtype=torch.float64) * steps[-1]
    faces = torch.searchsorted(steps, draw, right=True).clamp(max=len(steps) - 1)
    weights = triangle_weights(*torch.rand(2, count, generator=generator, dtype=torch.float64))
    corners = mesh.faces[faces]
    points = (weights[..., None] * mesh.vertices[corners]).sum(1)
    normals = (weights[..., None] * mesh.normals[corners]).sum(1)
    return SurfaceSamples(points, torch.nn.functional.normalize(normals, dim=-1), faces)


def triangle_weights(first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape 3"]:
    """Weights of a triangle's corners, even over its area for draws even in [0, 1] (Turk, Graphics Gems 1990)."""
    root = first.sqrt()
    return torch.stack((1 - root, root * (1 - second), root * second), dim=-1)


def farthest_points(points: Float[Tensor, "n 3"], count: int) -> Int[Tensor, "count"]:
    """Indices of `count` points, each the farthest from the mean and all points picked before it.

    As GDR-Net and PVNet start it: the mean itself is not one of them.

    Raises:
        ValueError: if there are not that many points.
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"{count} farthest points were asked for, of {len(points)}; ask for 1 to {len(points)}")
    columns = points.double().T.contiguous()
    nearest = (columns - columns.mean(1, keepdim=True)).square().sum(0)
    picked = torch.empty(count, dtype=torch.long)
    for step in range(count):
        index = int(nearest.argmax())
        picked[step] = index
        nearest = torch.minimum(nearest, (columns - columns[:, index, None]).square().sum(0))
        nearest[index] = -1.0  # never twice, even among coinciding points
    return picked

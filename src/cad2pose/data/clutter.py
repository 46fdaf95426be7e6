"""Other things in the picture: meshes of everyday shapes, to stand behind a part and before it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.data.draws import Draws
from cad2pose.parts.builtin import BUILTIN_PARTS, builtin_part
from cad2pose.parts.mesh import Mesh
from cad2pose.parts.part import Part

_CELLS = 24


def random_shapes(seed: int, hulls: int = 14, turned: int = 14) -> list[Mesh]:
    """Shapes of radius 1 about the origin, without colours.

    Args:
        seed: of the random shapes.
        hulls: number of polyhedra (every other one a box).
        turned: number of turned shapes (cylinders, cones, bowls, bottles).
    """
    draws = Draws(seed, 202)
    meshes = [random_box(draws) if i % 2 else random_hull(draws) for i in range(hulls)]
    return meshes + [random_turned_shape(draws) for _ in range(turned)]


def other_builtin_meshes(parts: Sequence[Part]) -> list[Mesh]:
    """Meshes of those built-in parts that are not among these, by their names."""
    names = {part.name for part in parts}
    return [builtin_part(name).mesh for name in BUILTIN_PARTS if name not in names]


def random_box(draws: Draws) -> Mesh:
    """A box of random proportions."""
    signs = torch.cartesian_prod(*(torch.tensor([-1.0, 1.0]),) * 3)
    return _flat_shaded(signs * draws.uniform(0.15, 1.0, 3))


def random_hull(draws: Draws) -> Mesh:
    """The convex hull of a dozen random points."""
    return _flat_shaded(draws.normal(int(draws.integers(7)) + 6, 3) * draws.uniform(0.4, 1.0, 3))


def _flat_shaded(points: Float[Tensor, "n 3"]) -> Mesh:
    """Convex hull of a few points, every triangle with vertices of its own."""
    corners = points.double()[hull_triangles(points.double())]
    faces = torch.arange(3 * len(corners)).reshape(-1, 3)
    return unit_sized(Mesh.from_arrays(corners.reshape(-1, 3), faces))


def hull_triangles(points: Float[Tensor, "n 3"]) -> Int[Tensor, "f 3"]:
    """Triangles of three points that have all others on one side, turned outwards; for a dozen points or so.

    Where more than three points share a plane, overlapping triangles of that plane are returned.
    """
    triples = torch.combinations(torch.arange(len(points)), 3)
    a, b, c = points[triples].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    height = points @ normal.T - (normal * a).sum(-1)
    below, above = (height < 1e-9).all(0), (height > -1e-9).all(0)
    outwards = torch.cat((triples[below], triples[above & ~below][:, [0, 2, 1]]))
    return outwards


def random_turned_shape(draws: Draws, steps: int = 20) -> Mesh:
    """A profile of two to five random segments turned about an axis: cylinders, cones, bowls, bottles."""
    corners = int(draws.integers(4)) + 1
    radii = torch.cat((torch.zeros(1), draws.uniform(0.15, 1.0, corners + 1), torch.zeros(1)))
    heights = torch.cat((torch.zeros(1), draws.uniform(0.1, 1.0, corners).cumsum(0)))
    heights = torch.cat((heights[:1], heights, heights[-1:])) * float(draws.uniform(0.2, 1.5, 1))
    if bool(draws.chance(0.3)):
        radii = torch.full_like(radii, float(radii[1]))  # a plain cylinder
        radii[0] = radii[-1] = 0
    profile = torch.stack((radii, heights), dim=-1).double()
    angle = torch.arange(steps + 1, dtype=torch.float64) * (2 * math.pi / steps)
    pieces, faces = [], []
    ring = torch.arange(steps)
    quads = torch.stack((ring, ring + 1, ring + steps + 2, ring + steps + 1), dim=-1)
    for segment, (low, high) in enumerate(zip(profile[:-1], profile[1:], strict=True)):
        for end in (low, high):  # a ring for either end of each segment keeps the corners of the profile sharp
            pieces.append(torch.stack((end[0] * angle.cos(), end[0] * angle.sin(), end[1].expand(steps + 1)), -1))
        first = 2 * segment * (steps + 1)
        faces.append(torch.cat((quads[:, [0, 1, 2]], quads[:, [0, 2, 3]])) + first)
    return unit_sized(Mesh.from_arrays(torch.cat(pieces), torch.cat(faces)))


def coarse_copy(mesh: Mesh, cells: int = _CELLS) -> Mesh:
    """The mesh with all vertices of each cell of a grid drawn together (Rossignac and Borrel 1993)."""
    if len(mesh.faces) <= 2000:
        return mesh
    used, faces = mesh.faces.unique(return_inverse=True)
    vertices = mesh.vertices[used]
    low, span = vertices.amin(0), (vertices.amax(0) - vertices.amin(0)).max()
    key = ((vertices - low) / span * cells).floor().long().clamp(0, cells)
    _, cell = (key @ torch.tensor([(cells + 1) ** 2, cells + 1, 1])).unique(return_inverse=True)
    count = int(cell.max()) + 1

    def mean(values: Float[Tensor, "v 3"]) -> Float[Tensor, "count 3"]:
        total = torch.zeros(count, 3, dtype=values.dtype).index_add_(0, cell, values)
        return total / torch.bincount(cell, minlength=count)[:, None]

    faces = cell[faces]
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    if not bool(whole.any()):
        return mesh
    colors = None if mesh.colors is None else mean(mesh.colors[used])
    return Mesh.from_arrays(mean(vertices), faces[whole], colors)


def thinned(mesh: Mesh, most: int = 200_000) -> Mesh:
    """The mesh itself, or, where it has more triangles than `most`, the finest copy by a grid that has no more.

    Pictures of some hundred pixels do not show the difference: the grid has 512 cells or fewer along the longest side.
    """
    cells = 512
    copy = mesh
    while len(copy.faces) > most and cells >= _CELLS:
        copy = coarse_copy(mesh, cells)
        cells = cells * 3 // 4
    return copy


def drawable_mesh(part: Part) -> Mesh:
    """A part's mesh, thinned out where it is finer than pictures can show; says so."""
    mesh = thinned(part.mesh)
    if mesh is not part.mesh:
        warnings.warn(
            f"{part.name} has {len(part.mesh.faces):,} triangles; it is rendered with {len(mesh.faces):,}", stacklevel=3
        )
    return mesh


def unit_sized(mesh: Mesh) -> Mesh:
    """The mesh moved and scaled into the unit sphere about the origin."""
    used = mesh.used_vertices
    center = (used.amin(0) + used.amax(0)) / 2
    radius = torch.linalg.vector_norm(used - center, dim=-1).max()
    return Mesh((mesh.vertices - center) / radius, mesh.faces, mesh.normals, mesh.colors)

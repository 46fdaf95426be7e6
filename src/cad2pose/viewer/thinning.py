"""Meshes for drawing: fewer triangles, by merging the vertices that share a cell of a grid."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import normalize

from cad2pose.parts.mesh import Mesh

_FINEST, _COARSEST = 1024, 8  # cells along the longest side
_STEPS = 12


def thinned(mesh: Mesh, most: int) -> Mesh:
    """The mesh itself where it has at most so many triangles, else a coarser one for pictures.

    Vertices in one cell of a cubic grid whose normals point into the same octant become their mean, and triangles that
    lose a corner vanish (Rossignac and Borrel 1993). The finest grid that leaves few enough is found by bisection.

    Raises:
        ValueError: for fewer than 100 triangles.
    """
    if most < 100:
        raise ValueError(f"most is {most}; a mesh keeps at least 100 triangles")
    if len(mesh.faces) <= most:
        return mesh
    fine, coarse = float(_FINEST), float(_COARSEST)
    for _ in range(_STEPS):
        middle = (fine * coarse) ** 0.5
        if len(_merged_faces(mesh, _cells(mesh, middle))) > most:
            fine = middle
        else:
            coarse = middle
    cell = _cells(mesh, coarse)
    faces = _merged_faces(mesh, cell)
    count = int(cell.max()) + 1
    share = torch.bincount(cell, minlength=count).clamp_min(1).double()[:, None]
    vertices, normals = (
        torch.zeros(count, 3, dtype=torch.float64).index_add_(0, cell, values) / share
        for values in (mesh.vertices, mesh.normals)
    )
    colors = None
    if mesh.colors is not None:
        colors = (torch.zeros(count, 3).index_add_(0, cell, mesh.colors) / share).float()
    return Mesh(vertices, faces[:most], normalize(normals, dim=1), colors)


def _cells(mesh: Mesh, across: float) -> Int[Tensor, "v"]:
    """A number for every vertex, the same for those that become one."""
    low = mesh.vertices.amin(0)
    span = float((mesh.vertices.amax(0) - low).max())
    place = ((mesh.vertices - low) * (across / span)).floor().long()
    octant = ((mesh.normals > 0).long() * torch.tensor([1, 2, 4])).sum(1, keepdim=True)
    return torch.unique(torch.cat((place, octant), dim=1), dim=0, return_inverse=True)[1]


def _merged_faces(mesh: Mesh, cell: Int[Tensor, "v"]) -> Int[Tensor, "f 3"]:
    corner = cell[mesh.faces]
    a, b, c = corner.unbind(1)
    corner = corner[(a != b) & (b != c) & (c != a)]
    first = corner.argmin(1, keepdim=True)  # the same triangle starts with the same corner, and keeps its side
    turned = corner.gather(1, (first + torch.arange(3)) % 3)
    return torch.unique(turned, dim=0)

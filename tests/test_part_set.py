"""Surface points of a method's parts: new ones at every draw, on the surface, even over its area."""

from dataclasses import replace

import pytest
import torch

from cad2pose.methods.part_set import PartSet
from cad2pose.parts import Part, builtin_part
from cad2pose.parts.mesh import Mesh
from surface_distance import nearest_on_surface


def test_random_points_are_new_each_time_and_follow_the_generator():
    parts = PartSet([builtin_part("nut"), builtin_part("disc")], 8)
    generator = torch.Generator().manual_seed(0)
    first, second = (parts.random_surface(500, generator) for _ in range(2))
    assert float(torch.cdist(first, second).amin(2).min()) > 0
    assert float(torch.cdist(first, parts.surface).amin(2).min()) > 0
    again = parts.random_surface(500, torch.Generator().manual_seed(0))
    assert torch.equal(first, again)


def test_random_points_lie_on_the_surface_and_cover_it_by_area():
    part = builtin_part("bracket")
    points = PartSet([part], 8).random_surface(6000, torch.Generator().manual_seed(1))[0].double()
    away, _ = nearest_on_surface(points[:200] * part.radius + part.center, part.mesh)
    assert float(away.max()) < 1e-3 * part.radius
    corners = part.normalize(part.mesh.vertices)[part.mesh.faces]
    mean = (corners.mean(1) * part.mesh.face_areas[:, None]).sum(0) / part.mesh.face_areas.sum()
    assert float((points.mean(0) - mean).norm()) < 0.03


def inside(points: torch.Tensor, part: Part) -> torch.Tensor:
    """Whether normalised points lie in a part, by the solid angle of its surface (Van Oosterom and Strackee 1983)."""
    a, b, c = (part.normalize(part.mesh.vertices)[part.mesh.faces][None] - points[:, None, None]).unbind(2)
    x, y, z = (v.norm(dim=-1) for v in (a, b, c))
    dot = torch.linalg.vecdot
    below = x * y * z + dot(a, b) * z + dot(b, c) * x + dot(c, a) * y
    return torch.atan2(dot(a, torch.linalg.cross(b, c)), below).sum(1).abs() > 3.14159


def outward(points: torch.Tensor, normals: torch.Tensor, part: Part) -> float:
    """Share of the points from which the normals lead out of a part."""
    ahead, behind = (inside(points + sign * 0.02 * normals, part) for sign in (1, -1))
    return float((behind & ~ahead).double().mean())


@pytest.mark.parametrize("broken", ["nothing", "winding", "normals", "both"])
def test_sparse_normals_point_outward_whatever_the_file_says(broken):
    part = builtin_part("bracket")
    mesh = part.mesh
    faces = mesh.faces.flip(1) if broken in ("winding", "both") else mesh.faces
    normals = -mesh.normals if broken in ("normals", "both") else mesh.normals
    parts = PartSet([replace(part, mesh=Mesh(mesh.vertices, faces, normals))], 8)
    assert outward(parts.sparse[0].double(), parts.sparse_normals[0].double(), part) > 0.97


def test_every_closed_piece_has_its_own_sides():
    """Two nuts beside each other in one mesh, the second inside out."""
    nut = builtin_part("nut")
    mesh, shift = nut.mesh, torch.tensor([200.0, 0, 0]).double()
    joined = Mesh(
        torch.cat((mesh.vertices, mesh.vertices + shift)),
        torch.cat((mesh.faces, mesh.faces.flip(1) + len(mesh.vertices))), torch.cat((mesh.normals, -mesh.normals)),
    )  # fmt: skip
    part = Part.from_mesh("two", joined)
    parts = PartSet([part], 8)
    points = parts.sparse[0].double() * part.radius + part.center
    second = points[:, 0] > 100
    points = nut.normalize(points - torch.where(second[:, None], shift, 0.0))
    for mine in (second, ~second):
        assert outward(points[mine], parts.sparse_normals[0, mine].double(), nut) > 0.95


def test_a_subset_has_the_symmetries_of_its_own_parts():
    parts = PartSet([builtin_part("bracket"), builtin_part("bushing"), builtin_part("nut")], 8)
    chosen = parts.subset([2, 1])
    assert len(chosen) == len(chosen.symmetries) == 2
    assert [len(symmetries.continuous) for symmetries in chosen.symmetries] == [0, 1]
    assert torch.equal(chosen.surface, parts.surface[[2, 1]])
    assert len(parts) == len(parts.symmetries) == 3

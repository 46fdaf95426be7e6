"""Surface samples of solvers: even, only what can be seen, with the areas and the visibility that images show."""

import pytest
import torch

from cad2pose.geometry import make_transform
from cad2pose.parts import Mesh, Part, builtin_part
from cad2pose.parts.visibility import sphere_directions
from cad2pose.rendering import MeshSet, render
from cad2pose.solvers.surface import EVEN_POINTS, Surface

COUNT = 8000


def box_mesh(half: float) -> Mesh:
    """A cube with split corners, its triangles turned outwards."""
    corners, faces = [], []
    for axis in range(3):
        for side in (-1.0, 1.0):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            base = len(corners)
            for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
                corner = torch.zeros(3, dtype=torch.float64)
                corner[axis], corner[a], corner[b] = side * half, u * half, v * half
                corners.append(corner)
            quad = [(0, 1, 2), (0, 2, 3)] if side > 0 else [(0, 2, 1), (0, 3, 2)]
            faces += [[base + i for i in triangle] for triangle in quad]
    return Mesh.from_arrays(torch.stack(corners), torch.tensor(faces))


def test_directions_are_spread_over_the_sphere():
    directions = sphere_directions(200)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(200, dtype=torch.float64))
    assert directions.mean(0).norm() < 0.01
    nearest = (directions @ directions.T - 2 * torch.eye(200)).amax(1).arccos()
    assert nearest.min() > 0.5 * nearest.max()


@pytest.mark.parametrize("name", ["bracket", "nut"])
def test_areas_seen_are_those_of_the_rendered_silhouette(name):
    part = builtin_part(name)
    surface = Surface.of_part(part, COUNT)
    assert set(surface.areas) == set(EVEN_POINTS)
    K = torch.tensor([[4000.0, 0, 49.5], [0, 4000, 49.5], [0, 0, 1]])
    errors = []
    for index in range(0, len(surface.directions), 80):
        towards = surface.directions[index].double()
        side = torch.linalg.cross(towards, torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64))
        side = side / side.norm()
        R = torch.stack((side, torch.linalg.cross(-towards, side), -towards))
        t = torch.tensor([0.0, 0.0, 100.0], dtype=torch.float64)
        T = make_transform(R, t * part.radius - R @ part.center).float()
        seen = render(
            MeshSet.from_meshes([part.mesh]), torch.zeros(1, 1, dtype=torch.long), T[None, None], K[None], 100, 100
        )
        for count in (2048, 512):
            x = surface.points[:count] @ R.float().T + t.float()
            facing = -((surface.normals[:count] @ R.float().T) * x).sum(1).clamp_max(0)
            covered = surface.areas[count] * facing * 4000**2 / x[:, 2] ** 3 * surface.visible[index, :count]
            errors.append(float(covered.sum() / seen.mask.sum()) - 1)
    errors = torch.tensor(errors)
    assert errors.abs().mean() < 0.03
    assert errors.abs().max() < 0.12


@pytest.mark.parametrize("name", ["bracket", "nut"])
def test_a_mesh_that_is_inside_out_shows_the_same_surface(name):
    part = builtin_part(name)
    turned = Mesh.from_arrays(part.mesh.vertices, part.mesh.faces[:, [0, 2, 1]])
    right, inverted = Surface.of_part(part, COUNT), Surface.of_part(Part.from_mesh(name, turned), COUNT)
    assert float(inverted.areas[2048].sum()) == pytest.approx(float(right.areas[2048].sum()), rel=0.02)
    # from anywhere the same area faces the camera
    shown = [((s.normals[:2048] @ s.directions.T).clamp_min(0) * s.visible.T * s.areas[2048][:, None]).sum(0)
             for s in (right, inverted)]  # fmt: skip
    torch.testing.assert_close(shown[1], shown[0], rtol=0.1, atol=0.02)


def test_an_open_sheet_shows_both_sides():
    angle = torch.linspace(0, torch.pi, 40, dtype=torch.float64)
    rows = [torch.stack((30 * angle.cos(), 30 * angle.sin(), torch.full_like(angle, z)), 1) for z in (0.0, 50.0)]
    a = torch.arange(39)
    faces = torch.cat((torch.stack((a, a + 1, a + 41), 1), torch.stack((a, a + 41, a + 40), 1)))
    surface = Surface.of_part(Part.from_mesh("sheet", Mesh.from_arrays(torch.cat(rows), faces)), COUNT)
    bulge = torch.tensor([0.0, 1.0, 0.0])
    for view in (bulge, -bulge):
        index = int((surface.directions @ view).argmax())
        facing = (surface.normals[:2048] @ surface.directions[index]).clamp_min(0) * surface.visible[index]
        silhouette = 60.0 * 50 / (30.0**2 + 25**2)  # in square radii
        assert float((facing * surface.areas[2048]).sum()) == pytest.approx(silhouette, rel=0.12)


def test_slenderness():
    """The radius over the second extent: of a bar of 80 x 10 x 10 between its side and its diagonal."""
    assert Surface.of_part(builtin_part("bracket"), COUNT).slenderness == 1.0
    bar = box_mesh(5.0)
    part = Part.from_mesh("bar", Mesh.from_arrays(bar.vertices * torch.tensor([8.0, 1, 1]).double(), bar.faces))
    assert 0.97 * part.radius / (10 * 2**0.5) < Surface.of_part(part, COUNT).slenderness < 1.05 * part.radius / 10


def test_inner_surfaces_are_dropped():
    outer, inner = box_mesh(10.0), box_mesh(4.0)
    mesh = Mesh.from_arrays(
        torch.cat((outer.vertices, inner.vertices)), torch.cat((outer.faces, inner.faces + len(outer.vertices)))
    )
    part = Part.from_mesh("box in a box", mesh)
    surface = Surface.of_part(part, COUNT)
    outside = surface.points.abs().amax(1) * part.radius
    assert (outside > 9.9).float().mean() > 0.995  # a seventh of the drawn points lay inside
    torch.testing.assert_close(
        float(surface.areas[2048].sum()) * part.radius**2, float(outer.face_areas.sum()), rtol=0.02, atol=0
    )


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="count is 100"):
        Surface.of_part(builtin_part("nut"), 100)

"""Surface points of a method's parts: new ones at every draw, on the surface, even over its area."""

import torch

from cad2pose.methods.part_set import PartSet
from cad2pose.parts import builtin_part
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

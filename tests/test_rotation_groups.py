"""Groups of rotations are groups, and distances from triangles are distances."""

import math

import pytest
import torch

from cad2pose.geometry import geodesic_distance, random_rotations, transform_points
from cad2pose.parts.rotation_groups import ANY_ANGLE, cyclic, dihedral, polyhedral, turns
from cad2pose.parts.triangle_distance import distance_to_triangles


def test_distance_to_triangles() -> None:
    triangle = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 3, 0]]).double()
    points = torch.tensor([[1.0, 1, 2], [-3, -4, 0], [3, 3, 0], [1, -2, 0]]).double()
    expected = torch.tensor([2.0, 5.0, 1.5 * 2**0.5, 2.0]).double()
    assert torch.allclose(distance_to_triangles(points, triangle.expand(4, 3, 3)), expected)
    flat = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]).double()
    assert float(distance_to_triangles(points[:1], flat[None])) == pytest.approx(5**0.5)


@pytest.mark.parametrize("group", [cyclic(5), dihedral(6), polyhedral("T"), polyhedral("O"), polyhedral("I")])
def test_finite_groups_are_closed(group) -> None:
    members = torch.cat((torch.eye(3).double()[None], group.elements))
    assert len(members) == group.order
    products = (members[:, None] @ members).flatten(0, 1)
    gaps = torch.cdist(products.flatten(1), members.flatten(1))
    assert float(gaps.amin(1).max()) < 1e-6
    assert sum(order - 1 for _, order in group.axes) == group.order - 1
    frame = random_rotations(1, torch.Generator().manual_seed(1), torch.float64)[0]
    center = torch.tensor([5.0, 6, 7]).double()
    placed = group.symmetries(frame, center)
    assert torch.allclose(
        transform_points(placed.discrete, center.expand(len(placed), 1, 3))[:, 0], center.expand(len(placed), 3)
    )


def test_no_number_of_teeth_recurs_in_step_with_the_turns_that_stand_for_all() -> None:
    angle = geodesic_distance(turns(ANY_ANGLE), torch.eye(3, dtype=torch.float64).expand(len(turns(ANY_ANGLE)), 3, 3))
    for teeth in range(2, 120):
        off = (angle * teeth / (2 * math.pi)).remainder(1.0)
        assert 0.4 < float(torch.minimum(off, 1 - off).max()) <= 0.5, teeth

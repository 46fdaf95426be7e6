import math

import pytest
import torch
import trimesh

from cad2pose.geometry import make_transform, rotation_from_axis_angle, transform_points
from cad2pose.parts import BUILTIN_PARTS, builtin_part
from cad2pose.parts.diagnosis import diagnose
from cad2pose.parts.part import Part
from cad2pose.parts.surface import sample_by_area
from surface_distance import nearest_on_surface

ROTATIONS = {"bracket": 1, "nut": 12, "bushing": 72, "disc": 1}


def turn(x: float, y: float, z: float, center: torch.Tensor) -> torch.Tensor:
    """Motion by a rotation vector in degrees about a point."""
    rotation = rotation_from_axis_angle(torch.tensor([x, y, z], dtype=torch.float64) * math.pi / 180)
    return make_transform(rotation, center - rotation @ center)


def moved_off(part: Part, transform: torch.Tensor, count: int = 120) -> torch.Tensor:
    """How far points of the surface land from it."""
    points = sample_by_area(part.mesh, count, torch.Generator().manual_seed(3)).points
    return nearest_on_surface(transform_points(transform, points), part.mesh)[0]


@pytest.mark.parametrize("name", BUILTIN_PARTS)
def test_closed_outward_and_of_sensible_size(name: str) -> None:
    part = builtin_part(name)
    found = diagnose(part.mesh)
    assert found.watertight
    assert found.orientation == "outward"
    assert (found.components, found.flat_faces, found.unused_vertices, found.flipped_normals) == (1, 0, 0, 0.0)
    assert 40 < part.diameter < 90
    assert len(part.mesh.faces) < 6000
    assert part.object_id == BUILTIN_PARTS.index(name) + 1
    other = trimesh.Trimesh(part.mesh.vertices.numpy(), part.mesh.faces.numpy(), process=False)
    other.merge_vertices(merge_norm=True)
    assert other.is_watertight
    assert other.is_winding_consistent
    assert other.volume == pytest.approx(found.volume, rel=1e-9)


@pytest.mark.parametrize("name", BUILTIN_PARTS)
def test_normals_are_flat_at_edges_and_colours_are_there(name: str) -> None:
    mesh = builtin_part(name).mesh
    bend = torch.linalg.vecdot(mesh.normals[mesh.faces], mesh.face_normals[:, None].expand(-1, 3, 3))
    assert float(bend.min()) > math.cos(math.radians(20))
    assert mesh.colors is not None
    assert 0 <= float(mesh.colors.min()) <= float(mesh.colors.max()) <= 1
    assert len(mesh.colors[mesh.faces].unique(dim=1).flatten(1).unique(dim=0)) > 1
    assert bool((mesh.colors[mesh.faces] == mesh.colors[mesh.faces][:, :1]).all())  # no colour runs over an edge


@pytest.mark.parametrize("name", BUILTIN_PARTS)
def test_group_size(name: str) -> None:
    assert len(builtin_part(name).symmetries.rotation_group(72)) == ROTATIONS[name]


def test_nut_maps_onto_itself_colours_too() -> None:
    part = builtin_part("nut")
    assert len(part.symmetries.discrete) == 11
    samples = sample_by_area(part.mesh, 150, torch.Generator().manual_seed(0))
    assert part.mesh.colors is not None
    own = part.mesh.colors[part.mesh.faces[samples.faces, 0]]
    for transform in part.symmetries.discrete:
        distance, face = nearest_on_surface(transform_points(transform, samples.points), part.mesh)
        assert float(distance.max()) < 1e-6
        same = (part.mesh.colors[part.mesh.faces[face, 0]] == own).all(-1)
        assert float(same.double().mean()) > 0.99  # a sample on a border may find the neighbour


@pytest.mark.parametrize(
    "rotation", [(0, 0, 30), (0, 0, 20), (180 * math.cos(0.3), 180 * math.sin(0.3), 0), (90, 0, 0)]
)
def test_nut_has_no_more(rotation: tuple[float, float, float]) -> None:
    part = builtin_part("nut")
    assert float(moved_off(part, turn(*rotation, part.center)).max()) > 0.5


def test_bushing_turns_freely_and_cannot_be_flipped() -> None:
    part = builtin_part("bushing")
    (axis,) = part.symmetries.continuous
    for transform in axis.transforms(7)[1:]:
        assert float(moved_off(part, transform).max()) < 0.02  # 128 flat sides
    for transform in axis.transforms(128)[1:4]:
        assert float(moved_off(part, transform).max()) < 1e-6
    for flip in ((180, 0, 0), (0, 180, 0)):
        assert float(moved_off(part, turn(*flip, part.center)).max()) > 5


def test_disc_is_almost_symmetric_only() -> None:
    part = builtin_part("disc")
    for degrees in (10, 90, 180):
        off = moved_off(part, turn(0, 0, degrees, part.center), 600)
        assert float(off.max()) > 1
        assert float((off > 0.05).double().mean()) < 0.1
    for flip in ((180, 0, 0), (0, 180, 0)):
        assert float(moved_off(part, turn(*flip, part.center)).max()) > 5


def test_bracket_has_no_symmetry() -> None:
    part = builtin_part("bracket")
    axes = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, -1], [1, 1, 1]])
    for x, y, z in torch.nn.functional.normalize(axes.double(), dim=-1).tolist():
        for degrees in (90, 120, 180, 240):
            off = moved_off(part, turn(degrees * x, degrees * y, degrees * z, part.center))
            assert float(off.square().mean().sqrt()) > 2


@pytest.mark.parametrize("name", BUILTIN_PARTS)
def test_symmetries_leave_the_sphere_centre(name: str) -> None:
    part = builtin_part(name)
    transforms = part.symmetries.transforms(0.3)
    centers = transform_points(transforms, part.center.expand(len(transforms), 1, 3))
    torch.testing.assert_close(centers, part.center.expand_as(centers), rtol=0, atol=1e-9)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="bracket, nut, bushing, disc"):
        builtin_part("bolt")

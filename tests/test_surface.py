import pytest
import torch

from cad2pose.parts import builtin_part, farthest_points, sample_surface
from cad2pose.parts.mesh import Mesh
from cad2pose.parts.surface import sample_by_area
from surface_distance import nearest_on_surface


def nearest_neighbours(points: torch.Tensor) -> torch.Tensor:
    distance = torch.cdist(points, points)
    return distance.fill_diagonal_(torch.inf).min(1).values


@pytest.mark.parametrize("name", ["bracket", "disc"])
def test_samples_lie_on_the_surface(name: str) -> None:
    mesh = builtin_part(name).mesh
    samples = sample_surface(mesh, 150, seed=1)
    assert samples.points.shape == samples.normals.shape == (150, 3)
    assert float(nearest_on_surface(samples.points, mesh)[0].max()) < 1e-9
    torch.testing.assert_close(samples.normals.norm(dim=-1), torch.ones(150).double())
    assert float(torch.linalg.vecdot(samples.normals, mesh.face_normals[samples.faces]).min()) > 0.9


def test_same_seed_same_points_another_seed_others() -> None:
    mesh = builtin_part("nut").mesh
    first, second, other = (sample_surface(mesh, 64, seed) for seed in (5, 5, 6))
    assert torch.equal(first.points, second.points)
    assert not torch.equal(first.points, other.points)


def test_drawing_is_uniform_over_the_area() -> None:
    """Points on a triangle cut into unequal pieces: shares and means are those of the areas."""
    vertices = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [1, 0, 0]], dtype=torch.float64)
    mesh = Mesh.from_arrays(vertices, torch.tensor([[0, 3, 2], [3, 1, 2], [0, 0, 1]]))
    samples = sample_by_area(mesh, 40_000, torch.Generator().manual_seed(0))
    share = torch.bincount(samples.faces, minlength=3).double() / 40_000
    torch.testing.assert_close(share, torch.tensor([0.1, 0.9, 0.0]).double(), rtol=0, atol=0.006)
    center = vertices[:3].mean(0)
    torch.testing.assert_close(samples.points.mean(0), center, rtol=0, atol=0.06)


def test_samples_are_blue_noise() -> None:
    """Kept apart as a triangular lattice nearly is, with no holes; independent points are neither."""
    mesh = builtin_part("bushing").mesh
    count = 500
    samples = sample_surface(mesh, count)
    lattice = float((2 * mesh.face_areas.sum() / (3**0.5 * count)) ** 0.5)
    near = nearest_neighbours(samples.points)
    assert 0.6 * lattice < float(near.min()) <= float(near.max()) < 1.2 * lattice
    probes = sample_by_area(mesh, 2000, torch.Generator().manual_seed(9)).points
    assert float(torch.cdist(probes, samples.points).min(1).values.max()) < lattice
    loose = sample_by_area(mesh, count, torch.Generator().manual_seed(0)).points
    assert float(nearest_neighbours(loose).min()) < 0.2 * lattice


def test_farthest_points_against_the_plain_definition(generator: torch.Generator) -> None:
    points = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    expected: list[int] = []
    chosen = [points.mean(0)]
    for _ in range(25):
        distances = torch.stack([(points - other).norm(dim=-1) for other in chosen]).min(0).values
        expected.append(int(distances.argmax()))
        chosen.append(points[expected[-1]])
    assert farthest_points(points, 25).tolist() == expected
    assert farthest_points(points.float() + 1000, 25)[0] == expected[0]


def test_coinciding_points_are_never_picked_twice() -> None:
    points = torch.zeros(5, 3)
    assert sorted(farthest_points(points, 5).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 11])
def test_impossible_counts(count: int) -> None:
    with pytest.raises(ValueError, match="farthest points"):
        farthest_points(torch.rand(10, 3), count)


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        sample_surface(builtin_part("nut").mesh, 0)

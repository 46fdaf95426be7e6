"""Depth refinement: poses go where a faulty depth image has the part, along their rays and nowhere else."""

import pytest
import torch

from cad2pose.geometry import Camera, make_transform, virtual_camera, warp_depth_to_crops
from cad2pose.parts import builtin_part
from cad2pose.rendering import MeshSet, render
from cad2pose.solvers import Hypotheses, Surface, measured_along_ray, other_unit, refine_depth
from planted_queries import plant

SIDE = 96


@pytest.fixture(scope="module")
def part():
    return builtin_part("bracket")


@pytest.fixture(scope="module")
def surface(part):
    return Surface.of_part(part, 8000)


@pytest.fixture(scope="module")
def planted(part, surface):
    return plant(part, surface, 6, SIDE, seed=3)


@pytest.fixture(scope="module")
def depth(part, planted):
    """The true depth in radii, as a perfect camera would measure it; a wall behind the part."""
    T = make_transform(
        planted.rotation, planted.position * part.radius - (planted.rotation @ part.center.float()[:, None])[..., 0]
    )  # fmt: skip
    seen = render(
        MeshSet.from_meshes([part.mesh]), torch.zeros(6, 1, dtype=torch.long), T[:, None], planted.maps.K, SIDE, SIDE
    )  # fmt: skip
    return torch.where(seen.mask, seen.depth / part.radius, 1.3 * planted.position[:, 2, None, None])


def moved(planted, factor):
    """The true poses at another distance, seen at the same place."""
    return Hypotheses(torch.arange(6), planted.rotation, planted.position * factor)


@pytest.mark.parametrize("factor", [0.85, 0.95, 1.08])
def test_poses_come_back_from_faulty_measurements(surface, planted, depth, factor):
    generator = torch.Generator().manual_seed(0)
    faulty = depth * (1 + 0.003 * torch.randn(depth.shape, generator=generator))
    wrong = torch.rand(depth.shape, generator=generator) < 0.1
    faulty = torch.where(wrong, depth * (0.7 + 0.6 * torch.rand(depth.shape, generator=generator)), faulty)
    faulty[torch.rand(depth.shape, generator=generator) < 0.3] = 0
    poses = moved(planted, factor)
    found = refine_depth(surface, planted.maps, faulty, planted.maps.K, poses)
    error = (found.position[:, 2] / planted.position[:, 2] - 1).abs()
    assert (error < 0.2 * abs(factor - 1)).sum() >= 5
    assert error.median() < 0.002
    rays = [torch.nn.functional.normalize(position, dim=1) for position in (found.position, poses.position)]
    torch.testing.assert_close(*rays, rtol=0, atol=1e-5)
    assert (found.sigma < 0.05 * planted.position[:, 2]).all()
    assert (found.agreeing > 0.5).all()


def test_what_stands_before_the_part_is_not_the_part(surface, planted, depth):
    hidden = depth.clone()
    hidden[:, :, : SIDE // 2 - 4] = 0.9 * planted.position[:, 2, None, None]  # over a third of it
    found = refine_depth(surface, planted.maps, hidden, planted.maps.K, moved(planted, 1.05))
    assert ((found.position[:, 2] / planted.position[:, 2] - 1).abs() < 0.01).sum() >= 5


@pytest.mark.parametrize("kind", ["nothing", "noise", "far"])
def test_depth_that_says_nothing_changes_nothing(surface, planted, depth, kind):
    generator = torch.Generator().manual_seed(1)
    image = {
        "nothing": torch.full_like(depth, torch.nan),
        "noise": planted.position[:, 2, None, None] * (0.1 + 3 * torch.rand(depth.shape, generator=generator)),
        "far": depth * 10,
    }[kind]
    poses = moved(planted, 1.0)
    found = refine_depth(surface, planted.maps, image, planted.maps.K, poses)
    torch.testing.assert_close(found.position, poses.position)
    assert torch.isnan(found.sigma).all()
    assert (found.agreeing == 0).all()


def test_another_unit_is_named(planted, depth):
    distance = planted.position[:, 2].clone()
    distance[5] = torch.nan
    assert other_unit(planted.maps, depth, distance) == [None] * 6
    for factor in (1e-3, 10.0):
        reasons = other_unit(planted.maps, depth * factor, distance)
        assert reasons[5] is None
        for reason in reasons[:5]:
            assert reason is not None
            assert float(reason.split(" at ")[1].split()[0]) == pytest.approx(factor, rel=0.2)
            assert "in another unit" in reason
    assert other_unit(planted.maps, torch.zeros_like(depth), distance) == [None] * 6


def test_a_measured_distance_replaces_what_was_thought_of_it():
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    before = root @ root.transpose(1, 2)
    position = torch.tensor([[1.0, -2, 10], [0, 0, 5]])
    after = measured_along_ray(before, position, torch.tensor([0.02, torch.nan]))
    torch.testing.assert_close(after[1], before[1])
    assert float(after[0, 5, 5]) == pytest.approx(0.02**2)
    torch.testing.assert_close(after[0, :3, :3], before[0, :3, :3])
    across = torch.tensor([0.0, 0, 0, 10, 0, -1]).double()  # where the centre is seen: x / z
    torch.testing.assert_close(across @ after[0] @ across, across @ before[0] @ across)


def test_crops_have_the_depth_of_their_own_axis():
    camera = Camera.from_values(300.0, 300.0, 159.5, 119.5, 320, 240)
    box = torch.tensor([[200.0, 60, 60, 50], [20.0, 150, 40, 60]], dtype=torch.float64)
    size = torch.tensor([[320.0, 240.0]] * 2, dtype=torch.float64)
    crops = virtual_camera(camera.K.expand(2, 3, 3), box, size, 64, 1.5, torch.tensor([0.0, 1.0]).double())
    v, u = torch.meshgrid(torch.arange(240.0), torch.arange(320.0), indexing="ij")
    rays = torch.stack((u, v, torch.ones_like(u)), -1).double() @ torch.linalg.inv(camera.K).T
    normal = torch.tensor([0.2, -0.1, 1.0]).double()
    plane = 700 / (rays @ normal)  # z of the plane n . x = 700
    found = warp_depth_to_crops(plane, crops)
    own = torch.cat((crops.ray_map().movedim(1, -1), torch.ones(2, 64, 64, 1).double()), -1)
    turned = (crops.R_virt_cam @ normal)[:, None, None]
    wanted = 700 / (own * turned).sum(-1)
    there = found > 0
    assert there.double().mean() > 0.8
    torch.testing.assert_close(found[there], wanted[there], rtol=3e-3, atol=0)
    assert (warp_depth_to_crops(torch.zeros(240, 320).double(), crops) == 0).all()


def test_a_lens_is_undone_for_depth_without_mixing():
    camera = Camera.from_values(300.0, 300.0, 159.5, 119.5, 320, 240, (-0.2, 0.05, 0.0, 0.0))
    depth = torch.where(torch.arange(320) < 100, 500.0, 900.0).expand(240, 320)
    straight = camera.undistort_depth(depth)
    assert set(straight.unique().tolist()) <= {0.0, 500.0, 900.0}
    assert (straight != depth).any()
    assert camera.without_distortion().undistort_depth(depth) is depth
    with pytest.raises(ValueError, match="depth image is 320 x 100"):
        camera.undistort_depth(depth[:100])

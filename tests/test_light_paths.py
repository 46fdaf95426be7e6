"""Shadows and openness: against what geometry says of a plate over a floor and a wall beside it; both backends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import cuda_emulation
from cad2pose import cuda_kernels
from cad2pose.parts.mesh import Mesh
from cad2pose.rendering import MeshSet, Rendering, openness, render, shadows
from cad2pose.rendering.rasterizer import Backend

SIZE = 96
FLOOR = 1000.0  # mm from the camera, which looks straight down at it
HEIGHT = 60.0  # of the plate over the floor


@pytest.fixture(params=["numba", "torch", "kernels"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """The backends; kernels, which belong to the torch backend, are run on the CPU."""
    if request.param != "kernels":
        return request.param
    if reason := cuda_emulation.missing():
        pytest.skip(reason)
    monkeypatch.setattr(cuda_kernels, "find_kernel", cuda_emulation.find_emulated)
    return "torch"


def rectangle(low: tuple[float, float, float], high: tuple[float, float, float]) -> Mesh:
    """An upright or lying rectangle between two corners that share one coordinate."""
    a, b = torch.tensor(low).double(), torch.tensor(high).double()
    flat = int((a == b).nonzero()[0])
    first, second = (axis for axis in range(3) if axis != flat)
    corners = a.repeat(4, 1)
    corners[1, first] = corners[2, first] = b[first]
    corners[2, second] = corners[3, second] = b[second]
    return Mesh.from_arrays(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))


def world(*meshes: Mesh) -> tuple[MeshSet, Tensor, Tensor, Rendering]:
    """Meshes in the camera's own frame, seen by it."""
    packed = MeshSet.from_meshes(meshes)
    index = torch.arange(len(meshes))[None].int()
    T = torch.eye(4).expand(1, len(meshes), 4, 4).contiguous()
    K = torch.tensor([[[480.0, 0, 47.5], [0, 480.0, 47.5], [0, 0, 1]]])
    return packed, index, T, render(packed, index, T, K, SIZE, SIZE)


def floor() -> Mesh:
    return rectangle((-400.0, -400.0, FLOOR), (400.0, 400.0, FLOOR))


def shadow_of_plate(backend: Backend, spread: float) -> tuple[Tensor, Tensor]:
    """(distance beyond the plate's shadow edge in mm, share of light there), along the floor's middle row."""
    plate = rectangle((-300.0, -300.0, FLOOR - HEIGHT), (0.0, 300.0, FLOOR - HEIGHT))
    scene = world(floor(), plate)
    slant = torch.nn.functional.normalize(torch.tensor([[-1.0, 0.0, -1.0]]), dim=-1)  # light from the left, above
    lit = shadows(
        *scene, slant, torch.tensor([spread]), torch.tensor([[0.0, 0, FLOOR]]), torch.tensor([150.0]), 256, backend
    )
    row = SIZE // 2
    seen = scene[3].slot[0, row] == 0
    x = (torch.arange(SIZE) - 47.5) / 480 * FLOOR
    return (x - HEIGHT)[seen], lit[0, row][seen]  # a slant of 45 degrees moves the edge by the height


def test_a_plate_casts_its_shadow_where_geometry_says(backend):
    beyond, lit = shadow_of_plate(backend, 0.01)
    assert lit[beyond < -5].max() < 0.05
    assert lit[beyond > 5].min() > 0.95
    assert (beyond < -5).sum() > 10


def test_penumbras_are_as_wide_as_the_light_makes_them(backend):
    spread = 0.25
    beyond, lit = shadow_of_plate(backend, spread)
    # across the light's direction the edge is HEIGHT sqrt(2) away, and a mm along the floor counts sqrt(1/2)
    reach = spread * HEIGHT * math.sqrt(2)
    across = (beyond / math.sqrt(2) / reach).clamp(-1, 1)
    expected = 0.5 + (across * (1 - across.square()).sqrt() + torch.arcsin(across)) / math.pi  # part of a disc
    assert (lit - expected).abs().mean() < 0.06
    assert (lit - expected).abs().max() < 0.3
    half = beyond[(lit - 0.5).abs().argmin()]
    assert abs(float(half)) < 0.3 * reach


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> list[Mesh]:
    """Its five sides that are not at the bottom, which is its far one."""
    (a, b, c), (d, e, f) = low, high
    return [
        rectangle((a, b, c), (d, e, c)), rectangle((a, b, c), (a, e, f)), rectangle((d, b, c), (d, e, f)),
        rectangle((a, b, c), (d, b, f)), rectangle((a, e, c), (d, e, f)),
    ]  # fmt: skip


@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_a_thin_plate_on_the_floor_casts_a_shadow_and_nothing_hides_itself(backend: Backend, spread: float):
    radius, thick = 100.0, 9.0  # a texel is 2.6 * 100 * 2 / 124 mm: the plate is two of them thick
    sides = box((-60.0, -60.0, FLOOR - thick), (0.0, 60.0, FLOOR))
    scene = world(floor(), *sides)
    slant = torch.nn.functional.normalize(torch.tensor([[-1.0, 0.0, -0.8]]), dim=-1)  # from the left, above
    lit = shadows(*scene, slant, torch.tensor([spread]), torch.tensor([[0.0, 0, FLOOR]]),
                  torch.tensor([2.6 * radius]), 128, backend)[0]  # fmt: skip
    row, reach = SIZE // 2, thick / 0.8
    x = (torch.arange(SIZE) - 47.5) / 480 * FLOOR
    on_floor = scene[3].slot[0, row] == 0
    beside = lit[row][on_floor & (x > 2) & (x < reach - 4)]
    assert len(beside) >= 2
    assert beside.mean() < 0.3
    assert lit[row][on_floor & (x > reach + 6)].min() > 0.9
    top = lit[scene[3].slot[0] == 1]
    assert top.mean() > 0.99


def test_what_is_outside_the_ball_or_alone_is_lit():
    scene = world(floor())
    lit = shadows(*scene, torch.tensor([[0.0, 0, -1]]), torch.tensor([0.2]), torch.tensor([[0.0, 0, FLOOR]]),
                  torch.tensor([50.0]))  # fmt: skip
    assert bool((lit == 1).all())


def slope() -> tuple[MeshSet, Tensor, Tensor, Rendering]:
    """A floor, and a slope of 63 degrees that rises from it on the left of x = 0."""
    corners = torch.tensor([[0.0, -400, FLOOR], [0, 400, FLOOR], [-50, 400, FLOOR - 100], [-50, -400, FLOOR - 100]])
    return world(floor(), Mesh.from_arrays(corners.double(), torch.tensor([[0, 1, 2], [0, 2, 3]])))


def test_a_corner_is_darker_than_the_open_floor(backend):
    scene = slope()[3]
    share = openness(scene, torch.tensor([80.0]), backend)[0, SIZE // 2]
    x = (torch.arange(SIZE) - 47.5) / 480 * FLOOR
    right = (scene.slot[0, SIZE // 2] == 0) & (x > 0)
    assert share[right & (x > 85)].min() == 1
    near = share[right & (x < 12)]
    assert len(near) >= 3
    assert abs(float(near.mean()) - 0.72) < 0.15, "the slope hides (1 - cos 63 deg) / 2 of the sky at its foot"
    smooth = share[right][:40].unfold(0, 5, 5).mean(1)
    assert bool((smooth.diff() > -0.05).all())
    assert float(share[(x < -3) & (x > -15)].mean()) < 0.95, "the floor hides some of the slope's sky"


def test_all_backends_find_the_same(backend):
    plate = rectangle((-30.0, -40.0, FLOOR - HEIGHT), (20.0, 25.0, FLOOR - HEIGHT))
    scene = world(floor(), plate, rectangle((50.0, -400.0, FLOOR - 70.0), (50.0, 400.0, FLOOR)))
    light = torch.nn.functional.normalize(torch.tensor([[-0.6, 0.3, -1.0]]), dim=-1)
    arguments = (light, torch.tensor([0.15]), torch.tensor([[0.0, 0, FLOOR]]), torch.tensor([200.0]), 128)
    first, second = shadows(*scene, *arguments, "numba"), shadows(*scene, *arguments, backend)
    assert float((first < 0.5).float().mean()) > 0.1
    assert ((first - second).abs() > 0.01).float().mean() < 1e-3
    near = torch.tensor([60.0])
    first, second = openness(scene[3], near, "numba"), openness(scene[3], near, backend)
    assert float(first.min()) < 0.9
    assert ((first - second).abs() > 0.02).float().mean() < 1e-3


def test_a_camera_with_skew_sees_the_same_light(backend: Backend):
    meshes = [floor(), rectangle((-300.0, -300.0, FLOOR - HEIGHT), (0.0, 300.0, FLOOR - HEIGHT))]
    packed = MeshSet.from_meshes(meshes)
    index, T = torch.arange(2)[None].int(), torch.eye(4).expand(1, 2, 4, 4).contiguous()
    slant = torch.nn.functional.normalize(torch.tensor([[-1.0, 0.2, -1.0]]), dim=-1)
    light = (slant, torch.tensor([0.05]), torch.tensor([[0.0, 0, FLOOR]]), torch.tensor([150.0]), 256, backend)
    lit, open_ = [], []
    for skew in (0.0, 60.0):
        K = torch.tensor([[[480.0, skew, 47.5], [0, 480.0, 20.5], [0, 0, 1]]])
        seen = render(packed, index, T, K, SIZE, SIZE)
        lit.append(shadows(packed, index, T, seen, *light)[0])
        open_.append(openness(seen, torch.tensor([100.0]), backend)[0])
    for maps in (lit, open_):
        for row in range(5, SIZE, 10):  # rows are moved by the skew
            moved = 60.0 * (row - 20.5) / 480
            x = torch.arange(SIZE - 1).float()
            there = x + moved
            kept = (there >= 0) & (there <= SIZE - 2)
            low = there[kept].floor().long()
            expected = maps[0][row, x[kept].long()]
            found = maps[1][row, low].lerp(maps[1][row, low + 1], there[kept] - low)
            assert (expected - found).abs().mean() < 0.06

"""Boxes of what is seen of parts behind other things."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cad2pose.data.boxes import BoxConfig, clip_box, extreme_points, projected_box
from cad2pose.data.clutter import unit_sized
from cad2pose.data.draws import Draws
from cad2pose.data.layout import SceneLayout
from cad2pose.data.occluders import ClutterConfig, draw_hiding
from cad2pose.data.pose_prior import PosePrior
from cad2pose.data.support import SupportConfig
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.data.visible_box import VisibleBoxes
from cad2pose.geometry import VirtualCamera, project_points, transform_points, virtual_camera
from cad2pose.parts import Mesh, builtin_part
from cad2pose.structures import CropBatch

EXACT = BoxConfig(shift=0.0, scale=0.0, visible_share=1.0)
PART = builtin_part("bracket")
SIZE = torch.tensor([[640.0, 480.0]], dtype=torch.float64)
K = torch.tensor([[[700.0, 0, 319.5], [0, 700, 239.5], [0, 0, 1]]], dtype=torch.float64)


def cube() -> Mesh:
    corners = torch.cartesian_prod(*(torch.tensor([-1.0, 1.0], dtype=torch.float64),) * 3)
    faces = torch.tensor([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6],
                          [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]])  # fmt: skip
    return unit_sized(Mesh.from_arrays(corners, faces))


def seen_box(batch: CropBatch, row: int) -> Tensor:
    """x y w h of the pixels that are seen, in the source image."""
    assert batch.truth is not None
    v, u = batch.truth.mask_visible[row].nonzero().unbind(1)
    corners = [torch.stack((u + i, v + j, torch.ones_like(u)), 1) for i in (-0.5, 0.5) for j in (-0.5, 0.5)]
    pixels = torch.cat(corners).double() @ torch.linalg.inv(batch.camera.homography[row].double()).T
    pixels = pixels[:, :2] / pixels[:, 2:]
    return torch.cat((pixels.amin(0) + 0.5, pixels.amax(0) - pixels.amin(0)))


def overlap(a: Tensor, b: Tensor) -> float:
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[:2] + a[2:], b[:2] + b[2:])
    both = (high - low).clamp_min(0).prod()
    return float(both / (a[2:].prod() + b[2:].prod() - both))


@pytest.mark.parametrize("judging", [False, True], ids=["training", "judging"])
def test_boxes_lie_around_what_pictures_show(judging: bool) -> None:
    config = SyntheticConfig.evaluation() if judging else SyntheticConfig(clutter=ClutterConfig(blob_share=0.0))
    prior = PosePrior(border_share=0.2)
    config = replace(config, box=EXACT, roll=0.0, pictures=2, crop_size=96, prior=prior)
    source = SyntheticCrops([PART, builtin_part("nut")], config, "cpu", 5)
    found, hidden = [], 0
    for index in range(5):
        batch = source.batch(index, 16)
        assert batch.truth is not None
        seen = batch.truth.mask_visible.flatten(1).sum(1) / batch.truth.mask_full.flatten(1).sum(1)
        hidden += int((seen < 0.9).sum())
        found += [overlap(seen_box(batch, row), batch.camera.box[row]) for row in range(16)]
    assert hidden > 10
    overlaps = torch.tensor(found)
    assert overlaps.median() > 0.93
    assert (overlaps < 0.7).float().mean() < 0.05


def camera_and_pose(x: float = 0.0, y: float = 0.0) -> tuple[VirtualCamera, Tensor, Tensor]:
    """A camera that looks at a part half a metre away, its pose in there, and its box."""
    T = torch.eye(4, dtype=torch.float64)[None].clone()
    T[:, :3, 3] = torch.tensor([x, y, 500]) - PART.center
    box = clip_box(projected_box(extreme_points(PART.mesh.used_vertices)[None], T, K), SIZE)
    camera = virtual_camera(K, box, SIZE, 128)
    return camera, camera.to_virtual(T), box


def box_behind(x: float, depth: float, size: float, least: float = 0.0, present: bool = True) -> tuple[Tensor, Tensor]:
    """The whole box, and that of what a cube with its middle x mm to the right, where the part is, leaves of it."""
    camera, T, box = camera_and_pose()
    thing = torch.eye(4, dtype=torch.float64)[None, None].clone()
    thing[..., :3, :3] *= size * 3**0.5  # radius 1 becomes half a side
    thing[..., :3, 3] = torch.tensor([x * depth / 500, 0.0, depth])
    boxes = VisibleBoxes([PART], [cube()], least)
    index = torch.tensor([[0 if present else -1]])
    return box[0], boxes(box, camera, torch.zeros(1, dtype=torch.long), T, index, thing)[0]


def test_a_thing_before_one_side_cuts_the_box_there() -> None:
    edge = 0.2 * float(PART.diameter) * 0.5
    half = 150.0
    # nearer by a fifth; the face towards the camera is what covers
    depth = 400.0
    front = depth - half
    x = (edge * front / 500 + half) * 500 / depth
    whole, box = box_behind(x, depth, half)
    right = 319.5 + 0.5 + 700 * edge / 500
    assert torch.allclose(box[:2], whole[:2])
    assert float(box[3]) == pytest.approx(float(whole[3]), rel=0.1)
    assert float(box[0] + box[2]) == pytest.approx(right, abs=0.06 * float(whole[2]))
    assert float(box[2]) < 0.9 * float(whole[2])


def test_what_stands_behind_or_is_not_there_hides_nothing() -> None:
    for whole, box in (box_behind(0.0, 900.0, 150.0), box_behind(0.0, 400.0, 150.0, present=False)):
        assert torch.allclose(box, whole)


def test_what_hides_too_much_is_put_behind() -> None:
    whole, box = box_behind(0.0, 400.0, 30.0, least=0.9)
    assert torch.allclose(box, whole)
    whole, box = box_behind(0.0, 400.0, 300.0, least=0.0)
    assert torch.allclose(box, whole), "a part of which nothing is seen keeps its whole box"


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (190.0, 130.0)], ids=["middle", "corner"])
def test_the_first_thing_reaches_as_far_over_the_part_as_it_is_meant_to(x: float, y: float) -> None:
    clutter = ClutterConfig(occluders=1, others=0)
    layout = SceneLayout([PART], SyntheticConfig(clutter=clutter, support=SupportConfig.off()), 0)
    camera, T, _ = camera_and_pose(x, y)
    focal = float(camera.K_virt[0, 0, 0])
    part = project_points(camera.K_virt, transform_points(T, PART.mesh.used_vertices.double()[None]))[0]
    errors = []
    for seed in range(60):
        scene = layout.scene_of(torch.zeros(1, dtype=torch.long), camera, T, Draws(seed))
        draws = Draws(seed)
        layout._choose_clutter(draws, torch.zeros(1, dtype=torch.long), 1)
        hiding = draw_hiding(clutter, draws, 1)
        if float(hiding.share) > 0:
            toward = (camera.R_virt_cam[0, :2, :2] @ hiding.direction[0]).float().double()
            toward = toward / toward.norm()
            mesh = layout.clutter[int(scene.clutter_index[0, 0])]
            points = transform_points(scene.T_virt_clutter[0, 0], mesh.used_vertices.double())
            first = (points[:, :2] / points[:, 2:] * focal @ toward).amin()
            along = (part - (camera.size - 1) / 2) @ toward
            overlap = (along.amax() - first) / (along.amax() - along.amin())
            errors.append(float(overlap) - float(hiding.share))
    assert len(errors) > 20
    assert max(map(abs, errors)) < 0.03


def test_boxes_err_alike_whatever_stands_around() -> None:
    box = BoxConfig(visible_share=0.0)
    cameras = []
    for config in (SyntheticConfig(box=box), SyntheticConfig(box=box, support=SupportConfig.off())):
        cameras.append(SceneLayout([PART], config, 0).scene(torch.zeros(8, dtype=torch.long), Draws(2)).camera)
    assert torch.equal(cameras[0].box, cameras[1].box)
    assert torch.equal(cameras[0].R_virt_cam, cameras[1].R_virt_cam)

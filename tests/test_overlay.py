from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from cad2pose.geometry import Camera, make_transform, project_points, random_rotations
from cad2pose.pictures import OverlayStyle, contact_sheet, draw_poses, save_png
from cad2pose.pictures.overlay import AXIS_COLORS, OBJECT_COLORS
from cad2pose.rendering import MeshSet, render
from cad2pose.structures import PoseEstimates
from small_models import wedge

CAMERA = Camera.from_values(500.0, 500.0, 159.5, 119.5, 320, 240)
BARE = OverlayStyle(contour=False, axes=False, label=False)


def _estimates(*poses, score=0.5):
    count = len(poses)
    return PoseEstimates(
        torch.ones(count, dtype=torch.int64), torch.stack(poses), torch.full((count,), score), torch.ones(count, 4)
    )


def _pose(part, position=(0.0, 0.0, 400.0), seed=0):
    rotation = random_rotations(1, torch.Generator().manual_seed(seed), torch.float64)[0]
    return make_transform(rotation, torch.tensor(position, dtype=torch.float64) - rotation @ part.center)


def _mask(part, T_cam_obj):
    index = torch.zeros(1, 1, dtype=torch.int64)
    meshes = MeshSet.from_meshes([part.mesh])
    return render(meshes, index, T_cam_obj[None, None], CAMERA.K[None], 240, 320).mask[0].numpy()


def _changed(style, part, T_cam_obj):
    image = torch.full((3, 240, 320), 0.5)
    drawn = draw_poses(image, CAMERA, {1: part}, _estimates(T_cam_obj), style)
    return (drawn - image).abs().amax(0).numpy() > 0.01, drawn


def test_nothing_asked_for_nothing_drawn():
    part = wedge()
    changed, _ = _changed(BARE, part, _pose(part))
    assert not changed.any()


def test_the_contour_follows_the_silhouette():
    part = wedge()
    pose = _pose(part)
    changed, _ = _changed(OverlayStyle(axes=False, label=False), part, pose)
    mask = _mask(part, pose).astype(np.uint8)
    distance = np.minimum(
        cv2.distanceTransform(mask, cv2.DIST_L2, 5) + 1e3 * (1 - mask),
        cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5) + 1e3 * mask,
    )  # fmt: skip
    assert distance[changed].max() < 5
    border = (mask == 1) & (cv2.erode(mask, np.ones((3, 3))) == 0)
    assert changed[border].all()


def test_the_part_is_blended_in_where_it_is():
    part = wedge()
    pose = _pose(part, (30.0, -20.0, 350.0))
    changed, _ = _changed(OverlayStyle(contour=False, axes=False, label=False, blend=1.0), part, pose)
    mask = _mask(part, pose)
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.9


def test_axes_start_at_the_centre_and_end_half_a_radius_on():
    part = wedge()
    pose = _pose(part)
    _, drawn = _changed(OverlayStyle(contour=False, label=False), part, pose)
    tips = part.center + torch.eye(3).double() * part.radius * 0.45
    points = tips @ pose[:3, :3].T + pose[:3, 3]
    pixels = project_points(CAMERA.K, points).round().int()
    for (u, v), color in zip(pixels.tolist(), AXIS_COLORS, strict=True):
        around = drawn[:, v - 1 : v + 2, u - 1 : u + 2].flatten(1) * 255
        assert float((around - torch.tensor(color)[:, None]).abs().amax(0).min()) < 60


@pytest.mark.parametrize("position", [(0.0, 0.0, 40.0), (0.0, 0.0, -400.0), (900.0, 0.0, 300.0), (120.0, 90.0, 400.0)])
def test_parts_half_or_wholly_out_of_sight_do_no_harm(position):
    part = wedge()
    _, drawn = _changed(OverlayStyle(blend=0.5), part, _pose(part, position))
    assert drawn.shape == (3, 240, 320)
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1


def test_the_best_pose_is_drawn_last():
    part = wedge()
    poses = [_pose(part, seed=1), _pose(part, seed=2)]
    style = OverlayStyle(contour=False, axes=False, label=False, blend=1.0)
    image = torch.zeros(3, 240, 320)
    estimates = _estimates(*poses)
    swapped = PoseEstimates(estimates.object_id, estimates.T_cam_obj.flip(0), torch.tensor([0.2, 0.9]), estimates.box)
    estimates = PoseEstimates(estimates.object_id, estimates.T_cam_obj, torch.tensor([0.9, 0.2]), estimates.box)
    first, second = (draw_poses(image, CAMERA, {1: part}, e, style) for e in (estimates, swapped))
    torch.testing.assert_close(first, second)


def test_names_beyond_ascii_are_written_somehow():
    part = wedge(name="Bügel ✓")
    changed, _ = _changed(OverlayStyle(contour=False, axes=False), part, _pose(part))
    assert changed.any()


def test_no_poses_leave_the_image_alone():
    nothing = PoseEstimates(
        torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 4).double(), torch.zeros(0), torch.zeros(0, 4)
    )
    image = torch.rand(3, 240, 320)
    torch.testing.assert_close(draw_poses(image, CAMERA, {1: wedge()}, nothing), image, atol=0.5 / 255, rtol=0.01)


def test_blend_is_checked():
    with pytest.raises(ValueError, match="blend is 2"):
        OverlayStyle(blend=2.0)


def test_colours_differ_in_lightness_or_blue():
    """For red-green blindness, colours must differ in more than red against green."""
    colors = torch.tensor(OBJECT_COLORS).float()
    seen = torch.stack((colors[:, :2] @ torch.tensor([0.45, 0.55]), colors[:, 2]), dim=-1)
    distance = torch.cdist(seen, seen) + 1e3 * torch.eye(len(colors))
    assert float(distance.min()) > 20


# --- sheets and files


def test_a_sheet_holds_every_picture_whole():
    pictures = [torch.full((3, 60, 80), 0.2), torch.full((3, 80, 60), 0.6), torch.full((40, 40), 1.0)]
    sheet = contact_sheet(pictures, ["a", "b", "c"], columns=2, tile_width=80)
    for picture, share in zip(pictures, (60 * 80, 107 * 80, 80 * 80), strict=True):
        value = float(picture.flatten()[0])
        assert int(((sheet - value).abs() < 0.003).all(0).sum()) >= 0.95 * share
    assert sheet.shape[2] == 2 * 80 + 3 * 6


def test_sheets_need_pictures_and_matching_labels():
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
    with pytest.raises(ValueError, match="1 pictures and 2 labels"):
        contact_sheet([torch.zeros(3, 4, 4)], ["a", "b"])


@pytest.mark.parametrize("shape", [(3, 5, 7), (5, 7)])
def test_pictures_come_back_from_their_file(tmp_path, shape):
    image = torch.rand(shape)
    save_png(tmp_path / "new" / "a.png", image)
    back = cv2.imread(str(tmp_path / "new" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert back is not None
    back = back[..., ::-1].transpose(2, 0, 1) if image.ndim == 3 else back
    np.testing.assert_allclose(back / 255, image.numpy(), atol=0.51 / 255)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


def test_pictures_are_png(tmp_path):
    with pytest.raises(ValueError, match=r"does not end in \.png"):
        save_png(tmp_path / "a.bmp", torch.zeros(3, 4, 4))

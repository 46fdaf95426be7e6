"""Boxes around what is projected or masked, measured from the image's edges."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from cad2pose.geometry import Camera, clip_box, make_transform, mask_box, pixel_window, projected_box, undistort_boxes

K = torch.tensor([[200.0, 0, 99.5], [0, 100, 49.5], [0, 0, 1]], dtype=torch.float64)


def test_the_box_of_a_facing_square_is_known():
    square = torch.tensor([[-10.0, -10, 0], [10, -10, 0], [10, 10, 0], [-10, 10, 0]], dtype=torch.float64)
    T_cam_obj = make_transform(torch.eye(3).double(), torch.tensor([0.0, 0, 100]).double())
    box = projected_box(square[None], T_cam_obj[None], K[None])
    # x: 200 * 10 / 100 = 20 px to either side of the principal point, whose distance from the left edge is 100
    assert box[0].tolist() == pytest.approx([80, 40, 40, 20])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_box_holds_every_projected_point_and_touches_some(count):
    points = torch.randn(count, 30, 3, dtype=torch.float64) * 20
    T_cam_obj = make_transform(
        torch.eye(3).double().expand(count, 3, 3), torch.tensor([3.0, -2, 300]).expand(count, 3).double()
    )
    box = projected_box(points, T_cam_obj, K.expand(count, 3, 3))
    assert box.shape == (count, 4)
    pixels = (points + torch.tensor([3.0, -2, 300])) @ K.T
    pixels = pixels[..., :2] / pixels[..., 2:] + 0.5
    inside = (pixels - box[:, None, :2]) / box[:, None, 2:]
    torch.testing.assert_close(inside.amin(1), torch.zeros(count, 2).double())
    torch.testing.assert_close(inside.amax(1), torch.ones(count, 2).double())


def test_points_behind_the_camera_do_not_turn_the_box_round():
    points = torch.tensor([[[5.0, 0, 0], [5.0, 0, -400]]], dtype=torch.float64)
    T_cam_obj = make_transform(torch.eye(3).double(), torch.tensor([0.0, 0, 200]).double())[None]
    box = projected_box(points, T_cam_obj, K[None])
    assert torch.isfinite(box).all()
    assert float(box[0, 0]) == pytest.approx(100 + 200 * 5 / 200)
    assert float(box[0, 2]) > 500  # it reaches far to the right, the side the points are on


def test_clipped_boxes_lie_inside_and_keep_a_few_pixels():
    box = torch.tensor(
        [[-20.0, 10, 100, 50], [300, 200, 60, 80], [500, 500, 9, 9], [-50, -50, 9, 9]], dtype=torch.float64
    )
    size = torch.tensor([320.0, 240.0], dtype=torch.float64).expand(4, 2)
    clipped = clip_box(box, size)
    assert clipped[:2].tolist() == [[0, 10, 80, 50], [300, 200, 20, 40]]
    assert (clipped[:, :2] >= 0).all()
    assert (clipped[:, 2:] >= 4).all()
    assert (clipped[:, :2] + clipped[:, 2:] <= size).all()


def test_the_box_of_a_mask_reaches_from_edge_to_edge_of_its_pixels():
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[7, 12] = mask[20, 5] = True
    assert mask_box(mask) == (5, 7, 8, 14)
    with pytest.raises(ValueError, match="empty"):
        mask_box(torch.zeros(3, 3, dtype=torch.bool))


@pytest.mark.parametrize("lens", [(-0.25, 0.06, 0.002, -0.003), (0.3, -0.1, 0.0, 0.0, 0.02)])
def test_straight_boxes_are_where_opencv_has_the_outline(lens):
    """Half pixels and the middle of edges included."""
    camera = Camera.from_values(300.0, 310.0, 158.0, 122.0, 320, 240, lens)
    box = torch.tensor([[30.0, 40.0, 120.0, 90.0], [200.0, 20.0, 100.0, 150.0]], dtype=torch.float64)
    found, there = undistort_boxes(box, camera)
    assert there.all()
    K, coefficients = camera.K.numpy(), np.array(lens)
    for given, straight in zip(box.tolist(), found.tolist(), strict=True):
        x, y, w, h = given
        along = np.linspace(0, 1, 400)
        edges = [(x + w * along, np.full(400, y)), (x + w * along, np.full(400, y + h))]
        edges += [(np.full(400, x), y + h * along), (np.full(400, x + w), y + h * along)]
        outline = np.concatenate([np.stack(edge, 1) for edge in edges]) - 0.5  # pixel centres are integers
        bent = cv2.undistortPoints(outline[:, None], K, coefficients, None, None, K)[:, 0] + 0.5
        least, most = bent.min(0), bent.max(0)
        assert straight == pytest.approx([*least, *(most - least)], abs=0.05)


@pytest.mark.parametrize(
    ("lens", "focal"),
    [
        ((0.45, 0.0, 0.0, 0.0), 420.0), ((0.6, 0.0, 0.002, -0.001), 320.0),
        ((-0.25, 0.06, 0.0, 0.0), 300.0), ((-0.4, 0.15, 0.0, 0.0, -0.02), 450.0),
    ],
)  # fmt: skip
def test_strong_lenses_are_inverted(lens, focal):
    camera = Camera.from_values(focal, focal, 319.5, 239.5, 640, 480, lens)
    v, u = torch.meshgrid(torch.linspace(0, 479, 13), torch.linspace(0, 639, 17), indexing="ij")
    pixels = torch.stack((u, v), dim=-1).double()
    straight = camera.straighten(pixels)
    torch.testing.assert_close(camera.bent_pixels(straight), pixels, atol=1e-3, rtol=0)


def test_what_a_lens_cannot_show_does_not_take_its_box_along():
    """A box over the border is that of what is inside; one that no ray reaches stays, and is told apart."""
    camera = Camera.from_values(350.0, 350.0, 319.5, 239.5, 640, 480, (-0.4, 0.15, 0.0, 0.0, -0.02))
    reach = camera.straighten(torch.tensor([[639.0, 479.0], [600.0, 240.0]], dtype=torch.float64))
    assert reach.isnan().all(1).tolist() == [True, False], "or nothing is tested"
    box = torch.tensor([[600.0, 200, 100, 80], [600, 200, 40, 80], [632, 472, 8, 8], [300, 200, 50, 50]]).double()
    straight, there = undistort_boxes(box, camera)
    assert there.tolist() == [True, True, False, True]
    assert straight[0].tolist() == straight[1].tolist()
    assert straight[2].tolist() == box[2].tolist()
    assert torch.isfinite(straight).all()


def test_a_window_holds_what_is_projected_and_knows_what_lies_behind_the_camera():
    K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]], dtype=torch.float64)
    corners = torch.tensor([[-0.1, -0.2, 1], [0.1, 0.2, 1]], dtype=torch.float64) * 500
    assert pixel_window(corners, K, (0, 0), (100, 80)) == (39, 19, 62, 62)
    assert pixel_window(corners, K, (45, 0), (55, 30)) == (45, 19, 55, 30), "as far as is looked at"
    assert pixel_window(corners + torch.tensor([2000.0, 0, 0]), K, (0, 0), (100, 80)) is None
    assert pixel_window(corners - torch.tensor([0, 0, 1000.0]), K, (0, 0), (100, 80)) is None
    reaching = torch.cat((corners, corners - torch.tensor([0, 0, 1000.0])))
    assert pixel_window(reaching, K, (-9, -8), (100, 80)) == (-9, -8, 100, 80)

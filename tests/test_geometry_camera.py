"""Projection, BOP's json form of a camera, its errors, resizing, and OpenCV's lens model."""

from __future__ import annotations

import json
import math

import cv2
import jaxtyping
import numpy as np
import pytest
import torch

from cad2pose.geometry import Camera, invert_intrinsics, project_points, unproject_pixels

F64 = torch.float64
LENSES = [(-0.2, 0.05, 1e-3, -2e-3), (0.1, -0.02, -1e-3, 1e-3, 0.01), (-0.3, 0.1, 0.0, 0.0, 0.01, 0.05, -0.02, 0.003)]


def camera(distortion: tuple[float, ...] = ()) -> Camera:
    return Camera.from_values(572.4114, 573.57043, 325.2611, 242.04899, 640, 480, distortion)


@pytest.mark.parametrize("shape", [(), (0,), (4,), (2, 3)])
def test_unprojected_pixels_project_back_on_any_batch_shape(shape: tuple[int, ...]) -> None:
    K = torch.eye(3, dtype=F64).repeat(*shape, 1, 1)
    K[..., 0, 0], K[..., 1, 1] = 500 + torch.rand(shape, dtype=F64), 600 + torch.rand(shape, dtype=F64)
    K[..., 0, 1], K[..., :2, 2] = 0.7, 300 * torch.rand(*shape, 2, dtype=F64)
    pixels = 700 * torch.rand(*shape, 6, 2, dtype=F64) - 50
    rays = unproject_pixels(K, pixels)
    torch.testing.assert_close(rays[..., 2], torch.ones_like(rays[..., 2]))
    depth = 100 + 1000 * torch.rand(*shape, 6, 1, dtype=F64)
    torch.testing.assert_close(project_points(K, rays * depth), pixels)
    torch.testing.assert_close(invert_intrinsics(K), torch.linalg.inv(K))


def test_projection_is_fx_x_over_z_plus_cx() -> None:
    K = camera().K
    pixel = project_points(K, torch.tensor([[10.0, -20.0, 500.0]], dtype=F64))[0]
    assert pixel.tolist() == pytest.approx([325.2611 + 572.4114 * 10 / 500, 242.04899 - 573.57043 * 20 / 500])


@pytest.mark.parametrize("distortion", [(), *LENSES])
def test_json_round_trip(distortion: tuple[float, ...]) -> None:
    first = camera(distortion)
    again = Camera.from_bop(json.loads(json.dumps(first.to_bop())))
    assert torch.equal(first.K, again.K)
    assert (first.width, first.height, first.distortion) == (again.width, again.height, again.distortion)


def test_both_forms_of_bop_are_read() -> None:
    values = {"fx": 500.0, "fy": 510.0, "cx": 320.5, "cy": 240.5, "depth_scale": 1.0}
    by_values = Camera.from_bop({**values, "width": 640, "height": 480})
    numbers = [500.0, 0.0, 320.5, 0.0, 510.0, 240.5, 0.0, 0.0, 1.0]
    by_matrix = Camera.from_bop({"cam_K": numbers, "depth_scale": 0.1}, width=640, height=480)
    assert torch.equal(by_values.K, by_matrix.K)
    assert (by_matrix.width, by_matrix.height) == (640, 480)
    skewed = Camera(torch.tensor([[500.0, 2, 320], [0, 510, 240], [0, 0, 1]]), 640, 480)
    assert torch.equal(Camera.from_bop(skewed.to_bop()).K, skewed.K)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"fx": 500, "fy": 500, "cx": 320, "cy": 240}, "no width and height"),
        ({"width": 640, "height": 480, "fx": 500}, r"needs cam_K, or fx, fy, cx and cy; .*\['fx', 'height', 'width'\]"),
        ({"width": 640, "height": 480, "cam_K": [500, 0, 320]}, "3 numbers; it must have 9"),
        ({"width": 640, "height": 480, "cam_K": ["a"] * 9}, "cam_K must be numbers"),
        ({"width": 640, "height": 480, "cam_K": 5}, "cam_K must be numbers"),
        ({"width": "wide", "height": 480, "cam_K": [1] * 9}, "width and height must be numbers"),
        ({"width": math.inf, "height": 480, "cam_K": [1] * 9}, "whole numbers of pixels"),
        ({"width": 640.5, "height": 480, "cam_K": [1] * 9}, "whole numbers of pixels"),
        ({"width": 640, "height": 480, "cam_K": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}, "one flat list"),
        ({"width": 640, "height": 480, "fx": 500, "fy": 500, "cx": math.nan, "cy": 240}, "not finite"),
        ({"width": 640, "height": 480, "fx": 0, "fy": 500, "cx": 320, "cy": 240}, "positive pixels, got fx = 0"),
        ({"width": 640, "height": 480, "cam_K": [1, 0, 0, 0, 1, 0, 0, 1, 1]}, "must look like"),
        ({"width": 640, "height": 0, "cam_K": [1, 0, 0, 0, 1, 0, 0, 0, 1]}, "640 x 0"),
        ({"width": 640, "height": 480, "fx": 0.8, "fy": 0.8, "cx": 0.5, "cy": 0.5}, "shares of the image's size"),
        ({"width": 9, "height": 9, "cam_K": [1, 0, 0, 0, 1, 0, 0, 0, 1], "distortion": [0.1]}, "1 coefficients"),
        ({"width": 9, "height": 9, "cam_K": [1, 0, 0, 0, 1, 0, 0, 0, 1], "distortion": 0.1}, "distortion must be"),
        ({"width": 9, "height": 9, "cam_K": [1, 0, 0, 0, 1, 0, 0, 0, 1], "distortion": [math.nan] * 4}, "finite ones"),
    ],
)
def test_a_malformed_entry_says_what_is_wrong(entry: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Camera.from_bop(entry)


@pytest.mark.parametrize(
    ("K", "message"),
    [
        (torch.eye(4), r"shape \(4, 4\); it must be 3 x 3"),
        (torch.ones(9), r"shape \(9,\)"),
        (torch.tensor([[1.0, 0, 0], [0, -2, 0], [0, 0, 1]]), "fy = -2"),
        (torch.tensor([[1.0, 0, 0], [0.5, 1, 0], [0, 0, 1]]), "must look like"),
        (torch.full((3, 3), math.inf), "not finite"),
    ],
)
def test_a_malformed_matrix_says_what_is_wrong(K: torch.Tensor, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside tests, where no shape is checked
    with pytest.raises(ValueError, match=message):
        Camera(K, 640, 480)


@pytest.mark.parametrize("scale", [0.5, 2.0, 1.25])
def test_resizing_keeps_every_point_where_it_is_in_the_picture(scale: float) -> None:
    points = torch.tensor([[-0.5, 0.3, 1.0], [0.1, -0.2, 1.0]], dtype=F64)
    before = project_points(camera().K, points)
    resized = camera().resized(scale)
    assert (resized.width, resized.height) == (640 * scale, 480 * scale)
    # edges scale, and a pixel's centre is half a pixel from its edge
    torch.testing.assert_close(project_points(resized.K, points) + 0.5, (before + 0.5) * scale)


@pytest.mark.parametrize("distortion", LENSES)
def test_lens_model_is_that_of_opencv(distortion: tuple[float, ...]) -> None:
    lens = camera(distortion)
    points = torch.cat((torch.rand(100, 2, dtype=F64) - 0.5, torch.ones(100, 1, dtype=F64)), dim=-1)
    bent = torch.cat((lens.distort(points[:, :2]), points[:, 2:]), dim=-1)
    zero = np.zeros(3)
    expected, _ = cv2.projectPoints(points.numpy(), zero, zero, lens.K.numpy(), np.array(distortion))
    torch.testing.assert_close(project_points(lens.K, bent), torch.from_numpy(expected[:, 0]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("distortion", LENSES)
def test_undistorted_image_is_that_of_opencv(distortion: tuple[float, ...]) -> None:
    lens = camera(distortion)
    coarse = torch.rand(1, 3, 12, 16)
    image = torch.nn.functional.interpolate(coarse, (480, 640), mode="bicubic", align_corners=False)[0].clamp(0, 1)
    ours = lens.undistort_image(image).movedim(0, -1).numpy()
    theirs = cv2.undistort(image.movedim(0, -1).numpy(), lens.K.numpy(), np.array(distortion))
    both = (ours.min(-1) > 0) & (theirs.min(-1) > 0)
    both = cv2.erode(both.astype(np.uint8), np.ones((3, 3)), borderValue=0).astype(bool)
    assert both.mean() > 0.9
    assert np.abs(ours - theirs)[both].max() < 2e-3  # opencv rounds the source pixel to 1 / 32


def test_a_planted_dot_is_undistorted_to_its_pinhole_projection() -> None:
    lens = camera(LENSES[0])
    ray = torch.tensor([[0.35, -0.25]], dtype=F64)
    seen = project_points(lens.K, torch.cat((lens.distort(ray), torch.ones(1, 1, dtype=F64)), -1))[0]
    v, u = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing="ij")
    image = torch.exp(-((u - seen[0]) ** 2 + (v - seen[1]) ** 2) / 18).float()[None]
    undistorted = lens.undistort_image(image)[0].double()
    centroid = torch.stack(((undistorted * u).sum(), (undistorted * v).sum())) / undistorted.sum()
    expected = project_points(lens.without_distortion().K, torch.tensor([[0.35, -0.25, 1.0]], dtype=F64))[0]
    assert (centroid - expected).norm() < 0.1
    assert (seen - expected).norm() > 5  # the lens did move it


def test_undistorting_without_distortion_changes_nothing_and_sizes_are_compared() -> None:
    image = torch.rand(3, 480, 640)
    assert camera().undistort_image(image) is image
    with pytest.raises(ValueError, match="640 x 240 pixels but its camera 640 x 480"):
        camera(LENSES[0]).undistort_image(image[:, :240])
    black_border = camera((0.5, 0.0, 0.0, 0.0)).undistort_image(torch.ones(1, 480, 640))
    assert float(black_border[0, 0, 0]) == 0
    assert float(black_border[0, 240, 320]) == 1

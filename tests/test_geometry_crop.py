"""The virtual crop camera: what it claims about poses, boxes and pixels."""

from __future__ import annotations

import math

import pytest
import torch

from cad2pose.geometry import (
    Camera,
    VirtualCamera,
    make_transform,
    project_points,
    random_rotations,
    transform_points,
    undistort_boxes,
    unproject_pixels,
    virtual_camera,
    warp_depth_to_crops,
    warp_to_crops,
)
from cad2pose.geometry.crop import OUTSIDE_FILL, minification

F64 = torch.float64
WIDTH, HEIGHT = 320, 240


def intrinsics(count: int, dtype: torch.dtype = F64, focal: float = 290.0) -> torch.Tensor:
    K = torch.tensor([[focal, 0.3, 158.2], [0, focal * 1.01, 121.7], [0, 0, 1]], dtype=dtype)
    return K.expand(count, 3, 3).clone()


def make_crops(
    box: list[list[float]], size: int = 64, pad: float = 1.5, roll: list[float] | None = None, focal: float = 290.0
) -> VirtualCamera:
    boxes = torch.tensor(box, dtype=F64)
    extent = torch.tensor([[WIDTH, HEIGHT]], dtype=F64).expand(len(boxes), 2)
    turn = None if roll is None else torch.tensor(roll, dtype=F64)
    return virtual_camera(intrinsics(len(boxes), focal=focal), boxes, extent, size, pad, turn)


def random_boxes(count: int) -> list[list[float]]:
    """Boxes of all sizes, some of which reach over the image border."""
    corner = torch.rand(count, 2) * torch.tensor([WIDTH, HEIGHT]) - 20
    return torch.cat((corner, 5 + 100 * torch.rand(count, 2)), dim=-1).tolist()


def blobs(pixels: torch.Tensor, sigma: float = 2.5) -> torch.Tensor:
    """One image per pixel position, a Gaussian dot on black."""
    v, u = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    square = (u - pixels[:, 0, None, None]) ** 2 + (v - pixels[:, 1, None, None]) ** 2
    return torch.exp(-square / (2 * sigma**2))[:, None]


def centroids(image: torch.Tensor) -> torch.Tensor:
    v, u = torch.meshgrid(torch.arange(image.shape[-2]), torch.arange(image.shape[-1]), indexing="ij")
    total = image.sum((-1, -2))
    return torch.stack(((image * u).sum((-1, -2)) / total, (image * v).sum((-1, -2)) / total), dim=-1)[:, 0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (torch.float32, 1e-6)])
@pytest.mark.parametrize("count", [1, 2, 17])
def test_poses_map_exactly_into_the_crop_and_back(count: int, dtype: torch.dtype, tolerance: float) -> None:
    crops = make_crops(random_boxes(count), roll=(2 * math.pi * torch.rand(count)).tolist())
    T_cam_obj = make_transform(random_rotations(count, dtype=F64), 800 * torch.rand(count, 3, dtype=F64) + 100)
    narrow = crops.to("cpu", dtype)
    T_virt_obj = narrow.to_virtual(T_cam_obj.to(dtype))
    exact = make_transform(crops.R_virt_cam, torch.zeros(count, 3, dtype=F64)) @ T_cam_obj
    scale = exact.abs().amax((-1, -2), keepdim=True)
    assert float(((T_virt_obj - exact).abs() / scale).max()) < tolerance
    assert float(((narrow.to_source(T_virt_obj) - T_cam_obj).abs() / scale).max()) < tolerance


@pytest.mark.parametrize("roll", [None, [0.0, 1.0, -2.5, math.pi, 4.0, 0.1]])
def test_projection_in_the_crop_is_the_homography_of_projection_in_the_image(roll: list[float] | None) -> None:
    crops = make_crops(random_boxes(6), roll=roll)
    T_cam_obj = make_transform(random_rotations(6, dtype=F64), torch.tensor([[10.0, -20.0, 600.0]] * 6, dtype=F64))
    points = 50 * torch.randn(6, 9, 3, dtype=F64)
    in_image = project_points(crops.K_cam, transform_points(T_cam_obj, points))
    homogeneous = torch.cat((in_image, torch.ones_like(in_image[..., :1])), dim=-1)
    expected = project_points(crops.homography, homogeneous)
    in_crop = project_points(crops.K_virt, transform_points(crops.to_virtual(T_cam_obj), points))
    torch.testing.assert_close(in_crop, expected, rtol=1e-9, atol=1e-9)


def test_rotation_is_minimal_and_roll_leaves_the_focal_length_alone() -> None:
    boxes = random_boxes(20)
    plain, rolled = make_crops(boxes), make_crops(boxes, roll=torch.linspace(-4, 4, 20).tolist())
    assert torch.equal(plain.K_virt, rolled.K_virt)
    eye = torch.eye(3, dtype=F64).expand(20, 3, 3)
    torch.testing.assert_close(plain.R_virt_cam @ plain.R_virt_cam.transpose(-1, -2), eye)
    skewness = plain.R_virt_cam - plain.R_virt_cam.transpose(-1, -2)
    torch.testing.assert_close(skewness[:, 0, 1], torch.zeros(20, dtype=F64))  # the axis lies in the image plane
    # the ray through the box centre is the optical axis, also of the rolled camera
    box = torch.tensor(boxes, dtype=F64)
    centre = (box[:, :2] + box[:, 2:] / 2 - 0.5)[:, None]
    for crops in (plain, rolled):
        ray = (crops.R_virt_cam @ unproject_pixels(crops.K_cam, centre)[:, 0, :, None])[..., 0]
        torch.testing.assert_close(ray[:, :2], torch.zeros(20, 2, dtype=F64), rtol=0, atol=1e-12)
        torch.testing.assert_close(crops.K_virt[:, :2, 2], torch.full((20, 2), 31.5, dtype=F64))


def test_box_corners_reach_one_pad_th_of_the_way_to_the_border() -> None:
    for pad in (1.0, 1.5, 2.0):
        crops = make_crops(random_boxes(20), pad=pad)
        x, y, w, h = crops.box.unbind(-1)
        corners = torch.stack([torch.stack((x + a * w, y + b * h), -1) for a in (0, 1) for b in (0, 1)], dim=1) - 0.5
        homogeneous = torch.cat((corners, torch.ones_like(corners[..., :1])), dim=-1)
        reach = (project_points(crops.homography, homogeneous) - 31.5).abs().amax((1, 2))
        torch.testing.assert_close(reach, torch.full((20,), 32 / pad, dtype=F64))


def test_a_box_covers_whole_pixels_from_edge_to_edge() -> None:
    """COCO's x = 100, w = 32 is the pixels 100 .. 131: with pad 1 and a narrow view they fill the crop one to one."""
    crops = make_crops([[100, 80, 32, 32]], size=32, pad=1.0, focal=1e6)
    corners = torch.tensor([[[99.5, 79.5, 1], [131.5, 111.5, 1], [100, 80, 1]]], dtype=F64)
    expected = torch.tensor([[[-0.5, -0.5], [31.5, 31.5], [0, 0]]], dtype=F64)
    torch.testing.assert_close(project_points(crops.homography, corners), expected, rtol=0, atol=0.2)
    image = torch.rand(1, 1, HEIGHT, WIDTH, dtype=F64)
    square = intrinsics(1, focal=1e6)
    square[:, 0, 1], square[:, 1, 1] = 0, 1e6
    extent = torch.tensor([[WIDTH, HEIGHT]], dtype=F64)
    exact = virtual_camera(square, crops.box, extent, 32, 1.0)
    torch.testing.assert_close(project_points(exact.homography, corners), expected, rtol=0, atol=2e-3)
    crop, valid = warp_to_crops(image, exact)
    torch.testing.assert_close(crop[0, 0], image[0, 0, 80:112, 100:132], rtol=0, atol=5e-3)
    assert bool((valid == 1).all())


@pytest.mark.parametrize(("side", "size"), [(18, 96), (40, 64), (90, 32), (200, 24)])
@pytest.mark.parametrize("roll", [0.0, 0.7])
def test_planted_dots_land_where_projection_says(side: float, size: int, roll: float) -> None:
    """Magnified, about one to one, shrunk, and shrunk by more than 8.

    The lens is long because perspective moves a dot's centre of mass off the image of its centre.
    """
    crops = make_crops([[60, 50, side, side * 0.8]] * 4, size=size, roll=[roll] * 4, focal=2900)
    offset = torch.tensor([[-0.3, -0.25], [0.3, 0.2], [0.0, 0.0], [-0.21, 0.3]], dtype=F64)
    middle = crops.box[:, :2] + crops.box[:, 2:] / 2
    dot = torch.tensor([[1.0, 1.0]], dtype=F64) * (middle + offset * side * 0.7)
    zoom = float(minification(crops.inverse_homography, size)[0])
    crop, _ = warp_to_crops(blobs(dot, sigma=max(2.5, 2 * zoom)), crops, fill=0.0)
    expected = project_points(crops.homography, torch.cat((dot, torch.ones(4, 1, dtype=F64)), -1)[:, None])[:, 0]
    assert float((centroids(crop) - expected).norm(dim=-1).max()) < 0.05


@pytest.mark.parametrize(("side", "size"), [(18, 96), (40, 64), (70, 32), (160, 24)])
@pytest.mark.parametrize("roll", [0.0, -2.0])
def test_every_crop_pixel_shows_the_source_pixel_that_the_homography_names(side: float, size: int, roll: float) -> None:
    """Images whose value is their own coordinate: bilinear sampling keeps those exactly."""
    crops = make_crops([[60, 40, side, side * 0.8]], size=size, roll=[roll])
    v, u = torch.meshgrid(torch.arange(HEIGHT, dtype=F64), torch.arange(WIDTH, dtype=F64), indexing="ij")
    crop, valid = warp_to_crops(torch.stack((u, v))[None], crops)
    rays = torch.cat((crops.ray_map(), torch.ones(1, 1, size, size, dtype=F64)), dim=1)
    in_camera = torch.einsum("bji,bjrc->brci", crops.R_virt_cam, rays)
    named = project_points(crops.K_cam, in_camera.flatten(1, 2)).unflatten(1, (size, size)).movedim(-1, 1)
    error = (crop - named).norm(dim=1, keepdim=True)
    inner = torch.nn.functional.max_pool2d(1 - valid, 3, stride=1, padding=1) == 0
    assert inner.float().mean() > 0.5
    zoom = float(minification(crops.inverse_homography, size)[0])
    assert float(error[inner].max()) < 0.05 * max(zoom, 1)


def test_a_fine_checkerboard_turns_gray_however_much_it_shrinks() -> None:
    v, u = torch.meshgrid(torch.arange(1200), torch.arange(1600), indexing="ij")
    board = ((u + v) % 2).float()[None, None]
    K = torch.tensor([[[1500.0, 0, 799.5], [0, 1500, 599.5], [0, 0, 1]]])
    extent = torch.tensor([[1600.0, 1200.0]])
    for side in (200.0, 333.0, 400.0, 637.0, 768.0):  # shrinks by 4.7 to 18
        box = torch.tensor([[800 - side / 2, 600 - side / 2, side, side]])
        crop, valid = warp_to_crops(board, virtual_camera(K, box, extent, 64, roll=torch.tensor([0.4])))
        inner = crop[valid == 1]
        assert float(crop.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(inner.std()) < 0.05, f"moire at a box of {side} pixels"


@pytest.mark.parametrize(("side", "size"), [(30, 64), (70, 32), (230, 16)])
def test_validity_is_the_share_of_a_pixel_inside_the_image(side: int, size: int) -> None:
    crops = make_crops([[-side / 2, 40, side, side], [100, 100, 10, 10]], size=size)
    image = torch.full((2, 3, HEIGHT, WIDTH), 0.9, dtype=F64)
    crop, valid = warp_to_crops(image, crops)
    torch.testing.assert_close(crop, (0.9 * valid + OUTSIDE_FILL * (1 - valid)).expand_as(crop))
    assert bool((valid[1] == 1).all())
    assert float(valid.min()) == 0
    # the border of the image, u = -0.5, runs where the homography says, to half a sample
    border = torch.tensor([[[-0.5, 40 + side / 2, 1]]], dtype=F64)
    column = float(project_points(crops.homography[:1], border)[0, 0, 0])
    outside = float((1 - valid[0, 0, size // 2]).sum())
    assert outside == pytest.approx(column + 0.5, abs=0.55)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_ray_map_holds_the_unprojected_centres_of_its_cells(stride: int) -> None:
    crops = make_crops(random_boxes(3), size=48, roll=[0.3, 0.2, 0.1])
    rays = crops.ray_map(stride)
    assert rays.shape == (3, 2, 48 // stride, 48 // stride)
    steps = torch.arange(48, dtype=F64)
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack((u, v), dim=-1).reshape(1, -1, 2).expand(3, -1, 2)
    every = unproject_pixels(crops.K_virt, pixels)[..., :2].movedim(-1, 1).reshape(3, 2, 48, 48)
    torch.testing.assert_close(rays, torch.nn.functional.avg_pool2d(every, stride))


def test_one_image_expanded_for_many_boxes_gives_the_crops_of_its_copies() -> None:
    crops = make_crops([*random_boxes(5), [10, 10, 230, 200]], size=16)
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    crops = crops.to("cpu", torch.float32)
    shared, copies = (warp_to_crops(i, crops) for i in (image.expand(6, -1, -1, -1), image.repeat(6, 1, 1, 1)))
    torch.testing.assert_close(shared, copies)
    alone = [warp_to_crops(image, crops[i : i + 1])[0] for i in range(6)]
    torch.testing.assert_close(torch.cat(alone), shared[0])
    assert all(len(t) == 2 for t in (crops[torch.tensor([4, 1])].K_virt, crops[1:3].box))


def test_what_lies_behind_the_source_camera_is_outside() -> None:
    """A crop so wide that its corners look backwards must not show the image mirrored."""
    K = torch.tensor([[[20.0, 0, 159.5], [0, 20, 119.5], [0, 0, 1]]], dtype=F64)
    extent = torch.tensor([[WIDTH, HEIGHT]], dtype=F64)
    box = torch.tensor([[280.0, 100, 40, 40]], dtype=F64)  # 80 degrees off the axis
    crops = virtual_camera(K, box, extent, 64, pad=20.0)
    rays = torch.cat((crops.ray_map(), torch.ones(1, 1, 64, 64, dtype=F64)), dim=1)
    depth = torch.einsum("bji,bjrc->birc", crops.R_virt_cam, rays)[:, 2:]
    assert bool((depth < 0).any())
    _, valid = warp_to_crops(torch.ones(1, 1, HEIGHT, WIDTH, dtype=F64), crops)
    assert not valid[depth < 0].any()
    assert valid.any()


def test_a_crop_is_looked_up_through_the_lens() -> None:
    """A part near the corner of a wide-angle image: undistorting the whole image to its own size would lose it."""
    camera = Camera.from_values(500.0, 500.0, 319.5, 239.5, 640, 480, (-0.2, 0.0, 0.001, -0.001))
    box = torch.tensor([[5.0, 5, 60, 60]], dtype=F64)
    straight, _ = undistort_boxes(box, camera)
    assert float(straight[0, 0]) < -20
    crops = virtual_camera(camera.K[None], straight, torch.tensor([[640.0, 480]], dtype=F64), 64)
    place = torch.tensor([40.0, 25.0])  # in the crop
    source = torch.linalg.inv(crops.homography[0]) @ torch.tensor([*place.tolist(), 1.0], dtype=F64)
    bent = camera.bent_pixels(source[:2] / source[2])
    v, u = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing="ij")
    image = torch.exp(-((u - bent[0]) ** 2 + (v - bent[1]) ** 2) / (2 * 4.0**2))[None, None]
    crop, valid = warp_to_crops(image.double(), crops, fill=0.0, lens=camera.lens)
    rows, columns = crop[0, 0].sum(1), crop[0, 0].sum(0)
    steps = torch.arange(64, dtype=F64)
    found = torch.stack(((columns * steps).sum() / columns.sum(), (rows * steps).sum() / rows.sum()))
    torch.testing.assert_close(found, place.double(), atol=0.3, rtol=0)
    middle = slice(16, 48)
    assert float(valid[0, 0, middle, middle].mean()) > 0.97
    undistorted = camera.undistort_image(image[0].double())[None]
    assert float(warp_to_crops(undistorted, crops)[1][0, 0, middle, middle].mean()) < 0.3


def test_depth_is_looked_up_through_the_lens() -> None:
    camera = Camera.from_values(500.0, 500.0, 319.5, 239.5, 640, 480, (-0.2, 0.0, 0.001, -0.001))
    v, u = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing="ij")
    depth = 500 + u + 2 * v  # of the bent image
    crops = virtual_camera(
        camera.K[None], torch.tensor([[100.0, 80, 60, 60]], dtype=F64), torch.tensor([[640.0, 480]], dtype=F64), 64
    )
    found = warp_depth_to_crops(depth.double(), crops, lens=camera.lens)[0, 20, 30]
    source = torch.linalg.inv(crops.homography[0]) @ torch.tensor([30.0, 20, 1.0], dtype=F64)
    seen = camera.bent_pixels(source[:2] / source[2]).round()
    ray = torch.linalg.inv(camera.K) @ source
    expected = (500 + seen[0] + 2 * seen[1]) * (crops.R_virt_cam[0] @ (ray / ray[2]))[2]
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_a_lens_model_that_turns_back_shows_nothing_twice() -> None:
    camera = Camera.from_values(300.0, 300.0, 319.5, 239.5, 640, 480, (-0.5, 0.0, 0.0, 0.0))
    rays = torch.tensor([[0.5, 0.0], [0.81, 0.0], [0.83, 0.0], [1.4, 0.0]], dtype=F64)  # 1 - 1.5 r^2 is 0 at 0.816
    seen = camera.bent_pixels(rays * 300 + camera.K[:2, 2])
    assert (seen[:2] > 0).all()
    assert (seen[2:] == -1e6).all()
    assert Camera.from_values(300.0, 300.0, 9.5, 9.5, 20, 20).lens is None

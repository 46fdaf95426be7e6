"""Poses from dense coordinates by robust PnP."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cad2pose.estimator import EstimatorOptions, PoseEstimator
from cad2pose.geometry import Camera, geodesic_distance, random_rotations
from cad2pose.methods import GdrNetConfig
from cad2pose.model_file import Model
from cad2pose.solvers import CoordinateMaps, PnPOptions, robust_pnp
from cad2pose.structures import Detections
from small_models import SMALL, random_model, wedge

SIDE = 32
TINY = GdrNetConfig(
    crop_size=64, width=8, encoder="resnet18", decoder_width=16, head_width=16, head_hidden=(32, 16), regions=8
)


def planted(count: int, wrong: float, seed: int = 0) -> tuple[CoordinateMaps, torch.Tensor]:
    """Maps of a unit ball seen from 7 radii away, with a share of wrong coordinates, and the true poses."""
    generator = torch.Generator().manual_seed(seed)
    rotation = random_rotations(count, generator, torch.float64)
    position = torch.tensor([0.1, -0.05, 7.0], dtype=torch.float64)
    K = torch.tensor([[96.0, 0, 15.5], [0, 96, 15.5], [0, 0, 1]], dtype=torch.float64)
    v, u = torch.meshgrid(torch.arange(SIDE).double(), torch.arange(SIDE).double(), indexing="ij")
    ray = torch.stack(((u - 15.5) / 96, (v - 15.5) / 96, torch.ones_like(u)))
    ray = ray / ray.norm(dim=0)
    along = (ray * position[:, None, None]).sum(0)
    inside = along.square() - position.square().sum() + 1
    seen = ray * (along - inside.clamp_min(0).sqrt()) - position[:, None, None]
    points = torch.einsum("bji,jhw->bihw", rotation, seen)
    bad = torch.rand(count, 1, SIDE, SIDE, generator=generator) < wrong
    other = torch.nn.functional.normalize(torch.randn(points.shape, generator=generator).double(), dim=1)
    mask = torch.where(inside > 0, 0.9, 0.1).expand(count, -1, -1)
    T = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    T[:, :3, :3], T[:, :3, 3] = rotation, position
    return CoordinateMaps(torch.where(bad, other, points), mask, K.expand(count, 3, 3)), T


@pytest.mark.parametrize(("wrong", "least"), [(0.0, 1.0), (0.5, 0.99), (0.8, 0.7)])
def test_poses_are_found_among_wrong_coordinates(wrong, least):
    maps, T = planted(6, wrong)
    found = robust_pnp(maps)
    assert found.reasons == (None,) * 6
    assert (geodesic_distance(found.T_virt_obj[:, :3, :3], T[:, :3, :3]).rad2deg() < 3).all()
    torch.testing.assert_close(found.T_virt_obj[:, :3, 3], T[:, :3, 3].expand(6, 3), rtol=0.02, atol=0.05)
    assert ((found.inliers > 0.8 * (1 - wrong)) & (found.inliers < least + 0.01)).all()


def test_poses_do_not_hang_on_where_the_files_origin_lies():
    maps, T = planted(6, 0.5)
    origin = torch.tensor([20.0, -60.0, 9.0], dtype=torch.float64)
    moved = replace(maps, points=maps.points + origin[:, None, None])
    found = robust_pnp(moved)
    assert found.reasons == (None,) * 6
    assert (geodesic_distance(found.T_virt_obj[:, :3, :3], T[:, :3, :3]).rad2deg() < 3).all()
    centre = found.T_virt_obj[:, :3, :3] @ origin + found.T_virt_obj[:, :3, 3]
    torch.testing.assert_close(centre, T[:, :3, 3].expand(6, 3), rtol=0.02, atol=0.05)
    assert (found.T_virt_obj[:, 2, 3] < 0).any(), "an origin behind the camera is none of the part's business"


def test_plain_ransac_would_not_do():
    """Why it is not OpenCV's plain solvePnPRansac."""
    maps, T = planted(5, 0.9)
    good = geodesic_distance(robust_pnp(maps).T_virt_obj[:, :3, :3], T[:, :3, :3]).rad2deg() < 5
    plain = []
    for points, mask, K, true in zip(maps.points, maps.mask, maps.K, T, strict=True):
        used = mask > 0.5
        place = used.nonzero().flip(1).double().numpy()
        _, turn, _, _ = cv2.solvePnPRansac(points[:, used].T.contiguous().numpy(), place, K.numpy(), np.zeros(4))
        rotation = torch.from_numpy(cv2.Rodrigues(turn)[0])
        plain.append(bool(geodesic_distance(rotation, true[:3, :3]).rad2deg() < 5))
    assert good.sum() >= 4
    assert sum(plain) < good.sum()


def test_no_pose_has_its_reason():
    maps, _ = planted(4, 0.0)
    points, mask = maps.points.clone(), maps.mask.clone()
    mask[0] = 0.0
    points[1] = torch.nan
    points[2] = 0.3  # all the same point
    found = robust_pnp(CoordinateMaps(points, mask, maps.K))
    assert torch.isnan(found.T_virt_obj[:3]).all()
    assert torch.isfinite(found.T_virt_obj[3]).all()
    assert found.reasons[0] is not None
    assert "0 cells show the part" in found.reasons[0]
    assert all(reason is not None for reason in found.reasons[:3])
    assert found.reasons[3] is None
    assert len(robust_pnp(CoordinateMaps(points[:0], mask[:0], maps.K[:0])).reasons) == 0


def test_cells_on_a_line_leave_the_pose_open():
    maps, _ = planted(1, 0.0)
    mask = torch.zeros_like(maps.mask)
    mask[:, 16] = maps.mask[:, 16]
    found = robust_pnp(CoordinateMaps(maps.points, mask, maps.K))
    assert "lie on a line" in (found.reasons[0] or "")
    assert torch.isnan(found.T_virt_obj).all()
    mask[:, 12:20] = maps.mask[:, 12:20]
    assert robust_pnp(CoordinateMaps(maps.points, mask, maps.K)).reasons == (None,)


@pytest.mark.parametrize(("field", "value"), [("threshold", 0.0), ("iterations", 0), ("confidence", 1.0)])
def test_settings_that_cannot_be_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        PnPOptions(**{field: value})


def test_an_estimator_may_end_in_pnp():
    parts = (wedge(1),)
    camera = Camera.from_values(600.0, 600.0, 150.0, 130.0, 320, 240)
    detections = Detections(torch.tensor([1, 1]), torch.tensor([[20.0, 30, 90, 60], [150, 80, 50, 120]]), torch.ones(2))
    method = TINY.build(parts).eval()

    class Planted(type(method)):  # type: ignore[misc]
        def coordinate_maps(self, output, batch):
            maps, _ = planted(len(batch), 0.3)
            return maps

    method.__class__ = Planted
    found = PoseEstimator([Model(method, parts, {})], "cpu", EstimatorOptions(solver="pnp")).estimate(
        torch.rand(3, 240, 320), camera, detections
    )
    assert found.found.all()
    assert ((found.score > 0.6) & (found.score < 0.85)).all()


def test_pnp_needs_coordinates():
    camera = Camera.from_values(600.0, 600.0, 150.0, 130.0, 320, 240)
    box = Detections(torch.tensor([1]), torch.tensor([[20.0, 30, 90, 60]]), torch.ones(1))
    with pytest.raises(ValueError, match="regresses no coordinates"):
        PoseEstimator([random_model()], "cpu", EstimatorOptions(solver="pnp")).estimate(
            torch.rand(3, 240, 320), camera, box
        )
    both = replace(SMALL, intermediate="queries+coordinates").build([wedge(1)]).eval()
    PoseEstimator([Model(both, (wedge(1),), {})], "cpu", EstimatorOptions(solver="pnp"))

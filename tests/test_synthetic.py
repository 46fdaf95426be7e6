"""Synthetic crops: what the truth says and what the picture shows are the same thing."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from cad2pose.data import lighting
from cad2pose.data.augmentation import AugmentationConfig
from cad2pose.data.boxes import BoxConfig, clip_box, extreme_points, jitter_box, projected_box
from cad2pose.data.clutter import coarse_copy, hull_triangles, random_shapes, thinned
from cad2pose.data.coverage import coverage, reaches_outside
from cad2pose.data.draws import Draws
from cad2pose.data.occluders import ClutterConfig, allowed_cover, draw_hiding
from cad2pose.data.pose_prior import PosePrior
from cad2pose.data.scenes import synthetic_photo
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.data.tabletop import TabletopConfig, check_input
from cad2pose.geometry import (
    Camera,
    project_points,
    rotation_from_axis_angle,
    transform_points,
    virtual_camera,
    warp_to_crops,
)
from cad2pose.geometry.crop import OUTSIDE_FILL
from cad2pose.parts import Mesh, Part, builtin_part
from cad2pose.rendering import MeshSet, render
from cad2pose.structures import CropBatch, CropTruth

SMALL = SyntheticConfig(crop_size=48, pictures=4, prior=PosePrior(border_share=0.4))
CAMERA = Camera.from_values(300.0, 300.0, 159.5, 119.5, 320, 240)


@cache
def crops(
    config: SyntheticConfig = SMALL, names: tuple[str, ...] = ("bracket", "nut"), seed: int = 0
) -> SyntheticCrops:
    return SyntheticCrops([builtin_part(name) for name in names], config, "cpu", seed)


def truth_of(batch: CropBatch) -> CropTruth:
    assert batch.truth is not None
    return batch.truth


def test_a_batch_is_a_function_of_seed_and_index() -> None:
    torch.manual_seed(1)
    first = crops().batch(5, 6)
    crops().batch(6, 6)
    state = torch.get_rng_state()
    again = SyntheticCrops(crops().parts, SMALL, "cpu", 0).batch(5, 6)
    assert torch.equal(state, torch.get_rng_state()), "the global random state must not be touched"
    for a, b in ((first, again), (truth_of(first), truth_of(again))):
        for name in vars(a):
            if isinstance(getattr(a, name), torch.Tensor):
                assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(first.camera.K_virt, again.camera.K_virt)
    assert not torch.equal(first.image, crops().batch(6, 6).image)
    assert not torch.equal(first.image, crops(seed=1).batch(5, 6).image)


@pytest.mark.parametrize(("size", "count", "names"), [(32, 5, ("disc",)), (57, 3, ("bushing", "disc", "nut"))])
def test_shapes_ranges_and_turns(size: int, count: int, names: tuple[str, ...]) -> None:
    source = crops(replace(SMALL, crop_size=size), names)
    batch = source.batch(1, count)
    truth = truth_of(batch)
    assert batch.image.shape == (count, 3, size, size)
    assert batch.valid.shape == (count, 1, size, size)
    assert batch.image.dtype == batch.valid.dtype == truth.coordinates.dtype == truth.T_virt_obj.dtype == torch.float32
    assert batch.image.min() >= 0
    assert batch.image.max() <= 1
    assert torch.isfinite(batch.image).all()
    assert batch.camera.size == size
    assert batch.camera.K_virt.dtype == torch.float32
    counts = torch.bincount(torch.cat([source.batch(i, count).part_index for i in range(3)]), minlength=len(names))
    assert counts.max() - counts.min() <= 1


def test_truth_is_a_rendering_of_the_pose() -> None:
    batch = crops().batch(2, 12)
    truth = truth_of(batch)
    meshes = MeshSet.from_meshes([part.mesh for part in crops().parts])
    fresh = render(meshes, batch.part_index[:, None], truth.T_virt_obj[:, None], batch.camera.K_virt, 48, 48)
    assert torch.equal(fresh.mask & (batch.valid[:, 0] >= 0.5), truth.mask_full)
    assert not (truth.mask_visible & ~truth.mask_full).any()
    assert (truth.coordinates.movedim(1, -1)[~truth.mask_full] == 0).all()
    for i, part in enumerate(crops().parts[j] for j in batch.part_index.tolist()):
        seen = truth.mask_full[i]
        points = truth.coordinates[i, :, seen].T * part.radius + part.center.float()
        assert torch.linalg.vector_norm(truth.coordinates[i], dim=0).max() <= 1 + 1e-4
        camera_points = transform_points(truth.T_virt_obj[i], points)
        pixels = project_points(batch.camera.K_virt[i], camera_points)
        v, u = seen.nonzero().unbind(1)
        assert (pixels - torch.stack((u, v), -1)).abs().max() < 0.05
        assert (camera_points[:, 2] > 0).all()


def test_source_pose_has_the_box_that_the_crop_looks_at() -> None:
    """Without jitter and occlusion the box is the projected extent, clipped by the image."""
    config = replace(
        SMALL, box=BoxConfig(0.0, 0.0), clutter=ClutterConfig(occluders=0, others=0, blob_share=0.0), camera=CAMERA
    )
    batch = crops(config).batch(0, 10)
    T_cam_obj = batch.camera.to_source(truth_of(batch).T_virt_obj)
    for i, index in enumerate(batch.part_index.tolist()):
        vertices = crops().parts[index].mesh.vertices.float()
        pixels = project_points(CAMERA.K.float(), transform_points(T_cam_obj[i], vertices)) + 0.5
        size = torch.tensor([320.0, 240.0])
        low, high = pixels.amin(0).clamp_min(0), torch.minimum(pixels.amax(0), size)
        box = batch.camera.box[i]
        assert torch.allclose(torch.cat((low, high)), torch.cat((box[:2], box[:2] + box[2:])), atol=1.0)
    assert (truth_of(batch).mask_full == truth_of(batch).mask_visible).all()


def test_outside_of_the_image_is_filled_and_told() -> None:
    batch = crops(replace(SMALL, prior=PosePrior(border_share=1.0))).batch(0, 24)
    outside = (batch.valid == 0).expand_as(batch.image)
    assert outside.any()
    assert (batch.image[outside] == OUTSIDE_FILL).all()
    assert not (truth_of(batch).mask_full & (batch.valid[:, 0] < 0.5)).any()
    white = torch.ones(1, 1, 480, 640).expand(24, 1, 480, 640)
    _, covered = warp_to_crops(white, batch.camera)
    assert (covered - batch.valid).abs().mean() < 0.01
    assert ((covered > 0.5) == (batch.valid > 0.5)).float().mean() > 0.99


def test_crops_inside_the_image_are_wholly_covered() -> None:
    box = torch.tensor([[200.0, 150, 60, 40], [1, 1, 60, 40], [560, 430, 80, 50]], dtype=torch.float64)
    size = torch.tensor([[640.0, 480]], dtype=torch.float64).expand(3, 2)
    K = torch.tensor([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]], dtype=torch.float64).expand(3, 3, 3)
    camera = virtual_camera(K, box, size, 64, roll=torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64))
    assert reaches_outside(camera).tolist() == [False, True, True]
    assert coverage(camera).amin((1, 2, 3)).tolist() == [1, 0, 0]


@pytest.mark.parametrize("least", [0.25, 0.8])
def test_enough_stays_visible(least: float) -> None:
    clutter = ClutterConfig(
        occluders=3, occluded_share=1.0, deepest=1.0, others=6, other_share=1.0, blob_share=1.0, min_visibility=least
    )
    source = crops(replace(SMALL, clutter=clutter, prior=PosePrior(border_share=0.0)))
    shares = []
    for index in range(3):
        truth = truth_of(source.batch(index, 16))
        shares.append(truth.mask_visible.flatten(1).sum(1) / truth.mask_full.flatten(1).sum(1))
    share = torch.cat(shares)
    assert share.min() >= least
    assert (share < 0.99).float().mean() > 0.5, "something must be hidden, or this tests nothing"


def test_the_visible_part_is_what_the_picture_shows() -> None:
    """Two pictures of one scene that differ in the part's colours alone differ where the part is visible."""
    plain = replace(SMALL, augmentation=AugmentationConfig.off())
    part = builtin_part("nut")
    colors = part.mesh.colors
    assert colors is not None
    dark = replace(part, mesh=replace(part.mesh, colors=colors * 0 + 0.1))
    light = replace(part, mesh=replace(part.mesh, colors=colors * 0 + 0.9))
    first, second = (SyntheticCrops([p], plain, "cpu", 3).batch(0, 10) for p in (dark, light))
    differs = (first.image - second.image).abs().amax(1) > 0.02
    visible = truth_of(first).mask_visible
    reach = torch.nn.functional.max_pool2d(visible[:, None].float(), 3, 1, 1)[:, 0] > 0
    assert not (differs & ~reach).any()
    assert (differs & visible).sum() > 0.9 * visible.sum()


def test_a_part_that_is_left_out_is_neither_seen_nor_in_the_truth() -> None:
    source, shown = crops(), torch.arange(12) % 3 > 0
    batch = source.batch(2, 12, shown)
    whole, truth = truth_of(source.batch(2, 12)), truth_of(batch)
    assert bool(torch.isnan(truth.T_virt_obj[~shown]).all())
    assert not bool(truth.mask_full[~shown].any() | truth.mask_visible[~shown].any() | truth.coordinates[~shown].any())
    torch.testing.assert_close(truth.T_virt_obj[shown], whole.T_virt_obj[shown])
    assert torch.equal(truth.mask_full[shown], whole.mask_full[shown])
    assert torch.equal(source.batch(2, 12, shown).image, batch.image)
    # red parts on nothing: where they are left out, other things of other colours stand, or none
    part = builtin_part("nut")
    red = replace(part, mesh=replace(part.mesh, colors=torch.tensor([1.0, 0, 0]).repeat(len(part.mesh.vertices), 1)))
    plain = SyntheticConfig.evaluation(crop_size=48, pictures=4, augmentation=AugmentationConfig.off())
    lonely = replace(plain, clutter=ClutterConfig(occluders=0, others=0, blob_share=0.0))
    alone = SyntheticCrops([red], lonely, "cpu", 1)
    picture, there = alone.batch(0, 32, torch.arange(32) % 2 > 0), truth_of(alone.batch(0, 32)).mask_full
    redness = picture.image[:, 0] - picture.image[:, 1:].amax(1)
    mean = torch.stack([values[mask].mean() for values, mask in zip(redness, there, strict=True)])
    assert mean[1::2].min() > 0.2
    assert mean[0::2].median() < 0.05


def test_evaluation_crops_are_upright_and_mostly_visible() -> None:
    batch = crops(SyntheticConfig.evaluation(crop_size=48, pictures=4)).batch(0, 16)
    right = batch.camera.R_virt_cam[:, :2, 0]
    assert (torch.rad2deg(torch.atan2(right[:, 1], right[:, 0])).abs() < 10).all()
    truth = truth_of(batch)
    assert (truth.mask_visible.flatten(1).sum(1) >= 0.7 * truth.mask_full.flatten(1).sum(1)).all()


def test_colourless_meshes_get_colours() -> None:
    part = builtin_part("disc")
    bare = replace(part, mesh=replace(part.mesh, colors=None))
    batch = SyntheticCrops([bare], replace(SMALL, augmentation=AugmentationConfig.off()), "cpu", 0).batch(0, 12)
    visible = truth_of(batch).mask_visible
    means = torch.stack([image[:, mask].mean(1) for image, mask in zip(batch.image, visible, strict=True)])
    assert means.std(0).min() > 0.05
    assert (means.amax(1) - means.amin(1)).max() > 0.1


def test_settings_that_cannot_be_are_refused() -> None:
    wrong: list[dict] = [
        {"crop_size": 8}, {"pad": 0.5}, {"roll": 270.0}, {"focal": (1.0, 0.5)}, {"photo_share": 2.0}, {"pictures": 0},
        {"camera": Camera.from_values(300.0, 300.0, 160.0, 120.0, 320, 240, (0.1, 0.0, 0.0, 0.0))},
    ]  # fmt: skip
    for changes in wrong:
        with pytest.raises(ValueError, match=next(iter(changes))):
            replace(SMALL, **changes)
    with pytest.raises(ValueError, match="at least one part"):
        SyntheticCrops([], SMALL)
    with pytest.raises(ValueError, match="min_visibility"):
        ClutterConfig(min_visibility=1.5)
    for name in ("shift", "scale"):
        for error in (-1.0, 1.0, 4.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=r"0 or more and below 1 \(0.04 is 4 %\)"):
                BoxConfig(**{name: error})


def test_extreme_points_bound_the_projection() -> None:
    mesh = builtin_part("bracket").mesh
    points = extreme_points(mesh.vertices)
    assert len(points) < len(mesh.vertices)
    T_cam_obj = PosePrior().sample(
        Draws(0), torch.zeros(40, 3, dtype=torch.float64), torch.full((40,), 50.0, dtype=torch.float64),
        CAMERA.K.expand(40, 3, 3), torch.tensor([[320.0, 240.0]], dtype=torch.float64).expand(40, 2),
    )  # fmt: skip
    K = CAMERA.K.expand(40, 3, 3)
    few = projected_box(points.expand(40, -1, 3), T_cam_obj, K)
    all_of_them = projected_box(mesh.vertices.expand(40, -1, 3), T_cam_obj, K)
    assert ((few - all_of_them).abs() <= 0.01 * all_of_them[:, 2:].amax(1, keepdim=True)).all()


def test_boxes_are_cut_clipped_and_jittered() -> None:
    box = torch.tensor([[-20.0, 10, 100, 50], [300, 200, 60, 80]], dtype=torch.float64)
    size = torch.tensor([[320.0, 240.0]], dtype=torch.float64).expand(2, 2)
    assert clip_box(box, size).tolist() == [[0, 10, 80, 50], [300, 200, 20, 40]]
    assert torch.equal(jitter_box(box, BoxConfig(0.0, 0.0), Draws(0)), box)
    many = box[1:].expand(5000, 4)
    moved = jitter_box(many, BoxConfig(shift=0.1, scale=0.2), Draws(0))
    shift = (moved[:, :2] + moved[:, 2:] / 2 - many[:, :2] - many[:, 2:] / 2) / many[:, 2:]
    assert torch.allclose(shift.std(0), torch.tensor([0.1, 0.1], dtype=torch.float64), rtol=0.1)
    spread = (moved[:, 2:] / many[:, 2:]).log().std(0)
    assert torch.allclose(spread, torch.tensor([0.2, 0.2], dtype=torch.float64), rtol=0.1)


def test_hiding_is_drawn_as_asked() -> None:
    hiding = draw_hiding(ClutterConfig(occluded_share=0.5, deepest=0.5), Draws(0), 200)
    assert torch.allclose(torch.linalg.vector_norm(hiding.direction, dim=1), torch.ones(200, dtype=torch.float64))
    assert 0 <= float(hiding.share.min()) <= float(hiding.share.max()) <= 0.5
    assert 0.3 < (hiding.share > 0).float().mean() < 0.7


def test_covers_are_allowed_in_order_of_budget() -> None:
    hidden = torch.tensor([[10, 0, 20], [50, 5, 1], [0, 0, 0]])
    allowed = allowed_cover(hidden, torch.tensor([15, 30, 0]))
    assert allowed.tolist() == [[True, True, False], [False, False, False], [True, True, True]]


def test_shapes_are_closed_and_of_unit_size(generator: torch.Generator) -> None:
    for mesh in random_shapes(3, hulls=4, turned=4):
        reach = torch.linalg.vector_norm(mesh.used_vertices, dim=-1).max()
        assert torch.isclose(reach, torch.ones_like(reach))
    points = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    triangles = points[hull_triangles(points)]
    normal = torch.linalg.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    height = torch.einsum("fk,pfk->pf", normal, points[:, None] - triangles[None, :, 0])
    assert (height < 1e-9).all()
    volume = (triangles[:, 0] * torch.linalg.cross(triangles[:, 1], triangles[:, 2])).sum(-1).sum() / 6
    assert volume > 0
    assert normal.sum(0).abs().max() < 1e-9, "the areas of a closed surface add up to nothing"


def test_coarse_copies_keep_the_shape() -> None:
    mesh = builtin_part("bushing").mesh
    coarse = coarse_copy(mesh, cells=8)
    if len(mesh.faces) > 2000:
        assert len(coarse.faces) < len(mesh.faces)
    assert (coarse.used_vertices.amax(0) - mesh.vertices.amax(0)).abs().max() < 15


def test_a_stray_vertex_does_not_bend_a_coarse_copy() -> None:
    mesh = builtin_part("bushing").mesh
    stray = replace(
        mesh, vertices=torch.cat((mesh.vertices, torch.tensor([[1e4, 0.0, 0.0]]).double())),
        normals=torch.cat((mesh.normals, mesh.normals[:1])),
        colors=None if mesh.colors is None else torch.cat((mesh.colors, mesh.colors[:1])),
    )  # fmt: skip
    assert len(mesh.faces) > 2000
    plain, copy = (coarse_copy(one, cells=8) for one in (mesh, stray))
    assert torch.equal(copy.vertices, plain.vertices)
    assert torch.equal(copy.faces, plain.faces)


def test_fine_meshes_are_thinned_out_and_it_is_said() -> None:
    mesh = builtin_part("bushing").mesh
    assert thinned(mesh) is mesh
    limit = len(mesh.faces) // 2
    coarse = thinned(mesh, limit)
    assert limit / 20 < len(coarse.faces) <= limit
    assert (coarse.used_vertices.amax(0) - mesh.vertices.amax(0)).abs().max() < 3
    fine = torch.cartesian_prod(torch.arange(330.0), torch.arange(330.0)).double()
    corners = torch.cat((fine, 20 * torch.sin(fine[:, :1] / 30)), dim=1)
    first = torch.cartesian_prod(torch.arange(329), torch.arange(329)) @ torch.tensor([330, 1])
    faces = torch.cat(
        (torch.stack((first, first + 1, first + 330), 1), torch.stack((first + 1, first + 331, first + 330), 1))
    )
    part = Part.from_mesh("sheet", Mesh.from_arrays(corners, faces))
    with pytest.warns(UserWarning, match=r"sheet has 216,482 triangles; it is rendered with"):
        batch = SyntheticCrops([part], SMALL).batch(0, 2)
    assert truth_of(batch).mask_full.any()


def test_a_part_too_large_for_its_camera_is_refused() -> None:
    near = replace(SMALL, camera=CAMERA, prior=PosePrior(distance=(10.0, 20.0)))
    with pytest.raises(ValueError, match=r"cannot see it whole from 20 mm or nearer.*units"):
        crops(near)


def test_apparent_sizes_beyond_the_image_are_refused() -> None:
    large = PosePrior(apparent_size=(3000.0, 5000.0))
    with pytest.raises(ValueError, match=r"apparent_size begins at 3000 .*640 x 480.*begin at 640 or less"):
        SyntheticConfig(prior=large)
    with pytest.raises(ValueError, match=r"apparent_size begins at 700 .*320 x 240"):
        SyntheticConfig(camera=CAMERA, prior=PosePrior(apparent_size=(700.0, 5000.0)))
    upright = Camera.from_values(300.0, 300.0, 119.5, 159.5, 240, 320)
    assert SyntheticConfig(camera=upright, prior=PosePrior(apparent_size=(853.0, 5000.0))).camera is upright
    assert SyntheticConfig(prior=PosePrior(apparent_size=(640.0, 5000.0))).camera is None
    assert SyntheticConfig(prior=replace(large, distance=(100.0, 200.0))).camera is None, "the distance counts"
    with pytest.raises(ValueError, match="apparent_size begins at 3000"):
        check_input([builtin_part("nut")], CAMERA, TabletopConfig(apparent_size=(3000.0, 5000.0)))
    with pytest.raises(ValueError, match=r"apparent_size is \(100.0, inf\)"):
        TabletopConfig(apparent_size=(100.0, float("inf")))


def test_photographs_show_what_they_say() -> None:
    parts = [builtin_part("nut"), builtin_part("disc")]
    photo = synthetic_photo(parts, CAMERA, seed=1)
    assert photo.image.shape == (3, 240, 320)
    assert photo.image.min() >= 0
    assert photo.image.max() <= 1
    assert photo.visibility.min() >= 0.6
    assert photo.visibility.max() <= 1
    assert photo.detections.object_id.tolist() == [part.object_id for part in parts]
    for part, T_cam_obj, box in zip(parts, photo.T_cam_obj, photo.detections.box, strict=True):
        middle = T_cam_obj[:3, :3] @ part.center + T_cam_obj[:3, 3]
        pixel = project_points(CAMERA.K, middle[None])[0] + 0.5
        assert (pixel >= box[:2] - 5).all()
        assert (pixel <= box[:2] + box[2:] + 5).all()
    again = synthetic_photo(parts, CAMERA, seed=1)
    assert torch.equal(photo.image, again.image)
    assert torch.equal(photo.T_cam_obj, again.T_cam_obj)
    assert not torch.equal(photo.image, synthetic_photo(parts, CAMERA, seed=2).image)
    with pytest.raises(ValueError, match="at least one part"):
        synthetic_photo([], CAMERA, 0)


def test_training_crops_are_rolled_as_far_as_is_said() -> None:
    for most in (0.0, 20.0, 180.0):
        batch = crops(replace(SMALL, roll=most)).batch(0, 24)
        turn = batch.camera.R_virt_cam
        # the smallest rotation that looks at the box has its axis in the image plane; what is left is roll
        axis = torch.stack((-turn[:, 2, 1], turn[:, 2, 0], torch.zeros(24)), -1).double()
        angle = torch.arccos(turn[:, 2, 2].double().clamp(-1, 1))
        least = rotation_from_axis_angle(torch.nn.functional.normalize(axis, dim=-1) * angle[:, None])
        roll = turn.double() @ least.transpose(1, 2)
        degrees = torch.rad2deg(torch.atan2(roll[:, 1, 0], roll[:, 0, 0])).abs()
        flipped = torch.rad2deg(torch.atan2((turn.double() @ least)[:, 1, 0], (turn.double() @ least)[:, 0, 0])).abs()
        degrees = torch.minimum(degrees, flipped)
        assert float(degrees.max()) <= most + 1
        assert float(degrees.max()) >= 0.6 * most


def test_shadows_can_be_switched_off() -> None:
    asked: list[int] = []
    plain = lighting.shadows

    def shadows(*arguments, **named):  # type: ignore[no-untyped-def]
        asked.append(len(arguments[1]))
        return plain(*arguments, **named)

    for share in (0.0, 1.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lighting, "shadows", shadows)
            crops(replace(SMALL, appearance=replace(SMALL.appearance, shadow_share=share))).batch(0, 6)
        assert sum(asked) == 6 * share


def test_boxes_to_judge_by_err_at_least_as_detectors_do():
    usual = BoxConfig()
    worse = SyntheticConfig(box=BoxConfig(0.1, 0.2, 0.3)).judging().box
    assert worse == BoxConfig(0.1, 0.2, 0.3)
    assert SyntheticConfig(box=BoxConfig(0.0, 0.0, 0.0)).judging().box == BoxConfig(usual.shift, usual.scale, 0.0)

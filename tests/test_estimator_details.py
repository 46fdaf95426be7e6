"""What comes with a pose: covariance, alternatives, the reason where there is none; depth; models that only embed."""

import pytest
import torch

from cad2pose.data import SyntheticConfig, SyntheticCrops
from cad2pose.estimator import EstimatorOptions, PoseEstimator, best_per_object
from cad2pose.estimator.fusion import fuse_copies
from cad2pose.estimator.looking import poses_in_source
from cad2pose.geometry import Camera, random_rotations, virtual_camera
from cad2pose.methods import SurfEmbMethod
from cad2pose.model_file import Model, load_model, shipped_model_path
from cad2pose.structures import Detections, PoseDetails, PoseEstimates, Poses
from small_models import SMALL_GDRNET, SMALL_SURFEMB, planted_model, wedge

CAMERA = Camera.from_values(600.0, 610.0, 150.0, 130.0, 320, 240)


def detections(count, object_id=1):
    box = torch.tensor([[40.0, 30, 60, 60], [150.0, 90, 70, 70], [200.0, 100, 60, 80]])[:count]
    return Detections(torch.full((count,), object_id), box, torch.ones(count))


def some_poses(count, generator, k=2, reasons=None):
    T = torch.eye(4).double().repeat(count, k, 1, 1)
    T[..., :3, :3] = random_rotations(count * k, generator, torch.float64).view(count, k, 3, 3)
    T[..., :3, 3] = torch.tensor([10.0, -20, 600]).double() + torch.randn(count, k, 3, generator=generator)
    root = torch.randn(count, 6, 6, generator=generator, dtype=torch.float64)
    details = PoseDetails(
        root @ root.transpose(1, 2), torch.nn.functional.normalize(root[:, 0, :3], dim=1), T,
        torch.full((count, k), 1 / k).double(), reasons or (None,) * count,
    )  # fmt: skip
    return Poses(T[:, 0].clone(), torch.full((count,), 0.5).double(), details)


def test_poses_come_out_of_a_crop_with_all_that_is_known_of_them(generator):
    box = torch.tensor([[200.0, 100, 40, 40], [10, 20, 80, 60]], dtype=torch.float64)
    size = torch.tensor([[320.0, 240.0]] * 2, dtype=torch.float64)
    crops = virtual_camera(CAMERA.K.expand(2, 3, 3), box, size, 64, 1.5, torch.tensor([0.5, -2.0]).double())
    poses = some_poses(2, generator)
    there = poses_in_source(poses, crops)
    torch.testing.assert_close(crops.to_virtual(there.T_cam_obj), poses.T_cam_obj)
    torch.testing.assert_close(there.details.alternatives[:, 0], there.T_cam_obj)
    R = crops.R_virt_cam
    torch.testing.assert_close((R @ there.details.free_axis[..., None])[..., 0], poses.details.free_axis)
    # the variance of the same small motion is the same, whichever camera describes it
    motion = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    turned = torch.cat(((R @ motion[:, :3, None])[..., 0], (R @ motion[:, 3:, None])[..., 0]), 1)
    information = [torch.linalg.inv(found.details.covariance) for found in (there, poses)]
    torch.testing.assert_close(
        torch.einsum("ni,nij,nj->n", motion, information[0], motion),
        torch.einsum("ni,nij,nj->n", turned, information[1], turned), rtol=1e-6, atol=1e-9,
    )  # fmt: skip
    rotation = there.T_cam_obj[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(2, 3, 3), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(2).double(), rtol=0, atol=1e-9)


def test_copies_without_a_pose_have_no_say_but_cost_score(generator):
    poses = some_poses(2, generator, reasons=(None, "nothing there"))
    T = poses.T_cam_obj.clone()
    T[1] = torch.nan
    poses = Poses(T, torch.tensor([0.8, 0.0]).double(), poses.details)
    fused = fuse_copies(poses, 2, torch.eye(3).double()[None], torch.zeros(3).double())
    torch.testing.assert_close(fused.T_cam_obj[0], T[0])
    assert float(fused.score) == pytest.approx(0.8 / 2 / 2)
    assert fused.details.reasons == (None,)
    torch.testing.assert_close(fused.details.covariance[0], poses.details.covariance[0])
    lost = Poses(T[[1, 1]], torch.zeros(2).double(), poses.details[torch.tensor([1, 1])])
    nothing = fuse_copies(lost, 2, torch.eye(3).double()[None], torch.zeros(3).double())
    assert torch.isnan(nothing.T_cam_obj).all()
    assert float(nothing.score) == 0
    assert nothing.details.reasons == ("nothing there",)
    assert torch.isnan(nothing.details.covariance).all()


def test_fusing_keeps_the_alternatives_and_puts_the_fused_pose_first(generator):
    poses = some_poses(1, generator)
    copies = Poses.join([poses, poses, poses])
    fused = fuse_copies(copies, 3, torch.eye(3).double()[None], torch.zeros(3).double())
    torch.testing.assert_close(fused.details.alternatives[0], poses.details.alternatives[0])
    torch.testing.assert_close(fused.details.covariance, poses.details.covariance)
    assert float(fused.score) == pytest.approx(0.5)


def test_records_join_and_pick_rows(generator):
    wide, narrow = some_poses(2, generator, k=3), some_poses(1, generator, k=1)
    joined = Poses.join([narrow, wide])
    assert joined.details.probability.shape == (3, 3)
    assert joined.details.probability[0].tolist() == [1, 0, 0]
    assert torch.isnan(joined.details.alternatives[0, 1:]).all()
    picked = joined[torch.tensor([2, 0])]
    torch.testing.assert_close(picked.T_cam_obj, joined.T_cam_obj[[2, 0]])
    assert len(PoseEstimates(torch.tensor([1]), torch.eye(4)[None], torch.ones(1), torch.ones(1, 4)).details.reasons)
    with pytest.raises(ValueError, match="details of 3 poses for 1 objects"):
        PoseEstimates(
            torch.tensor([1]), torch.eye(4)[None], torch.ones(1), torch.ones(1, 4), details=joined.details
        )  # fmt: skip


def test_a_box_without_a_pose_keeps_its_row_and_leaves_the_others_alone(generator):
    parts = wedge(1, "a"), wedge(2, "b")
    truth = some_poses(1, generator).T_cam_obj[0]
    model = planted_model(torch.stack((truth, torch.full((4, 4), torch.nan).double())), *parts)
    boxes = detections(3)
    mixed = Detections(torch.tensor([1, 2, 1]), boxes.box, boxes.score)
    estimator = PoseEstimator([model], "cpu", EstimatorOptions(rolls=(0.0, 90.0)))
    found = estimator.estimate(torch.rand(3, 240, 320), CAMERA, mixed, min_score=0.5)
    assert found.object_id.tolist() == [1, 2, 1]
    assert found.found.tolist() == [True, False, True]
    assert "not finite" in (found.details.reasons[1] or "")
    assert torch.isnan(found.T_cam_obj[1]).all()
    assert float(found.score[1]) == 0
    torch.testing.assert_close(found.T_cam_obj[0], truth, rtol=1e-5, atol=1e-3)
    best = best_per_object(found)
    assert best.object_id.tolist() == [1, 2]
    assert best.found.tolist() == [True, False]
    assert best_per_object(found, {1: 1}).object_id.tolist() == [1]


def test_depth_of_another_size_is_a_reason():
    model = Model(SurfEmbMethod(SMALL_SURFEMB, [wedge()]).eval(), (wedge(),), {})
    found = PoseEstimator([model], "cpu").estimate(
        torch.rand(3, 240, 320), CAMERA, detections(2), depth=torch.ones(120, 320)
    )  # fmt: skip
    assert not found.found.any()
    for reason in found.details.reasons:
        assert reason == "the depth image is 320 x 120 pixels, the image 320 x 240"
    with pytest.raises(ValueError, match="H x W of depths"):
        PoseEstimator([model], "cpu").estimate(
            torch.rand(3, 240, 320), CAMERA, detections(1), depth=torch.ones(3, 240, 320)
        )


def test_depth_is_refused_where_poses_cannot_be_moved_to_it():
    model = Model(SMALL_GDRNET.build([wedge()]).eval(), (wedge(),), {})
    ways = ((EstimatorOptions(), "those of a GdrNetMethod"), (EstimatorOptions(solver="pnp"), "poses of PnP"))
    for options, what in ways:
        estimator = PoseEstimator([model], "cpu", options)
        with pytest.raises(ValueError, match=f"depth image was given for wedge.*{what}; leave the depth image out"):
            estimator.estimate(torch.rand(3, 240, 320), CAMERA, detections(1), depth=torch.full((240, 320), 500.0))


def test_a_model_that_only_embeds_estimates_too():
    torch.manual_seed(0)
    model = Model(SurfEmbMethod(SMALL_SURFEMB, [wedge()]).eval(), (wedge(),), {})
    image = torch.rand(3, 240, 320, generator=torch.Generator().manual_seed(1))
    for options in (EstimatorOptions(), EstimatorOptions(solver="search", query_turns=4)):
        found = PoseEstimator([model], "cpu", options).estimate(image, CAMERA, detections(2))
        assert len(found) == 2
        for row in found.found.nonzero()[:, 0].tolist():
            R = found.T_cam_obj[row, :3, :3]
            torch.testing.assert_close(R @ R.T, torch.eye(3).double())
            assert 0 <= float(found.score[row]) <= 1
            assert torch.isfinite(found.details.covariance[row]).all()
            assert float(found.details.probability[row].sum()) == pytest.approx(1)


@pytest.fixture(scope="module")
def rendered():
    """The shipped model, and crops of its bracket whose truth and depth are known."""
    model = load_model(shipped_model_path())
    config = model.method.config
    crops = SyntheticCrops(model.parts, SyntheticConfig.evaluation(crop_size=config.crop_size, pad=config.pad), seed=8)
    batch = crops.batch(0, 24)
    names = [part.name for part in model.parts]
    return model, batch[(batch.part_index == names.index("bracket")).nonzero()[:, 0]]


def scene_of(batch, row):
    """A crop as a picture of its own, its camera, box, true pose and depth in mm."""
    side = batch.camera.size
    camera = Camera(batch.camera.K_virt[row], side, side)
    truth = batch.truth.T_virt_obj[row].double()
    mask = batch.truth.mask_full[row]
    v, u = mask.nonzero().unbind(1)
    box = torch.tensor([[u.min(), v.min(), u.max() - u.min() + 1, v.max() - v.min() + 1]]).double()
    return batch.image[row], camera, box, truth, mask


def depth_of(batch, row, part):
    """Of the part alone, where it is seen, mm."""
    truth = batch.truth.T_virt_obj[row].double()
    coordinates = batch.truth.coordinates[row].double() * part.radius + part.center[:, None, None]
    depth = torch.einsum("j,jhw->hw", truth[2, :3], coordinates) + truth[2, 3]
    return torch.where(batch.truth.mask_full[row] & batch.truth.mask_visible[row], depth, 0.0)


def test_regressed_poses_move_along_their_rays_to_the_depth_and_do_nothing_else(rendered):
    model, batch = rendered
    part = next(part for part in model.parts if part.name == "bracket")
    estimator = PoseEstimator([model], "cpu", EstimatorOptions(recrop=False, refine=False))
    moved = 0
    for row in range(3):
        image, camera, box, truth, _ = scene_of(batch, row)
        found, depth = Detections(torch.tensor([part.object_id]), box, torch.ones(1)), depth_of(batch, row, part)
        plain, measured = (estimator.estimate(image, camera, found, depth=d) for d in (None, depth))
        torch.testing.assert_close(measured.T_cam_obj[0, :3, :3], plain.T_cam_obj[0, :3, :3], rtol=0, atol=1e-9)
        assert torch.equal(plain.score, measured.score)
        before, after, true = (
            (T[:3, :3] @ part.center + T[:3, 3]) for T in (plain.T_cam_obj[0], measured.T_cam_obj[0], truth)
        )
        torch.testing.assert_close(after / after[2], before / before[2], rtol=1e-5, atol=1e-6)
        moved += int((after[2] - true[2]).abs() < 0.5 * (before[2] - true[2]).abs())
    assert moved >= 2
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    for seen in (noise, torch.zeros_like(image)):  # whatever the mask says, there is a pose as without depth
        plain, measured = (estimator.estimate(seen, camera, found, depth=d) for d in (None, torch.zeros_like(depth)))
        assert plain.found.all()
        torch.testing.assert_close(measured.T_cam_obj, plain.T_cam_obj)
    in_metres = estimator.estimate(image, camera, found, depth=depth_of(batch, 2, part) / 1000)
    assert not in_metres.found.any()
    assert "unit" in (in_metres.details.reasons[0] or "")


def test_depth_sets_the_distance_right(rendered):
    model, batch = rendered
    part = next(part for part in model.parts if part.name == "bracket")
    before, after = [], []
    image, camera, box, truth, mask = scene_of(batch, 0)
    depth, found = torch.zeros(0), detections(1)
    estimator = PoseEstimator([model], "cpu", EstimatorOptions(refine=True, recrop=False))
    for row in range(len(batch)):
        image, camera, box, truth, mask = scene_of(batch, row)
        depth = depth_of(batch, row, part)
        found = Detections(torch.tensor([part.object_id]), box, torch.ones(1))
        errors = []
        for measured in (None, depth):
            pose = estimator.estimate(image, camera, found, depth=measured)
            centre = pose.T_cam_obj[0, :3, :3] @ part.center + pose.T_cam_obj[0, :3, 3]
            true = truth[:3, :3] @ part.center + truth[:3, 3]
            errors.append(float((centre[2] / true[2] - 1).abs()))
        before.append(errors[0])
        after.append(errors[1])
    assert sorted(after)[len(after) // 2] < 0.4 * sorted(before)[len(before) // 2]
    in_metres = estimator.estimate(image, camera, found, depth=depth / 1000)
    assert not in_metres.found.any()
    assert "unit" in (in_metres.details.reasons[0] or "")

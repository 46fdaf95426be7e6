from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cad2pose.estimator import EstimatorOptions, PoseEstimator, best_per_object, fuse_poses
from cad2pose.estimator.boxes import posed_boxes
from cad2pose.geometry import (
    Camera,
    axis_angle_from_rotation,
    geodesic_distance,
    make_transform,
    project_points,
    random_rotations,
    rotation_about_z,
    rotation_from_axis_angle,
    transform_points,
    undistort_boxes,
)
from cad2pose.methods import SurfEmbMethod
from cad2pose.model_file import Model, save_model
from cad2pose.parts.symmetry import Symmetries
from cad2pose.solvers import Surface
from cad2pose.structures import Detections, PoseEstimates
from small_models import SMALL_SURFEMB, PlantedMethod, planted_model, random_model, wedge

CAMERA = Camera.from_values(600.0, 610.0, 150.0, 130.0, 320, 240)
EYE = torch.eye(3, dtype=torch.float64)[None]


def _pose(part, generator, at=(20.0, -15.0, 500.0)):
    """A pose that puts the part's centre there, turned at random."""
    rotation = random_rotations(1, generator, torch.float64)[0]
    position = torch.tensor(at, dtype=torch.float64)
    return make_transform(rotation, position - rotation @ part.center)


def _box(part, T_cam_obj, camera=CAMERA):
    pixels = project_points(camera.K[None], transform_points(T_cam_obj[None], part.mesh.vertices[None]))[0] + 0.5
    return torch.cat((pixels.amin(0), pixels.amax(0) - pixels.amin(0)))


def _detections(ids, boxes):
    return Detections(
        torch.tensor(ids, dtype=torch.int64), torch.as_tensor(boxes).reshape(-1, 4).double(), torch.ones(len(ids))
    )


# --- fusing


def _copies(center, angles, generator, count):
    """One true pose and `count` copies, turned by `angles` about random axes and moved a little."""
    truth = random_rotations(1, generator, torch.float64)[0]
    axes = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)
    rotations = rotation_from_axis_angle(axes * torch.as_tensor(angles)[:, None]) @ truth
    position = torch.tensor([30.0, 10, 700], dtype=torch.float64)
    scale = 1 + 0.02 * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    poses = make_transform(rotations, position * scale - rotations @ center)
    return make_transform(truth, position - truth @ center), poses


def _position(T_cam_obj, center):
    return T_cam_obj[:3, :3] @ center + T_cam_obj[:3, 3]


@pytest.mark.parametrize("seed", range(4))
def test_fusing_ignores_outliers(seed):
    generator = torch.Generator().manual_seed(seed)
    center = torch.tensor([500.0, -200, 90], dtype=torch.float64)
    angles = torch.tensor([0.02] * 6 + [2.0, 2.5, 3.0], dtype=torch.float64)
    truth, poses = _copies(center, angles, generator, 9)
    poses[6:, :3, 3] += 300  # outliers are elsewhere, too
    fused, score = fuse_poses(poses[None], torch.ones(1, 9).double(), EYE, center)
    assert float(geodesic_distance(fused[0, :3, :3], truth[:3, :3])) < 0.02
    error = (_position(fused[0], center) - _position(truth, center)).abs()
    assert float(error[:2].max()) < 2
    assert float(error[2]) < 700 * 0.04
    assert float(score) == pytest.approx(6 / 9)


def test_fusing_one_copy_changes_nothing(generator):
    center = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    truth, _ = _copies(center, [0.0], generator, 1)
    fused, score = fuse_poses(truth[None, None], torch.tensor([[0.3]]).double(), EYE, center)
    torch.testing.assert_close(fused[0], truth)
    assert float(score) == pytest.approx(0.3)


def test_fusing_does_not_depend_on_the_order(generator):
    center = torch.tensor([10.0, 20, 30], dtype=torch.float64)
    _, poses = _copies(center, torch.rand(5, generator=generator).double() * 0.3, generator, 5)
    weights = torch.rand(1, 5, generator=generator).double()
    order = torch.tensor([3, 1, 4, 0, 2])
    first, second = (fuse_poses(poses[o][None], weights[:, o], EYE, center)[0] for o in (torch.arange(5), order))
    torch.testing.assert_close(first, second)


def test_copies_that_a_symmetry_relates_are_inliers(generator):
    quarter = make_transform(rotation_about_z(torch.tensor(math.pi / 2).double()), torch.zeros(3).double())
    group = Symmetries.generated_by(quarter[None]).rotation_group()
    center = torch.tensor([0.0, 0, 40], dtype=torch.float64)
    truth, poses = _copies(center, [0.03] * 4, generator, 4)
    for copy in range(4):
        poses[copy] = poses[copy] @ torch.linalg.matrix_power(quarter, copy)
    alone, without = fuse_poses(poses[None], torch.ones(1, 4).double(), EYE, center)
    fused, score = fuse_poses(poses[None], torch.ones(1, 4).double(), group, center)
    error = geodesic_distance((truth[:3, :3] @ group), fused[:, :3, :3].expand(len(group), -1, -1)).min()
    assert float(error) < 0.03
    assert float(score) == pytest.approx(1)
    assert float(without) < 0.5
    assert alone.shape == fused.shape


def test_a_continuous_symmetry_leaves_the_axis_only(generator):
    part = wedge(symmetric=True)
    truth, poses = _copies(part.center, [0.02] * 6, generator, 6)
    turns = rotation_about_z(2 * math.pi * torch.rand(6, generator=generator).double())
    rotations = poses[:, :3, :3] @ turns
    poses = make_transform(rotations, (poses[:, :3, :3] @ part.center + poses[:, :3, 3]) - rotations @ part.center)
    fused, score = fuse_poses(poses[None], torch.ones(1, 6).double(), part.symmetries.rotation_group(), part.center)
    assert float(score) == pytest.approx(1)
    assert float(fused[0, :3, 2] @ truth[:3, 2]) > math.cos(0.02)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_groups_are_fused_independently(batch, generator):
    center = torch.zeros(3, dtype=torch.float64)
    groups = [_copies(center, [0.1, 0.0, 3.0], generator, 3)[1] for _ in range(batch)]
    poses = torch.stack(groups) if groups else torch.zeros(0, 3, 4, 4).double()
    together = fuse_poses(poses, torch.ones(batch, 3).double(), EYE, center)[0]
    for row, group in enumerate(groups):
        torch.testing.assert_close(together[row], fuse_poses(group[None], torch.ones(1, 3).double(), EYE, center)[0][0])


# --- the way from boxes to poses


@pytest.mark.parametrize(
    "options",
    [
        EstimatorOptions(rolls=(0.0,), recrop=False),
        EstimatorOptions(rolls=(0.0, 90.0, 180.0, 270.0), recrop=True, batch_size=3),
        EstimatorOptions(rolls=(-20.0, 0.0, 20.0), zooms=(0.9, 1.1), recrop=True),
    ],
)
def test_poses_come_back_through_every_crop(options, generator):
    part = wedge()
    truth = _pose(part, generator)
    estimator = PoseEstimator([planted_model(truth[None], part)], "cpu", options)
    estimates = estimator.estimate(torch.rand(3, 240, 320), CAMERA, _detections([1], _box(part, truth)))
    assert estimates.T_cam_obj.dtype == torch.float64
    torch.testing.assert_close(estimates.T_cam_obj[0], truth, rtol=1e-5, atol=1e-3)
    assert float(estimates.score) == pytest.approx(0.75)
    assert estimates.seconds > 0
    method = estimator._known[1].model.method
    assert isinstance(method, PlantedMethod)
    crops = sum(len(batch) for batch in method.seen)
    assert crops == len(options.rolls) * len(options.zooms) * (1 + options.recrop)
    assert max(len(batch) for batch in method.seen) <= options.batch_size


def test_estimates_keep_the_order_of_the_boxes(generator):
    first, second, third = wedge(3, "a"), wedge(8, "b", shift=0.0), wedge(5, "c", shift=-40.0)
    poses = {part.object_id: _pose(part, generator) for part in (first, second, third)}
    models = [planted_model(torch.stack((poses[3], poses[8])), first, second), planted_model(poses[5][None], third)]
    ids = [8, 5, 3, 5, 8]
    boxes = torch.stack([_box({3: first, 8: second, 5: third}[i], poses[i]) for i in ids])
    estimator = PoseEstimator(models, "cpu", EstimatorOptions(rolls=(0.0, 180.0)))
    estimates = estimator.estimate(torch.rand(3, 240, 320), CAMERA, _detections(ids, boxes))
    assert estimates.object_id.tolist() == ids
    torch.testing.assert_close(estimates.box, boxes)
    for row, object_id in enumerate(ids):
        torch.testing.assert_close(estimates.T_cam_obj[row], poses[object_id], rtol=1e-5, atol=1e-3)
    assert sorted(estimator.parts) == [3, 5, 8]


def test_batches_of_any_size_agree(generator):
    model, part = random_model(), wedge()
    image, truth = torch.rand(3, 240, 320, generator=generator), _pose(part, generator)
    boxes = _box(part, truth) + torch.tensor([[0.0, 0, 0, 0], [5, 0, 0, 0], [0, 5, 10, 0]])
    results = [
        PoseEstimator([model], "cpu", EstimatorOptions(batch_size=size, refine=False)).estimate(
            image, CAMERA, _detections([1, 1, 1], boxes)
        )
        for size in (1, 5, 64)
    ]
    for other in results[1:]:
        torch.testing.assert_close(other.T_cam_obj, results[0].T_cam_obj, rtol=1e-4, atol=1e-2)
    rotation = results[0].T_cam_obj[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), EYE.expand(3, 3, 3), atol=1e-12, rtol=0)


def test_no_detections_no_poses():
    estimator = PoseEstimator([random_model()], "cpu")
    estimates = estimator.estimate(torch.rand(3, 240, 320), CAMERA, _detections([], torch.zeros(0, 4)))
    assert len(estimates) == 0


def test_low_scores_are_left_out(generator):
    part = wedge()
    truth = _pose(part, generator)
    estimator = PoseEstimator([planted_model(truth[None], part)], "cpu", EstimatorOptions(rolls=(0.0,)))
    detections = _detections([1], _box(part, truth))
    assert len(estimator.estimate(torch.rand(3, 240, 320), CAMERA, detections, min_score=0.8)) == 0
    assert len(estimator.estimate(torch.rand(3, 240, 320), CAMERA, detections, min_score=0.7)) == 1


def test_a_lens_is_undone_once(generator):
    camera = Camera(CAMERA.K, 320, 240, (-0.2, 0.05, 0.001, -0.002))
    part = wedge()
    truth = _pose(part, generator, at=(90.0, 60.0, 500.0))
    rays = transform_points(truth, part.mesh.vertices)
    bent = camera.distort(rays[:, :2] / rays[:, 2:]) * camera.K.diagonal()[:2] + camera.K[:2, 2]
    box = torch.cat((bent.amin(0) + 0.5, bent.amax(0) - bent.amin(0)))
    straight = undistort_boxes(box[None], camera)[0][0]
    torch.testing.assert_close(straight, _box(part, truth), atol=3.0, rtol=0)
    assert not torch.allclose(straight, box, atol=0.3)
    estimator = PoseEstimator([planted_model(truth[None], part)], "cpu")
    estimates = estimator.estimate(torch.rand(3, 240, 320), camera, _detections([1], box))
    torch.testing.assert_close(estimates.T_cam_obj[0], truth, rtol=1e-5, atol=1e-3)


def test_a_box_that_the_lens_cannot_show_costs_no_other_its_pose(generator):
    camera = Camera.from_values(350.0, 350.0, 319.5, 239.5, 640, 480, (-0.4, 0.15, 0.0, 0.0, -0.02))
    boxes = torch.tensor([[632.0, 472, 8, 8], [600, 200, 100, 80], [300, 200, 50, 50]])
    estimator = PoseEstimator([random_model()], "cpu")
    found = estimator.estimate(torch.rand(3, 480, 640), camera, Detections(torch.ones(3).long(), boxes, torch.ones(3)))
    assert found.found.tolist() == [False, True, True]
    assert "lens model" in str(found.details.reasons[0])


@pytest.mark.parametrize("agrees", [True, False])
def test_a_box_that_stays_is_looked_at_once(generator, agrees, monkeypatch):
    """Where the first pose moves the box there is a second look, and no other box is looked at again."""
    part = wedge()
    truth = _pose(part, generator)
    estimator = PoseEstimator([planted_model(truth[None], part)], "cpu", EstimatorOptions(refine=False))
    box, looked = _box(part, truth) + torch.tensor([4.0, -3, 5, -2]), []
    far = torch.tensor([10.0, 10, 20, 20])
    plain = PoseEstimator._look

    def watched(self, view, model, part_index, box, roll):
        looked.append(len(box))
        return plain(self, view, model, part_index, box, roll)

    monkeypatch.setattr(PoseEstimator, "_look", watched)
    boxes = torch.stack((box, far) if agrees else (far, far))
    estimator.estimate(torch.rand(3, 240, 320), CAMERA, Detections(torch.ones(2).long(), boxes, torch.ones(2)))
    assert sum(looked) == (3 if agrees else 2)


def test_boxes_follow_poses_that_can_be_right(generator):
    part = wedge()
    truth = _pose(part, generator)
    image = torch.tensor([0.0, 0, 320, 240]).double()
    box = _box(part, truth)
    jittered = box + torch.tensor([4.0, -3, 5, -2])
    far = truth.clone()
    far[0, 3] += 2000
    posed = posed_boxes(jittered.expand(2, 4), torch.stack((truth, far)), part.mesh.vertices, CAMERA.K, image)
    torch.testing.assert_close(posed[0], box)
    torch.testing.assert_close(posed[1], jittered)


def test_images_of_all_kinds_give_the_same_pose(generator):
    model, part = random_model(), wedge()
    detections = _detections([1], _box(part, _pose(part, generator)))
    gray = np.random.default_rng(0).integers(0, 256, (240, 320), dtype=np.uint8)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    rgba = np.concatenate((rgb, np.full_like(rgb[..., :1], 9)), axis=2)
    images = [gray, rgb, rgba, gray.astype(np.uint16) * 257, torch.from_numpy(rgb / 255.0).movedim(-1, 0)]
    estimator = PoseEstimator([model], "cpu", EstimatorOptions(rolls=(0.0,)))
    first, *others = (estimator.estimate(image, CAMERA, detections).T_cam_obj for image in images)
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4),
        torch.zeros(1, 3, 4, 4),
        torch.full((3, 4, 4), 255.0),
        torch.full((3, 4, 4), torch.nan),
        np.zeros((4, 4, 2), dtype=np.uint8),
        np.zeros((4, 4), dtype=np.float64),
        np.zeros((0, 4), dtype=np.uint8),
    ],
)
def test_other_images_are_refused(image):
    with pytest.raises(ValueError, match=r"give a float tensor \[3, H, W\]"):
        PoseEstimator([random_model()], "cpu").estimate(image, CAMERA, _detections([], torch.zeros(0, 4)))


@pytest.mark.parametrize("box", [[400.0, 10, 5, 5], [10.0, 240, 5, 5], [-20.0, 10, 20, 5], [10.0, -9, 5, 4]])
def test_boxes_outside_the_image_are_refused(box):
    with pytest.raises(ValueError, match="outside the image of 320 x 240"):
        PoseEstimator([random_model()], "cpu").estimate(torch.rand(3, 240, 320), CAMERA, _detections([1], [box]))


def test_a_box_that_cannot_be_used_costs_the_others_nothing():
    estimator = PoseEstimator([random_model()], "cpu")
    good, junk = [[60.0, 50, 80, 80]], [[319.6, 50, 0.4, 30], [330.0, 50, 20, 30]]
    pixels = torch.rand(3, 240, 320)
    alone = estimator.estimate(pixels, CAMERA, _detections([1], good))
    found = estimator.estimate(pixels, CAMERA, _detections([1, 1, 1], [junk[0], good[0], junk[1]]))
    assert torch.equal(found.T_cam_obj[1].isnan(), alone.T_cam_obj[0].isnan())
    torch.testing.assert_close(found.T_cam_obj[1], alone.T_cam_obj[0], equal_nan=True)
    assert found.box[:, 0].tolist() == pytest.approx([319.6, 60, 330])
    assert found.details.reasons[1] == alone.details.reasons[0]
    assert "box 0 is [319.6" in (found.details.reasons[0] or "")
    assert "narrower than a pixel" in (found.details.reasons[0] or "")
    assert "outside the image of 320 x 240" in (found.details.reasons[2] or "")


def test_a_pose_behind_the_camera_is_none():
    T = torch.eye(4).double().repeat(2, 1, 1)
    T[:, 2, 3] = torch.tensor([600.0, -500.0])
    model = planted_model(T, wedge(1, "a"), wedge(2, "b"))
    estimator = PoseEstimator([model], "cpu", EstimatorOptions(recrop=False))
    boxes = _detections([1, 2], [[60.0, 50, 80, 80]] * 2)
    found = estimator.estimate(torch.rand(3, 240, 320), CAMERA, boxes)
    assert found.found.tolist() == [True, False]
    assert "behind the camera" in (found.details.reasons[1] or "")


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="320 x 200 .* camera 320 x 240"):
        PoseEstimator([random_model()], "cpu").estimate(torch.rand(3, 200, 320), CAMERA, _detections([], []))


@pytest.mark.parametrize("solver", ["auto", "sampling"])
def test_a_prepared_estimator_has_its_surfaces(solver, monkeypatch):
    made = []
    of_part = Surface.of_part

    def counted(part):  # type: ignore[no-untyped-def]
        made.append(part.name)
        return of_part(part, 6144)

    monkeypatch.setattr(Surface, "of_part", counted)
    parts = (wedge(1, "ape"), wedge(2, "cat", shift=-40.0))
    image, boxes = torch.rand(3, 240, 320), _detections([2, 2], [[20, 20, 90, 90], [90, 50, 80, 80]])
    prepared, late = (PoseEstimator([random_model(*parts)], "cpu", EstimatorOptions(solver=solver)) for _ in range(2))
    assert prepared.prepare([]) >= 0
    assert not made
    assert prepared.prepare([2]) > 0
    assert made == ["cat"]
    prepared.estimate(image, CAMERA, boxes)
    assert made == ["cat"]
    prepared.prepare()
    assert made == ["cat", "ape"]
    late.estimate(image, CAMERA, boxes)
    assert made == ["cat", "ape", "cat"]
    with pytest.raises(ValueError, match="object id 7 is not known"):
        prepared.prepare([7])


def test_preparing_changes_no_pose_and_serves_models_without_a_query_image():
    image, boxes = torch.rand(3, 240, 320), _detections([1], [[20, 20, 90, 90]])
    model = random_model(wedge(1))
    prepared, late = (PoseEstimator([model], "cpu", EstimatorOptions(recrop=False)) for _ in range(2))
    prepared.prepare()
    first, second = (one.estimate(image, CAMERA, boxes) for one in (prepared, late))
    torch.testing.assert_close(first.T_cam_obj, second.T_cam_obj)
    T_cam_obj = make_transform(EYE[0], torch.tensor([0.0, 0, 500], dtype=torch.float64))[None]
    assert PoseEstimator([planted_model(T_cam_obj, wedge(1))], "cpu").prepare() > 0


def test_unknown_objects_are_refused():
    estimator = PoseEstimator([random_model(wedge(4, "ape"), wedge(6, "cat"))], "cpu")
    with pytest.raises(ValueError, match=r"object id 5 is not known; the model knows 4 \(ape\), 6 \(cat\)"):
        estimator.estimate(torch.rand(3, 240, 320), CAMERA, _detections([5], [[1.0, 1, 9, 9]]))


@pytest.mark.parametrize(
    "settings",
    [
        {"rolls": ()},
        {"rolls": (math.nan,)},
        {"zooms": ()},
        {"zooms": (0.0,)},
        {"zooms": (math.inf,)},
        {"batch_size": 0},
    ],
)
def test_options_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        EstimatorOptions(**settings)


# --- loading


def test_a_folder_means_all_its_objects(tmp_path):
    for name, part in (("a", wedge(1)), ("b", wedge(2))):
        model = random_model(part)
        save_model(tmp_path / f"{name}.safetensors", model.method, model.parts, {})
    assert sorted(PoseEstimator.load(tmp_path, "cpu").parts) == [1, 2]
    assert sorted(PoseEstimator.load(tmp_path / "b.safetensors", "cpu").parts) == [2]
    clash = random_model(wedge(2))
    save_model(tmp_path / "c.safetensors", clash.method, clash.parts, {})
    with pytest.raises(ValueError, match=r"b\.safetensors and .*c\.safetensors serve object id 2"):
        PoseEstimator.load(tmp_path, "cpu")


def test_missing_models_and_devices_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model file"):
        PoseEstimator.load(tmp_path, "cpu")
    with pytest.raises(FileNotFoundError, match="no model file"):
        PoseEstimator.load(tmp_path / "x.safetensors", "cpu")
    with pytest.raises(ValueError, match="device 'abacus'"):
        PoseEstimator([], "abacus")
    with pytest.raises(ValueError, match="claimed by two parts"):
        PoseEstimator([random_model(wedge(1)), random_model(wedge(1))], "cpu")


# --- choosing


def _estimates(ids, scores):
    count = len(ids)
    poses = torch.eye(4).double().repeat(count, 1, 1)
    poses[:, 0, 3] = torch.arange(count)
    return PoseEstimates(
        torch.tensor(ids, dtype=torch.int64), poses, torch.tensor(scores).double(), torch.ones(count, 4), 1.5
    )


def test_the_best_of_each_object_are_kept():
    estimates = _estimates([6, 6, 1, 6, 1], [0.1, 0.9, 0.2, 0.5, 0.3])
    assert best_per_object(estimates).T_cam_obj[:, 0, 3].tolist() == [1, 4]
    kept = best_per_object(estimates, {6: 2})
    assert kept.T_cam_obj[:, 0, 3].tolist() == [1, 3]
    assert kept.seconds == 1.5
    assert len(best_per_object(_estimates([], []))) == 0


def test_axis_angle_of_planted_noise_is_what_it_says(generator):
    truth, poses = _copies(torch.zeros(3).double(), [0.5], generator, 1)
    omega = axis_angle_from_rotation(poses[0, :3, :3] @ truth[:3, :3].T)
    assert float(omega.norm()) == pytest.approx(0.5)


def test_models_that_regress_nothing_are_refused_where_regression_is_asked_for():
    model = Model(SurfEmbMethod(SMALL_SURFEMB, [wedge()]).eval(), (wedge(),), {})
    with pytest.raises(ValueError, match=r"wedge is a SurfEmbMethod, which regresses no poses.*--method query"):
        PoseEstimator([model], "cpu", EstimatorOptions(solver="regression"))
    PoseEstimator([model], "cpu")


def test_a_lost_second_pass_leaves_the_first(generator, monkeypatch):
    part = wedge()
    truth = _pose(part, generator)
    estimator = PoseEstimator([planted_model(truth[None], part)], "cpu", EstimatorOptions(recrop=True))
    passes = []
    plain = PoseEstimator._fused

    def losing(self, view, object_id, box):
        passes.append(box)
        found = plain(self, view, object_id, box)
        if len(passes) == 2:
            found.T_cam_obj[:] = torch.nan
        return found

    monkeypatch.setattr(PoseEstimator, "_fused", losing)
    found = estimator.estimate(torch.rand(3, 240, 320), CAMERA, _detections([1], _box(part, truth)))
    assert len(passes) == 2
    torch.testing.assert_close(found.T_cam_obj[0], truth, rtol=1e-5, atol=1e-3)

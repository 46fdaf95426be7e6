"""Regress, then refine: what the refiner makes of a model's own output."""

import math
from dataclasses import replace

import pytest
import torch

from cad2pose.data import SyntheticConfig, SyntheticCrops
from cad2pose.estimator import EstimatorOptions, PoseEstimator
from cad2pose.estimator.pose_solver import PoseSolver, RefinementOptions, believed_depth
from cad2pose.geometry import Camera, geodesic_distance
from cad2pose.model_file import DEPTH_ERRORS, load_model, shipped_model_path
from cad2pose.solvers import DepthOptions, PoseScore, SolverOptions
from cad2pose.structures import Detections


@pytest.fixture(scope="module")
def model():
    return load_model(shipped_model_path())


@pytest.fixture(scope="module")
def nuts(model):
    config = model.method.config
    crops = SyntheticCrops(model.parts, SyntheticConfig.evaluation(crop_size=config.crop_size, pad=config.pad), seed=4)
    batch = crops.batch(0, 24)
    index = [part.name for part in model.parts].index("nut")
    return batch[(batch.part_index == index).nonzero()[:, 0]]


@torch.no_grad()
def test_refined_poses_score_higher_and_stay_where_the_mask_is(model, nuts):
    refiner = PoseSolver(RefinementOptions(modes=1, solver=SolverOptions(starts=1)))
    output = model.method(nuts)
    before, _ = model.method.poses(output, nuts)
    found = refiner(model, nuts, output)
    after, agreement = found.T_cam_obj, found.score
    index = int(nuts.part_index[0])
    surface, keys, _ = refiner.surface(model, index)
    score = PoseScore(surface, keys, model.method.query_maps(output, nuts))
    part = model.parts[index]

    def scored(T):
        position = (T[:, :3, :3] @ part.center + T[:, :3, 3]) / part.radius
        return score(torch.arange(len(T)), T[:, :3, :3].float(), position.float())

    assert (scored(after) > scored(before)).float().mean() > 0.9
    assert ((agreement >= 0) & (agreement <= 1)).all()
    R = after[:, :3, :3]
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3).double().expand_as(R), rtol=0, atol=1e-4)
    assert ((after[:, :3, 3] - before[:, :3, 3]).norm(dim=1) < 0.3 * before[:, 2, 3]).all()


@torch.no_grad()
@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_the_query_image_overrules_a_depth_that_is_far_off(model, nuts, factor):
    output = model.method(nuts)
    wrong = replace(output, pose=replace(output.pose, position=factor * output.pose.position))
    found = PoseSolver()(model, nuts, wrong).T_cam_obj[:, 2, 3]
    assert float((found / nuts.truth.T_virt_obj.double()[:, 2, 3] - 1).abs().max()) < 0.06


@torch.no_grad()
def test_the_query_image_overrules_a_head_that_is_wrong(model, nuts):
    output = model.method(nuts)
    noise = torch.randn(output.charts.logits.shape, generator=torch.Generator().manual_seed(1))
    wrong = replace(output, charts=replace(output.charts, logits=2 * noise))
    refiner = PoseSolver()
    found = refiner(model, nuts, wrong)
    assert (angles_of(model, nuts, model.method.starts(wrong, 1)[0][:, 0]) > 15).float().mean() > 0.5
    assert angles_of(model, nuts, found.T_cam_obj[:, :3, :3]).median() < 10
    assert found.details.reasons == (None,) * len(nuts)


@torch.no_grad()
def test_a_depth_is_believed_as_far_as_the_model_has_learnt_it(model, nuts):
    output = model.method(nuts)
    far, near = (
        replace(output, pose=replace(output.pose, position=f * output.pose.position)) for f in (1.06, 1 / 1.06)
    )
    names = [part.name for part in model.parts]

    def found(nut: float, others: float, told=far, solver: PoseSolver | None = None) -> torch.Tensor:
        errors = " ".join(str(nut if name == "nut" else others) for name in names)
        known = replace(model, info={**model.info, DEPTH_ERRORS: errors})
        return (solver or PoseSolver())(known, nuts, told).T_cam_obj

    believed, doubted = (
        found(*errors, far)[:, 2, 3] / found(*errors, near)[:, 2, 3] - 1 for errors in ((1.0, 20.0), (20.0, 1.0))
    )
    pulled = believed - doubted
    assert float(pulled.median()) > 0.005, "towards depths that are 6 % too far, or too near"
    assert (pulled > 0).float().mean() > 0.8
    torch.testing.assert_close(found(1.0, 20.0), PoseSolver()(model, nuts, far).T_cam_obj)  # which knows no errors
    given = PoseSolver(RefinementOptions(depth_sigma=0.06))
    torch.testing.assert_close(found(20.0, 1.0, solver=given), found(1.0, 1.0))


def test_how_far_a_depth_is_believed():
    assert [believed_depth(error) for error in (None, 0.0, 0.02)] == [0.06] * 3
    assert believed_depth(0.05) == pytest.approx(0.15)
    for sigma in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="depth_sigma is"):
            RefinementOptions(depth_sigma=sigma)


@pytest.mark.parametrize(
    ("names", "values"),
    [(("modes", "starts", "distinct", "alternatives"), (0, -1)),
     (("independent", "covariance_factor"), (0.0, -1.0, math.nan, math.inf))],
)  # fmt: skip
def test_settings_of_the_solver_that_cannot_be_are_refused_by_name(names, values):
    for name in names:
        for value in values:
            with pytest.raises(ValueError, match=f"{name} is {value}"):
                SolverOptions(**{name: value})
    with pytest.raises(ValueError, match="modes is 0"):
        RefinementOptions(modes=0)
    with pytest.raises(ValueError, match="points is 0"):
        DepthOptions(points=0)
    with pytest.raises(ValueError, match="side is 0"):
        replace(SolverOptions().coarse[0], side=0)
    with pytest.raises(ValueError, match="iterations is -1"):
        replace(SolverOptions().coarse[0], iterations=-1)


def angles_of(model, crops, rotation):
    """Angles to the nearest of the true rotations, degrees."""
    index = int(crops.part_index[0])
    true = crops.truth.T_virt_obj.double()[:, None, :3, :3] @ model.parts[index].symmetries.rotation_group()
    return geodesic_distance(rotation.double()[:, None].expand_as(true), true).amin(1).rad2deg()


@pytest.mark.parametrize("solver", ["sampling", "search"])
def test_poses_solved_from_the_query_image_alone_are_near_the_truth(model, nuts, solver):
    refiner = PoseSolver(solver=solver)
    with torch.no_grad():
        poses = refiner(model, nuts, model.method(nuts)).T_cam_obj
    true = nuts.truth.T_virt_obj.double()
    assert angles_of(model, nuts, poses[:, :3, :3]).median() < 10
    assert ((poses[:, :3, 3] - true[:, :3, 3]).norm(dim=1) / true[:, 2, 3]).median() < 0.05


def test_the_estimator_refines_on_request(model):
    image = torch.rand(3, 120, 160, generator=torch.Generator().manual_seed(0))
    camera = Camera(torch.tensor([[200.0, 0, 79.5], [0, 200, 59.5], [0, 0, 1]], dtype=torch.float64), 160, 120)
    box = torch.tensor([[40.0, 30.0, 60.0, 60.0]])
    found = Detections(torch.tensor([model.parts[1].object_id]), box, torch.ones(1))
    poses = [
        PoseEstimator([model], "cpu", EstimatorOptions(recrop=False, refine=refine)).estimate(image, camera, found)
        for refine in (False, True)
    ]
    assert torch.isfinite(poses[1].T_cam_obj).all()
    assert not torch.allclose(poses[0].T_cam_obj, poses[1].T_cam_obj)

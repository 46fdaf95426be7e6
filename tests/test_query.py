"""The query method: the pose parameterisation, symmetry in the loss, what is regressed, several parts."""

import math
from dataclasses import replace

import pytest
import torch

from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.geometry import (
    geodesic_distance,
    make_transform,
    random_rotations,
    rotation_about_z,
    rotation_to_ray,
    six_d_from_rotation,
    transform_points,
    virtual_camera,
)
from cad2pose.methods.losses import cell_share
from cad2pose.methods.pose_head import decode_charts, decode_pose, encode_pose
from cad2pose.methods.query import QueryConfig, QueryMethod
from cad2pose.methods.rotation_charts import RotationCharts, chart_targets
from cad2pose.parts import builtin_part
from cad2pose.structures import CropBatch, CropTruth
from small_models import SMALL, wedge


def planted_batch(parts, count=6, crop_size=32):
    """Crops of noise with made-up truths, parts in turn, cameras at odd places."""
    index = torch.arange(count) % len(parts)
    K = torch.tensor([[600.0, 0, 320], [0, 590, 250], [0, 0, 1]]).expand(count, 3, 3)
    corner = torch.rand(count, 2) * 300
    box = torch.cat((corner, 40 + 60 * torch.rand(count, 2)), dim=1)
    camera = virtual_camera(
        K, box, torch.tensor([640.0, 480.0]).expand(count, 2), crop_size, roll=torch.rand(count) * 6
    )
    centre = torch.stack([parts[i].center for i in index]).float()
    radius = torch.tensor([parts[i].radius for i in index])
    rotation = random_rotations(count)
    depth = 2 * radius * camera.K_virt[:, 0, 0] / crop_size * 1.5 * (0.7 + 0.2 * torch.rand(count))
    ray = torch.cat((0.1 * (torch.rand(count, 2) - 0.5), torch.ones(count, 1)), dim=1)
    translation = ray * depth[:, None] - (rotation @ centre[..., None])[..., 0]
    shape = (count, crop_size, crop_size)
    visible = torch.rand(shape) < 0.7
    truth = CropTruth(
        make_transform(rotation, translation), torch.ones(shape).bool(), visible, torch.rand(count, 3, *shape[1:])
    )
    return CropBatch(torch.rand(count, 3, *shape[1:]), torch.ones(count, 1, *shape[1:]), camera, index, truth)


def test_encode_then_decode_gives_the_pose_back():
    parts = [wedge(), wedge(2, "far", shift=5000.0)]
    batch = planted_batch(parts, 40)
    assert batch.truth is not None
    centre = torch.stack([parts[i].center for i in batch.part_index])
    radius = torch.tensor([parts[i].radius for i in batch.part_index])
    T = batch.truth.T_virt_obj.double()
    pose = encode_pose(T, batch.camera, centre, radius, 1.5)
    allocentric = rotation_to_ray(pose.position).transpose(1, 2) @ pose.rotation
    numbers = torch.cat((six_d_from_rotation(allocentric), pose.centre, pose.log_depth[:, None]), dim=1)
    said = decode_charts(numbers, 1).best()
    back = decode_pose(numbers, said, batch.camera.to("cpu", torch.float64), radius, 1.5)
    torch.testing.assert_close(back.rotation, pose.rotation, rtol=0, atol=1e-6)
    torch.testing.assert_close(back.position, pose.position, rtol=1e-6, atol=1e-3)
    assert (pose.log_depth > -0.9).all()
    assert (pose.log_depth < 0.1).all()


def test_log_depth_is_that_of_the_definition():
    parts = [wedge()]
    batch = planted_batch(parts, 1)
    assert batch.truth is not None
    pose = encode_pose(
        batch.truth.T_virt_obj, batch.camera, parts[0].center[None], torch.tensor([parts[0].radius]), 1.5
    )
    z = transform_points(batch.truth.T_virt_obj, parts[0].center.float()[None, None])[0, 0, 2]
    expected = math.log(float(z) * 32 / (2 * parts[0].radius * float(batch.camera.K_virt[0, 0, 0]))) - math.log(1.5)
    assert abs(float(pose.log_depth) - expected) < 1e-4


def test_poses_are_in_the_frame_of_the_mesh_file():
    part = wedge(shift=3000.0)
    method = QueryMethod(SMALL, [part]).eval()
    batch = planted_batch([part])
    output = method(batch)
    T_virt_obj, score = method.poses(output, batch)
    centre = transform_points(T_virt_obj, part.center[None, None].expand(len(batch), 1, 3))[:, 0]
    torch.testing.assert_close(centre.float(), output.pose.position, rtol=1e-4, atol=1e-2)
    assert ((score >= 0) & (score <= 1)).all()


def test_all_terms_have_gradients_and_are_of_order_one():
    parts = [wedge(), builtin_part("nut")]
    method = QueryMethod(SMALL, parts)
    batch = planted_batch(parts, 8)
    losses = method.loss(method(batch), batch, torch.Generator().manual_seed(1))
    assert set(losses.terms) == {"nce", "mask", "rotation", "chart", "centre", "depth"}
    for name, term in losses.terms.items():
        assert 1e-3 < float(term.detach()) < 10, name
    losses.total.backward()
    silent = [n for n, p in method.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert silent == []


def test_the_contrastive_draw_follows_its_generator():
    method = QueryMethod(SMALL, [wedge()])
    batch = planted_batch([wedge()])
    output = method(batch)
    draws = [
        method.loss(output, batch, torch.Generator().manual_seed(seed)).terms["nce"].detach() for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def said_by_one_chart(output, batch, T_virt_obj, sphere_centre):
    """The output with one chart's rotation planted, as the head would say it: allocentric."""
    ray = (T_virt_obj[:, :3, :3] @ sphere_centre.float()) + T_virt_obj[:, :3, 3]
    allocentric = rotation_to_ray(ray).transpose(1, 2) @ T_virt_obj[:, :3, :3]
    return replace(output, charts=RotationCharts(allocentric[:, None], torch.zeros(len(batch), 1)))


def turned(T_virt_obj, turn):
    """Poses followed by a turn of the part about the origin of its own frame."""
    return make_transform(T_virt_obj[:, :3, :3] @ turn, T_virt_obj[:, :3, 3])


def test_rotation_loss_is_zero_at_every_equivalent_pose():
    nut = builtin_part("nut")
    batch = planted_batch([nut])
    truth = batch.truth
    assert truth is not None
    for symmetric in (True, False):
        method = QueryMethod(replace(SMALL, symmetric_loss=symmetric, charts=1), [nut])
        output = method(batch)
        turn = nut.symmetries.rotation_group(12)[7].float()
        planted = said_by_one_chart(output, batch, turned(truth.T_virt_obj, turn), nut.center)
        loss = float(method.loss(planted, batch).terms["rotation"])
        assert (loss < 1e-5) == symmetric


def test_a_thin_part_upside_down_costs_more_even_when_its_turn_is_unsure():
    disc = builtin_part("disc")
    batch = planted_batch([disc], 2)
    method = QueryMethod(replace(SMALL, charts=1), [disc])
    output = method(batch)
    assert batch.truth is not None
    truth = batch.truth.T_virt_obj
    over = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    turns = rotation_about_z(torch.arange(36) * (2 * math.pi / 36))
    costs = []
    for side in (torch.eye(3), over):
        planted = [said_by_one_chart(output, batch, turned(truth, side @ turn), disc.center) for turn in turns]
        losses = [method.loss(one, batch).terms["rotation"] for one in planted]
        costs.append(float(torch.stack(losses).mean().detach()))
    assert costs[1] > 1.3 * costs[0]


def test_nearest_symmetric_truth_is_the_nearest():
    parts = [builtin_part("bushing"), builtin_part("nut"), wedge()]
    method = QueryMethod(SMALL, parts)
    index = torch.arange(30) % 3
    predicted, truth = random_rotations(30), random_rotations(30)
    nearest = method.parts.nearest_symmetric(predicted, truth, index)
    best = geodesic_distance(predicted, nearest)
    for row, part in enumerate(index.tolist()):
        group = parts[part].symmetries.rotation_group(7200).float()
        angles = geodesic_distance(predicted[row].expand_as(group), truth[row] @ group)
        torch.testing.assert_close(best[row], angles.min(), rtol=1e-3, atol=1e-3)
        assert float(geodesic_distance((truth[row] @ group), nearest[row].expand_as(group)).min()) < 1e-3
        assert float(best[row]) < float(angles.min()) + 2e-4, "no step about the axis is nearer"


def test_batches_of_mixed_parts_equal_each_alone():
    parts = [wedge(), builtin_part("disc")]
    method = QueryMethod(SMALL, parts).eval()
    batch = planted_batch(parts, 6)
    together = method(batch)
    for row in range(6):
        alone = method(batch[torch.tensor([row])])
        torch.testing.assert_close(alone.pose.position[0], together.pose.position[row], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(alone.queries[0], together.queries[row], rtol=1e-3, atol=1e-4)


def test_cached_keys_are_forgotten_when_training_goes_on():
    method = QueryMethod(SMALL, [wedge()]).eval()
    batch = planted_batch([wedge()])
    before = method.poses(method(batch), batch)[1]
    method.train()
    for parameter in method.keys.parameters():
        parameter.data.mul_(3)
    method.eval()
    after = method.poses(method(batch), batch)[1]
    assert not torch.allclose(before, after)


def test_the_head_sees_fine_maps_averaged_to_stride_4():
    shapes = [
        [value.shape for value in replace(SMALL, stride=stride).build([wedge()]).head.state_dict().values()]
        for stride in (1, 2, 4)
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    method, batch = QueryMethod(replace(SMALL, stride=2), [wedge()]).eval(), planted_batch([wedge()], 2)
    seen: list[torch.Tensor] = []
    method.head.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    output = method(batch)
    probability = torch.sigmoid(torch.stack((output.visible_logits, output.full_logits), dim=1))
    fine = torch.cat((output.queries * probability[:, 1:], probability), dim=1)
    torch.testing.assert_close(seen[0][:, :-2], torch.nn.functional.avg_pool2d(fine, 2))
    torch.testing.assert_close(seen[0][:, -2:], batch.camera.ray_map(4).to(fine), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_output_stride_is_a_setting(stride):
    method = QueryMethod(replace(SMALL, stride=stride), [wedge()])
    batch = planted_batch([wedge()], 2)
    output = method(batch)
    assert output.queries.shape == (2, 12, 32 // stride, 32 // stride)
    method.loss(output, batch).total.backward()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_size", 100),
        ("crop_size", 0),
        ("stride", 3),
        ("pad", 0.9),
        ("head_width", 12),
        ("width", 0),
        ("charts", 7),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        QueryConfig(**{field: value})


def test_no_parts_no_method():
    with pytest.raises(ValueError, match="at least one"):
        QueryMethod(SMALL, [])


def test_poses_keep_full_precision_under_autocast():
    parts = [wedge(), builtin_part("nut")]
    method = QueryMethod(SMALL, parts).eval()
    batch = planted_batch(parts)
    with torch.autocast("cpu", torch.bfloat16):
        output = method(batch)
        T_virt_obj, _ = method.poses(output, batch)
        losses = method.loss(output, batch, torch.Generator().manual_seed(1))
    R = T_virt_obj[:, :3, :3]
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3).double().expand_as(R), rtol=0, atol=1e-5)
    plain = method.loss(output, batch, torch.Generator().manual_seed(1))
    for name, term in losses.terms.items():
        torch.testing.assert_close(term, plain.terms[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("symmetric", [True, False])
def test_charts_learn_the_rotation_without_the_ray_modulo_declared_symmetries(symmetric):
    """Charts that say what they should cost nothing, whatever equivalent pose they were told; others do."""
    part = wedge(symmetric=True)
    config = replace(SMALL, charts=24, symmetric_loss=symmetric)
    method = QueryMethod(config, [part]).eval()
    batch = SyntheticCrops([part], SyntheticConfig.evaluation(crop_size=32, pictures=4), "cpu", 2).batch(0, 6)
    assert batch.truth is not None
    output = method(batch)
    T = batch.truth.T_virt_obj
    position = T[:, :3, :3] @ part.center.float() + T[:, :3, 3]

    def cost(turned: torch.Tensor, ray: bool = True) -> tuple[float, float]:
        rotation = rotation_to_ray(position).transpose(1, 2) @ turned if ray else turned
        group, axis = (of[batch.part_index] for of in (method.parts.symmetry, method.parts.axis))
        if not symmetric:
            group, axis = torch.eye(3)[None].expand(6, 1, 3, 3), torch.zeros(6, 3)
        wanted, weight = chart_targets(rotation, group, axis, method.anchors)
        charts = RotationCharts(wanted, weight.clamp_min(1e-30).log())
        terms = method.loss(replace(output, charts=charts), batch, torch.Generator().manual_seed(0)).terms
        return float(terms["rotation"]), float(terms["chart"])

    S = part.symmetries.rotation_group(7)[3].float()
    true = T[:, :3, :3]
    assert cost(true) == (pytest.approx(0, abs=2e-3), pytest.approx(0, abs=1e-3))
    rotation, chart = cost(true @ S)
    assert (rotation < 2e-3) == symmetric
    assert (chart < 1e-3) == symmetric
    assert cost(true, ray=False)[0] > 5e-3, "or the crops could not tell: parts stand off the axis"


def test_the_full_mask_is_learnt_from_the_whole_silhouette():
    part = wedge()
    method = QueryMethod(SMALL, [part]).eval()
    batch = SyntheticCrops([part], SyntheticConfig.evaluation(crop_size=32, pictures=4), "cpu", 2).batch(0, 4)
    assert batch.truth is not None
    truth = replace(batch.truth, mask_visible=torch.zeros_like(batch.truth.mask_visible))
    batch = replace(batch, truth=truth)
    share = cell_share(truth.mask_full, SMALL.stride)
    sure = torch.where(share > 0.5, 12.0, -12.0)
    nothing = torch.full_like(sure, -12.0)
    output = method(batch)
    right, wrong = (
        float(method.loss(replace(output, visible_logits=visible, full_logits=full), batch, None).terms["mask"])
        for visible, full in ((nothing, sure), (sure, nothing))
    )
    assert right < 0.25 * wrong

"""The contestants of the comparison: GDR-Net, GDRNPP and the thesis' variants, their losses and their options."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from cad2pose.data.boxes import BoxConfig
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.experiments import CONTESTANTS
from cad2pose.geometry import random_rotations, rotation_about_z, rotation_to_ray
from cad2pose.methods import GdrNetConfig, PoseMethod, QueryConfig, QueryMethod
from cad2pose.methods.losses import angle_between, chordal_distance, coordinate_loss, region_loss
from cad2pose.methods.pose_head import decode_charts, decode_pose, encode_pose, pose_numbers
from cad2pose.methods.query import LossWeights
from cad2pose.methods.regions import region_centres, region_labels
from cad2pose.model_file import Model, load_model, save_model
from cad2pose.networks import DropBlock, ThesisHead
from cad2pose.parts import builtin_part
from cad2pose.training import Run, TrainingConfig, training_step
from cad2pose.training.overfit import overfit
from small_models import SMALL, random_model, rolled, wedge

TINY = GdrNetConfig(
    crop_size=64, width=8, encoder="resnet18", decoder_width=16, head_width=16, head_hidden=(32, 16), regions=8
)
CROPS = SyntheticConfig(crop_size=64, pictures=4)
OPTIONS = [
    TINY,
    replace(TINY, intermediate="coordinates", rotation_loss="geodesic"),
    replace(TINY, intermediate="true coordinates", pixel_map="rays"),
    replace(TINY, intermediate="image", rotation_loss="frobenius"),
    replace(TINY, encoder="convnext", class_aware=True, double_mask=True, mask_loss="bce"),
    replace(TINY, decoder="unet", stride=2, charts=24, symmetric_loss=False),
    replace(TINY, encoder="resnet34", decoder="unet"),
    replace(SMALL, crop_size=64, intermediate="queries+coordinates"),
    replace(SMALL, crop_size=64, weights=replace(SMALL.weights, nce=0.0), rotation_loss="frobenius"),
]


@pytest.fixture(scope="module")
def parts():
    return [wedge(1), wedge(2, "other", shift=-40.0)]


@pytest.fixture(scope="module")
def batch(parts):
    return SyntheticCrops(parts, CROPS, "cpu", 0).batch(0, 6)


@pytest.mark.parametrize("config", OPTIONS)
def test_every_option_learns_and_gives_poses(config, parts, batch, tmp_path):
    torch.manual_seed(0)
    method = config.build(parts).train()
    losses = method.loss(method(batch), batch, torch.Generator().manual_seed(0))
    losses.total.backward()
    for name, parameter in method.named_parameters():
        if not (name.startswith("keys.") and not getattr(config.weights, "nce", 1.0)):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    assert all(float(term.detach()) > 0 for term in losses.terms.values())
    method.eval()
    with torch.inference_mode():
        T, score = method.poses(method(batch), batch)
    assert T.dtype == torch.float64
    assert torch.isfinite(T).all()
    assert ((score >= 0) & (score <= 1)).all()
    save_model(tmp_path / "model.safetensors", method, parts, {})
    again = load_model(tmp_path / "model.safetensors")
    assert isinstance(again.method, PoseMethod)
    assert again.method.config == config
    with torch.inference_mode():
        other, _ = again.method.poses(again.method(batch), batch)
    torch.testing.assert_close(other, T, rtol=1e-2, atol=2.0)  # weights are kept in half precision


@pytest.mark.parametrize("optimizer", ["adam", "ranger"])
def test_gdrnet_learns_a_batch_by_heart(optimizer, parts):
    config = replace(TINY, width=16, decoder_width=32, head_width=32, head_hidden=(64, 32))
    training = TrainingConfig(batch_size=6, learning_rate=3e-3, warmup_steps=5, optimizer=optimizer, samples=10_000)
    result = overfit(
        Run(parts[:1], config, training, torch.device("cpu")), SyntheticCrops(parts[:1], CROPS, "cpu", 0), 160
    )
    assert set(result.wanted) == {"rotation", "centre", "depth", "mask"}
    assert result.losses["coordinates"] < 0.3
    assert result.losses["regions"] < 1.2
    assert result.losses["rotation"] < (0.15 if optimizer == "adam" else 0.7)  # Ranger sets out slowly


def test_rotation_losses_have_the_gradients_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    a, b = (random_rotations(5, generator, torch.float64) for _ in range(2))
    for loss in (angle_between, chordal_distance):
        assert torch.autograd.gradcheck(loss, (a.clone().requires_grad_(), b))
    same = a.clone().requires_grad_()
    (angle_between(same, a).sum() + chordal_distance(same, a).sum()).backward()
    assert torch.isfinite(same.grad).all()  # type: ignore[arg-type]


def test_rotation_losses_are_what_they_say():
    turn = rotation_about_z(torch.tensor([0.0, 0.5, 2.0, torch.pi], dtype=torch.float64))
    still = torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    torch.testing.assert_close(angle_between(turn, still)[1:3], torch.tensor([0.5, 2.0]).double(), rtol=1e-6, atol=1e-6)
    expected = 2 * 2**0.5 * torch.sin(torch.tensor([0.25, 1.0, torch.pi / 2]).double())
    torch.testing.assert_close(chordal_distance(turn, still)[1:], expected, rtol=1e-6, atol=1e-6)


def test_dense_losses_have_the_gradients_of_finite_differences():
    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    weight = (torch.rand(2, 4, 4, generator=generator) < 0.6).double()
    truth = torch.zeros_like(maps)
    assert torch.autograd.gradcheck(lambda x: coordinate_loss(x, truth, weight), maps.clone().requires_grad_())
    label = torch.randint(3, (2, 4, 4), generator=generator)
    assert torch.autograd.gradcheck(lambda x: region_loss(x, label, weight), maps.clone().requires_grad_())
    outside = maps.clone()
    outside[:, :, :] += 5 * (1 - weight)[:, None]
    assert coordinate_loss(outside, truth, weight) == pytest.approx(float(coordinate_loss(maps, truth, weight)))


def test_regions_are_the_nearest_centres(parts):
    method = TINY.build(parts)
    centres = region_centres(method.parts, 8)
    assert centres.shape == (2, 8, 3)
    maps = centres[:, :, :, None].transpose(1, 2)  # a map that shows the centres themselves
    assert torch.equal(region_labels(maps, centres)[:, :, 0], torch.arange(1, 9).expand(2, 8))


def test_drop_block_drops_in_training_and_never_at_test_time():
    drop = DropBlock(5, 0.4)
    maps = torch.ones(64, 3, 40, 40)
    torch.manual_seed(0)
    dropped = drop.train()(maps)
    assert (dropped == 0).float().mean() == pytest.approx(0.4, abs=0.05)
    assert dropped.mean() == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    row = dropped[0, 0].ne(0).float()
    assert row.diff(dim=1).abs().sum() < 0.5 * 40 * 40 * 0.48  # blocks, not single pixels
    assert torch.equal(drop.eval()(maps), maps)
    head = ThesisHead(4, 32, 9).eval()
    seen = torch.randn(3, 4, 32, 32)
    assert torch.equal(head(seen, torch.zeros(3, dtype=torch.long)), head(seen, torch.zeros(3, dtype=torch.long)))
    head.train()
    assert not torch.equal(head(seen, torch.zeros(3, dtype=torch.long)), head(seen, torch.zeros(3, dtype=torch.long)))
    published = ThesisHead(4, 256, 9)
    assert [layer.block for layer in published.drops] == [20, 10, 5, 1]
    for size in (64, 32, 8):  # smaller maps leave as many numbers as published, which say where in the crop they are
        assert ThesisHead(4, size, 9).rotation[0].in_features == published.rotation[0].in_features == 256 * 8 * 8
    plain = ThesisHead(4, 32, 9, dropping=False).train()
    assert torch.equal(plain(seen, torch.zeros(3, dtype=torch.long)), plain(seen, torch.zeros(3, dtype=torch.long)))


def test_the_target_rolls_with_the_crop(parts, batch):
    """A crop whose camera is rolled has the rolled pose as its target, and a pixel map that turns with it."""
    turned = rolled(replace(batch, truth=None), 1)
    torch.testing.assert_close(
        turned.camera.pixel_map(4), batch.camera.pixel_map(4).rot90(-1, (2, 3)), rtol=0, atol=1e-4
    )
    method = replace(TINY, pixel_map="image").build(parts).eval()
    truth = batch.truth
    assert truth is not None
    R = turned.camera.R_virt_cam @ batch.camera.R_virt_cam.transpose(1, 2)
    rolled_pose = truth.T_virt_obj.clone()
    rolled_pose[:, :3] = R.float() @ truth.T_virt_obj[:, :3]
    source = batch.camera.to_source(truth.T_virt_obj.to(batch.camera.K_virt))
    torch.testing.assert_close(
        turned.camera.to_source(rolled_pose.to(turned.camera.K_virt)), source, rtol=1e-4, atol=1e-2
    )
    index = batch.part_index
    centre, radius = method.parts.centre[index], method.parts.radius[index]
    target, there = (
        encode_pose(T, crops.camera, centre, radius, method.config.pad)
        for T, crops in ((truth.T_virt_obj, batch), (rolled_pose, turned))
    )
    turn = R.float()[:, :2, :2]  # about the crop's centre
    torch.testing.assert_close(there.centre, (turn @ target.centre[..., None])[..., 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(there.log_depth, target.log_depth, rtol=0, atol=1e-5)
    torch.testing.assert_close(there.rotation, R.float() @ target.rotation, rtol=0, atol=1e-5)
    allocentric, rolled_allocentric = (
        rotation_to_ray(each.position).transpose(1, 2) @ each.rotation for each in (target, there)
    )
    torch.testing.assert_close(rolled_allocentric, R.float() @ allocentric, rtol=0, atol=1e-5)
    assert float((there.rotation - target.rotation).abs().amax((1, 2)).min()) > 0.5


def test_pixel_maps_say_where_in_the_image_a_cell_is(batch):
    places = batch.camera.pixel_map(4).double()
    size = batch.camera.image_size.double()[:, :, None]
    pixels = places.flatten(2) * size - 0.5
    whole = torch.cat((pixels, torch.ones_like(pixels[:, :1])), dim=1)
    seen = batch.camera.homography.double() @ whole
    seen = (seen[:, :2] / seen[:, 2:]).unflatten(2, places.shape[2:])
    centres = torch.arange(16) * 4 + 1.5
    torch.testing.assert_close(seen[:, 0], centres.double().expand(6, 16, 16), rtol=0, atol=0.02)
    torch.testing.assert_close(seen[:, 1], centres.double()[:, None].expand(6, 16, 16), rtol=0, atol=0.02)


@pytest.mark.parametrize("charts", [1, 24])
def test_gradients_of_the_poses_loss_are_those_of_finite_differences(parts, batch, charts):
    """Of the numbers that a head gives: rotations, logits of the charts, centre and depth."""
    method = replace(SMALL, charts=charts, crop_size=64).build(parts).double()
    crops = batch[torch.tensor([0, 3])]
    assert crops.truth is not None
    crops = replace(crops, truth=replace(crops.truth, T_virt_obj=crops.truth.T_virt_obj.double()))
    radius = method.parts.radius[crops.part_index]

    def loss(numbers: torch.Tensor) -> torch.Tensor:
        found = decode_charts(numbers, charts)
        pose = decode_pose(numbers, found.best(), crops.camera, radius, method.config.pad)
        terms = method._pose_terms(SimpleNamespace(pose=pose, charts=found), crops)  # type: ignore[arg-type]
        assert set(terms) == {"rotation", "centre", "depth"} | ({"chart"} if charts > 1 else set())
        return torch.stack(list(terms.values()))

    generator = torch.Generator().manual_seed(0)
    numbers = 0.3 * torch.randn(2, pose_numbers(charts), generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, (numbers.requires_grad_(),))


def test_frozen_networks_stay_as_they_are(parts, batch):
    trained = random_model(*parts)
    config = replace(SMALL, frozen=True)
    crops = SyntheticCrops(parts, replace(CROPS, crop_size=32), "cpu", 0)
    state = Run(parts, config, TrainingConfig(batch_size=6, samples=60), torch.device("cpu"), trained).state()
    state.method.train()
    before = {name: value.clone() for name, value in state.method.state_dict().items()}
    assert set(training_step(state, crops.batch(0, 6), TrainingConfig(batch_size=6, samples=60))) == {
        "total", "rotation", "chart", "centre", "depth"
    }  # fmt: skip
    for name, value in state.method.state_dict().items():
        same = torch.equal(value, before[name])
        assert same == name.startswith(("encoder.", "decoder.", "keys.")), name


def test_frozen_networks_must_be_trained_ones_of_the_same_parts(parts):
    config, training, cpu = replace(SMALL, frozen=True), TrainingConfig(), torch.device("cpu")
    with pytest.raises(ValueError, match="give a trained model of these parts"):
        Run(parts, config, training, cpu).state()
    with pytest.raises(ValueError, match="knows wedge, and the parts are wedge, other"):
        Run(parts, config, training, cpu, random_model(parts[0])).state()
    with pytest.raises(ValueError, match="does not fit"):
        Run(parts, replace(config, embedding=8), training, cpu, random_model(*parts)).state()
    for changes in ({"crop_size": 64}, {"pad": 2.5}):
        (name, value), known = next(iter(changes.items())), random_model(*parts)
        there = getattr(known.method.config, name)
        with pytest.raises(ValueError, match=f"trained with {name} {there}, and {name} is {value}"):
            Run(parts, replace(config, **changes), training, cpu, known).state()


def test_modules_that_a_model_has_no_weights_for_are_known(parts):
    cpu, training, lent = torch.device("cpu"), TrainingConfig(), random_model(*parts)
    assert SMALL.stride == 4

    def fresh(**changes: object) -> tuple[str, ...]:
        return Run(parts, replace(SMALL, **changes), training, cpu, lent).state().fresh  # type: ignore[arg-type]

    assert Run(parts, SMALL, training, cpu).state().fresh == fresh() == ()
    assert fresh(stride=2) == (
        "decoder.laterals.0", "decoder.reductions.3", "decoder.convolutions.3", "decoder.last",
    )  # fmt: skip
    assert fresh(charts=1) == ("head.output_weight", "head.output_bias")
    other = Run([wedge(), builtin_part("nut")], SMALL, training, cpu, lent).state().fresh
    assert other == ("decoder.last", "keys", "head.object_offset", "head.output_weight", "head.output_bias")


def test_a_model_without_an_encoder_is_trained_further(parts):
    config, training, cpu = replace(TINY, intermediate="true coordinates"), TrainingConfig(), torch.device("cpu")
    lent = Model(config.build(parts), tuple(parts), {})
    method = Run(parts, config, training, cpu, lent).state().method
    for name, value in lent.method.state_dict().items():
        assert torch.equal(method.state_dict()[name], value), name


@pytest.mark.parametrize("config", [replace(SMALL, crop_size=64), TINY, replace(TINY, decoder="unet", charts=24)])
def test_the_maps_get_the_share_of_the_poses_gradient_that_is_asked_for(parts, batch, config):
    def gradients(share: float) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        method = replace(config, pose_gradient=share).build(parts).train()
        torch.stack(list(method._pose_terms(method(batch), batch).values())).sum().backward()
        grown = [p.grad for name, p in method.named_parameters() if name.startswith(("encoder.", "decoder."))]
        maps = torch.cat([torch.zeros(1) if grad is None else grad.flatten() for grad in grown])
        return maps, torch.cat([p.grad.flatten() for p in method.head.parameters() if p.grad is not None])

    whole, head = gradients(1.0)
    assert whole.abs().max() > 0
    for share in (0.0, 0.25):
        maps, same = gradients(share)
        torch.testing.assert_close(same, head)
        if share:
            torch.testing.assert_close(maps, share * whole, rtol=1e-3, atol=1e-6 * float(whole.abs().max()))
        else:
            assert not maps.any()


def test_files_from_before_the_share_was_a_setting_were_trained_end_to_end(parts, tmp_path):
    old = random_model(*parts)
    save_model(tmp_path / "model.safetensors", old.method, parts, {})
    text = (tmp_path / "model.safetensors").read_bytes()
    setting = b'\\"pose_gradient\\": 0.1, '
    assert setting in text
    lacking = text.replace(setting, b" " * len(setting))
    (tmp_path / "model.safetensors").write_bytes(lacking)
    assert load_model(tmp_path / "model.safetensors").method.config == replace(SMALL, pose_gradient=1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("regions", 0), ("regions", 5000), ("stride", 2), ("charts", 7),
     ("crop_size", 100), ("pad", 0.5), ("decoder_width", 12), ("pose_gradient", 1.5)],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        replace(TINY, **{field: value})


def test_what_does_not_go_together_is_refused(parts, batch):
    with pytest.raises(ValueError, match="stride 2"):
        replace(TINY, encoder="convnext", decoder="unet")
    with pytest.raises(ValueError, match="maps have 4 cells a side"):
        ThesisHead(4, 4, 9)
    with pytest.raises(ValueError, match="nothing would teach the queries"):
        QueryConfig(pose_gradient=0.0, weights=LossWeights(nce=0.0))
    with pytest.raises(ValueError, match="serves one part"):
        QueryConfig(head="thesis").build(parts)
    blind = replace(TINY, intermediate="true coordinates").build(parts).eval()
    with pytest.raises(ValueError, match="only rendered crops have"):
        blind(replace(batch, truth=None))


def test_published_point_matching_also_teaches_the_centre(parts, batch):
    """Its rotations are compared as the camera sees them, along the predicted ray; this project's without the ray."""
    for kind, expected in (("surface-points", True), ("points", False)):
        method = replace(TINY, rotation_loss=kind).build(parts).train()
        term = method.loss(method(batch), batch).terms["rotation"]
        term.backward()
        grown = dict(method.named_parameters())["head.output_bias"].grad
        assert grown is not None
        assert bool(grown[:, -3:-1].any()) == expected
        assert grown[:, :6].any()


def test_coordinates_and_queries_are_shown_to_the_head_in_the_same_way(batch, parts):
    """The head of the contestant on coordinates sees masks, nothing outside them, and the places that queries' has."""
    seen: list[torch.Tensor] = []
    for name in ("coordinates", "flagship"):
        config = CONTESTANTS[name].method("tiny")
        assert isinstance(config, (GdrNetConfig, QueryConfig))
        method = replace(config, crop_size=64).build(parts).eval()
        method.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            output = method(batch)
        masks = output.masks if name == "coordinates" else torch.stack((output.visible_logits, output.full_logits), 1)
        shares, rays = torch.sigmoid(masks), batch.camera.ray_map(2).float()
        torch.testing.assert_close(seen[-1][:, -4:], avg_pool2d(torch.cat((shares, rays), 1), 2), atol=1e-5, rtol=1e-5)
        method.decoder.register_forward_hook(lambda *found: torch.full_like(found[-1], -30.0))
        with torch.no_grad():
            method(batch)
        assert float(seen[-1][:, :-2].abs().max()) < 1e-6, name


def test_group_norm_tames_the_gradients_of_the_thesis_head(parts):
    """Batch norm in its centre's branch multiplies them, the more the more there is to learn, as where boxes err much;
    with group norm crops do not meet in it.
    """
    crops = SyntheticCrops(parts[:1], replace(CROPS, box=BoxConfig(shift=0.06, scale=0.1)), "cpu", 0)
    shares = []
    for number in range(5):
        batch, sizes = crops.batch(number, 6), {}
        for head in ("thesis-plain", "thesis-group"):
            torch.manual_seed(number)
            method = replace(SMALL, crop_size=64, head=head, charts=1).build(parts[:1]).train()
            method.loss(method(batch), batch, torch.Generator().manual_seed(0)).terms["centre"].backward()
            named = method.named_parameters()
            grown = [p.grad.norm() for name, p in named if name.startswith("encoder") and p.grad is not None]
            sizes[head] = float(torch.stack(grown).norm())
            assert any(isinstance(layer, nn.BatchNorm1d) for layer in method.head.modules()) == (head == "thesis-plain")
        shares.append(sizes["thesis-group"] / sizes["thesis-plain"])
    assert sorted(shares)[2] < 0.1


@pytest.mark.parametrize("head", ["thesis", "thesis-plain", "thesis-group"])
def test_the_thesis_head_is_a_choice(parts, head):
    config = replace(SMALL, crop_size=128, head=head, charts=1)
    batch = SyntheticCrops(parts[:1], replace(CROPS, crop_size=128), "cpu", 0).batch(0, 3)
    method = config.build(parts[:1]).train()
    assert isinstance(method, QueryMethod)
    method.loss(method(batch), batch, torch.Generator().manual_seed(0)).total.backward()
    assert all(p.grad is not None for p in method.head.parameters())


@pytest.mark.parametrize(
    "setting", [{"encoder": "resnet50"}, {"decoder": "fpn"}, {"intermediate": "rgb"}, {"mask_loss": "dice"},
                {"pixel_map": "none"}, {"head": "mlp"}, {"rotation_loss": "l2"}],
)  # fmt: skip
def test_settings_that_are_not_known_are_named(setting):
    ((name, value),) = setting.items()
    config = replace(TINY)
    object.__setattr__(config, name, value)  # as where types are not checked
    with pytest.raises(ValueError, match=f"{name} is '{value}'; it must be one of '"):
        config.__post_init__()


@pytest.mark.parametrize("pad", [0.9, math.inf, math.nan])
def test_a_crop_that_cannot_hold_its_box_is_refused(pad):
    for config in (TINY, QueryConfig(), SyntheticConfig()):
        with pytest.raises(ValueError, match="pad is"):
            replace(config, pad=pad)


def test_places_are_exact_where_networks_run_in_half_precision(parts, batch, monkeypatch):
    method = TINY.build(parts)
    seen: list[torch.Tensor] = []
    pixel_map = type(batch.camera).pixel_map
    monkeypatch.setattr(
        type(batch.camera), "pixel_map", lambda self, stride: seen.append(pixel_map(self, stride)) or seen[-1]
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        method(batch)
    torch.testing.assert_close(seen[0], pixel_map(batch.camera, TINY.stride), rtol=0, atol=0)

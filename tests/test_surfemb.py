"""SurfEmb: decoders of several objects in one batch, ensembles, keys, what a model file of some parts holds."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors import safe_open

from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.geometry import rotation_about_z, virtual_camera, warp_to_crops
from cad2pose.methods import SurfEmbConfig, SurfEmbMethod, SurfEmbOutput, query_image
from cad2pose.model_file import load_model, save_model
from cad2pose.parts import Part, Symmetries, builtin_part
from cad2pose.structures import CropBatch
from cad2pose.training import Run, TrainingConfig, crop_matches, train, training_step
from cad2pose.training.warm_start import warm_start
from small_models import SMALL_SURFEMB, random_model, rolled, wedge

CPU = torch.device("cpu")


@cache
def three_parts() -> tuple[Part, ...]:
    return wedge(7), wedge(8, "far", shift=5000.0), builtin_part("nut")


@cache
def source(parts: tuple[Part, ...]) -> SyntheticCrops:
    config = SyntheticConfig.evaluation(crop_size=SMALL_SURFEMB.crop_size, pictures=4)
    return SyntheticCrops(parts, config, CPU, 0)


def crops(parts: tuple[Part, ...], count: int) -> CropBatch:
    return source(parts).batch(0, count)


def randomised(method: SurfEmbMethod) -> SurfEmbMethod:
    """The method in eval mode with running statistics that are not those of the start."""
    with torch.no_grad():
        for name, buffer in method.encoder.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return method.eval()


def same_output(a, b):  # type: ignore[no-untyped-def]
    torch.testing.assert_close(a.queries, b.queries, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.mask_logits, b.mask_logits, rtol=1e-4, atol=1e-5)


def turned_back(output, turns):  # type: ignore[no-untyped-def]
    """What was said of a rolled crop, as upright as the crop was."""
    return SurfEmbOutput(output.queries.rot90(turns, (2, 3)), output.mask_logits.rot90(turns, (1, 2)))


@pytest.mark.parametrize("index", [[2, 0, 2, 1, 0, 0], [2, 2, 0], [1, 1]])
def test_batches_of_mixed_parts_equal_each_alone(index):
    method = randomised(SurfEmbMethod(SMALL_SURFEMB, three_parts()))
    batch = replace(crops(three_parts(), len(index)), part_index=torch.tensor(index), truth=None)
    together = method(batch)
    assert together.queries.shape == (len(index), 12, 16, 16)
    for row in range(len(index)):
        one = method(batch[row : row + 1])
        same_output(one, SurfEmbOutput(together.queries[row, None], together.mask_logits[row, None]))
    others = method(replace(batch, part_index=(batch.part_index + 1) % 3))
    assert (others.mask_logits - together.mask_logits).abs().flatten(1).amax(1).min() > 1e-4  # decoders do differ


def test_gradients_reach_everything_but_the_decoders_of_absent_parts():
    method = SurfEmbMethod(SMALL_SURFEMB, three_parts())
    batch = crops(three_parts(), 6)
    losses = method.loss(method(batch), batch, torch.Generator().manual_seed(1))
    assert set(losses.terms) == {"nce", "mask"}
    torch.testing.assert_close(losses.total, losses.terms["nce"] + losses.terms["mask"])
    losses.total.backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert 0 < float(parameter.grad.abs().max()) < math.inf, name
    method.zero_grad()
    two = batch[batch.part_index != 1]
    method.loss(method(two), two).total.backward()
    silent = {name.split(".")[1] for name, p in method.named_parameters() if p.grad is None}
    assert silent == {"1"}


def test_a_batch_is_learnt():
    config = TrainingConfig(batch_size=6, warmup_steps=1, learning_rate=3e-3)
    method = replace(SMALL_SURFEMB, key_width=32, positives=32, negatives=64)
    state = Run(three_parts(), method, config, CPU).state()
    state.method.train()
    batch = crops(three_parts(), 6)
    losses = [training_step(state, batch, config) for _ in range(40)]
    assert losses[0]["nce"] > 0.9 * math.log(65)
    assert losses[-1]["nce"] < 0.75 * losses[0]["nce"]
    assert losses[-1]["mask"] < 0.6 * losses[0]["mask"]


def test_which_masks_are_learnt_is_a_setting():
    batch = crops(three_parts()[:1], 12)
    truth = batch.truth
    assert truth is not None
    assert bool((truth.mask_full & ~truth.mask_visible).any()), "something must be hidden"
    for name, wanted in (("full", truth.mask_full), ("visible", truth.mask_visible)):
        method = SurfEmbMethod(replace(SMALL_SURFEMB, stride=1, mask_from=name), [wedge()])
        torch.testing.assert_close(method.mask_target(batch), wanted.float())
    hidden = replace(batch, truth=replace(truth, mask_visible=torch.zeros_like(truth.mask_visible)))
    for name, silent in (("full", False), ("visible", True)):
        method = SurfEmbMethod(replace(SMALL_SURFEMB, positives_from=name), [wedge()])
        assert (float(method.loss(method(hidden), hidden).terms["nce"].detach()) == 0) == silent


def test_a_camera_rolled_by_quarter_turns_sees_the_crop_turned():
    K = torch.tensor([[600.0, 0, 320], [0, 590, 250], [0, 0, 1]]).double()[None]
    box, size = torch.tensor([[100.0, 80, 90, 60]]).double(), torch.tensor([[640.0, 480]]).double()
    image = torch.rand(1, 3, 24, 32).repeat_interleave(20, 2).repeat_interleave(20, 3)
    camera = virtual_camera(K, box, size, 32)
    crop, valid = warp_to_crops(image, camera)
    batch = CropBatch(crop, valid, camera, torch.tensor([0]))
    for turns in (1, 2, 3):
        camera = virtual_camera(K, box, size, 32, roll=torch.tensor([turns * math.pi / 2]).double())
        turned = rolled(batch, turns)
        torch.testing.assert_close(turned.image, warp_to_crops(image, camera)[0], rtol=0, atol=1e-3)
        torch.testing.assert_close(turned.camera.homography, camera.homography)


def test_the_ensemble_is_the_mean_of_rolled_looks():
    parts = three_parts()
    method = randomised(SurfEmbMethod(SMALL_SURFEMB, parts))
    batch = crops(parts, 5)
    looks = [turned_back(method(rolled(batch, turns)), turns) for turns in range(4)]
    queries = torch.stack([look.queries for look in looks]).mean(0)
    logits = torch.stack([look.mask_logits for look in looks]).mean(0)
    same_output(method.ensemble(batch), SurfEmbOutput(queries, logits))
    assert not torch.allclose(queries, looks[0].queries, atol=1e-3)


def test_the_ensemble_of_a_rolled_crop_is_the_rolled_ensemble():
    method = randomised(SurfEmbMethod(SMALL_SURFEMB, three_parts()))
    batch = crops(three_parts(), 4)
    same_output(turned_back(method.ensemble(rolled(batch, 1)), 1), method.ensemble(batch))
    same_output(turned_back(method.ensemble(rolled(batch, 2), 2), 2), method.ensemble(batch, 2))
    same_output(method.ensemble(batch, 1), method(batch))
    with pytest.raises(ValueError, match="turns is 3"):
        method.ensemble(batch, 3)


def test_keys_come_in_chunks(monkeypatch):
    method = SurfEmbMethod(SMALL_SURFEMB, three_parts())
    points = torch.rand(50, 3) * 2 - 1
    whole = method.surface_keys(2, points)
    torch.testing.assert_close(whole, method.keys(points[None], torch.tensor([2]))[0].detach())
    monkeypatch.setattr(query_image, "_KEY_CHUNK", 7)
    torch.testing.assert_close(method.surface_keys(2, points), whole)
    assert not whole.requires_grad


def test_a_file_of_some_parts_carries_their_decoders_alone(tmp_path):
    parts = three_parts()
    method = randomised(SurfEmbMethod(SMALL_SURFEMB, parts))
    for name, chosen in (("all", [0, 1, 2]), ("two", [2, 0]), ("one", [1])):
        save_model(tmp_path / name, method.subset(chosen), [parts[row] for row in chosen], {})
    with safe_open(tmp_path / "one", framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("weights.")]  # noqa: SIM118 - it is no mapping
        assert {name.split(".")[2] for name in names if ".decoders." in name} == {"0"}
        assert all(len(file.get_tensor(name)) == 1 for name in names if ".keys." in name)
    one, whole = ((tmp_path / name).stat().st_size for name in ("one", "all"))
    decoder = 2 * sum(p.numel() for p in method.decoders[0].parameters())  # bytes, in half precision
    assert 2 * decoder < whole - one < 2 * decoder + 100_000  # the meshes, keys and names of the other two parts
    batch = crops(parts, 6)
    mine = batch[batch.part_index != 1]
    expected = method(mine)
    index = torch.tensor([1, -1, 0])[mine.part_index]  # their rows in [2, 0]
    same_output(method.subset([2, 0])(replace(mine, part_index=index)), expected)
    loaded = load_model(tmp_path / "two")
    assert [part.object_id for part in loaded.parts] == [2, 7]
    output = loaded.method(replace(mine, part_index=index))
    torch.testing.assert_close(output.queries, expected.queries, rtol=1e-2, atol=1e-2)  # weights in half precision
    points = torch.rand(9, 3)
    torch.testing.assert_close(method.subset([2, 0]).surface_keys(0, points), method.surface_keys(2, points))


@pytest.mark.parametrize("chosen", [[], [3], [-1], [1, 1]])
def test_subsets_that_cannot_be_are_refused(chosen):
    with pytest.raises(ValueError, match="part_indices is"):
        SurfEmbMethod(SMALL_SURFEMB, three_parts()).subset(chosen)


def test_resuming_is_exact_where_batches_lack_some_parts(tmp_path):
    parts = three_parts()
    config = TrainingConfig(samples=8, batch_size=2, warmup_steps=1, validation_crops=2, validations=1, seed=3)
    made = source(parts)

    def run(name, stop_after=None):  # type: ignore[no-untyped-def]
        file = train(Run(parts, SMALL_SURFEMB, config, CPU), made, made, tmp_path / name, stop_after=stop_after)
        return load_model(file).method.state_dict()

    whole = run("whole")
    for _ in range(3):
        run("broken", stop_after=1)
    resumed = run("broken")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_query_model_lends_its_encoder_and_the_keys_of_the_same_parts():
    lender = random_model(wedge())
    for part, keys_too in ((wedge(), True), (builtin_part("nut"), False)):
        method = SurfEmbMethod(SMALL_SURFEMB, [part])
        left = warm_start(method, [part], lender)
        own, lent = method.state_dict(), lender.method.state_dict()
        assert all(torch.equal(own[name], lent[name]) for name in own if name.startswith("encoder."))
        assert {name.split(".")[0] for name in left} == ({"decoders"} if keys_too else {"decoders", "keys"})
    with pytest.raises(ValueError, match="another encoder"):
        warm_start(SurfEmbMethod(replace(SMALL_SURFEMB, width=16), [wedge()]), [wedge()], lender)


class NearestPointKeys(torch.nn.Module):
    """Keys whose product with the query s (x, 1) is greatest for the point nearest to x."""

    def forward(self, points, object_index):  # type: ignore[no-untyped-def]
        return torch.cat((points, -points.square().sum(-1, keepdim=True) / 2), dim=-1)


def planted(part, batch, turn, sharpness):  # type: ignore[no-untyped-def]
    """A method whose every query is for the point that is seen, turned about z in the part's frame."""
    method = SurfEmbMethod(replace(SMALL_SURFEMB, stride=1, embedding=4), [part]).eval()
    method.keys = NearestPointKeys()  # type: ignore[assignment]
    turned = torch.einsum("ij,bjhw->bihw", turn, batch.truth.coordinates)
    queries = sharpness * torch.cat((turned, torch.ones_like(turned[:, :1])), dim=1)
    logits = 20 * batch.truth.mask_full.float() - 10
    method.forward = lambda batch: SurfEmbOutput(queries, logits)  # type: ignore[method-assign]
    return method


def test_matches_are_judged_up_to_symmetry():
    nut = builtin_part("nut")
    plain = replace(nut, symmetries=Symmetries())
    batch = crops((nut,), 6)
    sixth = rotation_about_z(torch.tensor(math.pi / 3))
    for part, turn, right in (
        (nut, torch.eye(3), True),
        (nut, sixth, True),
        (plain, torch.eye(3), True),
        (plain, sixth, False),
    ):
        figures = crop_matches(planted(part, batch, turn, 500.0), batch).medians()
        assert (figures["share_matched"] > 0.99) == right
        assert (figures["match_percent"] < 5) == right
        assert figures["mask"] < 1e-3
    indifferent = crop_matches(planted(nut, batch, torch.eye(3), 0.0), batch)
    assert indifferent.medians()["nce"] == pytest.approx(math.log(2049), abs=1e-3)
    assert crop_matches(planted(nut, batch, torch.eye(3), 500.0), batch).medians()["nce"] < 4
    assert indifferent.medians(1) == {}


def test_crops_without_a_visible_cell_are_left_out():
    batch = crops(three_parts()[:1], 4)
    assert batch.truth is not None
    seen = batch.truth.mask_visible.clone()
    seen[1:] = False
    method = SurfEmbMethod(SMALL_SURFEMB, [wedge()]).eval()
    assert len(crop_matches(method, replace(batch, truth=replace(batch.truth, mask_visible=seen))).nce) == 1


def test_the_full_size_is_the_published_one():
    config = SurfEmbConfig.full()
    method = SurfEmbMethod(config, [wedge()])
    assert (config.crop_size, config.stride, config.positives, config.negatives) == (224, 1, 1024, 1024)
    assert sum(p.numel() for p in method.encoder.parameters()) == 11_176_512 + 64 * 7 * 7  # and the share of validity
    assert sum(p.numel() for p in method.decoders.parameters()) == pytest.approx(6.5e6, rel=0.02)


@pytest.mark.parametrize(
    ("field", "value"), [("crop_size", 100), ("stride", 3), ("pad", 0.9), ("width", 0), ("negatives", 0)]
)
def test_settings_that_cannot_be_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        SurfEmbConfig(**{field: value})


def test_no_parts_no_method():
    with pytest.raises(ValueError, match="at least one"):
        SurfEmbMethod(SMALL_SURFEMB, [])

"""Training: exact resume, what a killed run leaves, settings that must not change, the schedule, the prefetcher."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cad2pose.confidence import Calibration, save_calibrations
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.devices import pick_device, usable_cores
from cad2pose.geometry import make_transform, rotation_about_z
from cad2pose.methods import MethodConfig, QueryMethod
from cad2pose.model_file import load_model
from cad2pose.structures import CropBatch
from cad2pose.training import Run, TrainingConfig, crop_errors, journal, pose_crop_errors, train, training_step
from cad2pose.training.checkpoint import CHECKPOINT, PREVIOUS, TrainingState
from cad2pose.training.cost import measure_cost
from cad2pose.training.optim import MovingAverage, make_optimizer, rate_factor
from cad2pose.training.overfit import overfit
from cad2pose.training.prefetch import prefetch
from cad2pose.training.processes import Processes
from cad2pose.training.step import drawing_from
from cad2pose.training.stopping import stop_requests
from small_models import SMALL, SMALL_GDRNET, SMALL_SURFEMB, wedge

CPU = torch.device("cpu")
SHORT = TrainingConfig(samples=48, batch_size=8, warmup_steps=2, validation_crops=4, validations=2, seed=3)


def crops(seed: int = 0) -> SyntheticCrops:
    config = SyntheticConfig.evaluation(crop_size=SMALL.crop_size, pictures=4)
    return SyntheticCrops([wedge()], config, CPU, seed)


def run(out: Path, config: TrainingConfig = SHORT, stop_after: int | None = None, method: MethodConfig = SMALL) -> Path:
    whole = Run([wedge()], method, config, CPU, others={"crops": "test"})
    return train(whole, crops(), crops(1), out, stop_after=stop_after)


def weights(model_file: Path) -> dict[str, torch.Tensor]:
    return load_model(model_file).method.state_dict()


class SignalledCrops(SyntheticCrops):
    """Crops while which the process is asked to stop: at the given batch, in the main thread."""

    def __init__(self, number: int, at: int) -> None:
        super().__init__([wedge()], crops().config, CPU, 0)
        self.number, self.at = number, at

    def batch(self, index: int, size: int) -> CropBatch:
        if index == self.at:
            os.kill(os.getpid(), self.number)
        return super().batch(index, size)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_ends_a_step_and_keeps_what_it_learnt(tmp_path, number):
    before = signal.getsignal(number)
    whole = Run([wedge()], SMALL, SHORT, CPU, others={"crops": "test"})
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step ([1-5]) of 6; the same command goes on") as told:
        train(whole, SignalledCrops(number, 3), crops(1), tmp_path / "run")
    assert signal.getsignal(number) == before
    step = int(str(told.value).split()[3])
    assert load_model(tmp_path / "run" / "model.safetensors").info["samples"] == str(8 * step)
    unbroken, gone_on = weights(run(tmp_path / "whole")), weights(run(tmp_path / "run"))
    for name, tensor in unbroken.items():
        assert torch.equal(tensor, gone_on[name]), name


def test_a_second_request_interrupts_at_once_but_not_an_echo_of_the_first(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with stop_requests() as asked:
        assert not asked
        signal.raise_signal(signal.SIGINT)
        now[0] += 0.5
        signal.raise_signal(signal.SIGINT)
        assert asked
        now[0] += 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked
            signal.raise_signal(signal.SIGTERM)
            assert asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stop_requests() as asked:
            found.append((bool(asked), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_a_stopped_run_ends_where_an_unbroken_one_does(tmp_path):
    whole = weights(run(tmp_path / "whole"))
    run(tmp_path / "broken", stop_after=2)
    run(tmp_path / "broken", stop_after=1)
    resumed = weights(run(tmp_path / "broken"))
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    curves = [(tmp_path / kind / "curves.jsonl").read_text().splitlines() for kind in ("whole", "broken")]
    steps = [[json.loads(line)["step"] for line in lines] for lines in curves]
    assert steps[0][-1] == steps[1][-1] == 6


def test_what_layers_draw_follows_from_the_step(tmp_path):
    """DropBlock's holes are the same in a run that was stopped, whatever was drawn meanwhile."""
    dropping = replace(SMALL, head="thesis", charts=1)
    torch.manual_seed(1)
    whole = weights(run(tmp_path / "whole", method=dropping))
    run(tmp_path / "broken", stop_after=2, method=dropping)
    torch.manual_seed(5)
    resumed = weights(run(tmp_path / "broken", method=dropping))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    state = torch.get_rng_state()
    drawn = []
    for seed in (3, 3, 4):
        with drawing_from(seed, CPU):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), state)  # what others draw is left alone


def test_the_model_file_has_the_averaged_weights(tmp_path):
    written = weights(run(tmp_path))
    record = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    average = {name.removeprefix("module."): value for name, value in record["average"].items()}
    apart = 0.0
    for name, value in record["method"].items():
        if value.is_floating_point() and name in written:
            half = average[name].half().float()  # parameters are kept so, buffers as they are
            assert torch.equal(written[name], half) or torch.equal(written[name], average[name]), name
            apart = max(apart, float((value - average[name]).abs().max()))
    assert apart > 1e-3, "or the test could not tell"


def test_a_finished_run_keeps_its_model_file_and_what_was_learnt_of_its_scores(tmp_path):
    run(tmp_path)
    path = tmp_path / "model.safetensors"
    save_calibrations(path, {"regression": (Calibration(2.0, -1.0),)})
    before, beside = path.read_bytes(), (tmp_path / "model.calibration.json").read_bytes()
    run(tmp_path)
    assert path.read_bytes() == before
    assert (tmp_path / "model.calibration.json").read_bytes() == beside
    path.unlink()
    run(tmp_path)
    assert path.is_file(), "a file that was lost is made again"


@pytest.mark.parametrize("saved_last", ["checkpoint", "model"])
def test_a_run_that_was_killed_while_it_saved_has_the_newest_model_in_the_end(tmp_path, monkeypatch, saved_last):
    whole = weights(run(tmp_path / "whole"))
    run(tmp_path / "broken", stop_after=2)
    if saved_last == "checkpoint":  # as versions before did
        older = (tmp_path / "broken" / "model.safetensors").read_bytes()
        run(tmp_path / "broken")
        (tmp_path / "broken" / "model.safetensors").write_bytes(older)
    else:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(TrainingState, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            run(tmp_path / "broken")
        assert load_model(tmp_path / "broken" / "model.safetensors").info["samples"] == "48"
    file = run(tmp_path / "broken")
    assert load_model(file).info["samples"] == "48"
    for name, tensor in weights(file).items():
        assert torch.equal(tensor, whole[name]), name


def test_what_was_logged_last_stays_in_tensorboard(tmp_path):
    for _ in range(2):
        run(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("training/total")] == [6]


def test_training_changes_the_averaged_weights(tmp_path):
    first = weights(run(tmp_path / "a", stop_after=1))
    last = weights(run(tmp_path / "a"))
    assert any(not torch.equal(tensor, last[name]) for name, tensor in first.items())


def test_the_run_folder_has_everything(tmp_path):
    out = tmp_path / "run"
    run(out)
    names = {path.name for path in out.iterdir()}
    wanted = {
        "config.json",
        "versions.json",
        "curves.jsonl",
        "samples.png",
        "predictions.png",
        CHECKPOINT,
        "model.safetensors",
    }
    assert wanted <= names
    assert list((out / "tensorboard").iterdir())
    settings = json.loads((out / "config.json").read_text())
    assert settings["training"]["samples"] == 48
    assert settings["method"]["crop_size"] == 32
    assert settings["parts"][0]["name"] == "wedge"
    errors = json.loads((out / "curves.jsonl").read_text().splitlines()[-1])
    assert 0 <= errors["validation/rotation_deg"] <= 180
    known = load_model(out / "model.safetensors").depth_error(0)
    assert known == pytest.approx(errors["validation/depth_percent"] / 100, abs=1e-4)
    assert load_model(run(tmp_path / "unjudged", stop_after=1)).depth_error(0) is None


def test_a_model_knows_how_well_it_has_learnt_the_depth_of_each_part(tmp_path):
    parts = [wedge(), wedge(2, "other")]
    source = SyntheticCrops(parts, SyntheticConfig.evaluation(crop_size=SMALL.crop_size, pictures=4), CPU, 1)
    model = load_model(train(Run(parts, SMALL, SHORT, CPU), source, source, tmp_path))
    judged = json.loads((tmp_path / "curves.jsonl").read_text().splitlines()[-1])
    for index, part in enumerate(parts):
        error = judged[f"validation/{part.name}/depth_percent"]
        assert model.depth_error(index) == pytest.approx(error / 100, abs=1e-4)
    one = SyntheticCrops(parts[:1], SyntheticConfig.evaluation(crop_size=SMALL.crop_size, pictures=4), CPU, 1)
    unseen = load_model(train(Run(parts, SMALL, SHORT, CPU), source, one, tmp_path / "unseen"))
    assert [unseen.depth_error(index) for index in range(2)] == [None, None]  # no crop of the other part was judged


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    out = tmp_path / "run"
    run(out, stop_after=1)
    with pytest.raises(ValueError, match=r"training\.learning_rate"):
        run(out, replace(SHORT, learning_rate=2e-3))
    with pytest.raises(ValueError, match=r"method\.charts"):
        run(out, method=SMALL_SURFEMB)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        run(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["holiday.txt"]


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path):
    out = tmp_path / "run"
    whole = weights(run(tmp_path / "whole"))
    run(out, stop_after=2)
    run(out, stop_after=2)
    data = (out / CHECKPOINT).read_bytes()
    (out / CHECKPOINT).write_bytes(data[: len(data) // 2])
    assert (out / PREVIOUS).exists()
    resumed = weights(run(out))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    for name in (CHECKPOINT, PREVIOUS):
        (out / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no checkpoint"):
        run(out)


def test_weights_that_are_not_what_was_written_are_not_taken_up(tmp_path):
    """torch reads a checkpoint with damaged numbers without a word."""
    out = tmp_path / "run"
    whole = weights(run(tmp_path / "whole"))
    run(out, stop_after=2)
    run(out, stop_after=2)
    data = bytearray((out / CHECKPOINT).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 512] = bytes(512)
    (out / CHECKPOINT).write_bytes(data)
    resumed = weights(run(out))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_kill_nine_loses_no_more_than_the_last_interval(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; from dataclasses import replace\n"
        "import torch; torch.set_num_threads(1); import test_training as t\n"
        "t.run(Path(sys.argv[1]), replace(t.SHORT, samples=100000, checkpoint_minutes=1e-9, validations=1))\n"
    )
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", script, str(out), str(Path(__file__).parent)])
    deadline = time.monotonic() + 60
    while not (out / PREVIOUS).exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    newest = out / CHECKPOINT if (out / CHECKPOINT).exists() else out / PREVIOUS
    record = torch.load(newest, weights_only=True)
    assert record["step"] >= 1
    load_model(out / "model.safetensors")


def test_the_schedule_warms_up_stays_flat_and_ends_at_zero():
    config = TrainingConfig(samples=32_000, batch_size=32, warmup_steps=100, flat_share=0.5)
    factors = [rate_factor(step, config) for step in range(config.steps + 1)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[99] == 1.0
    assert factors[100:500] == [1.0] * 400
    assert all(a >= b for a, b in zip(factors[500:], factors[501:], strict=False))
    assert factors[750] == pytest.approx(0.5, abs=0.01)
    assert factors[-1] == pytest.approx(0, abs=1e-9)
    short = TrainingConfig(samples=90, batch_size=1, warmup_steps=300)
    factors = [rate_factor(step, short) for step in range(91)]
    assert factors[29] == 1.0
    assert factors[0] == pytest.approx(1 / 30)
    assert factors[-1] == pytest.approx(0, abs=1e-9)


class Weights(torch.nn.Module):
    mean: torch.Tensor
    steps: torch.Tensor

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), value))
        self.register_buffer("mean", torch.full((2,), value))
        self.register_buffer("steps", torch.tensor(0))


def test_the_moving_average_forgets_the_start_and_then_moves_slowly():
    average = MovingAverage(Weights(100.0), 0.999)
    values = average.module
    assert isinstance(values, Weights)
    for count in range(1, 50):
        now = Weights(1.0 if count > 1 else 50.0)
        now.steps += count
        average.update_parameters(now)
        if count == 1:
            assert values.weight.tolist() == [50.0] * 3, "the first update is the weights themselves"
    assert float(values.weight.detach().max()) < 1.1
    assert float(values.mean.max()) < 1.1
    assert int(values.steps) == 49
    assert int(average.n_averaged) == 49
    average.n_averaged.fill_(10**6)
    before = values.weight.detach().clone(), values.mean.clone()
    now = Weights(0.0)
    with torch.no_grad():
        now.weight.copy_(before[0] + 1.0)
        now.mean.copy_(before[1] + 1.0)
    average.update_parameters(now)
    for after, earlier in zip((values.weight.detach(), values.mean), before, strict=True):
        torch.testing.assert_close(after - earlier, torch.full_like(after, 0.001), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("method_config", [SMALL, SMALL_SURFEMB])
def test_every_parameter_is_optimised_once_and_keys_have_their_own_rate(method_config):
    method = method_config.build([wedge()])
    config = TrainingConfig(learning_rate=1e-3, key_learning_rate=2e-4)
    groups = make_optimizer(method, config).param_groups
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters())
    rates = {id(p): group["peak"] for group in groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in method.named_parameters():
        assert rates[id(parameter)] == (2e-4 if name.startswith("keys.") else 1e-3)
        vector = parameter.ndim == 1 or name.endswith(("output_bias", "object_offset"))  # of every object its own
        assert (decays[id(parameter)] > 0) == (not vector and not name.startswith("keys."))


def test_ranger_centralises_weights_and_leaves_vectors_alone():
    """A gradient that is the same for all inputs of an output is taken out of weights; biases follow theirs."""
    method = SMALL_GDRNET.build([wedge()])
    config = TrainingConfig(optimizer="ranger", learning_rate=1e-2, weight_decay=0.0)
    optimizer = make_optimizer(method, config)
    before = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    for _ in range(12):
        for name, parameter in method.named_parameters():
            parameter.grad = torch.ones_like(parameter)
            if name == "head.output_weight":
                parameter.grad = parameter.grad * torch.arange(parameter.shape[2])
        optimizer.step()
    for name, parameter in method.named_parameters():
        moved = float((parameter.detach() - before[name]).abs().max())
        vector = parameter.ndim == 1 or name.endswith(("output_bias", "object_offset"))
        assert moved > 0.01 if vector else moved < 1e-6, name


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "ranger"])
def test_the_first_steps_go_downhill(optimizer):
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(weight.weight)
    config = TrainingConfig(optimizer=optimizer, learning_rate=0.01, weight_decay=0.0)
    steps = make_optimizer(weight, config)
    values = []
    for _ in range(8):
        weight.weight.grad = torch.ones(1, 1)
        if optimizer == "ranger":  # of a single input nothing would be left
            steps._optimizer_step_pre_hooks.clear()
        steps.step()
        values.append(float(weight.weight.detach()))
    assert values[0] < 1.0
    assert all(later <= earlier for earlier, later in zip(values[:4], values[1:5], strict=True))


def test_prefetching_keeps_the_order_and_passes_errors_on():
    template = crops().batch(0, 1)

    def make(index: int) -> CropBatch:
        if index == 5:
            raise ValueError("crop 5 is broken")
        return replace(template, part_index=torch.tensor([index]))

    assert [int(batch.part_index) for batch in prefetch(make, 1, 5)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="crop 5"):
        list(prefetch(make, 3, 9))
    before = threading.active_count()
    stream = prefetch(make, 0, 4)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_errors_of_known_poses_are_what_was_planted():
    part = wedge()
    batch = crops().batch(0, 6)
    method = QueryMethod(SMALL, [part]).eval()
    assert batch.truth is not None
    T = batch.truth.T_virt_obj.double()
    perfect = pose_crop_errors(method, batch, T, torch.ones(6))
    assert float(perfect.rotation.max()) < 0.1
    assert float(perfect.translation.max()) < 1e-3
    deeper = T.clone()
    centre = (T[:, :3, :3] @ part.center[:, None])[..., 0] + T[:, :3, 3]
    deeper[:, :3, 3] += 0.1 * centre
    moved = pose_crop_errors(method, batch, deeper, torch.ones(6))
    torch.testing.assert_close(moved.translation, torch.full((6,), 10.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moved.depth, torch.full((6,), 10.0), rtol=1e-3, atol=1e-3)
    assert crop_errors(method, batch).rotation.shape == (6,)
    around = wedge(symmetric=True)
    turn = rotation_about_z(torch.linspace(0.01, 6.0, 6, dtype=torch.float64))  # no step of the training's group
    about = make_transform(turn, around.center - turn @ around.center)
    turned = pose_crop_errors(QueryMethod(SMALL, [around]).eval(), batch, T @ about, torch.ones(6))
    assert float(turned.rotation.max()) < 0.1
    assert float(pose_crop_errors(method, batch, T @ about, torch.ones(6)).rotation.max()) > 100
    assert set(perfect.medians()) == {"rotation_deg", "translation_percent", "depth_percent", "share_under_10_deg"}


def test_cost_is_measured_before_the_start():
    cost = measure_cost(Run([wedge()], SMALL, SHORT, CPU), crops())
    assert cost.parameters == sum(p.numel() for p in QueryMethod(SMALL, [wedge()]).parameters())
    assert cost.crop_seconds > 0
    assert cost.step_seconds > 0
    assert cost.memory > 1e7


@pytest.mark.parametrize(("cores", "processes", "together"), [(1, 1, False), (2, 1, True), (2, 2, False), (3, 2, True)])
def test_crops_are_made_beside_the_step_where_a_core_is_free_for_it(monkeypatch, cores, processes, together):
    monkeypatch.setattr("cad2pose.training.cost.usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    cost = measure_cost(Run([wedge()], SMALL, SHORT, CPU), crops())
    parts = cost.crop_seconds, cost.step_seconds
    assert cost.hours(SHORT) == pytest.approx(SHORT.samples / 3600 * (max(parts) if together else sum(parts)))


def test_cores_are_those_that_the_process_may_use():
    here = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, here[:1])
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, here)
    assert usable_cores() == len(here)


@pytest.mark.parametrize(("method", "wanted"), [(SMALL, {"rotation", "centre", "depth"}), (SMALL_SURFEMB, set())])
def test_overfit_says_which_losses_did_not_get_there(method, wanted):
    seen: list[int] = []
    result = overfit(Run([wedge()], method, SHORT, CPU), crops(), 3, lambda step, losses: seen.append(step))
    assert seen == [0, 1, 2]
    assert set(result.wanted) == {"nce", "mask"} | wanted
    assert set(result.wanted) <= set(result.losses)
    assert set(result.failed) >= {"mask"} | (wanted & {"rotation"})  # three steps teach nothing


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:99", "gpu"])
def test_devices_that_are_not_there_are_refused(name):
    with pytest.raises(ValueError, match=name):
        pick_device(name)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("flat_share", 1.5),
        ("ema_decay", 1.0),
        ("gradient_clip", -1.0),
        ("learning_rate", math.nan),
        ("checkpoint_minutes", -1.0),
        ("warmup_steps", -1),
    ],
)
def test_training_settings_that_cannot_be_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        TrainingConfig(**{field: value})


def test_every_step_trains_with_draws_of_its_own_and_clipped_gradients(tmp_path, monkeypatch):
    seeds: list[int] = []
    modes: list[bool] = []
    norms: list[float] = []
    plain, clip = QueryMethod.loss, torch.nn.utils.clip_grad_norm_

    def loss(self, output, batch, generator=None):
        found = plain(self, output, batch, generator)
        if torch.is_grad_enabled():
            seeds.append(generator.initial_seed())  # type: ignore[union-attr]
            modes.append(self.training)
        return replace(found, total=found.total * 1e4)

    def clipped(parameters, limit):
        parameters = list(parameters)
        norm = clip(parameters, limit)
        norms.append(float(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm()))
        return norm

    monkeypatch.setattr(QueryMethod, "loss", loss)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    run(tmp_path)
    assert len(set(seeds)) == len(seeds) > 1
    assert all(modes)
    assert max(norms) < 1.01 * SHORT.gradient_clip


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "ranger"])
def test_a_step_whose_gradient_is_not_finite_changes_nothing(optimizer, monkeypatch):
    config = replace(SHORT, optimizer=optimizer, learning_rate=1e-2)
    state, source = Run([wedge()], SMALL, config, CPU).state(), crops()
    state.method.train()
    plain = QueryMethod.loss

    def broken(self, output, batch, generator=None):
        found = plain(self, output, batch, generator)
        return replace(found, total=found.total * math.inf)

    for step in range(4):
        monkeypatch.setattr(QueryMethod, "loss", broken if step == 2 else plain)
        before = {name: value.detach().clone() for name, value in state.method.named_parameters()}
        training_step(state, source.batch(step, 8), config)
        after = dict(state.method.named_parameters())
        moved = max(float((value.detach() - before[name]).abs().max()) for name, value in after.items())
        if optimizer != "ranger" or step != 2:  # momentum of the steps before moves Ranger's on
            assert (moved == 0) == (step == 2)
        assert moved < 0.1
        assert all(bool(value.isfinite().all()) for value in state.method.state_dict().values())


def test_a_network_that_is_no_longer_finite_does_not_take_the_place_of_one_that_is(tmp_path, monkeypatch):
    """Pixels that are no numbers spoil what batch norm remembers, whatever becomes of the weights."""

    class Broken:
        def batch(self, index: int, size: int) -> CropBatch:
            made = crops().batch(index, size)
            return replace(made, image=made.image * math.nan) if index == 4 else made

    config = replace(SHORT, checkpoint_minutes=1e-9)
    with pytest.raises(ValueError, match=r"no longer made of finite numbers after step 5.*lower rates"):
        train(Run([wedge()], SMALL, config, CPU), Broken(), crops(1), tmp_path)
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "model.safetensors").values())
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 4
    # nor is it judged, between the steps at which losses are written down
    monkeypatch.setattr(journal, "_LOG_EVERY", 1000)
    seldom = replace(config, samples=100 * SHORT.batch_size, validations=14)
    with pytest.raises(ValueError, match=r"no longer made of finite numbers after step 7.*lower rates"):
        train(Run([wedge()], SMALL, replace(seldom, checkpoint_minutes=9.0), CPU), Broken(), crops(1), tmp_path / "b")


def test_seeds_of_any_size_are_taken(tmp_path):
    out = run(tmp_path, replace(SHORT, samples=SHORT.batch_size, seed=1_712_345_678_901_234))
    assert load_model(out).info["samples"] == str(SHORT.batch_size)


def test_a_run_of_shards_never_makes_the_whole_batch(tmp_path):
    sizes: list[int] = []

    class Watched:
        def batch(self, index: int, size: int) -> CropBatch:
            sizes.append(size)
            return crops().batch(index, size)

    config = replace(SHORT, shards=2, samples=SHORT.batch_size)
    train(Run([wedge()], SMALL, config, CPU), Watched(), crops(1), tmp_path)
    overfit(Run([wedge()], SMALL, config, CPU), Watched(), 1)
    assert set(sizes) == {SHORT.batch_size // 2}


def test_one_crop_alone_is_too_little_where_the_innermost_map_is_a_cell(tmp_path):
    with pytest.raises(ValueError, match=r"1 crop of 32 pixels at once is too little.*--batch-size"):
        run(tmp_path, replace(SHORT, batch_size=1, samples=2))


def test_the_plan_makes_the_shards_that_a_process_has():
    sizes: list[int] = []

    class Watched:
        def batch(self, index: int, size: int) -> CropBatch:
            sizes.append(size)
            return crops().batch(index, size)

    measure_cost(Run([wedge()], SMALL, replace(SHORT, shards=4), CPU), Watched(), Processes(1, 2))
    assert set(sizes) == {2}
    assert len(sizes) % 2 == 0

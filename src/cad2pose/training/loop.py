"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.tensorboard.writer import SummaryWriter

from cad2pose.files import file_digest
from cad2pose.methods import Method, MethodConfig, PoseMethod, SurfEmbMethod
from cad2pose.model_file import DEPTH_ERRORS, Model, save_model
from cad2pose.parts import Part
from cad2pose.structures import CropBatch, CropSource
from cad2pose.training.checkpoint import TrainingState
from cad2pose.training.compiling import compile_networks
from cad2pose.training.config import TrainingConfig
from cad2pose.training.matches import CropMatches, crop_matches
from cad2pose.training.optim import MovingAverage, autocast, make_optimizer
from cad2pose.training.prefetch import prefetch
from cad2pose.training.processes import ALONE, Processes, joined
from cad2pose.training.run_folder import RunFolder
from cad2pose.training.run_pictures import save_predictions, save_samples
from cad2pose.training.step import training_step
from cad2pose.training.truth_pictures import AGAINST_TRUTH, WorstBatch, save_against_truth
from cad2pose.training.validation import CropErrors, crop_errors
from cad2pose.training.warm_start import check_frozen, fresh_modules, load_backbone, warm_start

MODEL = "model.safetensors"
_LOG_EVERY = 50
_VALIDATION_BATCH = 32


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows."""

    step: int
    steps: int
    crops_per_second: float
    losses: Mapping[str, float]
    errors: Mapping[str, float]


def make_state(
    method_config: MethodConfig,
    parts: Sequence[Part],
    config: TrainingConfig,
    device: torch.device,
    start: Model | Path | None = None,
) -> TrainingState:
    """Fresh weights (by the seed), or those of `start` where they fit; their average, and the optimiser.

    A path is a file of an encoder's weights (`ResNetEncoder.load_pretrained`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        method = method_config.build(parts)
    check_frozen(method, parts, None if isinstance(start, Path) else start)
    left = []
    if isinstance(start, Path):
        left = load_backbone(method, start)
    elif start is not None:
        left = warm_start(method, parts, start)
    fresh = tuple(fresh_modules(method, left))
    method = method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = MovingAverage(method, config.ema_decay)
    return TrainingState(method, average, make_optimizer(method, config), fresh)


def validate(method: Method, crops: CropSource, count: int, config: TrainingConfig) -> CropErrors | CropMatches:
    """What can be said of a method on the first `count` crops of a source: errors of its poses, or its matches."""
    method.eval()
    errors: list[CropErrors] = []
    matches: list[CropMatches] = []
    for index in range(-(-count // _VALIDATION_BATCH)):
        batch = crops.batch(index, min(_VALIDATION_BATCH, count - index * _VALIDATION_BATCH))
        with autocast(config, batch.image.device):
            if isinstance(method, PoseMethod):
                errors.append(crop_errors(method, batch))
            else:
                assert isinstance(method, SurfEmbMethod), "only poses and surface embeddings can be judged"
                matches.append(crop_matches(method, batch))
    return CropErrors.join(errors) if errors else CropMatches.join(matches)


def run_settings(
    method: MethodConfig, training: TrainingConfig, others: Mapping[str, object], start: Model | Path | None
) -> dict[str, object]:
    """Everything by which a run folder knows its run."""
    lent = {"encoder": file_digest(start)} if isinstance(start, Path) else dict(start.info) if start else None
    return {"method": method, "training": training, "start": lent, **others}


def train(
    parts: Sequence[Part],
    method_config: MethodConfig,
    crops: CropSource,
    validation_crops: CropSource,
    config: TrainingConfig,
    out: Path,
    device: torch.device,
    settings: Mapping[str, object] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    stop_after: int | None = None,
    start: Model | Path | None = None,
    processes: Processes = ALONE,
    judged: Callable[[], None] = lambda: None,
    compiled: bool = False,
) -> Path:
    """Train, or go on with, the run in folder `out`; returns the path of the model file.

    Args:
        parts: what the model will know.
        crops: training crops on `device`.
        validation_crops: crops of another seed and style, judged with the averaged weights.
        settings: further settings that identify the run (those of the crops).
        report: called every 50 steps and after the last.
        stop_after: stop (with a checkpoint) after this many steps of this call.
        start: model to take weights from (see `warm_start`), or file of an encoder's weights; it must be given again
            when the run goes on.
        processes: which of several processes this is; the first one writes and judges.
        judged: called after every validation and at the end, when curves and pictures are written.
        compiled: compile the networks first, where there is a compiler (`compile_networks`); it takes minutes.

    Raises:
        ValueError: if `out` holds a run with other settings, or the processes cannot share the batches evenly.
    """
    folder, shards = RunFolder(out), processes.shards(config.shards)
    state = make_state(method_config, parts, config, device, start)
    if processes.first:
        folder.claim(parts, **run_settings(method_config, config, settings or {}, start))
        state.restore(out)
        folder.drop_curves_after(state.step)
    state.share(processes)
    if compiled:
        compile_networks(state.method, device)
    losses = joined(state.method, processes)
    if not processes.first:
        _follow(state, losses, crops, config, shards, device, stop_after, processes)
        return out / MODEL
    if state.step == 0:
        save_samples(out / "samples.png", crops.batch(0, config.batch_size))
    writer = SummaryWriter(str(out / "tensorboard"), purge_step=state.step)
    last = _last_step(state, config, stop_after)
    validate_every = max(1, config.steps // max(1, config.validations))
    saved = logged = time.monotonic()
    begun, counted, errors, worst = saved - state.seconds, state.step, {}, WorstBatch()
    try:
        state.method.train()
        for batches in _shards(crops, config, shards, state.step, last, device):
            terms = processes.mean(training_step(state, batches, config, losses, processes))
            now = time.monotonic()
            state.seconds = now - begun
            if state.step % _LOG_EVERY == 0 or state.step == last:
                values = {name: float(term) for name, term in terms.items()}
                rate = (state.step - counted) * config.batch_size / (now - logged)
                logged, counted = now, state.step
                _log(folder, writer, state.step, values | {"crops_per_second": rate, "seconds": state.seconds})
                report(Progress(state.step, config.steps, rate, values, errors))
                worst.see(state.step, values["total"], batches[0])
            if state.step % validate_every == 0 or state.step == config.steps:
                errors = _judge(state, validation_crops, config, parts, out, worst)
                _log(folder, writer, state.step, {f"validation/{k}": v for k, v in errors.items()})
                judged()
            if now - saved > 60 * config.checkpoint_minutes:
                _save(state, parts, config, out, device, start)
                saved = time.monotonic()
    finally:
        writer.close()
    model = _save(state, parts, config, out, device, start)
    judged()
    return model


def _last_step(state: TrainingState, config: TrainingConfig, stop_after: int | None) -> int:
    return config.steps if stop_after is None else min(config.steps, state.step + stop_after)


def _shards(
    crops: CropSource, config: TrainingConfig, shards: range, first: int, last: int, device: torch.device
) -> Iterator[list[CropBatch]]:
    """This process's shards of the batches of steps first, ..., last - 1."""
    each, size = len(shards), config.batch_size // config.shards

    def batch(number: int) -> CropBatch:
        return crops.batch(number // each * config.shards + shards[number % each], size)

    with closing(prefetch(batch, first * each, last * each, device)) as made:
        for _ in range(first, last):
            yield [next(made) for _ in range(each)]


def _follow(
    state: TrainingState,
    losses: nn.Module,
    crops: CropSource,
    config: TrainingConfig,
    shards: range,
    device: torch.device,
    stop_after: int | None,
    processes: Processes,
) -> None:
    """What all processes but the first do: their shards of every step, and nothing else."""
    state.method.train()
    for batches in _shards(crops, config, shards, state.step, _last_step(state, config, stop_after), device):
        processes.mean(training_step(state, batches, config, losses, processes))


def _judge(
    state: TrainingState, crops: CropSource, config: TrainingConfig, parts: Sequence[Part], out: Path, worst: WorstBatch
) -> dict[str, float]:
    averaged = state.average.module
    assert isinstance(averaged, Method)
    figures = validate(averaged, crops, config.validation_crops * len(parts), config)
    shown = crops.batch(0, 12)
    save_predictions(out / "predictions.png", averaged, shown)
    save_against_truth(out / AGAINST_TRUTH, averaged, shown, parts)
    worst.save(out, averaged, parts)
    values = figures.medians()
    if len(parts) > 1:
        for index, part in enumerate(parts):
            values |= {f"{part.name}/{name}": value for name, value in figures.medians(index).items()}
    return values


def _log(folder: RunFolder, writer: SummaryWriter, step: int, values: Mapping[str, float]) -> None:
    folder.log(step, values)
    for name, value in values.items():
        writer.add_scalar(name if "/" in name else f"training/{name}", value, step)


def _save(
    state: TrainingState,
    parts: Sequence[Part],
    config: TrainingConfig,
    out: Path,
    device: torch.device,
    start: Model | Path | None,
) -> Path:
    """Checkpoint and model file; returns the latter's path."""
    state.save(out)
    averaged = state.average.module
    assert isinstance(averaged, Method)
    info = {
        "samples": str(state.step * config.batch_size),
        "seconds": f"{state.seconds:.0f}",
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, torch threads: {torch.get_num_threads()}",
    }
    if isinstance(start, Model):
        info["samples_before"] = str(_samples_of(start))
    depth = _depth_errors(RunFolder(out), parts)
    if depth:
        info[DEPTH_ERRORS] = " ".join(f"{error:.2f}" for error in depth)
    save_model(out / MODEL, averaged, parts, info)
    return out / MODEL


def _depth_errors(folder: RunFolder, parts: Sequence[Part]) -> list[float]:
    """Median depth error of every part's regressed poses at the last validation, %; none where none was judged."""
    names = [f"{part.name}/depth_percent" for part in parts] if len(parts) > 1 else ["depth_percent"]
    keys = [f"validation/{name}" for name in names]
    judged = [line for line in folder.curves() if line.keys() >= set(keys)]  # a part may have had no crop
    return [float(judged[-1][key]) for key in keys] if judged else []


def _samples_of(model: Model) -> int:
    """All crops that went into a model, those of the model it started from included."""
    return sum(int(model.info.get(name, 0)) for name in ("samples", "samples_before"))

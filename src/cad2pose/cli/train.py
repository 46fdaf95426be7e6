"""`cad2pose train`: a model from meshes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cad2pose.cli.arguments import ObjectIds, OptionalPath, Sources
from cad2pose.cli.calibrate import FreshCrops, calibrate_file
from cad2pose.cli.console import plain_console
from cad2pose.cli.crop_style import CropSources, CropStyle
from cad2pose.cli.sources import find_parts, find_start
from cad2pose.cli.symmetry_remark import symmetry_remarks
from cad2pose.confidence import CalibrationError
from cad2pose.devices import pick_device, use_threads
from cad2pose.files import alone, remove_leftovers, write_text
from cad2pose.methods import GdrNetConfig, MethodConfig, QueryConfig, SurfEmbConfig
from cad2pose.model_file import Model, load_model
from cad2pose.parts.mesh import Units
from cad2pose.report.training_page import PAGE, training_page
from cad2pose.structures import CropSource
from cad2pose.training import Progress as Step
from cad2pose.training import Run, TrainingConfig, train
from cad2pose.training.checkpoint import CHECKPOINT
from cad2pose.training.cost import measure_cost
from cad2pose.training.overfit import overfit
from cad2pose.training.processes import ALONE, Processes, join_processes
from cad2pose.training.run_folder import RunFolder

_VALIDATION_SEED = 7_000_003
_OVERFIT_STEPS = 300
_QUERY, _SURFEMB, _GDRNET, _TRAINING, _STYLE = (
    QueryConfig(), SurfEmbConfig(), GdrNetConfig(), TrainingConfig(), CropStyle()
)  # fmt: skip


def train_command(
    source: Sources,
    /,
    out: Path,
    objects: ObjectIds = (),
    units: Units = "mm",
    models_info: OptionalPath = None,
    method: Literal["query", "surfemb", "gdrnet", "gdrnpp"] = "query",
    full: bool = False,
    model: Annotated[QueryConfig, tyro.conf.arg(name="model")] = _QUERY,
    surfemb: Annotated[SurfEmbConfig, tyro.conf.arg(name="surfemb")] = _SURFEMB,
    gdrnet: Annotated[GdrNetConfig, tyro.conf.arg(name="gdrnet")] = _GDRNET,
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = _TRAINING,
    style: Annotated[CropStyle, tyro.conf.arg(name="")] = _STYLE,
    images: OptionalPath = None,
    mix: float = 0.5,
    allow_test_images: bool = False,
    start: Annotated[OptionalPath, tyro.conf.arg(aliases=("--start-model",))] = None,
    backbone: OptionalPath = None,
    calibration_crops: int = 100,
    device: str = "auto",
    threads: int = 1,
    compiled: bool = False,
    overfit_one: Annotated[bool, tyro.conf.arg(name="overfit")] = False,
) -> int:
    """Train a model from meshes, or from the models of a BOP folder; or go on with a run that was stopped.

    The crops are rendered while the model learns. The run folder gets the settings (config.json), curves (curves.jsonl,
    tensorboard/), what the network sees (samples.png) and says (predictions.png, against_truth.png), the batch it fails
    at most (worst_batch.png), a page with all of these (report.html), checkpoints, and the model file
    (model.safetensors), calibrated at the end. The same command goes on where a run was stopped.

    Args:
        source: mesh files, built-in parts (bracket, nut, bushing, disc; builtin for all four), or one BOP folder.
        out: the run folder.
        objects: ids of the BOP folder's objects to learn; all of them by default. For mesh files: their ids, in order.
        units: units of the mesh files.
        models_info: BOP models_info.json with the symmetries of the mesh files, by their ids.
        method: query regresses poses from surface embeddings by itself; surfemb learns those alone, and a solver makes
            poses of them; gdrnet regresses poses from object coordinates and surface regions, gdrnpp does with a
            ConvNeXt, two masks and maps of every part's own (its crops: --boxes amodal --effects colourful).
        full: the full-size model for a GPU in place of the small one.
        model: settings of the query method.
        surfemb: settings of SurfEmb.
        gdrnet: settings of GDR-Net, and sizes of GDRNPP.
        training: settings of the run.
        style: what the crops are like; `cad2pose preview` shows it.
        images: folder of a BOP split with labelled images to learn from beside the rendered crops: FOLDER/train_render,
            FOLDER/train_pbr, or photographs of your own; or a folder of shards (shard-000000.tar, ...).
        mix: share of the crops that come from those images; 1 for them alone.
        allow_test_images: learn even from a split called test or val; scores on it then say nothing.
        start: model file or run folder to start from, or builtin, the model that the package has: of the same parts, to
            train it further; of some of them or more, such as to add a part or to take one out: what it knows of these
            is kept; or of others or of another method, whose general knowledge of pictures is taken over. Under
            torchrun, which has a --start-... of its own, say --start-model.
        backbone: file (.safetensors, .pth) with weights of an ordinary ResNet for the encoder, such as one trained on
            photographs; it needs the usual width (--full, or --model.width 64), and is read from this file alone.
        calibration_crops: fresh crops of each part that the chance of a pose to be right is learnt from at the end, and
            as many to test it on (see `cad2pose calibrate`); 0: none.
        device: auto (CUDA where there is one), cpu, cuda, cuda:1, ...
        threads: torch threads of the step; crops are made in one more thread.
        compiled: have torch compile encoder and decoder first, where it finds a compiler: minutes before the first
            step, for faster ones where launching many small operations is what takes time (a GPU).
        overfit_one: do not train, but see whether the model can learn one batch by heart; writes nothing.
    """
    use_threads(threads)
    if calibration_crops < 0:
        raise ValueError(f"calibration-crops is {calibration_crops}; it must be 0 or more")
    if images is None and (mix != 0.5 or allow_test_images):
        raise ValueError("--mix and --allow-test-images are about labelled images, and there are none (--images)")
    config = _method_config(method, full, {"model": model, "surfemb": surfemb, "gdrnet": gdrnet})
    processes, where = join_processes(pick_device(device))
    parts = find_parts(source, objects, units, models_info)
    crops = style.config(config.crop_size, config.pad)
    if start and backbone:
        raise ValueError("--start and --backbone are both given; a model to start from has an encoder of its own")
    known: Model | Path | None = find_start(start) if start else backbone
    console = plain_console(quiet=not processes.first)
    for remark in symmetry_remarks(parts):
        console.print(f"warning: {remark}", soft_wrap=True, highlight=False)
    sources = CropSources(parts, crops, where, images, mix, allow_test_images)
    run = Run(parts, config, training, where, known, sources.settings)
    if overfit_one:
        return _overfit(console, run, sources)
    model_file = _train(console, run, sources, out, processes, compiled)
    if model_file is not None and calibration_crops:
        if _is_calibrated(model_file):
            text = f"what its scores are worth is known already; `cad2pose calibrate {model_file}` learns it anew"
            console.print(text, soft_wrap=True, highlight=False)
            return 0
        pictures = FreshCrops(crops.judging(), calibration_crops, calibration_crops)
        calibrate_file(console, model_file, pictures, (), where)
    return 0


def _is_calibrated(file: Path) -> bool:
    """Whether it is known what the model's scores are worth: it is older than this call."""
    try:
        return bool(load_model(file).calibrations)
    except CalibrationError:
        return False


def _method_config(method: str, full: bool, settings: Mapping[str, MethodConfig]) -> MethodConfig:
    """The settings that are meant; raises ValueError where others were given too."""
    plain = {"model": _QUERY, "surfemb": _SURFEMB, "gdrnet": _GDRNET}
    chosen = {"query": "model", "gdrnpp": "gdrnet"}.get(method, method)
    for name, config in settings.items():
        if name != chosen and config != plain[name]:
            raise ValueError(f"--{name}... sets another method than --method {method}; its settings are --{chosen}...")
    config = settings[chosen]
    if full:
        if config != plain[chosen]:
            raise ValueError(f"give either --full or settings of the model (--{chosen}...), not both")
        config = type(config).full()  # type: ignore[attr-defined]
    return GdrNetConfig.gdrnpp(config) if method == "gdrnpp" and isinstance(config, GdrNetConfig) else config


def _train(
    console: Console, run: Run, sources: CropSources, out: Path, processes: Processes, compiled: bool
) -> Path | None:
    """Say what it will take, then train with a progress bar; the model file, in the first process."""
    folder, training = RunFolder(out), run.training
    processes.shards(training.shards)
    if processes.first:
        folder.check(run)  # before anything takes time
    crops = sources.training(training.seed, training.easing)
    if processes.first:
        console.print(_plan(run, crops, processes))
    done = 0
    if (out / CHECKPOINT).exists():
        done = max((int(line["step"]) for line in folder.curves()), default=0) * training.batch_size
        console.print(f"going on with the run in {out}", soft_wrap=True, highlight=False)
    judge = sources.judged(training.seed + _VALIDATION_SEED)
    with _progress_bar(console) as bar:
        task = bar.add_task(
            "training", total=training.samples, completed=min(done, training.samples), rate="", errors=""
        )

        def report(step: Step) -> None:
            done = min(step.step * training.batch_size, training.samples)
            rate = f"{step.crops_per_second:.0f} crops/s"
            bar.update(task, completed=done, rate=rate, errors=_in_words(step.errors))

        def page() -> None:
            """A page is not worth a run: a full disk, say, will be complained of by the next checkpoint."""
            with suppress(OSError, ValueError):
                write_text(out / PAGE, training_page(out))

        with alone(out) if processes.first else nullcontext():
            if processes.first:
                remove_leftovers(out)
            model_file = train(
                run, crops, judge, out, report=report, judged=page, processes=processes, compiled=compiled
            )
    if not processes.first:
        return None
    size, judged = model_file.stat().st_size / 1e6, _in_words(folder.last_validation())
    judged = f"; at its last validation {judged}" if judged else ""
    console.print(f"model: {model_file} ({size:.1f} MB){judged}", soft_wrap=True, highlight=False)
    return model_file


def _overfit(console: Console, run: Run, sources: CropSources) -> int:
    """Learn one batch by heart; 1 where a loss did not get there. Nothing is written."""
    crops = sources.training(run.training.seed)
    steps = replace(run.training, samples=_OVERFIT_STEPS * run.training.batch_size)
    console.print(_plan(replace(run, training=steps), crops))
    with _progress_bar(console) as bar:
        task = bar.add_task("one batch by heart", total=_OVERFIT_STEPS, rate="", errors="")

        def report(step: int, losses: dict[str, float]) -> None:
            bar.update(task, completed=step + 1, errors=f"loss {losses['total']:.2f}")

        result = overfit(run, crops, _OVERFIT_STEPS, report)
    table = Table("loss", "reached", "wanted below", "", title="one batch by heart")
    for name, bound in result.wanted.items():
        table.add_row(name, f"{result.losses[name]:.3f}", f"{bound:.3f}", "no" if name in result.failed else "yes")
    console.print(table)
    return 1 if result.failed else 0


def _in_words(figures: Mapping[str, float]) -> str:
    """The newest validation in a few words; nothing before the first."""
    if "rotation_deg" in figures:
        return f"median {figures['rotation_deg']:.1f} deg, {figures['translation_percent']:.1f} %"
    if "share_matched" in figures:
        return f"median {figures['share_matched']:.0%} of pixels matched"
    return ""


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), TextColumn("{task.fields[errors]}"), console=console,
    )  # fmt: skip


def _plan(run: Run, crops: CropSource, processes: Processes = ALONE) -> Table:
    """What will be done and what it takes, measured, for the eye."""
    cost, training = measure_cost(run, crops, processes), run.training
    table = Table(title="plan", show_header=False)
    table.add_row("parts", ", ".join(part.name for part in run.parts))
    table.add_row("device", str(run.device))
    if run.start is not None:
        table.add_row("random at the start", ", ".join(cost.fresh) or "nothing, all weights are given")
    table.add_row("parameters", f"{cost.parameters / 1e6:.2f} million")
    table.add_row("crops", f"{training.samples:,} in {training.steps:,} steps of {training.batch_size}")
    making, learning = 1e3 * cost.crop_seconds, 1e3 * cost.step_seconds
    table.add_row("time per crop", f"{making:.1f} ms to make, {learning:.1f} ms to learn")
    hours = cost.hours(training) / processes.size
    table.add_row("time in all", f"about {hours:.1f} hours" if hours > 1.5 else f"about {60 * hours:.1f} minutes")
    table.add_row("memory", f"{cost.memory / 1e9:.2f} GB")
    return table

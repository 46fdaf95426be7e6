"""`cad2pose calibrate`: what a model's scores are worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cad2pose.cli.arguments import OptionalPath
from cad2pose.cli.console import plain_console
from cad2pose.cli.crop_style import CropStyle
from cad2pose.confidence import CalibrationError, Way, calibration_path, save_calibrations
from cad2pose.data.synthetic_config import SyntheticConfig
from cad2pose.devices import pick_device, use_threads
from cad2pose.experiments import TestedCalibration, calibrate, crops_in_all, usual_ways
from cad2pose.files import check_file, write_text
from cad2pose.model_file import load_model, model_files, save_model
from cad2pose.tensor_files import first_file, is_numbered

_STYLE = CropStyle()


def calibrate_command(
    model: tyro.conf.Positional[Path],
    /,
    out: OptionalPath = None,
    beside: bool = False,
    ways: Annotated[tuple[Way, ...], tyro.conf.arg(help_behavior_hint="")] = (),
    fit_crops: int = 400,
    test_crops: int = 400,
    style: Annotated[CropStyle, tyro.conf.arg(name="")] = _STYLE,
    figures: OptionalPath = None,
    device: str = "auto",
    threads: int = 1,
) -> None:
    """Learn what a model's scores are worth, so that its estimates come with a chance to be right.

    Right is a pose whose surface is nowhere off by a tenth of the part's diameter or more (MSSD < 0.1 d). For every
    part and way to a pose, p = sigmoid(d score + e) sigmoid(a score + b + c log(spread)) is fitted on fresh rendered
    crops, written into the model file, and tested on other crops; the spread is how far off the pose may be, by its
    covariance or distance. The first factor is the chance that the box shows the part at all: for every four crops
    there is one whose box does not, and one whose box is far off. `cad2pose train` does this at its end; do it again
    for crops nearer to yours, or other ways.

    Args:
        model: model file, or the folder of a run or of a single model.
        out: where to write the calibrated model; over the model file by default.
        beside: leave the model file as it is, and write NAME.calibration.json beside it, which is read with it; always
            so where the model is in several files.
        ways: those to learn about (regression, refined, sampling, search, pnp); by default those that take
            milliseconds, or sampling where a model has no other.
        fit_crops: of each part, with boxes as detectors give; half as many others are added.
        test_crops: the same to test on; none of them is among the former.
        style: what the crops are like, as for `cad2pose train`: give the views and the camera that the model was
            trained with. Light, tables, clutter, boxes and effects are those of judged crops whatever is said here.
        figures: json file to write the tests to.
        device: auto (CUDA where there is one), cpu, cuda, cuda:1, ...
        threads: torch threads.
    """
    if beside and out is not None:
        raise ValueError("--beside leaves the model file as it is, --out writes another one; give one of them")
    use_threads(threads)
    model = first_file(_single(model))
    beside = beside or (out is None and is_numbered(model))
    if out is not None and is_numbered(out):
        raise ValueError(f"--out {out} is one file of several; give the model's name without the numbers")
    for written in (calibration_path(model) if beside else out or model, figures):
        if written is not None:
            check_file(written)  # before anything takes time
    console = plain_console()
    crops = SyntheticConfig(**style.settings()).judging()
    tests = calibrate_file(console, model, crops, ways, fit_crops, test_crops, pick_device(device), out, beside)
    if figures is not None:
        write_text(figures, json.dumps([asdict(test) for test in tests], indent=1) + "\n")
    written = f"calibrations: {calibration_path(model)}" if beside else f"model: {out or model}"
    console.print(written, soft_wrap=True, highlight=False)


def _single(path: Path) -> Path:
    """The model file, or the only one of a folder."""
    if not path.is_dir():
        return path
    files = model_files(path)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{path} is a folder with {found} in it; give one model file (*.safetensors)")
    return files[0]


def calibrate_file(
    console: Console,
    file: Path,
    crops: SyntheticConfig,
    ways: Sequence[Way],
    fitted: int,
    tested: int,
    device: torch.device,
    out: Path | None = None,
    beside: bool = False,
) -> list[TestedCalibration]:
    """As `calibrate`, of a model file, with a progress bar and a table of the tests.

    Args:
        file: model file.
        crops: what they are like.
        ways: those to learn about; the usual ones where none is named.
        fitted, tested: crops of each part.
        device: where.
        out: where the calibrated model goes; over the file by default.
        beside: leave the file as it is, and write the calibrations beside it.
    """
    try:
        model = load_model(file, device)
    except CalibrationError as error:  # this is what renews them
        console.print(f"warning: {error}; they are made anew", style="yellow", highlight=False, soft_wrap=True)
        model = load_model(file, device, beside=False)
    ways = tuple(dict.fromkeys(ways)) or usual_ways(model)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = (crops_in_all(fitted) + crops_in_all(tested)) * len(model.parts)
        bars = {way: progress.add_task(f"calibrating {way}", total=total) for way in ways}

        def report(way: Way, done: int) -> None:
            progress.update(bars[way], completed=done)

        calibrations, tests = calibrate(model, crops, ways, device, fitted, tested, report)
    console.print(_table(tests))
    if beside:
        save_calibrations(first_file(file), calibrations)
    else:
        save_model(out or file, model.method, model.parts, model.info, calibrations)
    return tests


def _table(tests: Sequence[TestedCalibration]) -> Table:
    table = Table(
        "poses", "part", "crops", "right", "expected calibration error", "of rough boxes: right, promised",
        "without the part: promised", title="calibration, fresh crops",
    )  # fmt: skip
    for test in tests:
        rough, without = _share(test.rough_right) + ", " + _share(test.rough_promised), _share(test.without_promised)
        table.add_row(
            test.way, test.part, str(test.tested), _share(test.right), f"{test.error:.3f}", rough, without
        )  # fmt: skip
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"

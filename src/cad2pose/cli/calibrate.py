"""`cad2pose calibrate`: what a model's scores are worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from cad2pose.confidence import CalibrationError, Calibrations, Way, calibration_path, save_calibrations
from cad2pose.data.detections import ImageKey, read_detections
from cad2pose.data.labelled_images import LabelledImages, open_images
from cad2pose.data.synthetic_config import SyntheticConfig
from cad2pose.devices import pick_device, use_threads
from cad2pose.experiments import (
    LabelledBoxes,
    TestedCalibration,
    calibrate,
    calibrate_on_images,
    crops_in_all,
    usual_ways,
)
from cad2pose.files import check_file, write_text
from cad2pose.model_file import Model, load_model, model_files, save_model
from cad2pose.structures import Detections
from cad2pose.tensor_files import first_file, is_numbered

_STYLE, _CROPS = CropStyle(), 400

Report = Callable[[Way, int], None]
"""Told how much of a way is done."""
Lesson = Callable[[Report], tuple[Calibrations, list[TestedCalibration]]]
"""Gives calibrations and their tests."""


def calibrate_command(
    model: tyro.conf.Positional[Path],
    /,
    out: OptionalPath = None,
    beside: bool = False,
    ways: Annotated[tuple[Way, ...], tyro.conf.arg(help_behavior_hint="")] = (),
    fit_crops: int = _CROPS,
    test_crops: int = _CROPS,
    style: Annotated[CropStyle, tyro.conf.arg(name="")] = _STYLE,
    images: OptionalPath = None,
    detections: OptionalPath = None,
    allow_test_images: bool = False,
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
            trained with, and its boxes (--boxes, --box-errors) where they were others than usual. Light, tables,
            clutter and effects are those of judged crops whatever is said here.
        images: learn from labelled photographs of your own in place of rendered crops: folder of a BOP split, or of
            shards, whose images the model was not trained on. Tests are on a fifth of the images each, in their order,
            that the fit has not seen.
        detections: json file of a detector's boxes in those images; without, they are those of the annotations, off as
            a detector's would be.
        allow_test_images: learn even from a split called test; confidences on it then say nothing.
        figures: json file to write the tests to.
        device: auto (CUDA where there is one), cpu, cuda, cuda:1, ...
        threads: torch threads.
    """
    if beside and out is not None:
        raise ValueError("--beside leaves the model file as it is, --out writes another one; give one of them")
    if images is None and (detections is not None or allow_test_images):
        raise ValueError("--detections and --allow-test-images are about --images, and there are none")
    if images is not None and (style != _STYLE or (fit_crops, test_crops) != (_CROPS, _CROPS)):
        raise ValueError(
            "--images has the scores learnt from those images alone: leave out what is about rendered crops "
            "(--fit-crops, --test-crops, --camera, --views... and the like)"
        )
    use_threads(threads)
    model = first_file(_single(model))
    beside = beside or (out is None and is_numbered(model))
    if out is not None and is_numbered(out):
        raise ValueError(f"--out {out} is one file of several; give the model's name without the numbers")
    for written in (calibration_path(model) if beside else out or model, figures):
        if written is not None:
            check_file(written)  # before anything takes time
    console = plain_console()
    pictures: FreshCrops | OwnImages
    if images is None:
        pictures = FreshCrops(SyntheticConfig(**style.settings()).judging(), fit_crops, test_crops)
    else:
        boxes = None if detections is None else read_detections(detections)
        pictures = OwnImages(open_images(images), boxes, allow_test_images)
    tests = calibrate_file(console, model, pictures, ways, pick_device(device), out, beside)
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


@dataclass(frozen=True)
class FreshCrops:
    """Rendered crops to learn from.

    Args:
        style: what they are like.
        fitted, tested: crops of each part.
    """

    style: SyntheticConfig
    fitted: int
    tested: int
    name = "fresh crops"

    def lesson(self, model: Model, ways: Sequence[Way], device: torch.device) -> tuple[int, Lesson]:
        """Crops of a way in all, and what learns from them."""
        total = (crops_in_all(self.fitted) + crops_in_all(self.tested)) * len(model.parts)
        return total, lambda report: calibrate(model, self.style, ways, device, self.fitted, self.tested, report)


@dataclass(frozen=True)
class OwnImages:
    """Labelled images to learn from.

    Args:
        images: a BOP split, or shards.
        detections: a detector's boxes; None: the annotated ones.
        allow_test: take a split that is meant for testing.
    """

    images: LabelledImages
    detections: Mapping[ImageKey, Detections] | None
    allow_test: bool
    name = "labelled images"

    def lesson(self, model: Model, ways: Sequence[Way], device: torch.device) -> tuple[int, Lesson]:
        """Images with boxes of the model's parts, and what learns from them."""
        boxes = LabelledBoxes(self.images, model.parts, self.detections, self.allow_test)
        return len(boxes), lambda report: calibrate_on_images(model, boxes, ways, device, report)


def calibrate_file(
    console: Console,
    file: Path,
    pictures: FreshCrops | OwnImages,
    ways: Sequence[Way],
    device: torch.device,
    out: Path | None = None,
    beside: bool = False,
) -> list[TestedCalibration]:
    """As `calibrate`, of a model file, with a progress bar and a table of the tests.

    Args:
        file: model file.
        pictures: what it is learnt from.
        ways: those to learn about; the usual ones where none is named.
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
        total, learn = pictures.lesson(model, ways, device)
        bars = {way: progress.add_task(f"calibrating {way}", total=total) for way in ways}

        def report(way: Way, done: int) -> None:
            progress.update(bars[way], completed=done)

        calibrations, tests = learn(report)
    console.print(_table(tests, pictures.name))
    if beside:
        save_calibrations(first_file(file), calibrations)
    else:
        save_model(out or file, model.method, model.parts, model.info, calibrations)
    return tests


def _table(tests: Sequence[TestedCalibration], pictures: str) -> Table:
    table = Table(
        "poses", "part", "boxes", "right", "expected calibration error", "of rough boxes: right, promised",
        "without the part: promised", title=f"calibration, {pictures}",
    )  # fmt: skip
    for test in tests:
        rough, without = _share(test.rough_right) + ", " + _share(test.rough_promised), _share(test.without_promised)
        table.add_row(
            test.way, test.part, str(test.tested), _share(test.right), f"{test.error:.3f}", rough, without
        )  # fmt: skip
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"

"""`cad2pose evaluate`: scores of a BOP results file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from cad2pose.cli.arguments import ObjectIds, OptionalPath
from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.results import Results, read_results_csv
from cad2pose.evaluation.pairs import count_unused_rows
from cad2pose.evaluation.score_row import ScoreRow, Spread
from cad2pose.evaluation.scores import Scores, evaluate
from cad2pose.files import write_text

_METRES = 10.0  # mm; no camera sees a part from nearer


def evaluate_command(
    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS.csv")],
    /,
    bop: Path,
    split: str = "test",
    targets: OptionalPath = None,
    objects: ObjectIds = (),
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE", help_behavior_hint="")] = None,
) -> None:
    """Score a BOP results file against ground truth.

    Prints, per object and over all targets: BOP's average recalls AR_MSSD and AR_MSPD, ADD(-S) recall at 10 % of the
    diameter, recall at 5 degrees and 5 cm, and mean and median errors of rotation and translation.

    Args:
        results: csv file with the columns scene_id,im_id,obj_id,score,R,t,time.
        bop: folder of the BOP dataset, or the name of one in BOP_PATH.
        split: the split that the results are for.
        targets: targets file in place of the dataset's own (SPLIT_targets_bop19.json).
        objects: score these objects only.
        json_file: also write all scores, and the errors of every estimate that counts, to this file.
    """
    estimates = read_results_csv(results)
    dataset = BopDataset(find_dataset(bop), split)
    wanted = dataset.targets(targets)
    unused = count_unused_rows(estimates, wanted)
    if objects:
        known = {t.object_id for t in wanted}
        if unknown := sorted(set(objects) - known):
            raise ValueError(f"no target asks for objects {unknown}; the targets' objects are {sorted(known)}")
        wanted = tuple(t for t in wanted if t.object_id in objects)
    scores = evaluate(estimates, dataset, wanted)
    console = Console()
    _warn(Console(stderr=True), estimates, scores, unused)
    console.print(_recall_table(scores))
    console.print(_error_table(scores))
    seconds = "not stated" if scores.seconds_per_image is None else f"{scores.seconds_per_image:.3f} s"
    console.print(
        f"{scores.total.estimated} of {scores.total.targets} targets have an estimate. Time per image: {seconds}."
    )
    if json_file is not None:
        about: dict[str, object] = {"results": results.name, "dataset": dataset.root.resolve().name, "split": split}
        write_text(json_file, json.dumps(about | scores.to_json(), indent=1, allow_nan=False) + "\n")


def _warn(console: Console, results: Results, scores: Scores, unused: Mapping[str, int]) -> None:
    """Say what may be wrong with the results."""

    def say(text: str) -> None:
        console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)

    if images := unused.get("image", 0):
        say(f"{images} of {scores.rows} rows are for images that are not among the targets; they are left out")
    if others := unused.get("object", 0):
        say(f"{others} of {scores.rows} rows are for objects that are not asked for in their image; they are left out")
    if not scores.total.estimated:
        say("no row is for a target; are the results for this dataset and split?")
    distance = results.T_cam_obj[:, :3, 3].norm(dim=1)
    if len(distance) and float(distance.median()) < _METRES:
        say(f"half of the translations are shorter than {_METRES:g} mm; BOP results are in mm, not in metres")


def _recall_table(scores: Scores) -> Table:
    table = _empty_table(
        "AR MSSD", "AR MSPD", "mean AR", "ADD(-S)", "5°5cm",
        caption="AR: mean of the recalls at BOP's thresholds. ADD(-S): below 10 % of the diameter. "
        "5°5cm: of the nearest symmetric version of the true pose. Total: all targets pooled.",
    )  # fmt: skip
    for object_id, row in scores.per_object.items():
        table.add_row(str(object_id), str(row.targets), *_recalls(row))
    table.add_section()
    if len(scores.per_object) > 1:
        means = scores.mean_over_objects()
        names = ("AR_MSSD", "AR_MSPD", "mean_AR", "add_s_0.1", "within_5deg_5cm")
        table.add_row("mean", "", *(f"{means[name]:.3f}" for name in names))
    table.add_row("total", str(scores.total.targets), *_recalls(scores.total), style="bold")
    return table


def _error_table(scores: Scores) -> Table:
    table = _empty_table(
        "rotation °", "Frobenius", "translation mm",
        caption="Mean / median over the targets that have an estimate (n), "
        "to the nearest symmetric version of the true pose.",
    )  # fmt: skip
    for object_id, row in scores.per_object.items():
        table.add_row(str(object_id), str(row.estimated), *_errors(row))
    table.add_section()
    table.add_row("total", str(scores.total.estimated), *_errors(scores.total), style="bold")
    return table


def _empty_table(*columns: str, caption: str) -> Table:
    table = Table(caption=caption, caption_justify="left")
    for column in ("object", "n", *columns):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _recalls(row: ScoreRow) -> list[str]:
    return [f"{value:.3f}" for value in (row.AR_MSSD, row.AR_MSPD, row.mean_AR, row.add_s[-1], row.within_5deg_5cm)]


def _errors(row: ScoreRow) -> list[str]:
    return [_spread(row.rotation, 1), _spread(row.frobenius, 3), _spread(row.translation, 1)]


def _spread(spread: Spread, digits: int) -> str:
    return "-" if math.isnan(spread.mean) else f"{spread.mean:.{digits}f} / {spread.median:.{digits}f}"

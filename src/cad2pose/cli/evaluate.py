"""`cad2pose evaluate`: scores of one or several BOP results files, and how far they can be trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from cad2pose.cli.arguments import ObjectIds, OptionalPath
from cad2pose.cli.console import plain_console
from cad2pose.cli.evaluate_tables import (
    breakdown_table,
    error_table,
    interval_table,
    paired_table,
    quality_text,
    recall_table,
    side_by_side_tables,
)
from cad2pose.cli.symmetry_remark import UNDECLARED, symmetry_remarks
from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.evaluation.bootstrap import PairedTest
from cad2pose.evaluation.headline import DRAWS, paired_tests, tests_json
from cad2pose.evaluation.scored_file import Question, distinct_names, score_file
from cad2pose.evaluation.scores import Scores, ScoringOptions
from cad2pose.evaluation.trust import Trust
from cad2pose.files import check_file, write_text


def evaluate_command(
    results: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RESULTS.csv [OTHERS.csv ...]", help_behavior_hint=""),
    ],
    /,
    bop: Path,
    split: str = "test",
    targets: OptionalPath = None,
    objects: ObjectIds = (),
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE", help_behavior_hint="")] = None,
    draws: int = DRAWS,
    seed: int = 0,
    visibility: Literal["bop19", "bop18"] = "bop19",
    as_written: bool = False,
    check_symmetries: bool = False,
) -> None:
    """Score BOP results files against ground truth.

    Of one file: BOP's average recalls (with VSD where the split has depth images), ADD(-S), n degrees n cm, average
    precision, mean and median errors, with bootstrap intervals; scores by visible share, distance and size; and what
    the estimates' own scores are worth. Of several: their figures side by side, and paired tests of the first against
    each other one.

    Args:
        results: csv files with the columns scene_id,im_id,obj_id,score,R,t,time.
        bop: folder of the BOP dataset, or the name of one in BOP_PATH.
        split: the split that the results are for.
        targets: targets file in place of the dataset's own (SPLIT_targets_bop19.json).
        objects: score these objects only.
        json_file: also write everything, and the errors of every estimate that counts, to this file.
        draws: of images, for the intervals and tests.
        seed: of the draws.
        visibility: what a pixel without depth means to VSD: visible (bop19), or not (bop18).
        as_written: score rotations that are orthonormal only to 1 % as they are, as BOP does, and not the nearest ones.
        check_symmetries: look for symmetries of parts that models_info.json declares without any (some seconds).
    """
    if not results:
        raise ValueError("no results file was given; give one or more csv files")
    if json_file is not None:
        check_file(json_file)
    question = Question.ask(BopDataset(find_dataset(bop), split), targets, objects)
    warnings = plain_console(stderr=True)
    found: list[tuple[str, Scores, Trust]] = []
    for path, name in zip(results, distinct_names(results), strict=True):
        file = score_file(path, name, question, ScoringOptions(visibility=visibility), as_written, draws, seed)
        for text in file.warnings:
            _warn(warnings, text if len(results) == 1 else f"{name}: {text}")
        found.append((name, file.scores, file.trust))
    for text in symmetry_remarks(question.parts, UNDECLARED) if check_symmetries else ():
        _warn(warnings, text)
    tests = [paired_tests(found[0][2].figures, other.figures) for _, _, other in found[1:]]
    console = plain_console()
    _print(console, found, tests)
    if json_file is not None:
        content = _json(found, tests, {"dataset": question.dataset.root.resolve().name, "split": split})
        write_text(json_file, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _print(
    console: Console, found: Sequence[tuple[str, Scores, Trust]], tests: Sequence[dict[str, PairedTest]]
) -> None:
    """The tables: all of them of one file, comparisons of several."""
    first, scores, report = found[0]
    if tests:
        names = [name for name, _, _ in found]
        console.print(*side_by_side_tables(names, [other.figures.values for _, _, other in found]))
        for (name, _, _), test in zip(found[1:], tests, strict=True):
            console.print(paired_table(first, name, test))
    else:
        console.print(recall_table(scores))
        console.print(error_table(scores))
        console.print(interval_table(report.figures.values, report.figures.intervals(), len(scores.table.images)))
        console.print(breakdown_table(report.groups))
        console.print(quality_text(report.quality), highlight=False)
    if scores.no_vsd:
        console.print(f"No AR VSD, and so no AR of BOP's: {scores.no_vsd}.", highlight=False)
    for name, each, _ in found:
        seconds = "not stated" if each.seconds_per_image is None else f"{each.seconds_per_image:.3f} s"
        console.print(
            f"{f'{name}: ' if tests else ''}{each.total.estimated} of {each.total.targets} targets have an estimate. "
            f"Time per image: {seconds}."
        )


def _json(
    found: Sequence[tuple[str, Scores, Trust]], tests: Sequence[dict[str, PairedTest]], about: dict[str, Any]
) -> dict[str, Any]:
    """Everything; the other files' entries stand in a list in the first one's."""
    entries = [{"results": name} | about | scores.to_json() | report.to_json() for name, scores, report in found]
    if not tests:
        return entries[0]
    others = [entry | {"minus_first": tests_json(test)} for entry, test in zip(entries[1:], tests, strict=True)]
    return entries[0] | {"others": others}


def _warn(console: Console, text: str) -> None:
    console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)

"""The page about results files: what they are worth, where they fail, and how two of them differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from cad2pose.evaluation.bootstrap import Interval, PairedTest
from cad2pose.evaluation.headline import FIGURE_TITLES, digits_of, p_text, paired_tests
from cad2pose.evaluation.scored_file import Question, ScoredFile
from cad2pose.evaluation.scores import Scores
from cad2pose.report.case_pictures import case_pictures
from cad2pose.report.case_words import describe
from cad2pose.report.cases import Case, list_cases, median, missed, most_different, worst
from cad2pose.report.score_plots import GROUPINGS, breakdown_plot, error_plot, main_measure, score_plot, time_plot
from cad2pose.report.skeleton import fixed, render_page
from cad2pose.report.timing import Timing, timing_of

CASES = 8
"""Cases of each kind and file, unless said otherwise."""

_MOST_PICTURES = 400
_LOWER_IS_BETTER = ("rotation_deg_median", "translation_mm_median")
_OBJECT_COLUMNS = {
    "AR_VSD": "AR VSD", "AR_MSSD": "AR MSSD", "AR_MSPD": "AR MSPD", "AR": "AR", "mean_AR_MSSD_MSPD": "mean AR",
    "recall_ADD_S_0p1d": "ADD(-S)", "recall_5deg_5cm_symmetric": "5°5cm",
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """One case in the gallery, as the template wants it: title, and per file picture, numbers, sentence."""

    title: str
    panels: list[dict[str, str]]


def score_page(files: Sequence[ScoredFile], question: Question, remarks: Sequence[str] = (), cases: int = CASES) -> str:
    """The whole page as text.

    Args:
        files: one or more, scored for the same question with the same draws.
        question: what they should answer.
        remarks: on the data set, such as symmetries that nobody declared.
        cases: of each kind and file in the gallery; fewer where there are many files.

    Raises:
        ValueError: if there is no file, or a negative number of cases.
    """
    if not files or cases < 0:
        raise ValueError(f"a report needs at least one file and no negative number of cases, got {len(files)}, {cases}")
    pairs = list(combinations(range(len(files)), 2))
    shown = min(cases, _MOST_PICTURES // (2 * len(files) + 2 * len(pairs)))
    every = list_cases(files, question)
    galleries = [
        {"worst": worst(every, i, shown), "median": median(every, i, shown), "missed": missed(every, i, min(4, shown))}
        for i in range(len(files))
    ]
    different = {pair: most_different(every, *pair, shown) for pair in pairs}
    wanted: list[tuple[Case, tuple[int, ...]]] = [
        (case, (i,)) for i, kinds in enumerate(galleries) for some in kinds.values() for case in some
    ]
    wanted += [(case, pair) for pair, some in different.items() for case in some]
    pictures, troubles = case_pictures(question.dataset, wanted)
    scores = [sorted(e.score for e in file.scores.estimates) for file in files]

    def show(some: Sequence[Case], places: Sequence[int]) -> list[Shown]:
        return [
            Shown(
                _title(case),
                [
                    _panel(case, i, picture, scores[i])
                    for i, picture in zip(places, pictures[*case.key, *places], strict=True)
                ],
            )
            for case in some
        ]

    measure, measure_title = main_measure(files[0])
    return render_page(
        "scores.html.j2",
        title=f"{question.dataset.root.resolve().name}, {question.dataset.split}: " + ", ".join(f.name for f in files),
        dataset=question.dataset.root.resolve().name, split=question.dataset.split, files=files,
        targets=files[0].scores.total.targets, images=len(files[0].scores.table.images), remarks=list(remarks),
        troubles=troubles, figures=_figures(files), draws=files[0].trust.draws,
        names={p.object_id: p.name for p in question.parts},
        objects=[_objects(file.scores) for file in files], no_vsd=files[0].scores.no_vsd,
        measure_title=measure_title, groups=_groups(files, measure), breakdown=breakdown_plot(files),
        errors=error_plot(files), quality=score_plot(files), times=_times(files), shown=shown, asked=cases,
        galleries=[{kind: show(some, (i,)) for kind, some in kinds.items()} for i, kinds in enumerate(galleries)],
        without=[sum(case.found[i] is None for case in every) for i in range(len(files))],
        pairs=[
            {"places": pair, "tests": _tests(files, *pair), "cases": show(different[pair], pair)} for pair in pairs
        ],
    )  # fmt: skip


def _figures(files: Sequence[ScoredFile]) -> list[dict[str, Any]]:
    """The headline table: a figure a row, a file a column."""
    intervals = [file.trust.figures.intervals() for file in files]
    rows = []
    for name, title in FIGURE_TITLES.items():
        if name in files[0].trust.figures.values:
            cells = [
                {
                    "value": file.trust.figures.values[name],
                    "text": _number(name, file.trust.figures.values[name]),
                    "interval": _interval(name, each[name]),
                }
                for file, each in zip(files, intervals, strict=True)
            ]
            rows.append({"name": name, "title": title, "cells": cells})
    return rows


def _objects(scores: Scores) -> dict[str, Any]:
    """One file's table by object, with the pooled targets as the last row."""
    columns = {name: title for name, title in _OBJECT_COLUMNS.items() if name in scores.total.measures}
    rows = [*((str(o), row) for o, row in scores.per_object.items()), ("all", scores.total)]
    return {"columns": columns, "rows": [{"object": name, "row": row} for name, row in rows]}


def _groups(files: Sequence[ScoredFile], measure: str) -> list[dict[str, Any]]:
    """The numbers of the breakdown's plot."""
    rows = []
    for place, group in enumerate(files[0].trust.groups):
        mine = [file.trust.groups[place] for file in files]
        cells = [
            {"text": fixed(g.row.measures[measure]), "interval": _interval(measure, g.intervals[measure])} for g in mine
        ]
        rows.append({"by": GROUPINGS[group.by], "label": group.label, "n": group.row.targets, "cells": cells})
    return rows


def _times(files: Sequence[ScoredFile]) -> dict[str, Any]:
    timings: list[Timing] = [timing_of(file) for file in files]
    stated = [i for i, timing in enumerate(timings) if len(timing.seconds)]
    plot = time_plot(stated, [timings[i].seconds for i in stated]) if stated else None
    return {"plot": plot, "files": timings}


def _tests(files: Sequence[ScoredFile], first: int, second: int) -> list[dict[str, Any]]:
    """Second minus first, figure by figure, with what that means in a word."""
    one, other = files[first].trust.figures, files[second].trust.figures
    rows = []
    for name, test in paired_tests(one, other).items():
        if name in FIGURE_TITLES:
            rows.append({
                "title": FIGURE_TITLES[name], "first": _number(name, one.values[name]),
                "second": _number(name, other.values[name]), "difference": _number(name, test.difference, "+"),
                "interval": _interval(name, test.interval, "+"), "p": p_text(test.p_value).replace("-", "–"),
                "verdict": _verdict(name, test, same_targets=_estimated(files[first]) == _estimated(files[second])),
            })  # fmt: skip
    return sorted(rows, key=lambda row: list(FIGURE_TITLES.values()).index(row["title"]))


def _estimated(file: ScoredFile) -> set[tuple[int, int, int]]:
    """Targets that a file has an estimate of."""
    return {(e.scene_id, e.image_id, e.ground_truth) for e in file.scores.estimates if math.isfinite(e.rotation)}


def _verdict(name: str, test: PairedTest, same_targets: bool) -> str:
    """Which of the two is better, if the interval leaves no doubt.

    Of offsets neither is, whose signs say where to; nor of medians over different targets.
    """
    if name.startswith("offset") or (name.endswith("_median") and not same_targets):
        return ""
    if not (test.interval.low > 0 or test.interval.high < 0):
        return ""
    return "second" if (test.difference > 0) != (name in _LOWER_IS_BETTER) else "first"


def _title(case: Case) -> str:
    return f"scene {case.scene_id}, image {case.image_id}, {case.part.name}"


def _panel(case: Case, file: int, picture: str, scores: Sequence[float]) -> dict[str, str]:
    error = case.found[file]
    numbers = ""
    if error is not None:
        numbers = (
            f"MSSD {fixed(error.mssd, 2)} d · MSPD {fixed(error.mspd, 1)} px · {fixed(error.rotation, 1)}° · "
            f"{fixed(error.translation, 1)} mm · score {error.score:.3g} · row {error.row}"
        )
    return {"file": str(file), "picture": picture, "numbers": numbers, "sentence": describe(case, file, scores)}


def _number(name: str, value: float, sign: str = "") -> str:
    return fixed(value, digits_of(name), sign)


def _interval(name: str, interval: Interval, sign: str = "") -> str:
    return f"{_number(name, interval.low, sign)} to {_number(name, interval.high, sign)}"

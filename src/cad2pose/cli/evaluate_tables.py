"""The tables that `cad2pose evaluate` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from cad2pose.confidence import RIGHT_BELOW
from cad2pose.evaluation.bootstrap import Interval, PairedTest
from cad2pose.evaluation.breakdown import Group
from cad2pose.evaluation.headline import FIGURE_TITLES, digits_of, p_text
from cad2pose.evaluation.score_quality import ScoreQuality
from cad2pose.evaluation.score_row import ScoreRow, Spread
from cad2pose.evaluation.scores import Scores

_FILES_A_TABLE = 4


def recall_table(scores: Scores) -> Table:
    """Recalls by object and over all targets."""
    with_depth = scores.total.AR is not None
    columns = ("AR VSD", "AR MSSD", "AR MSPD", "AR") if with_depth else ("AR MSSD", "AR MSPD", "mean AR")
    table = _empty_table(
        "object", "n", *columns, "ADD(-S)", "5°5cm",
        caption="AR: mean of the recalls at BOP's thresholds. ADD(-S): below 10 % of the diameter. "
        "5°5cm: of the nearest symmetric version of the true pose. Total: all targets pooled.",
    )  # fmt: skip
    names = ["AR_VSD", "AR_MSSD", "AR_MSPD", "AR"] if with_depth else ["AR_MSSD", "AR_MSPD", "mean_AR_MSSD_MSPD"]
    names += ["recall_ADD_S_0p1d", "recall_5deg_5cm_symmetric"]
    for object_id, row in scores.per_object.items():
        table.add_row(str(object_id), str(row.targets), *(f"{row.measures[name]:.3f}" for name in names))
    table.add_section()
    if len(scores.per_object) > 1:
        means = scores.mean_over_objects()
        table.add_row("mean", "", *(f"{means[name]:.3f}" for name in names))
    total = scores.total
    table.add_row("total", str(total.targets), *(f"{total.measures[name]:.3f}" for name in names), style="bold")
    return table


def error_table(scores: Scores) -> Table:
    """Mean and median errors by object and over all targets."""
    table = _empty_table(
        "object", "n", "rotation °", "Frobenius", "translation mm",
        caption="Mean / median over the targets that have an estimate (n), "
        "to the nearest symmetric version of the true pose.",
    )  # fmt: skip
    for object_id, row in scores.per_object.items():
        table.add_row(str(object_id), str(row.estimated), *_errors(row))
    table.add_section()
    table.add_row("total", str(scores.total.estimated), *_errors(scores.total), style="bold")
    return table


def interval_table(values: Mapping[str, float], intervals: Mapping[str, Interval], images: int) -> Table:
    """The main figures with their intervals."""
    table = _empty_table(
        "all targets", "value", "95 % interval",
        caption=f"Intervals: bootstrap over the {images} images. AP: precision of all estimates, mean over objects. "
        "Offsets: of the part's centre from the true one; an interval without 0 says that something is systematic: the "
        "camera, the crops, the labels or the model.",
    )  # fmt: skip
    for name, title in FIGURE_TITLES.items():
        if name in values:
            table.add_row(title, _number(name, values[name]), _interval(name, intervals[name]))
    return table


def breakdown_table(groups: Sequence[Group]) -> Table:
    """Scores by visible share, distance and size."""
    main = "AR" if groups and groups[0].row.AR is not None else "mean_AR_MSSD_MSPD"
    title = "AR" if main == "AR" else "mean AR"
    table = _empty_table("by", "group", "n", "ADD(-S)", title, "95 % interval", caption="")
    previous = ""
    for group in groups:
        if group.by == "object":
            continue
        if previous and previous != group.by:
            table.add_section()
        measures = group.row.measures
        table.add_row(
            group.by if group.by != previous else "", group.label, str(group.row.targets),
            f"{measures['recall_ADD_S_0p1d']:.3f}", f"{measures[main]:.3f}", _interval(main, group.intervals[main]),
        )  # fmt: skip
        previous = group.by
    return table


def side_by_side_tables(names: Sequence[str], values: Sequence[Mapping[str, float]]) -> list[Table]:
    """The main figures of several files, so many in a table that no number is broken on 80 columns."""
    tables = []
    for start in range(0, len(names), _FILES_A_TABLE):
        table = _empty_table("all targets", caption="")
        for name in names[start : start + _FILES_A_TABLE]:
            table.add_column(name, justify="right", overflow="fold", min_width=7)
        for name, title in FIGURE_TITLES.items():
            if name in values[0]:
                table.add_row(title, *(_number(name, each[name]) for each in values[start : start + _FILES_A_TABLE]))
        tables.append(table)
    return tables


def paired_table(first: str, second: str, tests: Mapping[str, PairedTest]) -> Table:
    """Differences of two files."""
    table = _empty_table(
        "all targets", "difference", "95 % interval", "p",
        caption=f"{second} minus {first}, in draws of images that both share. p: two-sided; of many "
        "figures, a few fall below 0.05 by chance. Medians are over the estimates that each file has: one that leaves "
        "hard targets out has better ones.",
    )  # fmt: skip
    for name, title in FIGURE_TITLES.items():
        if name in tests:
            test = tests[name]
            cells = _number(name, test.difference, "+"), _interval(name, test.interval, "+"), p_text(test.p_value)
            table.add_row(title, *cells)
    return table


def quality_text(quality: ScoreQuality | None) -> str:
    """What the estimates' scores are worth."""
    if quality is None:
        return "No estimate, so nothing is said of the scores."
    plain = "not within [0, 1], so no probabilities" if quality.plain_error is None else f"{quality.plain_error:.3f}"
    fitted = "-" if quality.fitted_error is None else f"{quality.fitted_error:.3f}"
    a, b = quality.calibration.a, quality.calibration.b
    return (
        f"Scores as probabilities that MSSD < {RIGHT_BELOW:g} d (true of {quality.right:.1%} of {quality.estimates} "
        f"estimates): expected calibration error {plain}; of sigmoid({a:.3g} score {b:+.3g}), on images left out of "
        f"the fit, {fitted}. Area under risk over coverage {quality.curve.area:.3f} (best order: "
        f"{quality.curve.least_area:.3f})."
    )


def _empty_table(*columns: str, caption: str) -> Table:
    table = Table(caption=caption or None, caption_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in ("all targets", "by", "group") else "right", no_wrap=True)
    return table


def _number(name: str, value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.{digits_of(name)}f}"


def _interval(name: str, interval: Interval, sign: str = "") -> str:
    return f"{_number(name, interval.low, sign)} to {_number(name, interval.high, sign)}"


def _errors(row: ScoreRow) -> list[str]:
    return [_spread(row.rotation, 1), _spread(row.frobenius, 3), _spread(row.translation, 1)]


def _spread(spread: Spread, digits: int) -> str:
    return "-" if math.isnan(spread.mean) else f"{spread.mean:.{digits}f} / {spread.median:.{digits}f}"

"""Tables of compared methods for docs/results.md, and the records under docs/data that they are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cad2pose.experiments import CONTESTANTS, PhotographScores, as_json, finished, from_json
from cad2pose.experiments.finished_runs import on_photographs, pixels_of_photographs
from cad2pose.experiments.pixel_matches import PixelScores
from cad2pose.experiments.report import markdown_table, photographs_table, pixels_table, shares_table, table
from cad2pose.files import write_text

_BASE = "SurfEmb, published solver"
_LMO = {"1": "ape", "5": "can", "6": "cat", "8": "driller", "9": "duck", "10": "eggbox", "11": "glue",
        "12": "holepuncher"}  # fmt: skip
_CALLED = {"obj_000006": "LM-O, cat"}


def add_runs(crops: Path, photographs: Path, runs: Path, pixels: Path | None = None) -> None:
    """Take the finished runs of a comparison's folder into the records; errors are rounded."""
    _write(crops, as_json(_latest([*from_json(_read(crops)), *finished(runs)])))
    _write(photographs, [asdict(one) for one in _latest([*_scores(photographs), *on_photographs(runs)])])
    if pixels is not None:
        _write(pixels, [asdict(one) for one in _latest([*_pixels(pixels), *pixels_of_photographs(runs)])])


def compared(crops: Path, photographs: Path) -> str:
    """Tables of a comparison, part by part: on rendered crops, and on photographs where there are any."""
    shown = [name for name, contestant in CONTESTANTS.items() if contestant.shown]
    found = [one for one in from_json(_read(crops)) if one.contestant in shown]
    seen = [one for one in _scores(photographs) if one.contestant in shown]
    blocks = []
    for part in dict.fromkeys(one.part for one in found):
        blocks += [f"**{_CALLED.get(part, part)}**", table([one for one in found if one.part == part])]
        if real := [one for one in seen if one.part == part]:
            blocks += ["The same models on photographs, from one look at every box:", photographs_table(real)]
    return "\n\n".join(blocks)


def changes(crops: Path, photographs: Path, pixels: Path, kind: str) -> str:
    """What contestants whose names begin with `kind` change of `coarse`: on rendered crops, and of photographs the
    pixels and the poses.
    """

    def about(name: str) -> bool:
        return name == "coarse" or name.startswith(kind)

    found = [one for one in from_json(_read(crops)) if about(one.contestant)]
    seen = [one for one in _scores(photographs) if about(one.contestant)]
    matched = [one for one in _pixels(pixels) if about(one.contestant)]
    blocks = [
        "On 200 rendered crops, errors as shares of those of `coarse`:", shares_table(found),
        "Pixels of the photographs, and how far they are from those of `coarse`:", pixels_table(matched),
        "Poses on the photographs, from one look at the surest boxes:", photographs_table(seen),
    ]  # fmt: skip
    return "\n\n".join(blocks)


def robustness(what: str, records: Sequence[dict[str, Any]]) -> str:
    """Median errors of contestants by how something is changed; shares of the first one's."""
    names = list(dict.fromkeys(record["contestant"] for record in records))
    cells: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        row = cells.setdefault((record["changed"], record["way"], record["figure"]), [])
        share = _share(record["share"], record["low"], record["high"])
        row.append(f"{record['median']:.1f}" + ("" if record["contestant"] == names[0] else f", {share}"))
    return markdown_table([what, "poses from", "median", *names], [[*key, *row] for key, row in cells.items()])


def against_twin(records: Sequence[dict[str, Any]]) -> str:
    """The flagship next to SurfEmb with its published solver; shares of the latter's errors where a record has them."""
    head = ["part", "poses from", "R median (deg)", "R mean", "t median (%)", "t mean", "R median, of the last",
            "t median, of the last", "ms a crop", "of the last"]  # fmt: skip
    rows = []
    for record in records:
        base = record["figures"][_BASE]["ms"]
        for name, row in record["figures"].items():
            errors = [f"{row[key]:.1f}" for key in ("R median", "R mean")] + [
                f"{row[key]:.2f}" for key in ("t median", "t mean")
            ]
            shares = record.get("ratios", {}).get(name) if name != _BASE else None
            ratios = [_share(*shares[key]) if shares else "" for key in ("R median", "t median")]
            part = f"{record['part']} ({record['crops']} crops)"
            rows.append([part, name, *errors, *ratios, f"{row['ms']:.0f}", f"1/{base / row['ms']:.0f}"])
    return markdown_table(head, rows)


def box_alone(records: Sequence[dict[str, Any]]) -> str:
    """What the best constant pose gets of every object's targets."""
    head = ["object", "targets", "mean of both", "AR_MSSD", "AR_MSPD", "ADD(-S) 0.1 d", "R mean (deg)", "R median",
            "t mean (mm)", "t median"]  # fmt: skip
    rows = []
    for row in records:
        recalls = [row["mean_AR_MSSD_MSPD"], row["AR_MSSD"], row["AR_MSPD"], row["recall_ADD_S_0p1d"]]
        errors = [row[key][kind] for key in ("rotation_deg", "translation_mm") for kind in ("mean", "median")]
        cells = [*(f"{value:.3f}" for value in recalls), *(f"{value:.1f}" for value in errors)]
        rows.append([str(row["object"]), f"{row['n_estimated']} of {row['n']}", *cells])
    return markdown_table(head, rows)


def three_objects(records: dict[str, dict[str, Any]], published: dict[str, Any]) -> str:
    """Means of both recalls of models for one object each, beside published ones, and what the models cost.

    `records` has the record of every object by its name, `published` the figures of every method by objects' ids.
    """
    by_id = {str(record["parts"][0]["object_id"]): record for record in records.values()}
    ways = [way for way in next(iter(by_id.values()))["figures"] if all(way in r["figures"] for r in by_id.values())]
    rows = [
        (f"**cad2pose, {way}**", [r["figures"][way]["all"]["mean_AR_MSSD_MSPD"] for r in by_id.values()])
        for way in ways
    ]  # fmt: skip
    for method, figures in published.items():
        recalls = [figures["per_object"][object_id] for object_id in by_id]
        rows.append((method, [_mean_of_both(row) for row in recalls]))
    rows.sort(key=lambda row: sum(row[1]))
    cells = [[name, *(f"{value:.3f}" for value in (*values, sum(values) / len(values)))] for name, values in rows]
    about = [f"{name}: {training(record)}." for name, record in records.items()]
    return "\n".join(f"- {line}" for line in about) + "\n\n" + markdown_table(["method", *records, "mean"], cells)


def all_objects(record: dict[str, Any], published: dict[str, Any]) -> str:
    """Means of both recalls of one model of all of a data set's objects, over all targets and by object, beside
    published ones.
    """
    ids = [str(part["object_id"]) for part in record["parts"]]
    names = [_LMO.get(object_id, object_id) for object_id in ids]
    found = {f"**cad2pose, {way}**": figures for way, figures in record["figures"].items()} | published
    rows = []
    for method, figures in found.items():
        scores = [figures["all"], *(figures["per_object"][object_id] for object_id in ids)]
        rows.append((method, [_mean_of_both(row) for row in scores]))
    rows.sort(key=lambda row: row[1][0])
    cells = [[name, *(f"{value:.3f}" for value in values)] for name, values in rows]
    return f"{training(record)}.\n\n" + markdown_table(["method", "all targets", *names], cells)


def training(record: dict[str, Any]) -> str:
    """What a model's training was, in words."""
    info = record["training"]
    minutes = float(info["seconds"]) / 60
    before = f" after {int(info['samples_before']):,} of earlier runs" if "samples_before" in info else ""
    return (
        f"{int(info['samples']):,} training crops{before}, {minutes:.0f} minutes on {info['device']}, "
        f"{record['parameters'] / 1e6:.2f} M parameters"
    )


def _mean_of_both(row: dict[str, Any]) -> float:
    return (row["AR_MSSD"] + row["AR_MSPD"]) / 2


def _share(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _latest(rows: list[Any]) -> list[Any]:
    """The last one of every way of every run, in order; contestants that are no more come last."""
    order = {name: place for place, name in enumerate(CONTESTANTS)}
    by_run = {(one.part, one.contestant, getattr(one, "way", ""), one.seed): one for one in rows}
    return sorted(by_run.values(), key=lambda one: (one.part, order.get(one.contestant, len(order)), one.seed))


def _scores(file: Path) -> list[PhotographScores]:
    return [PhotographScores(**row) for row in _read(file)]


def _pixels(file: Path) -> list[PixelScores]:
    return [PixelScores(**{**row, "figures": tuple(map(tuple, row["figures"]))}) for row in _read(file)]


def _read(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text()) if file.is_file() else []


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    write_text(file, "[\n" + ",\n".join(json.dumps(_rounded(row)) for row in rows) + "\n]\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value

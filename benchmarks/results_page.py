"""Fills in the tables and plots of docs/results.md and docs/sim-to-real.md from the JSON files that benchmarks wrote.

The page's own text stays as it is; what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced.
Published results are read from lmo_published.json in REFERENCE_PATH; without it those tables are left alone.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import tyro

from cad2pose.experiments.report import markdown_table
from cad2pose.files import replacing, write_text
from compared_tables import (
    add_runs,
    against_twin,
    all_objects,
    box_alone,
    changes,
    compared,
    robustness,
    three_objects,
    training,
)

mpl.use("Agg")
import matplotlib.pyplot as plt

_PUBLISHED = ("megapose_cnosfastsam", "epos_f256", "epos_f64_bop20", "semantic_keypoints", "gdrnpp_pbr", "zebrapose")
# Table 8.4 of the thesis this grew out of: mean errors on 133 real images of the cat.
_THESIS = (("the thesis' end-to-end model", 0.481, 19.6, 49.4), ("SurfEmb, in the thesis", 0.148, 6.0, 26.4))

_LOOKS = ("1 look", "4 looks", "1 look, refined")
_GDRNET = ("1 look", "4 looks", "1 look, PnP")
_SOLVED = ("1 look, sampling", "1 look, search")
_WAYS = {"1 look": "regression alone", "1 look, refined": "regression, refined",
         "1 look, sampling": "sampling, refined", "1 look, search": "search, refined"}  # fmt: skip


def main(
    page: Path = Path("docs/results.md"),
    data: Path = Path("docs/data"),
    runs: Path | None = None,
    left_out: Path | None = None,
) -> None:
    """Fill in the page.

    Args:
        page: the page.
        data: folder of the records (builtin, gdrnet_long, ape, cat, holepuncher, cat_full, surfemb_full,
            surfemb_visible, cat_surfemb, cat_quick_nothing and cat_quick_builtin, .json), of compare_tiny.json and
            compare_tiny_photographs.json, box_alone.json, robust_colours.json, robust_boxes.json, against_twin_*.json
            and calibration_*.json, and of curves_builtin.jsonl, curves_gdrnet_long.jsonl, curves_cat.jsonl and
            curves_cat_full.jsonl.
        runs: folder of a comparison of tiny models, whose finished runs are taken into these two first.
        left_out: the same of a comparison of ingredients and settings, for ingredients.json,
            ingredients_photographs.json and ingredients_pixels.json.
    """
    compare_tiny = data / "compare_tiny.json", data / "compare_tiny_photographs.json"
    if runs is not None:
        add_runs(*compare_tiny, runs)
    crops, photographs, pixels = (data / f"ingredients{kind}.json" for kind in ("", "_photographs", "_pixels"))
    if left_out is not None:
        add_runs(crops, photographs, left_out, pixels)
    names = ("builtin", "gdrnet_long", "ape", "cat", "holepuncher", "cat_full", "surfemb_full", "surfemb_visible",
             "cat_surfemb")  # fmt: skip
    builtin, gdrnet, ape, cat, holepuncher, cat_full, full, visible, cat_surfemb = (
        json.loads((data / f"{name}.json").read_text()) for name in names
    )
    text = page.read_text()
    text = _fill(text, "builtin", _builtin_table(builtin, _LOOKS))
    text = _fill(text, "gdrnet long", _builtin_table(gdrnet, _GDRNET))
    text = _fill(text, "ways", _ways_table(builtin))
    text = _fill(text, "surfemb", _surfemb_table({"full": full, "visible": visible}))
    text = _fill(text, "cat", _cat_table(cat))
    quick = {name: json.loads((data / f"cat_quick_{name}.json").read_text()) for name in ("nothing", "builtin")}
    text = _fill(text, "quick", _story_table("started from", quick))
    text = _fill(text, "box alone", box_alone(json.loads((data / "box_alone.json").read_text())))
    text = _fill(text, "cat full", _cat_table(cat_full))
    text = _fill(text, "cat surfemb", _cat_table(cat_surfemb))
    text = _fill(text, "compare tiny", compared(*compare_tiny))
    against = [json.loads(file.read_text()) for file in sorted(data.glob("against_twin_*.json"))]
    text = _fill(text, "against twin", against_twin(against))
    calibrations = {
        file.stem.removeprefix("calibration_"): json.loads(file.read_text())
        for file in sorted(data.glob("calibration_*.json"))
    }
    text = _fill(text, "calibration", _calibration_table(calibrations))
    _plot_reliability(calibrations, page.parent / "images" / "reliability.png")
    text = _fill(text, "thesis", _thesis_table({"small": cat, "full-size": cat_full}))
    published = Path(os.environ.get("REFERENCE_PATH", "")) / "lmo_published.json"
    if published.is_file():
        ours = {"query": cat, "query, full-size": cat_full, "SurfEmb": cat_surfemb}
        methods = json.loads(published.read_text())["methods"]
        text = _fill(text, "published", _published_table(ours, methods))
        models = {"ape": ape, "cat": cat, "holepuncher": holepuncher}
        if (data / "lmo.json").is_file():  # once there is a model of all objects
            record = json.loads((data / "lmo.json").read_text())
            text = _fill(text, "all objects", all_objects(record, {name: methods[name] for name in _PUBLISHED}))
        text = _fill(text, "three objects", three_objects(models, {name: methods[name] for name in _PUBLISHED}))
    for name, record in (("builtin", builtin), ("gdrnet_long", gdrnet), ("cat", cat), ("cat_full", cat_full)):
        curves = [json.loads(line) for line in (data / f"curves_{name}.jsonl").read_text().splitlines()]
        seen = sum(int(record["training"].get(key, 0)) for key in ("samples", "samples_before"))
        batch = seen // int(curves[-1]["step"])
        text = _fill(text, f"curve {name}", _curve_table(curves, batch))
        _plot(curves, batch, page.parent / "images" / f"curves_{name}.png")
    write_text(page, text)
    story = page.parent / "sim-to-real.md"
    text = _fill(story.read_text(), "path traced", _traced_table(json.loads((data / "path_traced.json").read_text())))
    records = {"before": cat, **{
        f"with{out} light": json.loads((data / f"cat_with{out}_light.json").read_text()) for out in ("", "out")
    }}  # fmt: skip
    text = _fill(text, "sim to real", _story_table("trained further", records))
    for what in ("colours", "boxes"):
        text = _fill(text, f"robust {what}", robustness(what, json.loads((data / f"robust_{what}.json").read_text())))
    if crops.is_file():  # once its comparison has been run
        text = _fill(text, "ingredients", changes(crops, photographs, pixels, "without-"))
        text = _fill(text, "settings", changes(crops, photographs, pixels, "coarse-"))
    write_text(story, text)


def _traced_table(record: dict[str, dict[str, float]]) -> str:
    rows = [[name, *(f"{value:.1f} %" for value in row.values())] for name, row in record.items()]
    head = ["scene", "without shadows and openness, to straight light", "to straight light", "to all light"]
    return markdown_table(head, rows)


def _story_table(what: str, records: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, record in records.items():
        for way in ("one look", "one look, refined", "one look, sampling", "two looks, refined"):
            row = record["figures"][way]["all"]
            recalls = [f"{row[key]:.3f}" for key in ("mean_AR_MSSD_MSPD", "AR_MSSD", "AR_MSPD")]
            medians = [f"{row[key]['median']:.1f}" for key in ("rotation_deg", "translation_mm")]
            rows.append([name, way, *recalls, *medians])
    head = [what, "estimator", "mean of both", "AR_MSSD", "AR_MSPD", "R median (deg)", "t median (mm)"]
    return markdown_table(head, rows)


def _fill(text: str, name: str, block: str) -> str:
    pattern = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no place for {name!r}: <!-- begin {name} --> ... <!-- end {name} -->")
    return pattern.sub(lambda found: found[1] + block + "\n" + found[2], text)


def _builtin_table(record: dict[str, Any], ways: tuple[str, ...]) -> str:
    rows = []
    for way in ways:
        for name, row in record["figures"][way].items():
            share = 100 * row["share_under_10_deg"]
            cells = [f"{row[key]:.1f}" for key in ("rotation_deg", "translation_percent", "depth_percent")]
            rows.append([way, name, str(row["n"]), *cells, f"{share:.0f} %"])
    head = ["looks", "part", "crops", "median rotation error (deg)", "median translation error (% of distance)",
            "median depth error (%)", "rotation under 10 deg"]  # fmt: skip
    return f"{training(record)}.\n\n" + markdown_table(head, rows)


def _ways_table(record: dict[str, Any]) -> str:
    """All parts together, with the time that every way takes."""
    rows = [_way(name, record["figures"][way]["all parts"]) for way, name in _WAYS.items()]
    head = ["poses from", "crops", "median rotation error (deg)", "median translation error (%)",
            "rotation under 10 deg", "ms a crop"]  # fmt: skip
    return markdown_table(head, rows)


def _way(name: str, row: dict[str, Any]) -> list[str]:
    errors = [f"{row[key]:.1f}" for key in ("rotation_deg", "translation_percent")]
    share = f"{100 * row['share_under_10_deg']:.0f} %"
    return [name, str(row["n"]), *errors, share, f"{row['milliseconds']:.0f}"]


def _surfemb_table(records: dict[str, dict[str, Any]]) -> str:
    rows = []
    for pixels, record in records.items():
        for way in _SOLVED:
            for part, row in record["figures"][way].items():
                errors = [f"{row[key]:.1f}" for key in ("rotation_deg", "translation_percent", "depth_percent")]
                share = f"{100 * row['share_under_10_deg']:.0f} %"
                rows.append([pixels, way.removeprefix("1 look, "), part, str(row["n"]), *errors, share])
    head = ["positives from the", "solver", "part", "crops", "median rotation error (deg)",
            "median translation error (% of distance)", "median depth error (%)", "rotation under 10 deg"]  # fmt: skip
    return f"{training(next(iter(records.values())))}, each.\n\n" + markdown_table(head, rows)


def _calibration_table(records: dict[str, list[dict[str, Any]]]) -> str:
    rows = [
        [name, test["way"], test["part"], f"{test['fitted']:,}; {test['tested']:,}", f"{test['right']:.0%}",
         f"{test['error']:.3f}", _shares(test["rough_promised"], test["rough_right"]),
         _shares(test["without_promised"], test["without_likely"])]
        for name, tests in records.items()
        for test in tests
    ]  # fmt: skip
    head = ["model", "poses", "part", "fitted on; tested on", "right", "expected calibration error",
            "rough boxes: promised; right", "without the part: promised; called likely"]  # fmt: skip
    return markdown_table(head, rows)


def _shares(*values: float | None) -> str:
    return "; ".join("-" if value is None else f"{value:.1%}" for value in values)


def _plot_reliability(records: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Of all parts of every model together."""
    whole = {name: [test for test in tests if test["part"] == "all parts"] or tests for name, tests in records.items()}
    figure, axes = plt.subplots(1, len(whole), figsize=(4 * len(whole), 3.8), squeeze=False, layout="constrained")
    for panel, (name, tests) in zip(axes[0], whole.items(), strict=True):
        panel.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for test in tests:
            points = [(one["promised"], one["frequency"]) for one in test["bins"]]
            panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=test["way"])
        panel.set(title=name, xlabel="chance promised", ylabel="share that was right", xlim=(0, 1), ylim=(0, 1))
        panel.legend(frameon=False)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=110, format="png")
    plt.close(figure)


def _cat_table(record: dict[str, Any]) -> str:
    rows = []
    for name, figures in record["figures"].items():
        row = figures["all"]
        recalls = [row["mean_AR_MSSD_MSPD"], row["AR_MSSD"], row["AR_MSPD"], row["recall_ADD_S_0p1d"]]
        cells = [f"{row[key][kind]:.1f}" for key in ("rotation_deg", "translation_mm") for kind in ("mean", "median")]
        took = f"{figures['milliseconds_per_box']:.0f}"
        rows.append([name, f"{row['n_estimated']} of {row['n']}", *(f"{value:.3f}" for value in recalls), *cells, took])
    head = ["estimator", "targets", "mean of both", "AR_MSSD", "AR_MSPD", "ADD(-S) 0.1 d", "R mean (deg)",
            "R median", "t mean (mm)", "t median", "ms a box (CPU)"]  # fmt: skip
    settings = record["settings"]
    about = f"{training(record)}; {settings['images']} images that show it, boxes `{settings['boxes']}`."
    return f"{about}\n\n" + markdown_table(head, rows)


def _published_table(records: dict[str, dict[str, Any]], methods: dict[str, Any]) -> str:
    rows = []
    for method in _PUBLISHED:
        row = methods[method]["per_object"]["6"]
        rows.append((method, row["AR_MSSD"], row["AR_MSPD"], row["recall_ADD_S_0p1d"]))
    for model, record in records.items():
        for name, figures in record["figures"].items():
            row = figures["all"]
            rows.append((f"**cad2pose {model}, {name}**", row["AR_MSSD"], row["AR_MSPD"], row["recall_ADD_S_0p1d"]))
    rows.sort(key=lambda row: row[1] + row[2])
    cells = [[r[0], f"{(r[1] + r[2]) / 2:.3f}", f"{r[1]:.3f}", f"{r[2]:.3f}", f"{r[3]:.3f}"] for r in rows]
    return markdown_table(["method", "mean of both", "AR_MSSD", "AR_MSPD", "ADD(-S) 0.1 d"], cells)


def _thesis_table(records: dict[str, dict[str, Any]]) -> str:
    rows = [[name, "133", f"{frobenius:.3f}", f"{angle:.1f}", "", f"{millimetres:.1f}", ""]
            for name, frobenius, angle, millimetres in _THESIS]  # fmt: skip
    for model, name in ((model, name) for model, record in records.items() for name in record["figures"]):
        row = records[model]["figures"][name]["all"]
        frobenius, angle, offset = row["rotation_frobenius"], row["rotation_deg"], row["translation_mm"]
        rows.append([
            f"cad2pose, {model}, {name}", str(row["n_estimated"]), f"{frobenius['mean']:.3f}", f"{angle['mean']:.1f}",
            f"{angle['median']:.1f}", f"{offset['mean']:.1f}", f"{offset['median']:.1f}",
        ])  # fmt: skip
    head = ["method", "targets", "R mean (Frobenius)", "R mean (deg)", "R median", "t mean (mm)", "t median"]
    return markdown_table(head, rows)


def _validations(curves: list[dict[str, float]], batch: int) -> list[tuple[int, dict[str, float]]]:
    return [(int(line["step"]) * batch, line) for line in curves if "validation/rotation_deg" in line]


def _curve_table(curves: list[dict[str, float]], batch: int) -> str:
    found = _validations(curves, batch)
    chosen = found[:: max(1, len(found) // 8)]
    if found and found[-1] not in chosen:
        chosen.append(found[-1])
    rows = [
        [f"{seen:,}", f"{line['validation/rotation_deg']:.1f}", f"{line['validation/translation_percent']:.1f}"]
        for seen, line in chosen
    ]
    return markdown_table(["crops seen", "median rotation error (deg)", "median translation error (%)"], rows)


def _plot(curves: list[dict[str, float]], batch: int, path: Path) -> None:
    found = _validations(curves, batch)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    names = sorted({key.split("/")[1] for _, line in found for key in line if key.count("/") == 2}) or [""]
    for name in names:
        prefix = f"validation/{name}/" if name else "validation/"
        seen = [x / 1000 for x, _ in found]
        left.plot(seen, [line[prefix + "rotation_deg"] for _, line in found], marker="o", ms=3, label=name or None)
        right.plot(seen, [line[prefix + "translation_percent"] for _, line in found], marker="o", ms=3)
    left.set_ylabel("median rotation error (deg)")
    right.set_ylabel("median translation error (%)")
    for axes in (left, right):
        axes.set_xlabel("training crops (thousands)")
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
    if len(names) > 1:
        left.legend()
    with replacing(path) as aside:
        figure.savefig(aside, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    tyro.cli(main)

"""What a comparison says: a table with confidence intervals, its numbers, and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cad2pose.experiments.comparison import ComparisonConfig
from cad2pose.experiments.contestants import CONTESTANTS
from cad2pose.experiments.finished_runs import Comparison, as_json, on_photographs, outdated, pixels_of_photographs
from cad2pose.experiments.intervals import mean_interval, median_interval, share_interval
from cad2pose.experiments.judging import NO_POSE
from cad2pose.experiments.photographs import RECORD, PhotographScores
from cad2pose.experiments.pixel_matches import PIXEL_FIGURES, PixelScores, pixel_cells
from cad2pose.files import replacing, write_text

_PHOTOGRAPHS = {
    "mean of both": ("mean_AR", 3), "AR_MSSD": ("AR_MSSD", 3), "AR_MSPD": ("AR_MSPD", 3),
    "ADD(-S) 0.1 d": ("add_s", 3), "R mean (deg)": ("rotation_deg_mean", 1), "R median": ("rotation_deg_median", 1),
    "R mean (Frobenius)": ("rotation_frobenius_mean", 3), "t mean (mm)": ("translation_mm_mean", 1),
    "t median": ("translation_mm_median", 1),
}  # fmt: skip
_HEAD = (
    "contestant", "poses from", "seeds", "R median (deg)", "R mean (deg)", "R mean (Frobenius)", "t median (%)",
    "t mean (%)", "R under 10 deg", "network, pose (ms a crop)", "parameters (M)", "minutes",
)  # fmt: skip


def write_report(found: Sequence[Comparison], config: ComparisonConfig, out: Path, device: str) -> Path:
    """Write `comparison.md`, `comparison.json` and plots; returns the first.

    What was judged on photographs is read from the folder, and goes to the page and to `photographs.json`.
    """
    seen, matched = on_photographs(out), pixels_of_photographs(out)
    known = dict.fromkeys((one.trained_on, one.judged_on) for one in found if one.judged_on)
    where = device
    if len(known) == 1:
        ((trained_on, judged_on),) = known
        where = judged_on if trained_on == judged_on else f"trained on {trained_on}, judged on {judged_on}"
    elif known:
        where = "of several devices, whose times do not compare"
    lines = [f"{config.samples:,} training crops a run, judged on {config.judged} fresh crops each; {where}.", ""]
    for part in dict.fromkeys(one.part for one in found):
        rows = [one for one in found if one.part == part and CONTESTANTS[one.contestant].shown]
        if not rows:
            continue
        lines += [f"## {part}", "", table(rows), ""]
        if shares := shares_table(rows):
            lines += [f"Errors as shares of those of {rows[0].contestant} on the same crops under the same seeds:", "",
                      shares, ""]  # fmt: skip
        real = [one for one in seen if one.part == part and CONTESTANTS[one.contestant].shown]
        if real:
            lines += ["On photographs, from one look at the surest boxes:", "", photographs_table(real), ""]
        pixels = [one for one in matched if one.part == part and CONTESTANTS[one.contestant].shown]
        if pixels:
            lines += [f"Their pixels, around the annotated boxes, and how far they are from those of "
                      f"{pixels[0].contestant} under the same seeds:", "", pixels_table(pixels), ""]  # fmt: skip
    lines += [
        "In brackets: 95 % bootstrap intervals over the crops (or photographs) and seeds, then the seeds' own. Of one",
        "seed they do not say how far another may lie, of two or three too little of it. Errors are modulo the",
        "symmetries; translations in % of the distance. A crop without a pose counts as "
        f"{NO_POSE[0]:g} deg and {NO_POSE[1]:g} %.",
        "Times are of batches of 16: processor time on a CPU, else wall time.", "",
    ]  # fmt: skip
    if len(known) > 1:
        for trained_on, judged_on in known:
            names = dict.fromkeys(
                f"{one.contestant}, seed {one.seed}" for one in found
                if (one.trained_on, one.judged_on) == (trained_on, judged_on) and CONTESTANTS[one.contestant].shown
            )  # fmt: skip
            lines.append(f"Trained on {trained_on}, judged on {judged_on}: {'; '.join(names)}.")
        lines.append("")
    if left := outdated(out):
        lines += ["Left out, as they were judged by other rules or on other photographs or boxes (name them again in a "
                  f"call of compare, to have them judged anew): {'; '.join(left)}.", ""]  # fmt: skip
    if bare := dict.fromkeys(one.contestant for one in found if CONTESTANTS[one.contestant].shown and not one.curve):
        lines += [f"No curve of errors has {', '.join(bare)}: its validations judge matches, not poses.", ""]
    for name in dict.fromkeys(one.contestant for one in found if CONTESTANTS[one.contestant].shown):
        lines.append(f"- `{name}`: {CONTESTANTS[name].about}")
    write_text(out / "comparison.json", json.dumps(as_json(found)))
    if seen:
        write_text(out / RECORD, json.dumps([asdict(one) for one in seen]))
    write_text(out / "comparison.md", "\n".join(lines) + "\n")
    _plot(found, out)
    return out / "comparison.md"


def table(found: Sequence[Comparison]) -> str:
    """A row for every way of every contestant, seeds together."""
    rows = []
    for contestant, way in dict.fromkeys((one.contestant, one.way) for one in found):
        runs = [one for one in found if (one.contestant, one.way) == (contestant, way)]
        turns, shifts = (np.array([getattr(run, name) for run in runs]) for name in ("rotation", "translation"))
        frobenius = 2 * np.sqrt(2) * np.sin(np.radians(turns) / 2)
        network, pose, minutes = (
            np.mean([getattr(run, k) for run in runs]) for k in ("network_ms", "pose_ms", "minutes")
        )
        rows.append([
            contestant, way, _seeds(runs), _with_interval(turns, 1), _mean_with_interval(turns, 1),
            f"{frobenius.mean():.3f}", _with_interval(shifts, 2), _mean_with_interval(shifts, 2),
            f"{100 * (turns < 10).mean():.0f} %",
            f"{network:.1f} + {pose:.1f}", f"{runs[0].parameters / 1e6:.1f}", f"{minutes:.0f}",
        ])  # fmt: skip
    return markdown_table(_HEAD, rows)


def photographs_table(seen: Sequence[PhotographScores]) -> str:
    """The same of photographs: means over the seeds, as the thesis has them and as BOP has them.

    Intervals stand beside the figures of a single seed.
    """
    rows = []
    for contestant, way in dict.fromkeys((one.contestant, one.way) for one in seen):
        runs = [one for one in seen if (one.contestant, one.way) == (contestant, way)]
        cells = []
        for name, digits in _PHOTOGRAPHS.values():
            values = [value for run in runs if (value := run.figures[name]) is not None]
            cells.append(f"{np.mean(values):.{digits}f}" if values else "")
            if len(runs) == 1 and name in runs[0].intervals:
                low, high = runs[0].intervals[name]
                cells[-1] += f" ({low:.{digits}f} to {high:.{digits}f})"
        found = f"{np.mean([run.estimated for run in runs]):.4g} of {runs[0].targets}"
        rows.append([contestant, way, _seeds(runs), found, *cells])
    return markdown_table(("contestant", "poses from", "seeds", "targets", *_PHOTOGRAPHS), rows)


def shares_table(found: Sequence[Comparison]) -> str:
    """Median errors of every contestant as shares of the first one's by the same way; "" where there is no other."""
    rows = []
    for contestant, way in dict.fromkeys((one.contestant, one.way) for one in found):
        ours, base = ({one.seed: one for one in found if (one.contestant, one.way) == (name, way)}
                      for name in (contestant, found[0].contestant))  # fmt: skip
        seeds = [seed for seed in ours if seed in base and len(ours[seed].rotation) == len(base[seed].rotation)]
        if contestant == found[0].contestant or not seeds:
            continue
        cells = []
        for kind in ("rotation", "translation"):
            both = [np.array([getattr(one[seed], kind) for seed in seeds]) for one in (ours, base)]
            own = [f"{np.median(one) / np.median(other):.2f}" for one, other in zip(*both, strict=True)]
            share, low, high = share_interval(both[0], both[1])
            cells.append(f"{share:.2f} ({low:.2f} to {high:.2f})" + (f": {', '.join(own)}" if len(own) > 1 else ""))
        rows.append([contestant, way, ", ".join(map(str, seeds)), *cells])
    return markdown_table(("contestant", "poses from", "seeds", "R median", "t median"), rows) if rows else ""


def pixels_table(matched: Sequence[PixelScores]) -> str:
    """How well pixels find their surface points, seeds together, and how far that is from the first contestant."""
    by_name: dict[str, dict[int, PixelScores]] = {}
    for one in matched:
        by_name.setdefault(one.contestant, {})[one.seed] = one
    first = next(iter(by_name.values()), {})
    rows = []
    for name, runs in by_name.items():
        seeds = [seed for seed, run in runs.items() if seed in first and len(run.figures) == len(first[seed].figures)]
        others = [np.array([some[seed].figures for seed in seeds]) for some in (runs, first)]
        cells = pixel_cells(others[0] if seeds else np.array([run.figures for run in runs.values()]),
                            others[1] if seeds and runs is not first else None)  # fmt: skip
        rows.append([name, ", ".join(map(str, seeds or runs)), str(len(next(iter(runs.values())).figures)), *cells])
    return markdown_table(("contestant", "seeds", "crops", *PIXEL_FIGURES), rows)


def _seeds(runs: Sequence[Comparison] | Sequence[PhotographScores]) -> str:
    return ", ".join(str(run.seed) for run in runs)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _mean_with_interval(values: np.ndarray, digits: int) -> str:
    low, high = mean_interval(values)
    return f"{values.mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _with_interval(values: np.ndarray, digits: int) -> str:
    """The median of all runs, its interval, and the runs' own medians."""
    low, high = median_interval(values)
    text = f"{np.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
    own = ", ".join(f"{value:.{digits}f}" for value in np.median(values, axis=1))
    return text if len(values) == 1 else f"{text}: {own}"


def _plot(found: Sequence[Comparison], out: Path) -> None:
    """Error against training crops and against time, a picture for each part."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import AutoLocator, LogLocator

    for part in dict.fromkeys(one.part for one in found):
        shown = [one for one in found if one.part == part and CONTESTANTS[one.contestant].shown]
        if not shown:
            continue
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
        for number, name in enumerate(dict.fromkeys(one.contestant for one in shown)):
            color = plt.get_cmap("tab20")(number % 20)
            runs = {one.seed: one for one in shown if one.contestant == name}
            for seed, run in runs.items():
                if run.curve:
                    crops, turns, _ = zip(*run.curve, strict=True)
                    label = name if seed == next(iter(runs)) else None
                    left.plot(np.array(crops) / 1000, turns, color=color, marker="o", ms=3, label=label)
            for way in dict.fromkeys(one.way for one in shown if one.contestant == name):
                some = [one for one in shown if (one.contestant, one.way) == (name, way)]
                taken = np.mean([one.network_ms + one.pose_ms for one in some])
                turn = np.median(np.concatenate([one.rotation for one in some]))
                right.plot(taken, turn, marker="o", color=color, ls="")
                right.annotate(f" {name}\n {way}", (taken, turn), fontsize=6, va="center")
        left.set_xlabel("training crops (thousands)")
        right.set_xlabel("ms a crop")
        right.set_xscale("log")
        for axes in (left, right):
            axes.set_ylabel("median rotation error (deg)")
            axes.set_yscale("log")
            axes.grid(alpha=0.3, which="both")
        for axis in (left.yaxis, right.yaxis, right.xaxis):  # labels on short axes, too
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)) if high > 5 * low else AutoLocator())
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        if left.get_legend_handles_labels()[0]:
            left.legend(fontsize=7)
        with replacing(out / f"{part}.png") as aside:
            figure.savefig(aside, dpi=110)
        plt.close(figure)

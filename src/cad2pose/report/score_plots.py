"""Plots of results files: where they work, how large errors are, what scores are worth, how long it took."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cad2pose.confidence import RIGHT_BELOW
from cad2pose.evaluation.calibration import ReliabilityBin
from cad2pose.evaluation.scored_file import ScoredFile
from cad2pose.report.plots import Draw, color_of, dash_of, marker_of, plain_numbers, set_labels, set_ticks, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPINGS = {
    "object": "object id", "visible share": "visible share", "distance": "distance from the camera, mm",
    "box size": "size in the image, px",
}  # fmt: skip
"""What the breakdown is by, and what its axis says."""


def main_measure(file: ScoredFile) -> tuple[str, str]:
    """The figure that groups are compared by, and its title: BOP's AR, or the mean of two where there is no depth."""
    if file.scores.total.AR is not None:
        return "AR", "AR (BOP)"
    return "mean_AR_MSSD_MSPD", "mean of AR MSSD, MSPD"


def breakdown_plot(files: Sequence[ScoredFile]) -> str:
    """The main measure by object, visible share, distance and size, with intervals."""
    measure, title = main_measure(files[0])
    there = [by for by in GROUPINGS if any(g.by == by for g in files[0].trust.groups)]

    def panel(by: str) -> Draw:
        def draw(axes: Axes) -> None:
            for index, file in enumerate(files):
                groups = [g for g in file.trust.groups if g.by == by]
                x = np.arange(len(groups)) + _offset(index, len(files))
                y = np.array([g.row.measures[measure] for g in groups])
                low, high = (np.array([getattr(g.intervals[measure], end) for g in groups]) for end in ("low", "high"))
                ends = np.nan_to_num(np.stack((y - low, high - y))).clip(0)
                axes.errorbar(
                    x, y, ends, ls="", marker=marker_of(index), color=color_of(index), capsize=2.5, elinewidth=1.2
                )
            groups = [g for g in files[0].trust.groups if g.by == by]
            unit = " mm" if by == "distance" else " px"
            set_ticks(axes, [f"{g.label.removesuffix(unit).replace(' to ', '–')}\n({g.row.targets})" for g in groups])
            axes.set_ylim(-0.03, 1.03)
            axes.set_xlim(-0.6, len(groups) - 0.4)
            axes.grid(visible=False, axis="x")
            set_labels(axes, f"by {by}", f"{GROUPINGS[by]} (targets)", title)

        return draw

    size = (4.6, 2.7) if len(files[0].scores.per_object) <= 10 else (9.2, 2.7)
    columns = 1 if size[0] > 5 else 2
    return svg([panel(by) for by in there], columns, f"{title} by {', '.join(there)}, with 95 % intervals", size)


def error_plot(files: Sequence[ScoredFile]) -> str:
    """Share of the targets with an error below x; targets without an estimate never get there."""

    def panel(name: str, title: str, limits: tuple[float, float], log: bool, mark: float) -> Draw:
        def draw(axes: Axes) -> None:
            for index, file in enumerate(files):
                values = np.sort([getattr(e, name) for e in file.scores.estimates if math.isfinite(getattr(e, name))])
                shares = np.arange(1, len(values) + 1) / file.scores.total.targets
                x = np.concatenate(([limits[0] if log else 0.0], values, [max(limits[1], values.max(initial=0))]))
                y = np.concatenate(([0.0], shares, [shares[-1] if len(shares) else 0.0]))
                axes.step(x, y, where="post", color=color_of(index), ls=dash_of(index))
            if log:
                axes.set_xscale("log")
                plain_numbers(axes.xaxis)
            axes.axvline(mark, color="#010203", lw=0.8, alpha=0.5, ls=":")
            axes.set_xlim(*limits)
            axes.set_ylim(0, 1.02)
            set_labels(axes, title.split(",")[0], title, "share of all targets")

        return draw

    panels = [
        panel("mssd", "MSSD, share of the diameter", (0.0, 0.5), False, RIGHT_BELOW),
        panel("mspd", "MSPD, px at 640 px width", (0.0, 50.0), False, 5.0),
        panel("rotation", "rotation, degrees (nearest symmetry)", (0.5, 180.0), True, 5.0),
        panel("translation", "translation, mm", (1.0, 1000.0), True, 50.0),
    ]
    return svg(panels, 2, "cumulative curves of MSSD, MSPD, rotation and translation errors", (4.6, 2.7))


def score_plot(files: Sequence[ScoredFile]) -> str:
    """Reliability of the scores as they are and after the fit, and risk over coverage."""

    def diagram(title: str, bins_of: Callable[[ScoredFile], Sequence[ReliabilityBin] | None], nothing: str) -> Draw:
        def draw(axes: Axes) -> None:
            axes.plot([0, 1], [0, 1], color="#010203", lw=0.8, alpha=0.5, ls=":")
            for index, file in enumerate(files):
                bins = bins_of(file)
                if not bins:
                    continue
                x, y = [b.promised for b in bins], [b.frequency for b in bins]
                axes.plot(x, y, color=color_of(index), ls=dash_of(index), lw=1)
                total = sum(b.count for b in bins)
                sizes = [12 + 160 * b.count / total for b in bins]
                axes.scatter(x, y, s=sizes, marker=marker_of(index), color=color_of(index), alpha=0.85, lw=0)
            if not any(bins_of(file) for file in files):
                axes.text(0.5, 0.5, nothing, ha="center")
            axes.set_xlim(-0.03, 1.03)
            axes.set_ylim(-0.03, 1.03)
            set_labels(axes, title, "probability promised", f"share with MSSD < {RIGHT_BELOW:g} d")

        return draw

    def risk(axes: Axes) -> None:
        for index, file in enumerate(files):
            if (quality := file.trust.quality) is not None:
                coverage, values = quality.curve.coverage.numpy(), quality.curve.risk.numpy()
                axes.plot(coverage, values, color=color_of(index), ls=dash_of(index))
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.02, 1.02)
        set_labels(axes, "risk over coverage", "share of the estimates that is kept", "share of them that is wrong")

    panels = [
        diagram(
            "scores as they are",
            lambda f: f.trust.quality.plain if f.trust.quality else None,
            "no scores within [0, 1]",
        ),
        diagram(
            "after Platt's fit, on other images",
            lambda f: f.trust.quality.fitted if f.trust.quality else None,
            "needs estimates of two images",
        ),
        risk,
    ]
    return svg(panels, 3, "reliability diagrams and risk-coverage curves", (3.2, 2.9))


def time_plot(names: Sequence[int], seconds: Sequence[np.ndarray]) -> str:
    """Share of the images that were done within x seconds; `names` are the files' places."""

    def draw(axes: Axes) -> None:
        for index, values in zip(names, seconds, strict=True):
            ordered = np.sort(values.clip(min=1e-4))
            y = np.arange(1, len(ordered) + 1) / len(ordered)
            axes.step(np.append(ordered, ordered[-1]), np.append(0, y), color=color_of(index), ls=dash_of(index))
        longest = max(float(values.max()) for values in seconds)
        if longest > 100 * min(float(np.median(values)) for values in seconds):
            axes.set_xscale("log")
            plain_numbers(axes.xaxis)
        else:
            axes.set_xlim(0, 1.03 * longest)
        axes.set_ylim(0, 1.02)
        set_labels(axes, "time", "seconds per image", "share of the images")

    return svg([draw], 1, "cumulative curve of the time per image", (4.6, 2.4))


def _offset(index: int, count: int) -> float:
    """Of a file's points beside the others', so that intervals do not cover each other."""
    return (index - (count - 1) / 2) * min(0.16, 0.6 / count)

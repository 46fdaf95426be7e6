"""The page of a training run: curves, settings, and what the network sees, says and fails at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cad2pose.data.images import read_image
from cad2pose.pictures.image_file import jpeg_bytes
from cad2pose.report.plots import Draw, color_of, dash_of, plain_numbers, set_labels, svg
from cad2pose.report.skeleton import jpeg_uri, render_page
from cad2pose.training.run_folder import CURVES, SETTINGS, RunFolder
from cad2pose.training.truth_pictures import AGAINST_TRUTH, WORST, WORST_NUMBERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = Mapping[str, int | float]
"""One line of the curves: a step and numbers by name."""

PAGE = "report.html"
"""Its name in the run folder."""

_JUDGED = "validation/"
_LOG_FROM = 20.0  # ratio of a curve's ends from which its axis is logarithmic
_LONGEST = 200  # letters of a setting
_NOT_LOSSES = ("step", "seconds", "crops_per_second")
_UNITS = {
    "rotation_deg": "median, degrees", "translation_percent": "median, % of the distance",
    "depth_percent": "median, % of the depth", "share_under_10_deg": "share", "share_matched": "share",
    "match_percent": "median, % of the diameter", "crops_per_second": "crops per second",
}  # fmt: skip
_PICTURES = (
    ("Predictions against truth", AGAINST_TRUTH,
     "Fresh crops that were not learnt from, the largest rotation error first. Dashes: truth. Line: prediction. "
     "Beneath: rotation error, and distance of the centres in % of the distance.", "it is drawn at every validation"),
    ("The worst batch", WORST, "Of the batches looked at since the validation before (every 50th step), the one of the "
     "largest loss, as the averaged weights see it now.", "it is drawn at the first validation after 50 steps"),
    ("What the network says", "predictions.png", "From above: crop, masks (visible part red, whole part blue and "
     "green), and queries in false colours, or coordinates as colours.", "it is drawn at every validation"),
    ("What the network sees", "samples.png", "Training crops above their true coordinates as colours (hidden parts "
     "darker).", "it is drawn before the first step"),
)  # fmt: skip


@dataclass(frozen=True)
class RunPicture:
    """One picture of a run: its address, or why there is none."""

    title: str
    about: str
    address: str
    missing: str


def training_page(folder: Path) -> str:
    """The whole page as text; whatever the folder lacks is named on it.

    Args:
        folder: of a run, finished or not.

    Raises:
        NotADirectoryError, ValueError: if there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder, so there is no training run in it")
    if not any((folder / name).exists() for name in (SETTINGS, CURVES)):
        raise ValueError(f"{folder} holds no training run: it has neither {SETTINGS} nor {CURVES}")
    missing: list[str] = []
    settings = _json_of(folder / SETTINGS, missing)
    versions = _json_of(folder / "versions.json", missing)
    curves = RunFolder(folder).curves()
    if not curves:
        missing.append(f"{CURVES}: nothing was logged yet; it gets a line every 50 steps")
    learnt = [line for line in curves if "total" in line]
    judged = [line for line in curves if any(name.startswith(_JUDGED) for name in line)]
    pictures = [_picture(folder, *entry) for entry in _PICTURES]
    worst = _json_of(folder / WORST_NUMBERS, []) if (folder / WORST).exists() else {}
    return render_page(
        "training.html.j2", title=f"training run {folder.resolve().name}", name=folder.resolve().name, missing=missing,
        facts=_facts(settings, versions, learnt, judged), pictures=pictures, worst=worst,
        losses=_small_plots(learnt, [k for k in _keys(learnt) if k not in _NOT_LOSSES] + ["crops_per_second"]),
        judged=_judged_plots(judged), settings=_flat(settings),
    )  # fmt: skip


def _json_of(path: Path, missing: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        missing.append(f"{path.name} holds no json object")
    except FileNotFoundError:
        missing.append(f"{path.name} is not there")
    except ValueError as error:
        missing.append(f"{path.name} cannot be read: {error}")
    return {}


def _picture(folder: Path, title: str, name: str, about: str, when: str) -> RunPicture:
    path = folder / name
    if not path.exists():
        return RunPicture(title, about, "", f"There is no {name}: {when}.")
    try:
        return RunPicture(title, about, jpeg_uri(jpeg_bytes(read_image(path))), "")
    except (OSError, ValueError) as error:
        return RunPicture(title, about, "", f"{name} cannot be shown: {error}")


def _keys(lines: Sequence[Line]) -> list[str]:
    """Every name, in the order in which they first appear."""
    return list(dict.fromkeys(name for line in lines for name in line))


def _facts(
    settings: Mapping[str, Any], versions: Mapping[str, Any], learnt: Sequence[Line],
    judged: Sequence[Line],
) -> list[tuple[str, str]]:  # fmt: skip
    """The run in a few lines."""
    parts = settings.get("parts")
    training = settings.get("training")
    training = training if isinstance(training, dict) else {}
    facts = []
    if isinstance(parts, list):
        facts.append(("parts", ", ".join(str(p.get("name", "?")) for p in parts if isinstance(p, dict))))
    step = int(learnt[-1]["step"]) if learnt else 0
    samples, size = training.get("samples"), training.get("batch_size")
    if isinstance(samples, int) and isinstance(size, int) and size > 0:
        steps = -(-samples // size)
        facts.append(("steps", f"{step:,} of {steps:,}" + (" (done)" if step >= steps else " (not finished)")))
        facts.append(("crops", f"{min(step * size, samples):,} of {samples:,}"))
    if learnt and "seconds" in learnt[-1]:
        facts.append(("hours", f"{learnt[-1]['seconds'] / 3600:.2f}"))
    if judged:
        last = judged[-1]
        words = [
            f"{k.removeprefix(_JUDGED)} {last[k]:.4g}" for k in last if k.startswith(_JUDGED) and k.count("/") == 1
        ]
        facts.append((f"judged at step {int(last['step']):,}", ", ".join(words)))
    return facts + [(name, str(value)) for name, value in versions.items()]


def _small_plots(lines: Sequence[Line], names: Sequence[str]) -> str | None:
    """A panel for every name; losses on a logarithmic axis where they are positive."""
    there = [name for name in names if any(name in line for line in lines)]
    if not there:
        return None

    def panel(name: str) -> Draw:
        def draw(axes: Axes) -> None:
            points = [(line["step"], line[name]) for line in lines if name in line]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=color_of(0), lw=1.2, marker="o" if len(x) < 3 else None)
            if name != "crops_per_second" and 0 < _LOG_FROM * min(y) < max(y):
                axes.set_yscale("log")
                plain_numbers(axes.yaxis)
            set_labels(axes, name, "step", _UNITS.get(name, "loss"))

        return draw

    return svg([panel(name) for name in there], 3, f"curves over the steps: {', '.join(there)}", (3.2, 2.2))


def _judged_plots(lines: Sequence[Line]) -> dict[str, Any]:
    """A panel for every figure that validations have; parts as further lines, with a legend for the page."""
    names = [name.removeprefix(_JUDGED) for name in _keys(lines) if name.startswith(_JUDGED)]
    figures = [name for name in names if "/" not in name]
    parts = list(dict.fromkeys(name.rpartition("/")[0] for name in names if "/" in name))
    if not figures:
        return {"plot": None, "legend": []}

    def panel(figure: str) -> Draw:
        def draw(axes: Axes) -> None:
            for index, part in enumerate(["", *parts]):
                name = _JUDGED + (f"{part}/{figure}" if part else figure)
                points = [(line["step"], line[name]) for line in lines if name in line]
                if points:
                    x, y = zip(*points, strict=True)
                    axes.plot(x, y, color=color_of(index), ls=dash_of(index), lw=1.0 if part else 2.0,
                              marker=None if part else "o", ms=3)  # fmt: skip
            axes.set_ylim(bottom=0)
            if figure.startswith("share"):
                axes.set_ylim(0, 1.02)
            set_labels(axes, figure, "step", _UNITS.get(figure, figure))

        return draw

    plot = svg([panel(figure) for figure in figures], 2, f"validation over the steps: {', '.join(figures)}", (4.6, 2.4))
    return {"plot": plot, "legend": ["all parts", *parts] if parts else []}


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Settings as names with dots and values."""
    if isinstance(value, dict) and value:
        return [row for key, item in value.items() for row in _flat(item, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [row for index, item in enumerate(value) for row in _flat(item, f"{name}[{index}]")]
    text = json.dumps(value, ensure_ascii=False)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} letters; {SETTINGS} has them all)"
    return [(name, text)] if name else []

"""What errors put into training crops are for: models where the CAD's colours are wrong, or boxes err by more or less.

    python benchmarks/robustness.py colours runs/ingredients/obj_000006 --out docs/data/robust_colours.json
    python benchmarks/robustness.py boxes runs/ingredients/obj_000006 --out docs/data/robust_boxes.json

judges finished runs of one comparison, under all its seeds, on the crops it judged them on, but with the part's colours
or the boxes changed. Needs the runs' folders.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import tyro

from cad2pose.data import SyntheticConfig
from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.boxes import BoxConfig
from cad2pose.experiments.finished_runs import JUDGED
from cad2pose.experiments.ingredients import COLOUR_CHANGES
from cad2pose.experiments.intervals import share_interval
from cad2pose.experiments.judging import judge
from cad2pose.files import write_text
from cad2pose.geometry import Camera
from cad2pose.model_file import load_model
from cad2pose.settings import read_settings
from cad2pose.training.run_folder import MODEL

_FIGURES = {"R (deg)": "rotation", "t (%)": "translation"}
_USUAL, _BOX = AppearanceConfig(), BoxConfig()
_COLOURS = {name: getattr(_USUAL, name) for name in COLOUR_CHANGES} | {"recolored_share": 0.0}
_CHANGES: dict[str, dict[str, tuple[str, dict[str, float]]]] = {  # by their names: of which settings, and to what
    "colours": {
        "as in the CAD": ("appearance", dict.fromkeys(COLOUR_CHANGES, 0.0)),
        "changed as in training": ("appearance", _COLOURS),
        "changed twice as much": ("appearance", {name: 2 * value for name, value in _COLOURS.items()}),
        "random ones": ("appearance", {"recolored_share": 1.0}),
    },
    "boxes": {
        "no error": ("box", {"shift": 0.0, "scale": 0.0}),
        "as in training": ("box", {"shift": _BOX.shift, "scale": _BOX.scale}),
        "1.5 times": ("box", {"shift": 1.5 * _BOX.shift, "scale": 1.5 * _BOX.scale}),
        "2.5 times": ("box", {"shift": 2.5 * _BOX.shift, "scale": 2.5 * _BOX.scale}),
    },
}
_CONTESTANTS = {
    "colours": ("coarse-strong-colours", "coarse", "without-recolouring"),
    "boxes": ("coarse-wilder-boxes", "coarse", "without-box-errors"),
}


def main(
    what: tyro.conf.Positional[Literal["colours", "boxes"]],
    runs: tyro.conf.Positional[Path],
    /,
    out: Path,
    contestants: tuple[str, ...] = (),
    ways: tuple[str, ...] = ("regression", "regression, refined"),
    crops: int = 200,
) -> None:
    """Judge.

    Args:
        what: is changed.
        runs: a part's folder of a comparison.
        out: JSON file to write.
        contestants: finished ones; the first is what the others are compared with, under the seeds that all of them
            have. By default those that it is about.
        ways: to a pose.
        crops: for each.
    """
    torch.set_num_threads(1)
    record = []
    names = contestants or _CONTESTANTS[what]
    seeds = sorted(set.intersection(*({folder.name for folder in (runs / name).iterdir()} for name in names)))
    for changed, change in _CHANGES[what].items():
        first: dict[tuple[str, str], np.ndarray] = {}
        for contestant in names:
            found = _errors([runs / contestant / seed for seed in seeds], change, ways, crops)
            for (way, figure), errors in found.items():
                shares = share_interval(errors, first.setdefault((way, figure), errors))
                record.append({
                    "changed": changed, "contestant": contestant, "way": way, "figure": figure, "seeds": len(errors),
                    "median": round(float(np.median(errors)), 3),
                    **{name: round(value, 3) for name, value in zip(("share", "low", "high"), shares, strict=True)},
                })  # fmt: skip
                print(json.dumps(record[-1]), flush=True)
    write_text(out, "[\n" + ",\n".join(map(json.dumps, record)) + "\n]\n")


def _errors(
    folders: list[Path], change: tuple[str, dict[str, float]], ways: tuple[str, ...], crops: int
) -> dict[tuple[str, str], np.ndarray]:
    """Errors `(seeds, crops)` by way and figure."""
    settings, changes = change
    found: dict[tuple[str, str], list[list[float]]] = {(way, name): [] for way in ways for name in _FIGURES}
    for folder in folders:
        model = load_model(folder / MODEL)
        style = _style(json.loads((folder / JUDGED).read_text())["settings"]["style"])
        style = replace(style, **{settings: replace(getattr(style, settings), **changes)})
        for row in judge(model, model.parts[0], style, crops, ways, torch.device("cpu")):
            for name, key in _FIGURES.items():
                found[row["way"], name].append(row[key])
    return {key: np.array(rows) for key, rows in found.items()}


def _style(known: dict[str, Any]) -> SyntheticConfig:
    """Crops of these settings; what is no plain value is read by itself."""
    camera, backgrounds = known.pop("camera"), known.pop("backgrounds")
    style = read_settings(SyntheticConfig, {**known, "camera": None, "backgrounds": None})
    if camera is not None:
        camera = Camera(torch.tensor(camera["K"], dtype=torch.float64), camera["width"], camera["height"])
    return replace(style, camera=camera, backgrounds=None if backgrounds is None else Path(backgrounds))


if __name__ == "__main__":
    tyro.cli(main)

"""What the changes of a part's own colours in training are for: errors of models where the CAD's colours are wrong.

    python benchmarks/wrong_colours.py runs/ingredients/obj_000006 --out docs/data/wrong_colours.json

judges finished runs of one comparison, under all its seeds, on the crops it judged them on, but with the part's colours
changed from not at all to twice as much as in training, and replaced by random ones. Needs the runs' folders.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import tyro

from cad2pose.data import SyntheticConfig
from cad2pose.data.appearance import AppearanceConfig
from cad2pose.experiments.ingredients import COLOUR_CHANGES
from cad2pose.experiments.intervals import share_interval
from cad2pose.experiments.judging import judge
from cad2pose.files import write_text
from cad2pose.geometry import Camera
from cad2pose.model_file import load_model
from cad2pose.settings import read_settings


def main(
    runs: tyro.conf.Positional[Path],
    /,
    out: Path,
    contestants: tuple[str, ...] = ("coarse-strong-colours", "coarse", "without-recolouring"),
    ways: tuple[str, ...] = ("regression", "regression, refined"),
    crops: int = 200,
) -> None:
    """Judge.

    Args:
        runs: a part's folder of a comparison.
        out: JSON file to write.
        contestants: finished ones; the first is what the others are compared with.
        ways: to a pose.
        crops: for each.
    """
    torch.set_num_threads(1)
    usual = AppearanceConfig()
    as_usual = {name: getattr(usual, name) for name in COLOUR_CHANGES} | {"recolored_share": 0.0}
    degrees = {
        "as in the CAD": dict.fromkeys(COLOUR_CHANGES, 0.0),
        "changed as in training": as_usual,
        "changed twice as much": {name: 2 * value for name, value in as_usual.items()},
        "random ones": {"recolored_share": 1.0},
    }
    record = []
    for colours, changes in degrees.items():
        first: dict[str, np.ndarray] = {}
        for contestant in contestants:
            errors = _errors(sorted((runs / contestant).iterdir()), changes, ways, crops)
            for way, rotation in errors.items():
                base = first.setdefault(way, rotation)
                share, low, high = share_interval(rotation, base)
                record.append({
                    "colours": colours, "contestant": contestant, "way": way, "seeds": len(rotation),
                    "rotation": float(np.median(rotation)), "share": share, "low": low, "high": high,
                })  # fmt: skip
                print(json.dumps(record[-1]), flush=True)
    write_text(out, "[\n" + ",\n".join(map(json.dumps, record)) + "\n]\n")


def _errors(folders: list[Path], changes: dict[str, float], ways: tuple[str, ...], crops: int) -> dict[str, np.ndarray]:
    """Rotation errors `(seeds, crops)` of every way."""
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    for folder in folders:
        model = load_model(folder / "model.safetensors")
        style = _style(json.loads((folder / "judged.json").read_text())["settings"]["style"])
        style = replace(style, appearance=replace(style.appearance, **changes))
        for row in judge(model, model.parts[0], style, crops, ways, torch.device("cpu")):
            found[row["way"]].append(row["rotation"])
    return {way: np.array(rows) for way, rows in found.items()}


def _style(known: dict[str, Any]) -> SyntheticConfig:
    """Crops of these settings; what is no plain value is read by itself."""
    camera, backgrounds = known.pop("camera"), known.pop("backgrounds")
    style = read_settings(SyntheticConfig, {**known, "camera": None, "backgrounds": None})
    if camera is not None:
        camera = Camera(torch.tensor(camera["K"], dtype=torch.float64), camera["width"], camera["height"])
    return replace(style, camera=camera, backgrounds=None if backgrounds is None else Path(backgrounds))


if __name__ == "__main__":
    tyro.cli(main)

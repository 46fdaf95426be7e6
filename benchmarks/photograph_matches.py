"""How well pixels of photographs find their surface points: what training on rendered crops is worth there.

    python benchmarks/photograph_matches.py lmo --models A/model.safetensors B/model.safetensors

Recalls of poses on a few dozen photographs move by 0.06 from chance alone. Here every photograph gives some hundred
pixels (`experiments/pixel_matches.py` says what is measured). Models after the first are compared with it crop by crop,
with 95 % bootstrap intervals over crops.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import tyro

from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.experiments.pixel_matches import LEAST_VISIBLE, PIXEL_FIGURES, pixel_cells, pixel_matches
from cad2pose.experiments.report import markdown_table
from cad2pose.model_file import load_model


@dataclass(frozen=True)
class Config:
    """What is compared."""

    bop: tyro.conf.Positional[Path]
    """Folder of a BOP data set with annotations, or its name in BOP_PATH."""

    models: tuple[Path, ...] = ()
    """Model files that have a query image; the first is what the others are compared with."""

    split: str = "test"
    least_visible: float = LEAST_VISIBLE
    """Instances of which less is seen are left out."""


def main(config: Config) -> None:
    dataset = BopDataset(find_dataset(config.bop), config.split)
    seen = {instance.object_id for image in dataset for instance in image.instances}
    first: dict[int, np.ndarray] = {}
    rows, record = [], []
    for path in config.models:
        model = load_model(path)
        for index, part in enumerate(model.parts):
            if part.object_id not in seen:
                continue
            found = pixel_matches(model, dataset, index, config.least_visible)
            cells = pixel_cells(found.numpy()[None], first.get(part.object_id))
            first.setdefault(part.object_id, found.numpy()[None])
            rows.append([str(path), part.name, str(len(found)), *cells])
            figures = dict(zip(PIXEL_FIGURES, found.mean(0).tolist(), strict=True))
            record.append({"model": str(path), "part": part.name, "crops": len(found), **figures})
    print(markdown_table(["model", "part", "crops", *PIXEL_FIGURES], rows))
    print(json.dumps(record))


if __name__ == "__main__":
    main(tyro.cli(Config))

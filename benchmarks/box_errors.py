"""How detectors' boxes err, against what rendered crops assume (`BoxConfig`).

    python benchmarks/box_errors.py lmo --detections A.json B.json

Every target takes its object's box of the highest score, as the estimator does. A box is held against the box of the
visible part and that of the whole silhouette, whichever it overlaps more. Errors of the centre are in box sides, errors
of the sides logarithms of ratios; deviations are robust (1.4826 times the median absolute deviation) beside plain ones,
which tails rule. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro
from torch import Tensor

from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.boxes import BoxConfig
from cad2pose.data.detections import read_detections


@dataclass(frozen=True)
class Config:
    """Where."""

    bop: tyro.conf.Positional[Path]
    """Folder of a BOP dataset, or the name of one in BOP_PATH."""

    detections: tuple[Path, ...] = ()
    """Files of detections."""

    split: str = "test"


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes x y w h."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    both = (high - low).clamp_min(0).prod(1)
    return both / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - both)


def robust(values: Tensor) -> float:
    return 1.4826 * float((values - values.median()).abs().median())


def errors_of(dataset: BopDataset, file: Path) -> dict[str, float]:
    detections = read_detections(file)
    found, visible, whole = [], [], []
    targets = dataset.targets()
    for target in targets:
        if (boxes := detections.get((target.scene_id, target.image_id))) is None:
            continue
        mine = (boxes.object_id == target.object_id).nonzero()[:, 0]
        truths = [i for i in dataset.instances(target.scene_id, target.image_id) if i.object_id == target.object_id]
        if not len(mine) or not truths:
            continue
        best = mine[boxes.score[mine].argmax()]
        found.append(boxes.box[best].double())
        visible.append(torch.tensor(truths[0].box_visible).double())
        whole.append(torch.tensor(truths[0].box_full).double())
    box, seen, full = torch.stack(found), torch.stack(visible), torch.stack(whole)
    of_seen, of_full = overlap(box, seen), overlap(box, full)
    truth = torch.where((of_seen >= of_full)[:, None], seen, full)
    told = overlap(seen, full) < 0.9  # where the two differ enough to tell
    shift = ((box[:, :2] + box[:, 2:] / 2) - (truth[:, :2] + truth[:, 2:] / 2)) / truth[:, 2:]
    scale = (box[:, 2:] / truth[:, 2:]).log()
    good = overlap(box, truth) >= 0.5
    return {
        "targets": len(targets), "with a box": len(found), "overlap below 0.5": float((~good).double().mean()),
        "around the visible part": float((of_seen >= of_full)[told].double().mean()), "told from": int(told.sum()),
        "overlap with it, median": float(overlap(box, truth).median()),
        "shift, robust": robust(shift[good]), "shift, plain": float(shift[good].std()),
        "scale, robust": robust(scale[good]), "scale, plain": float(scale[good].std()),
        "scale, median": float(scale[good].median()),
    }  # fmt: skip


def main(config: Config) -> None:
    dataset = BopDataset(find_dataset(config.bop), config.split)
    figures = {file.stem: errors_of(dataset, file) for file in config.detections}
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:<26}{value:.3f}" if isinstance(value, float) else f"  {key:<26}{value}")
    print(f"rendered crops have {BoxConfig()}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main(tyro.cli(Config))

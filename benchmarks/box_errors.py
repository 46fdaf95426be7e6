"""How detectors' boxes err, and how those of rendered crops do.

    python benchmarks/box_errors.py lmo --detections A.json B.json

Every target takes its object's box of the highest score, as the estimator does. A box is held against the box of the
visible part and that of the whole silhouette, whichever it overlaps more. Errors of the centre are in box sides, errors
of the sides logarithms of ratios; deviations are robust (1.4826 times the median absolute deviation) beside plain ones,
which tails rule. Rendered crops are of the data set's parts, as training makes them and as it is judged; there the
boxes of the visible and of the whole part are those of the crop's masks. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro
from torch import Tensor

from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.detections import read_detections
from cad2pose.data.pose_prior import PosePrior
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.geometry import box_overlap
from cad2pose.parts import Part

_BATCH = 16


@dataclass(frozen=True)
class Config:
    """Where."""

    bop: tyro.conf.Positional[Path]
    """Folder of a BOP dataset, or the name of one in BOP_PATH."""

    detections: tuple[Path, ...] = ()
    """Files of detections."""

    split: str = "test"
    crops: int = 512
    """Rendered ones, of each kind."""


def robust(values: Tensor) -> float:
    return 1.4826 * float((values - values.median()).abs().median())


def figures_of(box: Tensor, seen: Tensor, full: Tensor, targets: int) -> dict[str, float]:
    """How boxes err, `(n, 4)` each, of so many targets; `seen` and `full` are the true ones."""
    of_seen, of_full = box_overlap(box, seen), box_overlap(box, full)
    truth = torch.where((of_seen >= of_full)[:, None], seen, full)
    told = box_overlap(seen, full) < 0.9  # where the two differ enough to tell
    shift = ((box[:, :2] + box[:, 2:] / 2) - (truth[:, :2] + truth[:, 2:] / 2)) / truth[:, 2:]
    scale = (box[:, 2:] / truth[:, 2:]).log()
    good = box_overlap(box, truth) >= 0.5
    return {
        "targets": targets, "with a box": len(box), "overlap below 0.5": float((~good).double().mean()),
        "around the visible part": float((of_seen >= of_full)[told].double().mean()), "told from": int(told.sum()),
        "overlap with it, median": float(box_overlap(box, truth).median()),
        "shift, robust": robust(shift[good]), "shift, plain": float(shift[good].std()),
        "scale, robust": robust(scale[good]), "scale, plain": float(scale[good].std()),
        "scale, median": float(scale[good].median()),
    }  # fmt: skip


def of_detector(dataset: BopDataset, file: Path) -> dict[str, float]:
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
    return figures_of(torch.stack(found), torch.stack(visible), torch.stack(whole), len(targets))


def of_rendered_crops(parts: Sequence[Part], style: SyntheticConfig, count: int) -> dict[str, float]:
    source = SyntheticCrops(parts, style)
    boxes = []
    for index in range(-(-count // _BATCH)):
        batch = source.batch(index, _BATCH)
        assert batch.truth is not None
        H_cam_virt = batch.camera.inverse_homography.double()
        for row in range(_BATCH):
            masks = batch.truth.mask_visible[row], batch.truth.mask_full[row]
            if all(mask.any() for mask in masks):
                boxes.append(torch.stack([batch.camera.box[row], *(source_box(m, H_cam_virt[row]) for m in masks)]))
    return figures_of(*torch.stack(boxes).unbind(1), targets=len(boxes))


def source_box(mask: Tensor, H_cam_virt: Tensor) -> Tensor:
    """x y w h, in the source image, of the pixels set in a crop."""
    v, u = mask.nonzero().unbind(1)
    corners = [torch.stack((u + i, v + j, torch.ones_like(u)), 1) for i in (-0.5, 0.5) for j in (-0.5, 0.5)]
    pixels = torch.cat(corners).double() @ H_cam_virt.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    return torch.cat((pixels.amin(0) + 0.5, pixels.amax(0) - pixels.amin(0)))


def main(config: Config) -> None:
    dataset = BopDataset(find_dataset(config.bop), config.split)
    figures = {file.stem: of_detector(dataset, file) for file in config.detections}
    training = SyntheticConfig(prior=PosePrior(distance=(400.0, 1200.0)))
    for name, style in (("training", training), ("judging", training.judging())):
        figures[f"rendered crops, {name}"] = of_rendered_crops(dataset.parts(), style, config.crops)
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:<26}{value:.3f}" if isinstance(value, float) else f"  {key:<26}{value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main(tyro.cli(Config))

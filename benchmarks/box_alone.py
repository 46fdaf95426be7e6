"""What a box alone tells of a pose: the floor beneath every estimator's figures on photographs.

    python benchmarks/box_alone.py lmo --detections cosypose.json --objects 6

One pose for all targets of an object: the best that a constant can be, for it is chosen with the annotations in hand,
which no estimator sees. Its rotation, relative to the viewing ray through the centre of the box, is the annotated one
with the least mean error to all others; its position lies on that ray, as far away as a part would be whose longer box
side is always the same share of its diameter. Photographs of one video show a part from few sides, so that a constant
may look better than a model that has learnt something. Scored by the code that scores any results file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro
from torch import Tensor

from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.image_tasks import tasks_of_bop
from cad2pose.data.results import Results
from cad2pose.evaluation import ScoringOptions, evaluate
from cad2pose.files import write_text
from cad2pose.geometry.rotation import geodesic_distance, rotation_to_ray
from cad2pose.parts import Part, Symmetries, nearest_equivalent
from cad2pose.structures import PoseEstimates
from compared_tables import box_alone as table


@dataclass(frozen=True)
class Config:
    """Where."""

    bop: tyro.conf.Positional[Path]
    """Folder of a BOP data set, or its name in BOP_PATH."""

    detections: Path
    """File of boxes; the best one of every object is taken."""

    objects: tuple[int, ...] = ()
    """Which objects; all by default."""

    split: str = "test"
    out: Path | None = None
    """JSON file for the figures."""


@dataclass(frozen=True)
class Instance:
    """What is known of one target.

    Attributes:
        image: scene and image.
        box: x y w h.
        ray: through its centre, with z of 1.
        distance_per_mm: how far away something of 1 mm is that is as large as the box's longer side.
        T_cam_obj: its annotated pose.
    """

    image: tuple[int, int]
    box: Tensor
    ray: Tensor
    distance_per_mm: float
    T_cam_obj: Tensor


def best_rotation(rotations: Tensor, symmetries: Symmetries) -> Tensor:
    """That one of `(n, 3, 3)` which all are nearest to in the mean, modulo the symmetries."""
    turned = torch.eye(4, dtype=torch.float64).repeat(len(rotations), 1, 1)
    turned[:, :3, :3] = rotations
    means = []
    for one in turned:
        nearest = nearest_equivalent(one.expand_as(turned), turned, symmetries)[:, :3, :3]
        means.append(geodesic_distance(nearest, one[:3, :3].expand_as(nearest)).mean())
    return rotations[int(torch.stack(means).argmin())]


def seen_instances(dataset: BopDataset, object_id: int, config: Config) -> list[Instance]:
    """Every target that has a box, its best one, in order of the images."""
    found = []
    for task in tasks_of_bop(config.bop, config.split, config.detections, (object_id,), None, False):
        truths = [i for i in dataset.instances(task.scene_id, task.image_id) if i.object_id == object_id]
        if len(task.detections) and truths:
            box = task.detections.box[task.detections.score.argmax()].double()
            pixel = torch.cat([box[:2] + box[2:] / 2 - 0.5, box.new_ones(1)])
            K = task.camera.K.double()
            found.append(Instance(
                (task.scene_id, task.image_id), box, torch.linalg.solve(K, pixel), float(K[0, 0] / box[2:].max()),
                truths[0].T_cam_obj.double(),
            ))  # fmt: skip
    return found


def constant_pose(seen: Sequence[Instance], part: Part) -> dict[tuple[int, int], PoseEstimates]:
    """The best constant, put into every box."""
    toward = [rotation_to_ray(one.ray) for one in seen]
    rotation = best_rotation(
        torch.stack([R.T @ one.T_cam_obj[:3, :3] for R, one in zip(toward, seen, strict=True)]), part.symmetries
    )
    center = part.center.double()
    distances = [float((one.T_cam_obj[:3, :3] @ center + one.T_cam_obj[:3, 3])[2]) for one in seen]
    size = median(far / one.distance_per_mm for far, one in zip(distances, seen, strict=True))
    found = {}
    for R, one in zip(toward, seen, strict=True):
        T = torch.eye(4, dtype=torch.float64)
        T[:3, :3] = R @ rotation
        T[:3, 3] = one.ray * (size * one.distance_per_mm) - T[:3, :3] @ center
        found[one.image] = PoseEstimates(torch.tensor([part.object_id]), T[None], torch.ones(1), one.box[None])
    return found


def main(config: Config) -> None:
    dataset = BopDataset(find_dataset(config.bop), config.split)
    every = dataset.targets()
    rows = []
    for object_id in config.objects or sorted({target.object_id for target in every}):
        (part,) = dataset.parts((object_id,))
        found = constant_pose(seen_instances(dataset, object_id, config), part)
        targets = tuple(target for target in every if target.object_id == object_id)
        scores = evaluate(Results.from_estimates(found), dataset, targets, options=ScoringOptions(vsd=False))
        rows.append({"object": object_id, "boxes": config.detections.name, **scores.total.to_json()})
        print(table(rows[-1:]).splitlines()[-1] if len(rows) > 1 else table(rows))
    if config.out is not None:
        write_text(config.out, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))

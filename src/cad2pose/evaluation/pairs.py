"""Which estimates stand against which ground truths: BOP's localization ('19) and detection ('24)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_files import BopInstance, BopTarget
from cad2pose.data.results import Results
from cad2pose.evaluation.recall import best_scored
from cad2pose.geometry.camera import Camera

PairKey = tuple[int, int]
"""Row of the results, and place of the ground truth among its image's annotations."""

MAX_DETECTIONS = 100
"""Estimates of the highest scores that count in an image, over all objects (BOP'24)."""


class Annotations:
    """Annotations and camera of each image of a dataset, parsed when first asked for, and kept."""

    def __init__(self, dataset: BopDataset) -> None:
        self.dataset = dataset
        self.known: dict[tuple[int, int], tuple[tuple[BopInstance, ...], Camera]] = {}

    def of_image(self, scene_id: int, image_id: int) -> tuple[tuple[BopInstance, ...], Camera]:
        """Of one image.

        Raises:
            ValueError: if the image is not in the dataset, or its entries are malformed.
        """
        key = (scene_id, image_id)
        if key not in self.known:
            scene = self.dataset.scene(scene_id)
            self.known[key] = scene.instances(image_id), scene.camera(image_id)
        return self.known[key]


@dataclass(frozen=True)
class Problem:
    """An object in an image, with its ground truths and the estimates that count.

    Args:
        target: what is asked for.
        truths: for localization the `instance_count` most visible annotations of the object in the image, for
            detection all of them.
        rows: `(E,)` rows of the results, highest score first.
        score: `(E,)` their scores.
        camera: of the image.
    """

    target: BopTarget
    truths: tuple[BopInstance, ...]
    rows: Int[Tensor, "e"]
    score: Float[Tensor, "e"]
    camera: Camera

    @property
    def shape(self) -> tuple[int, int]:
        """Number of estimates and of ground truths."""
        return len(self.rows), len(self.truths)

    @property
    def image(self) -> tuple[int, int]:
        """Scene and image number."""
        return self.target.scene_id, self.target.image_id

    def keys(self) -> list[PairKey]:
        """All pairs, estimate by estimate, truth by truth."""
        return [(row, truth.index) for row in self.rows.tolist() for truth in self.truths]


def pose_problems(results: Results, annotated: Annotations, targets: Sequence[BopTarget]) -> list[Problem]:
    """Localization: one problem per target, in the targets' order, with at most `instance_count` estimates.

    Raises:
        ValueError: if a target's image or ground truth is not in the dataset.
    """
    rows: dict[tuple[int, int, int], list[int]] = {}
    for row, key in enumerate(_keys(results)):
        rows.setdefault(key, []).append(row)
    problems = []
    for target in targets:
        found = torch.tensor(rows.get((target.scene_id, target.image_id, target.object_id), []), dtype=torch.int64)
        kept = found[best_scored(results.score[found], target.instance_count)]
        instances, camera = annotated.of_image(target.scene_id, target.image_id)
        problems.append(Problem(target, _most_visible(instances, target), kept, results.score[kept], camera))
    return problems


def detection_problems(results: Results, annotated: Annotations, targets: Sequence[BopTarget]) -> list[Problem]:
    """Detection: one problem for each of the targets' objects that is annotated in one of the targets' images.

    The estimates are those of an image's MAX_DETECTIONS highest scores that are of the object. What is estimated of
    an object without an annotation in the image has no problem, and so no effect.

    Raises:
        ValueError: if a target's image is not in the dataset.
    """
    wanted = {t.object_id for t in targets}
    images = {(t.scene_id, t.image_id): None for t in targets}
    rows: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(_keys(results)):
        rows.setdefault(key[:2], []).append(row)
    problems = []
    for scene_id, image_id in images:
        found = torch.tensor(rows.get((scene_id, image_id), []), dtype=torch.int64)
        best = found[best_scored(results.score[found], MAX_DETECTIONS)]
        instances, camera = annotated.of_image(scene_id, image_id)
        for object_id in sorted(wanted & {i.object_id for i in instances}):
            truths = tuple(i for i in instances if i.object_id == object_id)
            kept = best[results.object_id[best] == object_id]
            target = BopTarget(scene_id, image_id, object_id, len(truths))
            problems.append(Problem(target, truths, kept, results.score[kept], camera))
    return problems


def count_unused_rows(results: Results, targets: Sequence[BopTarget]) -> Counter[str]:
    """Rows of the results that are for no target, by why: another image, or another object in an image of theirs."""
    wanted = {(t.scene_id, t.image_id, t.object_id) for t in targets}
    images = {key[:2] for key in wanted}
    unused: Counter[str] = Counter()
    for key in _keys(results):
        if key not in wanted:
            unused["object" if key[:2] in images else "image"] += 1
    return unused


def _keys(results: Results) -> list[tuple[int, int, int]]:
    """Scene, image and object of every row."""
    columns = (results.scene_id.tolist(), results.image_id.tolist(), results.object_id.tolist())
    return list(zip(*columns, strict=True))


def _most_visible(instances: Sequence[BopInstance], target: BopTarget) -> tuple[BopInstance, ...]:
    """The instances that count for a target, in the order of the file."""
    candidates = [i for i in instances if i.object_id == target.object_id]
    if len(candidates) < target.instance_count:
        raise ValueError(
            f"scene {target.scene_id}, image {target.image_id}: the targets ask for {target.instance_count} of object "
            f"{target.object_id}, but the ground truth has {len(candidates)}; is it complete, or kept back?"
        )
    ranked = sorted(candidates, key=lambda i: -1.0 if i.visible_fraction is None else i.visible_fraction, reverse=True)
    return tuple(sorted(ranked[: target.instance_count], key=lambda i: i.index))

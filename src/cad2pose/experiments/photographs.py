"""Contestants on photographs: the same images and boxes for all, poses scored as any results file is."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.bop_files import BopTarget
from cad2pose.data.image_tasks import ImageTask, tasks_of_bop
from cad2pose.data.results import Results
from cad2pose.estimator import PoseEstimator
from cad2pose.estimator.boxes import check_boxes
from cad2pose.evaluation import ScoringOptions, draw_figures, evaluate
from cad2pose.experiments.contestants import WAYS
from cad2pose.experiments.pixel_matches import NoInstanceError, PixelScores, pixel_matches
from cad2pose.files import file_digest, write_text
from cad2pose.methods.gdrnet import GdrNetMethod
from cad2pose.methods.query_image import QueryImageMethod
from cad2pose.model_file import Model, load_model
from cad2pose.parts import Part
from cad2pose.structures import Detections, PoseEstimates

RECORD = "photographs.json"
PHOTOGRAPHS_JUDGE = 4
"""To be raised when poses or figures come out otherwise: finished runs are then judged again."""
_MEASURES = {
    "mean_AR": "mean_AR_MSSD_MSPD", "AR_MSSD": "AR_MSSD", "AR_MSPD": "AR_MSPD", "add_s": "recall_ADD_S_0p1d",
}  # fmt: skip
_ERRORS = ("rotation_deg", "rotation_frobenius", "translation_mm")
_INTERVALS = _MEASURES | {f"{name}_{kind}": f"{name}_{kind}" for name in _ERRORS for kind in ("mean", "median")}


@dataclass(frozen=True)
class PhotographScores:
    """One way of one contestant on one part under one seed, on photographs.

    Attributes:
        part, contestant, way, seed: which.
        targets: instances asked for.
        estimated: how many of them have a pose.
        figures: mean_AR (of AR_MSSD and AR_MSPD), AR_MSSD, AR_MSPD, add_s (recall of ADD(-S) at a tenth of the
            diameter); and of `rotation_deg`, `rotation_frobenius`, `translation_mm` the mean and the median over
            targets with a pose, as `rotation_deg_mean` and so on; None where there is no pose.
        intervals: 95 % bootstrap intervals of some of these, over images.
    """

    part: str
    contestant: str
    way: str
    seed: int
    targets: int
    estimated: int
    figures: Mapping[str, float | None]
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Photographs:
    """Images of a BOP data set, and the detector's surest boxes, as many as there are instances: the same for all.

    Args:
        folder: the data set, or its name in BOP_PATH.
        detections: file of boxes.
        split: of the data set.
        parts: what is looked for.

    Raises:
        FileNotFoundError, ValueError: for anything missing or malformed, an image that shows a part among it, or a part
            that has no target or no box.
    """

    def __init__(self, folder: Path, detections: Path, split: str, parts: Sequence[Part]) -> None:
        self._dataset = BopDataset(find_dataset(folder), split)
        self._targets: dict[int, tuple[BopTarget, ...]] = {}
        self._tasks: dict[int, list[ImageTask]] = {}
        every = self._dataset.targets()
        for part in parts:
            one = part.object_id
            self._targets[one] = tuple(target for target in every if target.object_id == one)
            if not self._targets[one]:
                raise ValueError(
                    f"the photographs of {self._dataset.root}, split {split}, show no {part.name} (object {one}); "
                    "compare objects of that data set, or leave --photographs out"
                )
            tasks = tasks_of_bop(folder, split, detections, (one,), None, False)
            counts = {(target.scene_id, target.image_id): target.instance_count for target in self._targets[one]}
            self._tasks[one] = [
                replace(task, detections=_surest(task.detections, counts.get((task.scene_id, task.image_id), 0)))
                for task in tasks
            ]
            for task in self._tasks[one]:  # what is missing is named now, and not after hours of training
                task.check_size()
                check_boxes(task.detections.box.double(), task.camera)
            for key in self._dataset.keys():  # noqa: SIM118
                if any(instance.object_id == one for instance in self._dataset.instances(*key)):
                    self._dataset.scene(key[0]).image_file(key[1])
        self.settings = {
            "photographs": self._dataset.root.name, "split": split, "detections": detections.name,
            "boxes": hashlib.sha256(detections.read_bytes()).hexdigest()[:12],
        }  # fmt: skip

    def judge(self, model: Model, ways: Sequence[str], device: torch.device) -> list[dict[str, Any]]:
        """Scores of a model of one part, by every way, from one look at each of the boxes.

        None for a model that is shown true coordinates, which photographs do not have.
        """
        if isinstance(model.method, GdrNetMethod) and model.method.config.intermediate == "true coordinates":
            return []
        (part,) = model.parts
        estimators = {way: PoseEstimator([model], device, WAYS[way]) for way in ways}
        found: dict[str, dict[tuple[int, int], PoseEstimates]] = {way: {} for way in ways}
        for task in self._tasks[part.object_id]:
            image = task.read()
            for way, estimator in estimators.items():
                found[way][(task.scene_id, task.image_id)] = estimator.estimate(image, task.camera, task.detections)
        rows = []
        for way in ways:
            scores = evaluate(
                Results.from_estimates(found[way]), self._dataset, self._targets[part.object_id],
                options=ScoringOptions(vsd=False),
            )  # fmt: skip
            total = scores.total.to_json()
            figures = {name: total[measure] for name, measure in _MEASURES.items()}
            figures |= {f"{name}_{kind}": total[name][kind] for name in _ERRORS for kind in ("mean", "median")}
            drawn = draw_figures(scores).intervals()
            intervals = {name: (drawn[m].low, drawn[m].high) for name, m in _INTERVALS.items() if m in drawn}
            rows.append({
                "way": way, "targets": total["n"], "estimated": total["n_estimated"], "figures": figures,
                "intervals": {name: ends for name, ends in intervals.items() if all(map(math.isfinite, ends))},
            })  # fmt: skip
        return rows

    def pixels(self, model: Model) -> list[list[float]]:
        """`PIXEL_FIGURES` of every photograph; nothing for models without a query image, or without annotated boxes."""
        if not isinstance(model.method, QueryImageMethod):
            return []
        try:
            return pixel_matches(model, self._dataset).tolist()
        except NoInstanceError:  # scores of poses need no annotated boxes
            return []

    def judge_once(self, model_file: Path, ways: Sequence[str], device: torch.device) -> None:
        """As `judge` and `pixels`, kept beside the model; what is there for these photographs is not done again."""
        record, wanted = model_file.with_name(RECORD), {**self.settings, "ways": list(ways), "judge": PHOTOGRAPHS_JUDGE}
        wanted["model"] = file_digest(model_file)
        if not record.is_file() or json.loads(record.read_text())["settings"] != wanted:
            model = load_model(model_file, device)
            rows, pixels = self.judge(model, ways, device), self.pixels(model)
            write_text(record, json.dumps({"settings": wanted, "rows": rows, "pixels": pixels}))


def _surest(detections: Detections, count: int) -> Detections:
    """Of one object's boxes as many as there are instances, by the detector's score: poses have no say in it."""
    kept = detections.score.argsort(descending=True, stable=True)[:count]
    return Detections(detections.object_id[kept], detections.box[kept], detections.score[kept])


def read_scores(record: Path, part: str, contestant: str, seed: int) -> list[PhotographScores]:
    """What `Photographs.judge_once` kept of a run; nothing where there is none."""
    if not record.is_file():
        return []
    return [PhotographScores(part, contestant, seed=seed, **row) for row in json.loads(record.read_text())["rows"]]


def read_pixels(record: Path, part: str, contestant: str, seed: int) -> list[PixelScores]:
    """What it kept of the pixels; nothing where there is none."""
    found = json.loads(record.read_text()).get("pixels") if record.is_file() else None
    return [PixelScores(part, contestant, seed, tuple(map(tuple, found)))] if found else []

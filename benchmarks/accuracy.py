"""How accurate the models are: the numbers behind docs/results.md.

`accuracy.py crops MODEL` judges a model on fresh synthetic crops of its parts. `accuracy.py bop MODEL --bop lmo
--detections FILE` judges it on the images of a BOP data set, once for every setting of the estimator asked for. Both
write one JSON file with the settings and the figures; `benchmarks/results_page.py` makes the page of them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from cad2pose.data import SyntheticConfig, SyntheticCrops
from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.bop_files import BopTarget
from cad2pose.data.image_tasks import tasks_of_bop
from cad2pose.data.results import Results
from cad2pose.estimator import EstimatorOptions, PoseEstimator, best_per_object
from cad2pose.estimator.fusion import fuse_poses
from cad2pose.estimator.looking import Look
from cad2pose.estimator.pose_solver import PoseSolver
from cad2pose.evaluation import evaluate
from cad2pose.evaluation.score_quality import judge_scores
from cad2pose.experiments.contestants import WAYS
from cad2pose.experiments.judging import errors_of
from cad2pose.files import write_text
from cad2pose.geometry import rotate_transform, rotation_about_z
from cad2pose.methods import PoseMethod, QueryImageMethod, RegressionMethod
from cad2pose.model_file import Model, load_model
from cad2pose.structures import CropBatch, PoseEstimates
from cad2pose.training import CropErrors, pose_crop_errors

_BATCH = 20


def crops(
    model: tyro.conf.Positional[Path],
    /,
    out: Path,
    count: int = 200,
    seed: int = 90210,
    device: str = "cpu",
    threads: int = 1,
) -> None:
    """On fresh crops of the evaluation style, all of SO(3): regression from one look at each crop and from four, PnP
    of coordinates, regression with refinement, and sampling and search, each for models that can.

    The four looks are the crop rolled by 0, 90, 180 and 270 degrees, fused as the estimator does with --rolls.

    Args:
        model: model file.
        out: JSON file to write.
        count: crops per part.
        seed: of the crops; any that no training used.
        device: cpu, cuda, ...
        threads: of torch.
    """
    torch.set_num_threads(threads)
    loaded = load_model(model, device)
    config = loaded.method.config
    source = SyntheticCrops(
        loaded.parts, SyntheticConfig.evaluation(crop_size=config.crop_size, pad=config.pad), device, seed
    )
    total = count * len(loaded.parts)
    batches = [source.batch(index, _BATCH) for index in range(-(-total // _BATCH))]
    figures: dict[str, Any] = {}
    refiner, sampler, searcher = (PoseSolver(solver=solver) for solver in ("regression", "sampling", "search"))
    pnp = Look(WAYS["PnP"])
    ways: dict[str, Callable[[CropBatch], CropErrors]] = {}
    if isinstance(loaded.method, PoseMethod):
        ways = {
            "1 look": lambda batch: _errors(loaded, batch, 1),
            "4 looks": lambda batch: _errors(loaded, batch, 4),
        }
    if isinstance(loaded.method, RegressionMethod) and loaded.method.regresses_coordinates:
        ways["1 look, PnP"] = torch.no_grad()(lambda batch: errors_of(loaded, pnp, batch))
    if isinstance(loaded.method, QueryImageMethod):
        if isinstance(loaded.method, PoseMethod):
            ways["1 look, refined"] = lambda batch: _solved_errors(loaded, refiner, batch)
        ways["1 look, sampling"] = lambda batch: _solved_errors(loaded, sampler, batch)
        ways["1 look, search"] = lambda batch: _solved_errors(loaded, searcher, batch)
    for name, judge in ways.items():
        begun = time.process_time()
        errors = CropErrors.join([judge(batch) for batch in batches])
        spent = 1e3 * (time.process_time() - begun) / len(errors.rotation)
        rows: dict[str, Any] = {"all parts": {"n": len(errors.rotation), **errors.medians(), "milliseconds": spent}}
        print(name, json.dumps(rows["all parts"]), flush=True)
        for index, part in enumerate(loaded.parts):
            rows[part.name] = {"n": int((errors.part_index == index).sum()), **errors.medians(index)}
        figures[name] = rows
    settings = {"crops_per_part": count, "seed": seed, "style": "SyntheticConfig.evaluation()"}
    _write(out, loaded, settings, figures)


def bop(
    model: tyro.conf.Positional[Path],
    /,
    out: Path,
    bop: Path,
    detections: Path,
    split: str = "test",
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Symmetry-aware errors and average recalls on real images, for several settings of the estimator.

    Args:
        model: model file.
        out: JSON file to write.
        bop: BOP data set, or its name in BOP_PATH.
        detections: boxes to use.
        split: of the data set.
        threads: of torch.
        device: cpu, cuda, ...
    """
    torch.set_num_threads(threads)
    loaded = load_model(model, device)
    objects = tuple(part.object_id for part in loaded.parts)
    dataset = BopDataset(find_dataset(bop), split)
    targets = tuple(t for t in dataset.targets() if t.object_id in objects)
    tasks = tasks_of_bop(bop, split, detections, objects, None, False)
    figures: dict[str, Any] = {}
    settings = SETTINGS
    if not isinstance(loaded.method, PoseMethod):
        settings = {name: o for name, o in SETTINGS.items() if o.solver in ("sampling", "search")} | SOLVED
    for name, options in settings.items():
        estimator = PoseEstimator([loaded], device, options)
        estimator.prepare()
        found: dict[tuple[int, int], PoseEstimates] = {}
        begun = time.monotonic()
        for task in tasks:
            estimates = estimator.estimate(task.read(), task.camera, task.detections)
            found[(task.scene_id, task.image_id)] = best_per_object(estimates, task.counts)
        seconds = time.monotonic() - begun
        scores = evaluate(Results.from_estimates(found), dataset, targets).to_json()
        boxes = sum(len(task.detections) for task in tasks)
        figures[name] = {
            "options": asdict(options), "all": scores["all"], "per_object": scores["per_object"],
            "milliseconds_per_box": 1e3 * seconds / max(1, boxes), **_confidence(found, dataset, targets),
        }  # fmt: skip
        print(name, json.dumps(scores["all"]), flush=True)
    about = {"data": dataset.root.name, "split": split, "boxes": detections.name, "images": len(tasks)}
    _write(out, loaded, about, figures)


def _confidence(
    found: Mapping[tuple[int, int], PoseEstimates], dataset: BopDataset, targets: Sequence[BopTarget]
) -> dict[str, Any]:
    """What came of the chances that the model file promises, where it does."""
    if not all(bool(estimates.confidence.isfinite().all()) for estimates in found.values()):
        return {}
    promised = {key: replace(estimates, score=estimates.confidence) for key, estimates in found.items()}
    quality = judge_scores(evaluate(Results.from_estimates(promised), dataset, targets).estimates)
    if quality is None or quality.plain is None:
        return {}
    mean = sum(one.count * one.promised for one in quality.plain) / quality.estimates
    return {"confidence": {"promised": mean, "right": quality.right, "error": quality.plain_error}}


@torch.no_grad()
def _errors(model: Model, batch: CropBatch, looks: int) -> CropErrors:
    """Errors of the poses fused from `looks` copies of each crop, a quarter turn apart."""
    found = []
    assert isinstance(model.method, PoseMethod), "only models with poses can be judged by them"
    for turns in range(looks):
        rolled = _rolled(batch, turns)
        T_rolled, score = model.method.poses(model.method(rolled), rolled)
        back = rotation_about_z(torch.tensor(-turns * math.pi / 2, dtype=T_rolled.dtype))
        found.append((rotate_transform(back.expand(len(batch), 3, 3), T_rolled), score))
    T_copies, scores = (torch.stack(tensors, dim=1) for tensors in zip(*found, strict=True))
    T_fused, score = T_copies[:, 0].clone(), scores.mean(1).double()
    for index, part in enumerate(model.parts):
        mine = batch.part_index == index
        if looks > 1 and bool(mine.any()):
            group = part.symmetries.rotation_group()
            T_fused[mine], score[mine] = fuse_poses(T_copies[mine], scores[mine].double(), group, part.center)
    return pose_crop_errors(model.method, batch, T_fused, score)


@torch.no_grad()
def _solved_errors(model: Model, solver: PoseSolver, batch: CropBatch) -> CropErrors:
    """Errors of the poses that are refined or solved for from one look; no pose counts as one that is all wrong."""
    found = solver(model, batch, model.method(batch))
    errors = pose_crop_errors(model.method, batch, found.T_cam_obj, found.score)
    return replace(
        errors, rotation=errors.rotation.nan_to_num(180.0), translation=errors.translation.nan_to_num(100.0),
        depth=errors.depth.nan_to_num(100.0),
    )  # fmt: skip


def _rolled(batch: CropBatch, turns: int) -> CropBatch:
    """The crops as cameras rolled by quarter turns see them; exact, as crops are square and centred."""
    turn = rotation_about_z(torch.tensor(turns * math.pi / 2, dtype=batch.camera.R_virt_cam.dtype))
    camera = replace(batch.camera, R_virt_cam=turn @ batch.camera.R_virt_cam)
    image, valid = (torch.rot90(tensor, -turns, (2, 3)) for tensor in (batch.image, batch.valid))
    return replace(batch, image=image, valid=valid, camera=camera, truth=None)


SETTINGS = {
    "one look": EstimatorOptions(recrop=False, refine=False),
    "one look, refined": EstimatorOptions(recrop=False, refine=True),
    "two looks": EstimatorOptions(recrop=True, refine=False),
    "two looks, refined": EstimatorOptions(recrop=True, refine=True),
    "one look, sampling": EstimatorOptions(recrop=False, solver="sampling"),
    "two looks, sampling": EstimatorOptions(recrop=True, solver="sampling"),
    "two looks, search": EstimatorOptions(recrop=True, solver="search"),
    "one look, 3 rolls, 3 zooms": EstimatorOptions(
        rolls=(-15.0, 0.0, 15.0), zooms=(0.9, 1.0, 1.1), recrop=False, refine=False
    ),
}
# for models that do not regress, beside those above that solve
SOLVED = {"two looks, sampling, 3 rolls": EstimatorOptions(rolls=(-15.0, 0.0, 15.0), recrop=True, solver="sampling")}


def _write(out: Path, model: Model, settings: dict[str, Any], figures: dict[str, Any]) -> None:
    record = {
        "settings": settings,
        "training": dict(model.info),
        "parts": [{"name": p.name, "object_id": p.object_id, "diameter": p.diameter} for p in model.parts],
        "parameters": sum(p.numel() for p in model.method.parameters()),
        "figures": figures,
    }
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(json.dumps(figures))


def main(arguments: Sequence[str] | None = None) -> None:
    tyro.extras.subcommand_cli_from_dict({"crops": crops, "bop": bop}, args=arguments)


if __name__ == "__main__":
    main()

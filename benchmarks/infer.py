"""Time of one estimate, from image and boxes to poses, and where it goes.

    python benchmarks/infer.py [--devices cpu cuda] [--full | --model FILE] [--detections 1 16]

    crops    crop cameras and the warp of the image into them
    network  the forward pass
    poses    poses read off the network's output, or refined, or solved for
    other    checks, transfers, copies of a crop fused, boxes of the second pass

Stages are the estimator's own (`PoseEstimates.stages`). Weights are random unless a model is given, which is as good
for regression; refinement takes longer where several poses are likely. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro

from cad2pose.devices import keep_freed_memory, pick_device
from cad2pose.estimator import EstimatorOptions, PoseEstimator
from cad2pose.geometry import Camera
from cad2pose.methods import QueryConfig, QueryMethod
from cad2pose.model_file import Model, load_model
from cad2pose.parts import BUILTIN_PARTS, builtin_part
from cad2pose.structures import Detections
from stopwatch import device_name

STAGES = ("crops", "network", "poses")
CAMERA = Camera.from_values(600.0, 600.0, 319.5, 239.5, 640, 480)


@dataclass(frozen=True)
class Config:
    """Milliseconds of one estimate."""

    devices: tuple[str, ...] = ()
    """cpu, cuda, cuda:N; by default the CPU and, where there is one, CUDA."""

    model: Path | None = None
    """Model file; by default untrained ones of the built-in parts."""

    full: bool = False
    """The full-size model in place of the small one."""

    detections: tuple[int, ...] = (1, 16)
    """Numbers of boxes in an image."""

    rolls: tuple[float, ...] = (0.0,)
    """Angles in degrees by which every crop is rolled."""

    recrop: bool = True
    """Estimate twice, the second time from the box of the first pose."""

    refine: bool = False
    """Let the poses climb the score of the query image."""

    repeats: int = 9
    """Timed calls; medians are reported."""


def make_model(config: Config) -> Model:
    if config.model:
        return load_model(config.model)
    parts = tuple(builtin_part(name) for name in BUILTIN_PARTS)
    torch.manual_seed(0)
    method = QueryMethod(QueryConfig.full() if config.full else QueryConfig(), parts)
    return Model(method.eval().requires_grad_(False), parts, {})


def make_detections(estimator: PoseEstimator, count: int) -> Detections:
    """Boxes of 60 to 160 pixels anywhere in the image, objects in turn."""
    generator = torch.Generator().manual_seed(0)
    side = 60 + 100 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * (torch.tensor([640, 480]) - side)
    known = torch.tensor(list(estimator.parts))
    return Detections(known[torch.arange(count) % len(known)], torch.cat((corner, side), dim=1), torch.ones(count))


def measure(estimator: PoseEstimator, count: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of an estimate of `count` boxes and of its stages."""
    image = torch.rand(3, CAMERA.height, CAMERA.width, generator=torch.Generator().manual_seed(0))
    detections = make_detections(estimator, count)
    rows = []
    for _ in range(repeats + 2):  # two warm up
        found = estimator.estimate(image, CAMERA, detections)
        stages = {name: found.stages[name] for name in STAGES}
        row = {"total": found.seconds, **stages, "other": found.seconds - sum(stages.values())}
        rows.append({name: 1e3 * seconds for name, seconds in row.items()})
    return {name: median(row[name] for row in rows[2:]) for name in rows[0]}


def main(config: Config) -> int:
    torch.set_num_threads(1)
    keep_freed_memory()
    names = config.devices or (("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))
    model = make_model(config)
    crop = model.method.config.crop_size
    print(f"{len(model.parts)} parts, crops of {crop} px, {len(config.rolls)} rolls, recrop {config.recrop}; median ms")
    results = []
    for name in names:
        device = pick_device(name)
        options = EstimatorOptions(rolls=config.rolls, recrop=config.recrop, refine=config.refine)
        estimator = PoseEstimator([model], device, options)
        print(f"{device_name(device)}\nboxes    total    crops  network    poses    other")
        for count in config.detections:
            row = measure(estimator, count, config.repeats)
            print(f"{count:5}" + "".join(f"{value:9.2f}" for value in row.values()))
            figures = {f"{stage}_ms": round(value, 3) for stage, value in row.items()}
            results.append({"device": device_name(device), "detections": count, **figures})
    print(json.dumps({
        "benchmark": "infer", "crop_size": crop, "rolls": len(config.rolls), "recrop": config.recrop,
        "results": results,
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))

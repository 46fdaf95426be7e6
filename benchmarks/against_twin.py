"""The flagship against SurfEmb with its published solver: the same crops, times side by side.

    python benchmarks/against_twin.py FLAGSHIP.safetensors SURFEMB.safetensors [--crops 60] [--part nut]

Two models of the same part, such as `cad2pose compare` trains. Every crop goes through the flagship (regressed; also
refined), through SurfEmb's networks with the published solver (`surfemb_twin.py`), and with this project's; in turns,
one crop at a time, so that all see the same machine. The flagship's own model in the second place, too, tells the
solvers apart without the networks. Errors are also given as shares of the published solver's, with 95 % intervals by
the bootstrap over crops. Processor time on a CPU, wall time on CUDA, networks included. The last line is one JSON
object.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro
from torch import Tensor

from cad2pose.data import SyntheticConfig, SyntheticCrops
from cad2pose.estimator.looking import Look
from cad2pose.evaluation.bootstrap import Interval, image_weights, weighted_medians
from cad2pose.experiments.contestants import WAYS
from cad2pose.experiments.judging import NO_POSE
from cad2pose.files import write_text
from cad2pose.geometry import make_transform
from cad2pose.methods import QueryImageMethod
from cad2pose.model_file import Model, load_model
from cad2pose.solvers import Surface
from cad2pose.structures import CropBatch
from cad2pose.training import pose_crop_errors
from surfemb_twin import TwinOptions, estimate_pose

_SEED = 2_000_000  # the crops that `cad2pose compare` judges by
_BATCH = 16
_PUBLISHED = "SurfEmb, published solver"
_DRAWS = 2000


@dataclass(frozen=True)
class Config:
    """Which models, how many crops."""

    flagship: tyro.conf.Positional[Path]
    surfemb: tyro.conf.Positional[Path]

    crops: int = 60
    """How many."""

    part: str | None = None
    """Which of the models' parts; not needed where there is one."""

    device: str = "cpu"

    out: Path | None = None
    """JSON file to write."""


_CELLS = 74  # a side: what the published solver sees of 224 x 224 queries, a third of them each way


class Twin:
    """SurfEmb's networks with the published solver."""

    def __init__(self, model: Model, index: int) -> None:
        if not isinstance(model.method, QueryImageMethod):
            raise SystemExit("the second model has no query image; give SurfEmb's, or the flagship's again")
        self.method, self.part = model.method, model.parts[index]
        device = model.method.parts.radius.device
        self.surface = Surface.of_part(self.part).to(device)
        self.points = self.surface.points * self.part.radius + self.part.center.float().to(device)
        self.keys = self.method.surface_keys(index, self.surface.points)

    def __call__(self, batch: CropBatch, number: int) -> Tensor:
        maps = self.method.query_maps(self.method(batch), batch)
        with torch.enable_grad():  # BFGS goes by gradients
            found = estimate_pose(
                maps.mask_logits[0], maps.queries[0], self.points, self.surface.normals, self.keys, maps.K[0],
                self.part.diameter, TwinOptions(seed=number, downsample=max(1, round(maps.queries.shape[-1] / _CELLS))),
            )  # fmt: skip
        if found.rotation is None or found.translation is None:
            return torch.full((4, 4), torch.nan, dtype=torch.float64)
        return make_transform(found.rotation, found.translation)


def main(config: Config) -> None:
    torch.set_num_threads(1)
    ours, theirs = load_model(config.flagship, config.device), load_model(config.surfemb, config.device)
    names = [part.name for part in ours.parts]
    if names != [part.name for part in theirs.parts]:
        raise SystemExit("give two models of the same parts")
    if len(names) > 1 and config.part not in names:
        raise SystemExit(f"say with --part which of {', '.join(names)}")
    index = names.index(config.part) if config.part else 0
    twin, plain = Twin(theirs, index), {
        "flagship, regressed": (ours, Look(WAYS["regression"])),
        "flagship, refined": (ours, Look(WAYS["regression, refined"])),
        "SurfEmb, sampling of this project": (theirs, Look(WAYS["sampling, refined"])),
    }  # fmt: skip
    ways: dict[str, Callable[[CropBatch, int], Tensor]] = {
        name: lambda batch, number, model=model, look=look: look(model, batch).T_cam_obj[0]
        for name, (model, look) in plain.items()
    }
    ways[_PUBLISHED] = twin
    first = ours.method.config, theirs.method.config
    if len({(one.crop_size, one.pad) for one in first}) > 1:
        raise SystemExit("the two models look at crops of different sizes")
    style = SyntheticConfig.evaluation(crop_size=first[0].crop_size, pad=first[0].pad)
    source = SyntheticCrops([ours.parts[index]], style, config.device, _SEED)
    errors: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    clock = time.perf_counter if config.device.startswith("cuda") else time.process_time
    with torch.no_grad():
        for way in ways.values():  # what a first call loads is nobody's
            way(next(_crops(source, index, 1)), 0)
        for number, crop in enumerate(_crops(source, index, config.crops)):
            for name, way in ways.items():
                begun = clock()
                T = way(crop, number).double().to(config.device)
                seconds[name].append(clock() - begun)
                errors[name].append(_errors(ours, crop, T))
    figures = {name: _figures(errors[name], seconds[name]) for name in ways}
    ratios = {name: _ratios(errors[name], errors[_PUBLISHED]) for name in ways}
    for name, values in figures.items():
        print(f"{name:<36}" + "  ".join(f"{key} {value:.3g}" for key, value in values.items()))
        if name != _PUBLISHED:
            shares = (f"{key} {one:.2f} ({low:.2f} to {high:.2f})" for key, (one, low, high) in ratios[name].items())
            print(f"{'':<36}of the published solver's: " + "  ".join(shares))
            print(f"{'':<36}1/{figures[_PUBLISHED]['ms'] / values['ms']:.0f} of its time")
    part = names[index]
    if config.flagship.resolve() == config.surfemb.resolve():
        part += f", {config.flagship.stem}'s queries for all"
    report = {"part": part, "crops": config.crops, "device": config.device, "figures": figures, "ratios": ratios}
    if config.out is not None:
        write_text(config.out, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def _errors(model: Model, crop: CropBatch, T: Tensor) -> tuple[float, float]:
    if not bool(torch.isfinite(T).all()):
        return NO_POSE
    found = pose_crop_errors(model.method, crop, T[None], torch.zeros(1, dtype=torch.float64))
    return float(found.rotation[0]), float(found.translation[0])


def _crops(source: SyntheticCrops, index: int, count: int) -> Iterator[CropBatch]:
    """One by one, each batch made once."""
    for first in range(0, count, _BATCH):
        batch = source.batch(first // _BATCH, _BATCH)
        batch = replace(batch, part_index=torch.full_like(batch.part_index, index))
        yield from (batch[row : row + 1] for row in range(min(_BATCH, count - first)))


def _ratios(
    errors: list[tuple[float, float]], base: list[tuple[float, float]]
) -> dict[str, tuple[float, float, float]]:
    """Shares of the base's errors on the same crops, with the ends of their intervals."""
    both = torch.tensor([errors, base], dtype=torch.float64)
    every, draws = torch.ones(1, len(errors), dtype=torch.float64), image_weights(len(errors), _DRAWS)
    found = {}
    for column, kind in enumerate("Rt"):
        ours, theirs = both[..., column]
        for name, of in (("median", weighted_medians), ("mean", lambda values, weights: weights @ values)):
            interval = Interval.of(of(ours, draws) / of(theirs, draws))
            found[f"{kind} {name}"] = float(of(ours, every) / of(theirs, every)), interval.low, interval.high
    return found


def _figures(errors: list[tuple[float, float]], seconds: list[float]) -> dict[str, float]:
    rotation, translation = (list(column) for column in zip(*errors, strict=True))
    return {
        "R median": median(rotation), "R mean": sum(rotation) / len(rotation), "t median": median(translation),
        "t mean": sum(translation) / len(translation), "ms": 1e3 * median(seconds),
    }  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Config))

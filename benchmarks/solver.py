"""The solver next to SurfEmb's published one, on the same queries: accuracy, processor time, memory.

    python benchmarks/solver.py --kept runs/solver

One crop has 224 x 224 queries, the part 50 000 surface points; 10 000 samples are drawn, 1000 poses scored, the best
refined. Crops are those of `planted_crops.py`: three parts in turn, the nut symmetric. The published solver needs half
a minute a crop; its results are kept in a folder, one file a crop, so that a stopped run goes on where it was. Times
are of the processor, in one thread, and taken side by side on the first crops, in turns, if `timed` is not 0. The last
line is one JSON object; exit status 1 where a figure that was asked for is missed. Errors are modulo the part's
symmetries.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro
from torch import Tensor

from cad2pose.files import write_text
from cad2pose.geometry import geodesic_distance
from cad2pose.parts import builtin_part
from cad2pose.solvers import QueryMaps, SearchOptions, SolverOptions, Surface, key_symmetry, solve
from planted_crops import PARTS, PlantedCrop, embed, planted_crop
from surfemb_twin import TwinOptions, estimate_pose

POINTS = 50_000


@dataclass(frozen=True)
class Config:
    """Our solver next to the published one."""

    kept: Path = Path("runs/solver")
    """Folder of the published solver's results."""

    crops: int = 200
    """Crops of the comparison."""

    timed: int = 6
    """Crops on which both are timed in turns."""

    search: bool = False
    """Proposals from the search in place of sampling."""


@dataclass(frozen=True)
class Errors:
    """Degrees, and % of the distance; infinite without a pose."""

    rotation: float
    translation: float


def maps_of(crop: PlantedCrop) -> QueryMaps:
    """A batch of one crop."""
    valid = torch.ones_like(crop.mask_logits)
    return QueryMaps(crop.queries[None], crop.mask_logits[None], valid[None], crop.K[None])


class Side:
    """What both solvers know of a part."""

    def __init__(self, name: str) -> None:
        self.part = builtin_part(name)
        self.surface = Surface.of_part(self.part, POINTS)
        self.keys = embed(self.part, self.surface.points)
        self.symmetry = key_symmetry(self.surface, self.keys)
        self.points = (self.surface.points.double() * self.part.radius + self.part.center).float()

    def ours(self, crop: PlantedCrop, options: SolverOptions) -> Errors:
        found = solve(self.surface, self.keys, maps_of(crop), options, symmetry=self.symmetry)
        if not bool(found.found[0]):
            return Errors(float("inf"), float("inf"))
        return self.errors(crop, found.rotation[0, 0].double(), found.position[0, 0].double())

    def twin(self, crop: PlantedCrop, number: int, kept: Path | None) -> tuple[Errors, float]:
        """Errors and seconds, from the kept file where there is one."""
        file = kept / f"twin_{number:03d}.json" if kept else None
        if file is None or not file.is_file():
            found = estimate_pose(
                crop.mask_logits, crop.queries, self.points, self.surface.normals, self.keys, crop.K,
                self.part.diameter, TwinOptions(seed=number),
            )  # fmt: skip
            pose = [None if x is None else x.tolist() for x in (found.rotation, found.translation)]
            entry = {"rotation": pose[0], "translation": pose[1], "seconds": found.seconds, "reason": found.reason}
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, json.dumps(entry))
        else:
            entry = json.loads(file.read_text())
        seconds = sum(entry["seconds"].values())
        if entry["rotation"] is None:
            return Errors(float("inf"), float("inf")), seconds
        R, t = (torch.tensor(entry[name], dtype=torch.float64) for name in ("rotation", "translation"))
        return self.errors(crop, R, (R @ self.part.center + t) / self.part.radius), seconds

    def errors(self, crop: PlantedCrop, rotation: Tensor, position: Tensor) -> Errors:
        true = crop.T_cam_obj[:3, :3] @ self.part.symmetries.rotation_group()
        wanted = self.part.middle(crop.T_cam_obj) / self.part.radius
        angle = geodesic_distance(rotation.expand_as(true), true).min().rad2deg()
        return Errors(float(angle), float(100 * (position - wanted).norm() / wanted.norm()))


def main(config: Config) -> int:
    torch.set_num_threads(1)
    options = SolverOptions(proposals=SearchOptions()) if config.search else SolverOptions()
    sides = {name: Side(name) for name in PARTS}
    first = planted_crop(0)
    sides[first.part.name].ours(first, options)  # what a first call loads is not the solver's
    memory = _peak_memory(lambda: sides[first.part.name].ours(first, options))
    ours, twin, seconds = [], [], []
    for number in range(config.crops):
        crop = planted_crop(number)
        begun = time.process_time()
        ours.append(sides[crop.part.name].ours(crop, options))
        seconds.append(time.process_time() - begun)
    for number in range(config.crops):
        crop = planted_crop(number)
        twin.append(sides[crop.part.name].twin(crop, number, config.kept)[0])
    pairs = [_timed(sides, number, options) for number in range(config.timed)]
    figures = _figures(ours, twin, seconds, pairs, memory)
    for name in (*PARTS, "all"):
        rows = [i for i in range(config.crops) if name in ("all", PARTS[i % len(PARTS)])]
        print(
            f"{name:8s}",
            *(f"{who} {_summary([some[i] for i in rows])}" for who, some in (("ours", ours), ("twin", twin))),
        )
    print(json.dumps(asdict(config) | {"kept": str(config.kept)} | figures))
    return 0 if all(value for key, value in figures.items() if key.startswith("met_")) else 1


def _peak_memory(work: Callable[[], object]) -> float:
    """MB that the process held at most during the work, over what it held before; of Linux."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier work has freed must not be there for the taking
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _timed(sides: dict[str, Side], number: int, options: SolverOptions) -> tuple[float, float]:
    crop = planted_crop(number)
    begun = time.process_time()
    sides[crop.part.name].ours(crop, options)
    ours = time.process_time() - begun
    return ours, sides[crop.part.name].twin(crop, number, None)[1]


def _summary(errors: list[Errors]) -> str:
    rotation, translation = (torch.tensor([getattr(e, name) for e in errors]) for name in ("rotation", "translation"))
    good = ((rotation < 5) & (translation < 5)).float().mean()
    return (
        f"R {rotation.median():.2f} deg (90 %: {rotation.quantile(0.9):.1f}), t {translation.median():.2f} % "
        f"(90 %: {translation.quantile(0.9):.1f}), below 5 deg and 5 %: {good:.1%};"
    )


def _figures(
    ours: list[Errors], twin: list[Errors], seconds: list[float], pairs: list[tuple[float, float]], memory: float
) -> dict[str, float | bool]:
    """Paired by the mean difference of errors capped at 30 deg and 10 %, and its standard error."""
    figures: dict[str, float | bool] = {}
    for name, most in (("rotation", 30.0), ("translation", 10.0)):
        a, b = (torch.tensor([min(getattr(e, name), most) for e in some], dtype=torch.float64) for some in (ours, twin))
        off = a - b
        figures |= {
            f"{name}_ours": float(a.median()), f"{name}_twin": float(b.median()),
            f"{name}_mean_difference": float(off.mean()), f"{name}_standard_error": float(off.std() / len(off) ** 0.5),
            f"{name}_share_better": float((off < 0).double().mean()),
            f"met_{name}": bool(off.mean() <= 2 * off.std() / len(off) ** 0.5),
        }  # fmt: skip
    figures |= {"seconds_all_crops": median(seconds), "memory_mb": memory, "met_memory": memory <= 300}
    if pairs:
        mine, theirs = (median(side) for side in zip(*pairs, strict=True))
        figures |= {
            "seconds_ours": mine, "seconds_twin": theirs, "ratio": theirs / mine,
            "met_seconds": mine <= 0.5, "met_ratio": theirs / mine >= 50,
        }  # fmt: skip
    return figures


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))

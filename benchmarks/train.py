"""Training rate, split into what makes a crop and what learns from it.

    python benchmarks/train.py [--device cuda] [--method surfemb] [--full] [--batch-size 64]
        [--parts bracket nut | --bop lmo --objects 6]

Batches are made and learned from in turn, in one thread, and each stage is timed on its own:

    render   rasterisation, interpolation of what the vertices carry, shading
    augment  everything else of making a crop: poses and cameras, paint, composition, background, camera effects
    step     forward, backward, optimiser, averaging of the weights

On a CPU the clock is processor time, on CUDA wall time. Then the rate with crops made ahead in a thread of their own,
as training does it, in wall time, and beside it what the step alone could do at most: its operations and bytes, and the
least time that they take where the device's peaks are known (`roofline.py`). The last line is one JSON object; exit
status 1 where render and augment take too large a share.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import torch
import tyro

from cad2pose.cli.sources import find_parts
from cad2pose.data import synthetic
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.devices import keep_freed_memory, pick_device
from cad2pose.methods import QueryConfig, SurfEmbConfig
from cad2pose.training import Run, TrainingConfig, training_step
from cad2pose.training.checkpoint import TrainingState
from cad2pose.training.compiling import compile_networks
from cad2pose.training.cost import peak_memory
from cad2pose.training.prefetch import prefetch
from roofline import load_of
from stopwatch import Stopwatch, device_name

WANTED_SHARE = {"cpu": 0.4, "cuda": 0.3}
# Functions that `SyntheticCrops` calls, by the stage whose time they are. Those of "augment" are its larger parts.
RENDER = {"rasterise": (synthetic, "render"), "light": (synthetic, "light")}
AUGMENT = {
    "poses": (SyntheticCrops, "_scene"), "paint": (synthetic, "paint"), "background": (SyntheticCrops, "_backdrop"),
    "camera": (synthetic, "augment"),
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Crops per second of training, stage by stage."""

    device: str = "cpu"
    """cpu, cuda, cuda:N or auto."""

    method: Literal["query", "surfemb"] = "query"
    """Which method learns."""

    full: bool = False
    """The full-size model in place of the small one."""

    batch_size: int = 32
    """Crops per step."""

    parts: tuple[str, ...] = ("builtin",)
    """Built-in parts or mesh files."""

    bop: str | None = None
    """A BOP data set to take the parts from."""

    objects: tuple[int, ...] = ()
    """Which of its objects; all by default."""

    repeats: int = 7
    """Timed batches; medians are reported."""

    compiled: bool = False
    """Have torch compile encoder and decoder first."""


def stages(state: TrainingState, crops: SyntheticCrops, training: TrainingConfig, repeats: int) -> dict[str, float]:
    """Median milliseconds per crop of every stage and its parts."""
    rows: list[dict[str, float]] = []
    for index in range(repeats + 2):  # two warm up
        watch = Stopwatch(crops.device)
        with watch.wrapped(RENDER | AUGMENT), watch.stage("crops"):
            batch = crops.batch(index, training.batch_size)
        with watch.stage("step"):
            training_step(state, batch, training)
        row = {name: 1e3 * seconds / training.batch_size for name, seconds in watch.seconds.items()}
        row["render"] = sum(row[name] for name in RENDER)
        row["augment"] = row.pop("crops") - row["render"]
        row["other"] = row["augment"] - sum(row[name] for name in AUGMENT)
        rows.append(row)
    return {name: median(row[name] for row in rows[2:]) for name in rows[0]}


def overlapped(state: TrainingState, crops: SyntheticCrops, training: TrainingConfig, steps: int) -> float:
    """Crops per second of wall time, with crops made ahead as in training."""
    begun = 0.0
    for number, batch in enumerate(prefetch(lambda i: crops.batch(i, training.batch_size), 0, steps + 3, crops.device)):
        terms = training_step(state, batch, training)
        if number in (2, steps + 2):
            float(terms["total"])  # waits for the device
            begun = time.perf_counter() - begun
    return steps * training.batch_size / begun


def _limit(state: TrainingState, crops: SyntheticCrops, training: TrainingConfig, where: str) -> dict[str, float]:
    """What the step asks of the device, a crop, printed; and the rate that its peaks allow, where they are known."""
    batch = crops.batch(0, training.batch_size)
    load = load_of(lambda: training_step(state, batch, training))
    each = {"step_gflop": load.operations / 1e9, "step_megabytes": load.moved / 1e6}
    found = {name: round(value / training.batch_size, 3) for name, value in each.items()}
    line = f"limit of the step: {found['step_gflop']:.2f} GFLOP and {found['step_megabytes']:.1f} MB moved, a crop"
    if (least := load.seconds(where)) is not None:
        found["limit_crops_per_second"] = round(training.batch_size / least)
        line += f"; by the device's peaks {found['limit_crops_per_second']:.0f} crops/s"
    print(line)
    return found


def main(config: Config) -> int:
    torch.set_num_threads(1)
    keep_freed_memory()
    device = pick_device(config.device)
    parts = find_parts((config.bop,) if config.bop else config.parts, config.objects, "mm")
    kind = SurfEmbConfig if config.method == "surfemb" else QueryConfig
    model = kind.full() if config.full else kind()
    training = TrainingConfig(batch_size=config.batch_size)
    crops = SyntheticCrops(parts, SyntheticConfig(crop_size=model.crop_size, pad=model.pad), device)
    state = Run(parts, model, training, device).state()
    state.method.train()
    if config.compiled:
        compile_networks(state.method, device)
    where = device_name(device)
    print(f"{where}; {len(parts)} parts, crops of {model.crop_size} px, batches of {config.batch_size}")
    row = stages(state, crops, training, config.repeats)
    wanted = WANTED_SHARE[device.type]
    total = row["render"] + row["augment"] + row["step"]
    share = (row["render"] + row["augment"]) / total
    rate = overlapped(state, crops, training, max(4, config.repeats))
    print("stage     ms a crop   share   crops/s alone")
    for name, inside in (("render", tuple(RENDER)), ("augment", (*AUGMENT, "other")), ("step", ())):
        print(f"{name:9} {row[name]:9.3f} {row[name] / total:8.1%} {1e3 / row[name]:12.0f}")
        for detail in inside:
            print(f"  {detail:12} {row[detail]:6.3f}")
    print(f"in turn   {total:9.3f} {'':8} {1e3 / total:12.0f}   render + augment: {share:.1%} (< {wanted:.0%})")
    print(
        f"overlapped {1e3 / rate:8.3f} {'':8} {rate:12.0f}   wall time; {peak_memory(device) / 2**20:.0f} MiB at most"
    )
    met = share < wanted
    limit = _limit(state, crops, training, where)
    figures = {f"{name}_ms": round(value, 4) for name, value in row.items()}
    figures |= {"crops_per_second": round(1e3 / total, 2), "overlapped_crops_per_second": round(rate, 2)}
    print(json.dumps({
        "benchmark": "train", "device": where, "method": config.method, "full": config.full,
        "batch_size": config.batch_size, "parts": [part.name for part in parts], **figures,
        "share": round(share, 4), "wanted_share": wanted, "compiled": config.compiled, **limit,
        "memory_mib": round(peak_memory(device) / 2**20), "met": met,
    }))  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))

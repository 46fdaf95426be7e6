"""Time of the contestants' networks, side by side: a crop's way through the network, and a training step.

    python benchmarks/networks.py [--size small] [--contestants flagship coarse gdrnet surfemb] [--device cuda]

They take turns in one process, so that other work on the machine slows all alike; medians. On a CPU the clock is
processor time, on CUDA wall time. The last line is one JSON object; exit status 1 where the flagship's network takes
more than 1.5 times the time of GDR-Net's and both were asked for.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import torch
import tyro

from cad2pose.data import SyntheticConfig, SyntheticCrops
from cad2pose.devices import keep_freed_memory, pick_device
from cad2pose.experiments.contestants import CONTESTANTS, Size, chosen
from cad2pose.parts.builtin import builtin_part
from cad2pose.training import Run, TrainingConfig, training_step
from stopwatch import Stopwatch, device_name

WANTED = 1.5


@dataclass(frozen=True)
class Config:
    """Milliseconds a crop."""

    contestants: tuple[str, ...] = ("flagship", "coarse", "gdrnet", "surfemb")
    size: Size = "small"
    batch_size: int = 16
    repeats: int = 9
    device: str = "cpu"


def main(config: Config) -> int:
    torch.set_num_threads(1)
    keep_freed_memory()
    device, part = pick_device(config.device), builtin_part("bracket")
    training = TrainingConfig(samples=40_000, batch_size=config.batch_size)
    states, batches = {}, {}
    for name in chosen(config.contestants):
        method = CONTESTANTS[name].method(config.size)
        shape = (method.crop_size, method.pad)
        if shape not in batches:
            source = SyntheticCrops([part], SyntheticConfig(crop_size=shape[0], pad=shape[1]), device, 0)
            batches[shape] = source.batch(0, config.batch_size)
        states[name] = (Run([part], method, training, device).state(), batches[shape])
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in states}
    for number in range(config.repeats + 1):
        for name, (state, batch) in states.items():
            watch = Stopwatch(device)
            with watch.stage("step"):
                training_step(state, batch, training)
            state.method.eval()
            with torch.inference_mode(), watch.stage("network"):
                state.method(batch)
            state.method.train()
            if number > 0:  # what is made at first use is not timed
                spent[name].append((watch.seconds["network"], watch.seconds["step"]))
    figures = {}
    print(f"{config.size} networks, {device_name(device)}, ms a crop in batches of {config.batch_size}")
    for name, rows in spent.items():
        network, step = (1e3 * median(column) / config.batch_size for column in zip(*rows, strict=True))
        weights = sum(parameter.numel() for parameter in states[name][0].method.parameters())
        figures[name] = {"network": network, "step": step, "parameters": weights}
        print(f"{name:20s} network {network:6.2f}   step {step:6.2f}   {weights / 1e6:.2f} million weights")
    print(json.dumps({"size": config.size, "device": device_name(device), "milliseconds": figures}))
    if {"flagship", "gdrnet"} <= figures.keys():
        ratio = figures["flagship"]["network"] / figures["gdrnet"]["network"]
        if ratio > WANTED:
            print(f"the flagship's network takes {ratio:.2f} times the time of GDR-Net's; wanted: {WANTED}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))

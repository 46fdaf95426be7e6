"""What a run will take, measured on a few throw-away steps before it starts."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

import torch

from cad2pose.devices import usable_cores
from cad2pose.structures import CropSource
from cad2pose.training.config import TrainingConfig
from cad2pose.training.processes import ALONE, Processes
from cad2pose.training.run import Run
from cad2pose.training.step import training_step

_STEPS = 3


@dataclass(frozen=True)
class Cost:
    """Parameters, seconds per crop for making and for learning it, peak memory so far in bytes, and what starts random.

    `overlaps`: crops are made while the step runs, on the GPU or on a core that is free for it.
    `fresh` names the modules that a model to start from has no weights for.
    """

    parameters: int
    crop_seconds: float
    step_seconds: float
    memory: int
    overlaps: bool
    fresh: tuple[str, ...] = ()

    def hours(self, config: TrainingConfig) -> float:
        """Time of the whole run by one process."""
        parts = self.crop_seconds, self.step_seconds
        return config.samples * (max(parts) if self.overlaps else sum(parts)) / 3600


def measure_cost(run: Run, crops: CropSource, processes: Processes = ALONE) -> Cost:
    """Time a few steps of a copy of the run, with this process's shards alone; nothing of it is kept."""
    state, device = run.state(), run.device
    shards, size = len(processes.shards(run.training.shards)), run.training.batch_size // run.training.shards
    state.method.train()
    parameters = sum(p.numel() for p in state.method.parameters())
    making, learning = [], []
    for index in range(_STEPS):
        begun = time.monotonic()
        batches = [crops.batch(run.training.easing + index * shards + shard, size) for shard in range(shards)]
        _wait(device)
        made = time.monotonic()
        training_step(state, batches, run.training)
        _wait(device)
        making.append(made - begun)
        learning.append(time.monotonic() - made)
    seen = shards * size
    cores = usable_cores() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's name for processes of a machine
    overlaps = device.type == "cuda" or cores > torch.get_num_threads()
    return Cost(parameters, min(making) / seen, min(learning) / seen, peak_memory(device), overlaps, state.fresh)


def peak_memory(device: torch.device) -> int:
    """Largest memory held so far, in bytes: on the GPU, or resident for the process on a CPU; 0 where none can tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows does not tell
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

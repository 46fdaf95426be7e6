"""What a run will take, measured on a few throw-away steps before it starts."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cad2pose.methods import MethodConfig
from cad2pose.model_file import Model
from cad2pose.parts import Part
from cad2pose.structures import CropSource
from cad2pose.training.config import TrainingConfig
from cad2pose.training.loop import make_state
from cad2pose.training.step import training_step

_STEPS = 3


@dataclass(frozen=True)
class Cost:
    """Parameters, seconds per crop for making and for learning it, peak memory so far in bytes, and what starts random.

    `fresh` names the modules that a model to start from has no weights for.
    """

    parameters: int
    crop_seconds: float
    step_seconds: float
    memory: int
    fresh: tuple[str, ...] = ()

    def hours(self, config: TrainingConfig, overlap: bool) -> float:
        """Time of the whole run; with a free core (or a GPU) crops are made while the step runs."""
        together = max(self.crop_seconds, self.step_seconds) if overlap else self.crop_seconds + self.step_seconds
        return config.samples * together / 3600


def measure_cost(
    parts: Sequence[Part],
    method_config: MethodConfig,
    crops: CropSource,
    config: TrainingConfig,
    device: torch.device,
    start: Model | Path | None = None,
) -> Cost:
    """Time a few steps of a copy of the run; nothing of it is kept."""
    state = make_state(method_config, parts, config, device, start)
    state.method.train()
    parameters = sum(p.numel() for p in state.method.parameters())
    making, learning = [], []
    for index in range(_STEPS):
        begun = time.monotonic()
        batch = crops.batch(index, config.batch_size)
        _wait(device)
        made = time.monotonic()
        training_step(state, batch, config)
        _wait(device)
        making.append(made - begun)
        learning.append(time.monotonic() - made)
    size = config.batch_size
    return Cost(parameters, min(making) / size, min(learning) / size, peak_memory(device), state.fresh)


def peak_memory(device: torch.device) -> int:
    """Largest memory held so far: allocated on the GPU, or resident for the process on a CPU, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

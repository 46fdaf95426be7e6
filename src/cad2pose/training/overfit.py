"""The first test of a new part or setting: can the model learn one single batch by heart?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cad2pose.methods import GdrNetConfig, MethodConfig, QueryConfig
from cad2pose.methods.contrastive import ContrastiveConfig
from cad2pose.structures import CropSource
from cad2pose.training.run import Run
from cad2pose.training.step import training_step

# What a model reaches that can learn at all: rotation in sphere diameters, centre in crop sides, depth as a
# logarithm, the cross-entropy (or L1) of each mask, nce below that of chance by this factor.
POSE_TARGETS = {"rotation": 0.06, "centre": 0.04, "depth": 0.03}
MASK_TARGET = {"bce": 0.175, "l1": 0.08}
NCE_SHARE_OF_CHANCE = 0.75


@dataclass(frozen=True)
class OverfitResult:
    """Losses at the end, and the value each should be under."""

    losses: dict[str, float]
    wanted: dict[str, float]

    @property
    def failed(self) -> list[str]:
        """Terms that did not get there."""
        return [name for name, bound in self.wanted.items() if not self.losses[name] < bound]


def overfit(
    run: Run,
    crops: CropSource,
    steps: int = 300,
    report: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
) -> OverfitResult:
    """Train on one batch of crops for a few hundred steps."""
    state = run.state()
    state.method.train()
    shards = run.training.shards
    batches = [crops.batch(number, run.training.batch_size // shards) for number in range(shards)]
    history = []
    for step in range(steps):
        terms = {name: float(term) for name, term in training_step(state, batches, run.training).items()}
        history.append(terms)
        report(step, terms)
    tail = history[-max(1, steps // 20) :]
    losses = {name: sum(terms[name] for terms in tail) / len(tail) for name in tail[0]}
    return OverfitResult(losses, _wanted(run.method))


def _wanted(config: MethodConfig) -> dict[str, float]:
    """Bounds of the terms that a method has."""
    wanted = {"mask": MASK_TARGET["bce"]}
    if isinstance(config, QueryConfig):
        wanted = {**POSE_TARGETS, "mask": 2 * MASK_TARGET["bce"]}  # the sum of two masks
    if isinstance(config, GdrNetConfig):
        masks = 2 if config.double_mask else 1
        wanted = {**POSE_TARGETS, "mask": masks * MASK_TARGET[config.mask_loss]}
        if config.intermediate == "true coordinates":
            wanted.pop("mask")
    if isinstance(config, QueryConfig) and config.frozen:
        wanted.pop("mask")
    elif isinstance(config, ContrastiveConfig) and not (isinstance(config, QueryConfig) and not config.weights.nce):
        wanted["nce"] = NCE_SHARE_OF_CHANCE * math.log(1 + config.negatives)
    return wanted

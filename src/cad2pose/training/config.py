"""Settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cad2pose.settings import check_positive


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast, and what is kept.

    Args:
        samples: crops seen in all.
        batch_size: crops per step.
        shards: pieces that every batch is made of, each with contrastive samples and batch statistics of its own;
            several processes (torchrun) share them. One process takes them in turn, which also saves memory.
        optimizer: AdamW, Adam, or Ranger (RAdam with lookahead and centralised gradients, GDR-Net's).
        learning_rate: peak rate of the convolutional networks and the head.
        key_learning_rate: peak rate of the key networks.
        warmup_steps: linear warm-up; of a short run a third of the steps at most.
        flat_share: share of all steps before the cosine decay to zero sets in (flat and anneal).
        curriculum: share of all steps over which easy batches, of parts without neighbours and with the picture's
            colours left alone, give way to those that are meant; 0: none are easy. It spares short runs much of their
            way.
        weight_decay: of AdamW and Ranger, on weights; not on biases, norms and keys.
        gradient_clip: largest norm of the gradient.
        ema_decay: of the exponential moving average of the weights, which is what is saved and judged.
        mixed_precision: bfloat16 autocast; `auto` uses it on CUDA and on CPUs with matrix units for it.
        checkpoint_minutes: a killed training loses at most this much; one that is asked to stop loses nothing.
        validation_crops: fresh crops judged at every validation, per part.
        validations: how many times over the run.
        seed: of data, initial weights and contrastive samples.
    """

    samples: int = 200_000
    batch_size: int = 32
    shards: int = 1
    optimizer: Literal["adamw", "adam", "ranger"] = "adamw"
    learning_rate: float = 1e-3
    key_learning_rate: float = 3e-4
    warmup_steps: int = 300
    flat_share: float = 0.3
    curriculum: float = 0.0
    weight_decay: float = 1e-4
    gradient_clip: float = 5.0
    ema_decay: float = 0.999
    mixed_precision: Literal["auto", "on", "off"] = "auto"
    checkpoint_minutes: float = 3.0
    validation_crops: int = 64
    validations: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shards < 1 or self.batch_size % self.shards:
            raise ValueError(
                f"shards is {self.shards}; it must be 1 or more, and batches of {self.batch_size} must divide by it"
            )
        counts = ("samples", "batch_size", "validation_crops", "learning_rate", "key_learning_rate", "gradient_clip")
        check_positive(self, *counts)
        for name in ("warmup_steps", "weight_decay", "checkpoint_minutes", "validations", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("flat_share", "curriculum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must be at least 0 and below 1")
        if self.optimizer not in ("adamw", "adam", "ranger"):
            raise ValueError(f"optimizer is {self.optimizer!r}; it must be adamw, adam or ranger")
        if self.mixed_precision not in ("auto", "on", "off"):
            raise ValueError(f"mixed_precision is {self.mixed_precision!r}; it must be auto, on or off")

    @property
    def easing(self) -> int:
        """Batches (one for every shard of a step) over which the curriculum goes."""
        return round(self.curriculum * self.steps) * self.shards

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return -(-self.samples // self.batch_size)

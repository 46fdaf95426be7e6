"""How long the stages of an estimate take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stages:
    """Seconds by stage, added up; those of a stage within another do not count for the outer one.

    Args:
        device: that is waited for at the ends of a stage, if it is a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._within = 0.0  # seconds of the stages that ended inside of the present one

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add what happens inside to a stage."""
        before, self._within, begun = self._within, 0.0, self._now()
        yield
        took = self._now() - begun
        self.seconds[name] = self.seconds.get(name, 0.0) + took - self._within
        self._within = before + took

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

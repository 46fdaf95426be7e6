"""How long the stages of an estimate take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stages:
    """Seconds by stage, added up.

    Args:
        device: that is waited for at the ends of a stage, if it is a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add what happens inside to a stage."""
        begun = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - begun

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

"""Time of the stages inside a call, taken from outside: the functions that a stage is made of are wrapped."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch


class Stopwatch:
    """Seconds spent in each stage.

    On a CPU the clock is processor time (everything here runs in one thread), so that other work on the machine does
    not count; on CUDA it is wall time, with the device synchronised around every stage.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = self._now()
        yield
        self.seconds[name] += self._now() - begun

    @contextmanager
    def wrapped(self, functions: Mapping[str, tuple[Any, str]]) -> Iterator[None]:
        """Time these functions, given as (module or class, name), wherever they are called within the block."""
        with ExitStack() as stack:
            for name, (owner, attribute) in functions.items():
                timed = self._timed(name, getattr(owner, attribute))
                stack.enter_context(patch.object(owner, attribute, timed))
            yield

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return wrapper


def device_name(device: torch.device) -> str:
    """What was measured on, in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU core"

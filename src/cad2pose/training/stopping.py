"""Training that is asked to stop (Ctrl-C, or SIGTERM as job schedulers and containers send it) stops after a step.

What was learnt until then is kept: the loop leaves by its usual way, with a checkpoint, and then says that it was
stopped.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cad2pose.training.processes import Processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_SECONDS = 1.0  # a terminal and torchrun both pass on one Ctrl-C
_AGREED_EVERY = 10  # steps: asking the other processes takes a moment


class StopRequest:
    """Whether the process was asked to stop."""

    def __init__(self) -> None:
        self.at: float | None = None

    def __bool__(self) -> bool:
        return self.at is not None

    def agreed(self, processes: Processes, step: int) -> bool:
        """Whether any process was asked to, known to all of them after the same step (every tenth with several)."""
        return (processes.size == 1 or step % _AGREED_EVERY == 0) and processes.any(bool(self))

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: a second one, a second or more after the first, interrupts at once."""
        now = time.monotonic()
        if self.at is None:
            self.at = now
        elif now - self.at > _SAME_SECONDS:
            raise KeyboardInterrupt


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Signals to stop are noted in what this gives while the block runs; only a process's main thread gets any."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = [signal.signal(number, request.ask) for number in _SIGNALS]
    try:
        yield request
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

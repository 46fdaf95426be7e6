"""Training that is asked to stop (Ctrl-C, or SIGTERM as job schedulers and containers send it) stops after a step.

What was learnt until then is kept: the loop leaves by its usual way, with a checkpoint, and then says that it was
stopped.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cad2pose.training.processes import Processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2
_SAME_SECONDS = 1.0  # a terminal and torchrun both pass on one Ctrl-C
_AGREED_EVERY = 10  # steps of GPUs, which hosts would otherwise wait for after every one
_TOLD = b"cad2pose: stopping after the step at hand; once more interrupts at once\n"


class StopRequest:
    """Whether the process was asked to stop; `tell`: it says that it heard."""

    def __init__(self, tell: bool = False) -> None:
        self.at: float | None = None
        self.tell = tell

    def __bool__(self) -> bool:
        return self.at is not None

    def agreed(self, processes: Processes, step: int) -> bool:
        """Whether any process was asked to, known to all of them after the same step (every tenth of several GPUs)."""
        return (not processes.on_gpus or step % _AGREED_EVERY == 0) and processes.any(bool(self))

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: a second one, a second or more after the first, interrupts at once."""
        now = time.monotonic()
        if self.at is None:
            self.at = now
            if self.tell:
                os.write(_STDERR, _TOLD)  # a handler may come in the middle of what print does
        elif now - self.at > _SAME_SECONDS:
            raise KeyboardInterrupt


@contextmanager
def stop_requests(tell: bool = False) -> Iterator[StopRequest]:
    """Signals to stop are noted in what this gives while the block runs; only a process's main thread gets any.

    One that the process was started to ignore (Ctrl-C, by a script that runs it beside others) stays ignored.
    """
    request = StopRequest(tell)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heard = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heard:
        signal.signal(number, request.ask)
    try:
        yield request
    finally:
        for number in heard:
            signal.signal(number, before[number])

"""Batches made one ahead of the step, in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from cad2pose.structures import CropBatch


def prefetch(make: Callable[[int], CropBatch], start: int, stop: int, depth: int = 2) -> Iterator[CropBatch]:
    """Yield make(start), ..., make(stop - 1) in order, up to `depth` of them made ahead.

    Rendering and tensor operations release the interpreter lock, so on a CPU they overlap with the
    step. An exception in `make` is raised here; leaving the loop early stops the thread.
    """
    ready: queue.Queue[CropBatch | BaseException] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: CropBatch | BaseException) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for index in range(start, stop):
                if stopped.is_set():
                    return
                put(make(index))
        except BaseException as error:  # handed to the consumer, whatever it is
            put(error)

    thread = threading.Thread(target=work, name="crops", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()

"""Batches made ahead of the step, in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from cad2pose.structures import CropBatch


def prefetch(
    make: Callable[[int], CropBatch], start: int, stop: int, device: torch.device | None = None, depth: int = 2
) -> Generator[CropBatch, None, None]:
    """Yield make(start), ..., make(stop - 1) in order, up to `depth` of them made ahead.

    Rendering and tensor operations release the interpreter lock, so on a CPU they overlap with the
    step. On CUDA (`device`) the batches are made on a stream of their own, whose waits do not wait for the step's.
    An exception in `make` is raised here; leaving the loop early stops the thread.
    """
    ready: queue.Queue[CropBatch | BaseException] = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    stream = None
    if device is not None and device.type == "cuda":
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))  # what `make` uses may just have been uploaded

    def put(item: CropBatch | BaseException) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            with torch.cuda.stream(stream) if stream else nullcontext():
                for index in range(start, stop):
                    if stopped.is_set():
                        return
                    batch = make(index)
                    if stream:
                        stream.synchronize()
                    put(batch)
        except BaseException as error:  # handed to the consumer, whatever it is
            put(error)

    thread = threading.Thread(target=work, name="crops", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            if stream:
                _keep_for_current_stream(item)
            yield item
    finally:
        stopped.set()
        thread.join()


def _keep_for_current_stream(record: object) -> None:
    """Memory of another stream's tensors is not given out again before the current stream is done with them."""
    assert is_dataclass(record)
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor) and value.is_cuda:
            value.record_stream(torch.cuda.current_stream(value.device))
        elif is_dataclass(value):
            _keep_for_current_stream(value)

"""Which device torch computes on, with how many threads, and what becomes of the memory that it frees."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_ALLOWED = "give auto, cpu, cuda or cuda:N"
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names of what mallopt sets
_KEPT, _LARGEST = 1 << 30, 32 << 20  # bytes; larger blocks than the latter are the system's in any case


def pick_device(device: torch.device | str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one, else the CPU.

    Raises:
        ValueError: for a device that is unknown, not supported, or not there.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {str(device)!r} is not known; {_ALLOWED}") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device {str(device)!r} is not supported; {_ALLOWED}")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {str(device)!r} is not there: CUDA devices here: {torch.cuda.device_count()}; {_ALLOWED}"
        )
    return found


def device_name(device: torch.device) -> str:
    """What times are measured on: the GPU's name, or the CPU with the number of torch threads now."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, torch threads: {torch.get_num_threads()}"


@lru_cache(maxsize=256)
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """A small float32 tensor of nested numbers, made on a device once: a copy to a GPU waits for all that it has to do.

    Nobody may change it.
    """
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def usable_cores() -> int:
    """How many cores this process may use, where the system tells; else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(threads: int) -> None:
    """Let torch have so many threads; ValueError for less than one."""
    if threads < 1:
        raise ValueError(f"threads is {threads}; it must be 1 or more")
    torch.set_num_threads(threads)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to a gigabyte, for what it needs next; whether its C library can (glibc).

    Otherwise the maps of every batch are handed back to the system and come back page by page, which takes some 4 % of
    the time of training on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no such function, or no such way to it
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT)) and bool(mallopt(_MMAP_THRESHOLD, _LARGEST))

"""Which device torch computes on, and with how many threads."""

from __future__ import annotations

import torch

_ALLOWED = "give auto, cpu, cuda or cuda:N"


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


def use_threads(threads: int) -> None:
    """Let torch have so many threads; ValueError for less than one."""
    if threads < 1:
        raise ValueError(f"threads is {threads}; it must be 1 or more")
    torch.set_num_threads(threads)

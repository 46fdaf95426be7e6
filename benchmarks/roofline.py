"""How fast a piece of work could be at most on a device: by its operations, and by the bytes it moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

PEAKS = {"NVIDIA H200": (989e12, 4.8e12)}
"""Operations (bfloat16, dense) and bytes a second, by the maker's data sheet."""


@dataclass(frozen=True)
class Load:
    """What a piece of work asks of a device.

    Args:
        operations: multiplications and additions of its convolutions and matrix products.
        moved: bytes that its torch operations read and write, each by itself: fused ones would move less.
    """

    operations: float
    moved: float

    def seconds(self, device: str) -> float | None:
        """The least time by the device's peaks; None for devices whose peaks are not known here."""
        peaks = next((peak for name, peak in PEAKS.items() if device.startswith(name)), None)
        return None if peaks is None else max(self.operations / peaks[0], self.moved / peaks[1])


class _Bytes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, torch.Tensor)]
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return found


def load_of(work: Callable[[], object]) -> Load:
    """Do the work twice, to count its operations, and its bytes."""
    with FlopCounterMode(display=False) as counter:
        work()
    with _Bytes() as traffic:
        work()
    return Load(float(counter.get_total_flops()), float(traffic.moved))

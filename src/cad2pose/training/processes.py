"""Several processes, on one machine or many, that train one model: torchrun starts them, torch's DDP joins them.

A batch is made of shards. A shard has crops, contrastive samples and batch statistics of its own, which follow from its
number alone, so that the same run gives the same losses with one process for all shards or with one for each. What
batch norm remembers for later is averaged over the processes, where one process follows its shards one after the other:
that is alike, not the same.
"""

from __future__ import annotations

import inspect
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cad2pose.methods import Method
from cad2pose.structures import CropBatch


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is.

    Args:
        rank: from 0; the first one writes files and judges.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and judges."""
        return self.rank == 0

    def shards(self, count: int) -> range:
        """Those of `count` shards that are this process's.

        Raises:
            ValueError: if they cannot be shared out evenly.
        """
        if count % self.size:
            raise ValueError(
                f"{self.size} processes cannot share batches of {count} shards evenly; give --shards {self.size} "
                "or a multiple of it"
            )
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over all processes."""
        if self.size == 1:
            return values
        stacked = torch.stack([value.float() for value in values.values()])
        torch.distributed.all_reduce(stacked)
        return dict(zip(values, stacked / self.size, strict=True))

    def average_statistics(self, method: nn.Module) -> None:
        """The running means and variances of batch norm become their means over all processes."""
        if self.size == 1:
            return
        running = [b for name, b in method.named_buffers() if name.endswith(("running_mean", "running_var"))]
        if not running:
            return
        mean = torch.cat([buffer.flatten() for buffer in running])
        torch.distributed.all_reduce(mean)
        for buffer, values in zip(running, (mean / self.size).split([b.numel() for b in running]), strict=True):
            buffer.copy_(values.view_as(buffer))

    @property
    def on_gpus(self) -> bool:
        """Whether there are several, each with a GPU."""
        return self.size > 1 and torch.distributed.get_backend() == "nccl"

    def any(self, own: bool) -> bool:
        """Whether it is so in any of the processes."""
        if self.size == 1:
            return own
        flag = torch.tensor(float(own), device="cuda" if self.on_gpus else "cpu")
        torch.distributed.all_reduce(flag)
        return bool(flag > 0)

    def from_first(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box)
        return box[0]


ALONE = Processes()


def join_processes(device: torch.device) -> tuple[Processes, torch.device]:
    """Join the processes that torchrun started, if it did; with CUDA each gets a GPU of its machine.

    Raises:
        ValueError: if there are more processes on a machine than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE, device
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(f"{local + 1} or more processes on a machine with {torch.cuda.device_count()} GPUs")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(torch.distributed.get_rank(), size), device


class Losses(nn.Module):
    """A method's losses as one forward pass, which is what DDP watches."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: CropBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        losses = self.method.loss(self.method(batch), batch, generator)
        return losses.total, dict(losses.terms)


def joined(method: Method, processes: Processes) -> nn.Module:
    """The method's losses; with several processes, gradients are averaged over them."""
    losses = Losses(method)
    if processes.size == 1:
        return losses
    # statistics that batch norm remembers are averaged elsewhere; torch 2.13 has another name for leaving them alone
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    # a process may hold none of some part's crops, whose decoder then gets no gradient there
    return DistributedDataParallel(losses, find_unused_parameters=True, **buffers)  # type: ignore[arg-type]


def without_exchange(losses: nn.Module) -> AbstractContextManager[object]:
    """Gradients of what runs in here stay in this process until a later pass exchanges them."""
    return losses.no_sync() if isinstance(losses, DistributedDataParallel) else nullcontext()

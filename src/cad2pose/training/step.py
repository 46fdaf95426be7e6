"""One step of the optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from cad2pose.structures import CropBatch
from cad2pose.training.checkpoint import TrainingState
from cad2pose.training.config import TrainingConfig
from cad2pose.training.optim import autocast, rate_factor, set_rate
from cad2pose.training.processes import ALONE, Processes, joined, without_exchange


def training_step(
    state: TrainingState,
    batch: CropBatch | Sequence[CropBatch],
    config: TrainingConfig,
    losses: nn.Module | None = None,
    processes: Processes = ALONE,
) -> dict[str, torch.Tensor]:
    """One optimiser step; returns the unweighted loss terms and the total, means over this process's shards.

    Args:
        state: of the training.
        batch: the crops, or one batch for each of this process's shards.
        config: settings.
        losses: as `joined` gives them; needed where there are several processes.
        processes: which of them this is.
    """
    method, shards = state.method, [batch] if isinstance(batch, CropBatch) else list(batch)
    losses = joined(method, ALONE) if losses is None else losses
    device, first = shards[0].image.device, processes.shards(config.shards)[0]
    set_rate(state.optimizer, rate_factor(state.step, config))
    state.optimizer.zero_grad(set_to_none=True)
    found: list[dict[str, torch.Tensor]] = []
    for number, shard in enumerate(shards):
        seed = (config.seed * 1_000_003 + state.step + (first + number) * 2_000_000_011) % 2**63
        generator = torch.Generator(device).manual_seed(seed)
        with nullcontext() if number == len(shards) - 1 else without_exchange(losses):
            with drawing_from(seed, device), autocast(config, device):
                total, terms = _losses(losses, shard, generator)
            (total / len(shards)).backward()
        found.append({"total": total.detach(), **{name: term.detach() for name, term in terms.items()}})
    norm = torch.nn.utils.clip_grad_norm_(method.parameters(), config.gradient_clip)
    _leave_out_unless_finite(state.optimizer, norm)
    state.optimizer.step()
    processes.average_statistics(method)
    state.average.update_parameters(method)
    state.step += 1
    return {name: torch.stack([terms[name] for terms in found]).mean() for name in found[0]}


def _losses(
    losses: nn.Module, shard: CropBatch, generator: torch.Generator
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    try:
        return losses(shard, generator)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"{len(shard)} crop of {shard.image.shape[-1]} pixels at once is too little to normalise by: the innermost "
            "map has a single cell; take more crops a step (--batch-size), fewer shards, or larger crops"
        ) from error


def _leave_out_unless_finite(optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> None:
    """A step whose gradient is not finite changes no weight; the device need not be waited for."""
    if getattr(optimizer, "_step_supports_amp_scaling", False):  # fused ones know what to do, for gradient scalers
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        return
    for group in optimizer.param_groups:  # the norm is in every gradient by now
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """What layers draw (DropBlock) follows from the seed, whatever was drawn before, and changes nothing after."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield

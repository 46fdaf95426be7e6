"""Optimiser, learning-rate schedule and mixed precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cad2pose.networks import PER_OBJECT_VECTORS, PER_OBJECT_WEIGHT
from cad2pose.training.config import TrainingConfig

_Tensors = tuple[Tensor, ...] | list[Tensor]


def make_optimizer(method: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser with three groups: decayed weights, undecayed vectors, and key networks (their own rate, no decay).

    What is frozen is in none. Every group remembers its peak rate as `peak`. Adam decays nothing (as in the thesis).
    Ranger is RAdam with lookahead and centralised gradients (Wang et al. 2021 train GDR-Net with it): of weights, the
    mean over all inputs of an output is taken out of the gradient.
    """
    plain, keys = [], []
    inputs: dict[nn.Parameter, tuple[int, ...]] = {}  # dimensions of them, of the decayed weights
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("keys."):
            keys.append(parameter)
        elif parameter.ndim < 2 or name.endswith(PER_OBJECT_VECTORS):
            plain.append(parameter)
        else:
            inputs[parameter] = (1,) if name.endswith(PER_OBJECT_WEIGHT) else tuple(range(1, parameter.ndim))
    decay = 0.0 if config.optimizer == "adam" else config.weight_decay
    groups = [
        {"params": list(inputs), "weight_decay": decay, "peak": config.learning_rate},
        {"params": plain, "weight_decay": 0.0, "peak": config.learning_rate},
        {"params": keys, "weight_decay": 0.0, "peak": config.key_learning_rate},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "ranger":
        from pytorch_optimizer import Ranger  # it takes half a second to load

        ranger = Ranger(groups, lr=config.learning_rate, use_gc=False)  # it would centralise vectors per object, too
        ranger.register_step_pre_hook(lambda *_: _centralise(inputs))
        return ranger
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.learning_rate, fused=True)


@torch.no_grad()
def _centralise(inputs: Mapping[nn.Parameter, tuple[int, ...]]) -> None:
    """Gradient centralisation (Yong et al. 2020) over these dimensions."""
    for parameter, dimensions in inputs.items():
        if parameter.grad is not None:
            parameter.grad.sub_(parameter.grad.mean(dimensions, keepdim=True))


def rate_factor(step: int, config: TrainingConfig) -> float:
    """Learning rate at a step in units of its peak: linear warm-up, flat, cosine to zero (GDR-Net's schedule)."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = max(config.flat_share * config.steps, config.warmup_steps)
    if step < start:
        return 1.0
    progress = (step - start) / max(1, config.steps - start)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to `factor` of its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak"]


def moving_average(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """Update rule of an exponential moving average for `AveragedModel`.

    The n-th update keeps min(decay, (1 + n) / (10 + n)) of the average, so that the random weights of the
    start are forgotten at once and not over 1 / (1 - decay) steps.
    """

    @torch.no_grad()
    def update(averages: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        if not averages[0].is_floating_point():  # all are of one type and on one device
            torch._foreach_copy_(averages, current)  # pyright: ignore[reportPrivateImportUsage]
            return
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averages, current, 1 - kept)  # pyright: ignore[reportPrivateImportUsage]

    return update


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions are worth it: CUDA from Ampere on, and CPUs with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probes = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return any(probe is not None and probe() for probe in probes)


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """The mixed-precision context of a run."""
    wanted = config.mixed_precision
    enabled = wanted == "on" or (wanted == "auto" and has_fast_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)

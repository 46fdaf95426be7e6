"""Optimiser, learning-rate schedule and mixed precision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cad2pose.networks import PER_OBJECT_VECTORS, PER_OBJECT_WEIGHT
from cad2pose.training.config import TrainingConfig


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

        # it would centralise vectors per object, too; its first steps, for which variances are not known well enough,
        # would go uphill if they were not plain gradient steps
        ranger = Ranger(groups, lr=config.learning_rate, use_gc=False, degenerated_to_sgd=True)
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
    """Learning rate at a step in units of its peak: linear warm-up, flat, cosine to zero (GDR-Net's schedule).

    The warm-up of a run of few steps is a third of them at most.
    """
    warmup = min(config.warmup_steps, config.steps // 3)
    if step < warmup:
        return (step + 1) / warmup
    start = max(config.flat_share * config.steps, warmup)
    if step < start:
        return 1.0
    progress = (step - start) / max(1, config.steps - start)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to `factor` of its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak"]


class MovingAverage(AveragedModel):
    """Exponential moving average of a module's weights and statistics; what is no fraction is taken over as it is.

    The n-th update keeps min(decay, (1 + n) / (10 + n)) of the average, so that the random weights of the
    start are forgotten at once and not over 1 / (1 - decay) steps. Updates are counted on the host: a device need not
    be waited for.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the present weights of a module like the averaged one."""
        count = int(self.n_averaged)
        kept = min(self.decay, (1 + count) / (10 + count)) if count else 0.0
        pairs = zip(_tensors(self.module), _tensors(model), strict=True)
        fractions, others = [], []
        for pair in pairs:
            (fractions if pair[0].is_floating_point() else others).append(pair)
        if fractions:
            averages, current = zip(*fractions, strict=True)
            torch._foreach_lerp_(averages, current, 1 - kept)  # pyright: ignore[reportPrivateImportUsage]
        for average, now in others:
            average.copy_(now)
        self.n_averaged += 1


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from (tensor.detach() for tensor in module.parameters())
    yield from module.buffers()


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

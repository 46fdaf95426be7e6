"""Networks compiled for their training steps, where there is a compiler."""

from __future__ import annotations

import warnings

import torch
from torch import nn

_NETWORKS = ("encoder", "decoder")


def compile_networks(method: nn.Module, device: torch.device, backend: str = "inductor") -> int:
    """Have encoder and decoders compiled at their next pass, in place; returns how many they are.

    Names and values of the weights stay, so checkpoints and model files are the same. Without a compiler nothing is
    compiled, with a warning; a network that cannot be compiled runs as it did, with one of torch. Heads and keys are
    left out: they draw random numbers, or are small.

    Args:
        method: with an `encoder`, and a `decoder` or `decoders`.
        device: where it is.
        backend: of `torch.compile`.
    """
    if backend == "inductor" and not has_compiler(device):
        wanted = "Triton" if device.type == "cuda" else "a C++ compiler"
        warnings.warn(f"networks are not compiled: torch.compile needs {wanted}, and finds none", stacklevel=2)
        return 0
    import torch._dynamo.config  # it takes seconds to load

    torch._dynamo.config.suppress_errors = True
    networks = [getattr(method, name) for name in _NETWORKS if isinstance(getattr(method, name, None), nn.Module)]
    networks += list(getattr(method, "decoders", ()))
    for network in networks:
        network.compile(backend=backend, dynamic=False)
    return len(networks)


def has_compiler(device: torch.device) -> bool:
    """Whether torch finds what it compiles with: Triton for CUDA, a C++ compiler for CPUs."""
    try:
        if device.type == "cuda":
            from torch.utils._triton import has_triton

            return has_triton()
        from torch._inductor.cpp_builder import get_cpp_compiler

        return bool(get_cpp_compiler())
    except Exception:  # torch says so in many ways, and keeps this to itself
        return False

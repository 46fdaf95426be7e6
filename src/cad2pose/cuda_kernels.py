"""Kernels in CUDA C++ beside the code that uses them, compiled when first used; no compiler is needed.

NVIDIA's runtime compiler (NVRTC) and Python bindings come with torch's CUDA wheels. Where they are missing, or a kernel
does not compile, there is one warning, and callers go on with torch operations that compute the same.

    kernel = cuda_kernels.find_kernel(Path(__file__).with_suffix(".cu"), "climb", points.device)
    if kernel is not None:
        kernel(blocks, 256, points, len(points), 0.5)
"""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

_log = logging.getLogger(__name__)
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


@runtime_checkable
class Kernel(Protocol):
    """A compiled kernel. Launches go to torch's current stream and are not waited for."""

    def __call__(self, blocks: int, threads: int, *arguments: Tensor | int | float) -> None:
        """Launch it.

        Args:
            blocks: of the grid, in one dimension; with 0 nothing happens.
            threads: of a block.
            arguments: as the kernel declares them: contiguous tensors for pointers (their types are the caller's
                business), int for int, float for double.

        Raises:
            ValueError: for a tensor that is not contiguous.
            RuntimeError: where the launch fails.
        """
        ...


def find_kernel(source: Path, name: str, device: torch.device, **constants: int) -> Kernel | None:
    """A kernel for a device; None if it cannot be had.

    Args:
        source: file of CUDA C++. It may include files of its own folder, and nothing else.
        name: of a function in it that is declared extern "C" __global__ void.
        device: any; only for CUDA devices there are kernels.
        constants: whole numbers that the source knows by these names.
    """
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return _compiled(source, name, index, tuple(constants.items()))


def with_constants(source: Path, constants: Iterable[tuple[str, int]]) -> str:
    """The text of a source file with what it includes of its own folder, below definitions of its constants."""
    defined = "".join(f"#define {name} {value}\n" for name, value in constants)
    text = source.read_text(encoding="utf-8")
    return defined + _INCLUDE.sub(lambda found: (source.parent / found[1]).read_text(encoding="utf-8"), text)


@cache
def _compiled(source: Path, name: str, index: int, constants: tuple[tuple[str, int], ...]) -> Kernel | None:
    try:
        with torch.cuda.device(index):
            torch.cuda.current_stream().synchronize()  # makes torch's context current in this thread
            return _Compiled(_module(source, index, constants), name, index)
    except (ImportError, OSError, RuntimeError) as error:
        _log.warning("%s of %s is not used, torch operations are: %s", name, source.name, error)
        return None


class _Compiled:
    def __init__(self, module: object, name: str, index: int) -> None:
        from cuda.bindings import driver  # type: ignore[import-not-found]

        self._launch, self._stream = driver.cuLaunchKernel, driver.CUstream
        self._function = _checked(driver.cuModuleGetFunction(module, name.encode()))
        self._index = index

    def __call__(self, blocks: int, threads: int, *arguments: Tensor | int | float) -> None:
        if not blocks:
            return
        values, types = packed(arguments)
        with torch.cuda.device(self._index):  # a kernel runs in the context it was loaded into
            stream = self._stream(torch.cuda.current_stream().cuda_stream)
            _checked(self._launch(self._function, blocks, 1, 1, threads, 1, 1, 0, stream, (values, types), 0))


def packed(arguments: tuple[Tensor | int | float, ...]) -> tuple[tuple[int | float, ...], tuple[type, ...]]:
    """What to pass for arguments, and as which C types.

    Raises:
        ValueError: for a tensor that is not contiguous.
    """
    values: list[int | float] = []
    types: list[type] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            if not argument.is_contiguous():
                raise ValueError(f"a kernel was given a tensor of strides {argument.stride()}; give a contiguous one")
            values.append(argument.data_ptr())
            types.append(ctypes.c_void_p)
        else:
            values.append(argument)
            types.append(ctypes.c_int if isinstance(argument, int) else ctypes.c_double)
    return tuple(values), tuple(types)


@cache
def _module(source: Path, index: int, constants: tuple[tuple[str, int], ...]) -> object:
    """A source file compiled for the device and loaded into torch's context of it."""
    from cuda.bindings import driver, nvrtc  # type: ignore[import-not-found]

    text = with_constants(source, constants)
    program = _checked(nvrtc.nvrtcCreateProgram(text.encode(), source.name.encode(), 0, [], []))
    major, minor = torch.cuda.get_device_capability(index)
    options = [f"--gpu-architecture=sm_{major}{minor}".encode(), b"--std=c++17", b"--fmad=true"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if int(status):
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"it does not compile: {log.decode(errors='replace').strip()}")
    binary = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    _checked(nvrtc.nvrtcGetCUBIN(program, binary))
    nvrtc.nvrtcDestroyProgram(program)
    return _checked(driver.cuModuleLoadData(binary))


def _checked(result: tuple) -> Any:
    """What a call of the bindings returned besides its status.

    Raises:
        RuntimeError: for a status other than success.
    """
    status, *values = result
    if int(status):
        raise RuntimeError(f"CUDA says {status.name}")
    return values[0] if len(values) == 1 else values

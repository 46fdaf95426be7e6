"""Runs kernels of CUDA C++ on the CPU: threads of a block are threads of the host, blocks take turns.

For tests of what kernels compute where there is no GPU. Needs a C++20 compiler (g++); `missing()` says whether it is
there.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from cad2pose.cuda_kernels import packed, with_constants

_HEADER = r"""
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>
#define __global__
#define __device__ static
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__
#define __ldg(p) (*(p))
struct emulated_dim { int x, y = 1, z = 1; };
static thread_local emulated_dim threadIdx, blockIdx;
static emulated_dim blockDim, gridDim;
static std::unique_ptr<std::barrier<>> emulated_barrier;
static const int warpSize = 1;
template <class T> static T __shfl_xor_sync(unsigned, T value, int) { return value; }
template <class T> static T __shfl_sync(unsigned, T value, int) { return value; }
#define __expf expf
static void __syncthreads() { if (blockDim.x > 1) emulated_barrier->arrive_and_wait(); }
using std::isfinite; using std::min; using std::max;
static inline int __float_as_int(float x) { int i; std::memcpy(&i, &x, 4); return i; }
static inline float __int_as_float(int i) { float x; std::memcpy(&x, &i, 4); return x; }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
template <class T> static T atomicMin(T* p, T v) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (v < old && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
template <class T> static T atomicAdd(T* p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
"""

_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\(([^)]*)\)')


def missing() -> str | None:
    """Why kernels cannot be run here; None if they can."""
    return None if shutil.which("g++") else "needs a C++ compiler (g++)"


class EmulatedKernel:
    """One kernel of a source file; called as `cad2pose.cuda_kernels.Kernel`, with tensors on the CPU."""

    def __init__(self, source: Path, name: str, most_threads: int = 4, **constants: int) -> None:
        library = _library(source, tuple(constants.items()), source.stat().st_mtime_ns)
        self._run = getattr(library, f"emulate_{name}")
        self._most_threads = most_threads

    def __call__(self, blocks: int, threads: int, *arguments: Tensor | int | float) -> None:
        values, types = packed(arguments)
        held = [kind(value) for kind, value in zip(types, values, strict=True)]
        pointers = (ctypes.c_void_p * len(held))(*[ctypes.cast(ctypes.byref(h), ctypes.c_void_p) for h in held])
        self._run(blocks, min(threads, self._most_threads), pointers)


def find_emulated(source: Path, name: str, device: torch.device, **constants: int) -> EmulatedKernel:
    """In place of `cad2pose.cuda_kernels.find_kernel`, for tensors on any device."""
    return EmulatedKernel(source, name, **constants)


@cache
def _library(source: Path, constants: tuple[tuple[str, int], ...], _changed: int) -> ctypes.CDLL:
    text = with_constants(source, constants)
    launchers = []
    for name, declared in _KERNEL.findall(text):
        types = [re.sub(r"\s+", " ", re.sub(r"\w+\s*$", "", part)).strip() for part in declared.split(",")]
        passed = ", ".join(f"*({kind}*)arguments[{i}]" for i, kind in enumerate(types))
        launchers.append(
            f'extern "C" void emulate_{name}(int blocks, int threads, void** arguments) {{\n'
            "    blockDim = {threads}; gridDim = {blocks};\n"
            "    emulated_barrier = std::make_unique<std::barrier<>>(threads);\n"
            "    auto work = [&](int thread) { for (int b = 0; b < blocks; b++) {\n"
            f"        threadIdx = {{thread}}; blockIdx = {{b}}; {name}({passed}); __syncthreads(); }} }};\n"
            "    if (threads == 1) { work(0); return; }\n"
            "    std::vector<std::thread> all; for (int t = 0; t < threads; t++) all.emplace_back(work, t);\n"
            "    for (auto& one : all) one.join();\n}\n"
        )
    folder = Path(tempfile.mkdtemp(prefix="emulated_"))
    code, library = folder / "kernels.cpp", folder / "kernels.so"
    code.write_text(f"{_HEADER}\n{text}\n" + "\n".join(launchers))
    command = ["g++", "-std=c++20", "-O2", "-fPIC", "-shared", "-pthread", "-w", str(code), "-o", str(library)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"g++ refuses {source.name}:\n{done.stderr[:4000]}")
        return ctypes.CDLL(str(library))
    finally:
        shutil.rmtree(folder)

"""Kernels for the CPU: plain loops over arrays, compiled by Numba.

Importing this module imports Numba; nothing is compiled until a kernel runs. The compiled code is kept beside the file
that holds the kernel, or in the user's cache folder where that cannot be written.
"""

from __future__ import annotations

import numba


def compiled(function, reorder=False):
    """Compile at the first call without holding the interpreter lock, and keep the result on disk where one can.

    Args:
        function: the loop.
        reorder: sums may be taken in another order, which lets several numbers be handled at once.
    """
    fast = {"contract", "nsz"} | ({"reassoc", "arcp"} if reorder else set())
    options = {"nogil": True, "fastmath": fast, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to write to: compiled afresh by every process
        return numba.njit(**options)(function)

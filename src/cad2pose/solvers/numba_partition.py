"""What probabilities over keys are normalised by, for the CPU, compiled by Numba.

Torch moves every product of a query and a key through memory five times. Here those of a query stay in the cache, and
the exponential is made of what a processor does with many numbers at once.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np

from cad2pose.cpu_kernels import compiled

_LANES = 64
_LEAST = np.float32(-60)  # of an exponent; what is smaller adds nothing
_SHARE = np.float32(1 / 64)  # exp(v) = exp(v / 64) ** 64
_SERIES = tuple(np.float32(1 / math.factorial(power)) for power in range(6))  # of exp, exact where it counts: near 0


@no_type_check
def _summing(function):
    return compiled(function, reorder=True)


@_summing
@no_type_check
def log_sum_exp(queries, keys, found):
    """Fill `found` `(n,)` for queries `(n, e)` and keys `(e, m)`, both contiguous."""
    count, size = keys.shape[1], queries.shape[1]
    product, top = np.empty(count, np.float32), np.empty(_LANES, np.float32)
    whole = count - count % _LANES
    for row in range(len(queries)):
        product[:] = np.float32(0)
        e = 0
        while e + 4 <= size:
            a, b, c, d = queries[row, e], queries[row, e + 1], queries[row, e + 2], queries[row, e + 3]
            first, second, third, fourth = keys[e], keys[e + 1], keys[e + 2], keys[e + 3]
            for k in range(count):
                product[k] += a * first[k] + b * second[k] + c * third[k] + d * fourth[k]
            e += 4
        while e < size:
            a, first = queries[row, e], keys[e]
            for k in range(count):
                product[k] += a * first[k]
            e += 1
        top[:] = product[0]
        for start in range(0, whole, _LANES):
            for lane in range(_LANES):
                top[lane] = max(top[lane], product[start + lane])
        largest = top.max()
        for k in range(whole, count):
            largest = max(largest, product[k])
        total = np.float32(0)
        for k in range(count):
            x = max(product[k] - largest, _LEAST) * _SHARE
            y = _SERIES[5] * x + _SERIES[4]
            y = y * x + _SERIES[3]
            y = y * x + _SERIES[2]
            y = y * x + _SERIES[1]
            y = y * x + _SERIES[0]
            y *= y
            y *= y
            y *= y
            y *= y
            y *= y
            total += y * y
        found[row] = math.log(total) + largest

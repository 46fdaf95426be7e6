"""`distinct` for the CPU, by Numba: torch's operations cost more than choosing a few poses among a few.

The same in CUDA: `cuda/distinct.cu`.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np

from cad2pose.cpu_kernels import compiled


@compiled
@no_type_check
def choose(row, rotation, position, values, crops, alike, apart, chosen):
    """Fill `chosen` (crops x wanted) with the indices of poses, best first, -1 where there are no more.

    A pose is left out where one chosen before is as close: a trace of the rotation between them above `alike`, and a
    squared distance below `apart`. Poses of a crop follow each other; those of values that are not finite are none.
    """
    wanted = chosen.shape[1]
    left = np.isfinite(values)
    start = 0
    for crop in range(crops):
        chosen[crop] = -1
        while start < len(row) and row[start] < crop:
            start += 1
        stop = start
        while stop < len(row) and row[stop] == crop:
            stop += 1
        for place in range(wanted):
            best = -1
            for n in range(start, stop):
                if left[n] and (best < 0 or values[n] > values[best]):
                    best = n
            if best < 0:
                break
            chosen[crop, place] = best
            left[best] = False
            for n in range(start, stop):
                if not left[n]:
                    continue
                trace = np.float32(0)
                for i in range(3):
                    for j in range(3):
                        trace += rotation[n, i, j] * rotation[best, i, j]
                distance = np.float32(0)
                for i in range(3):
                    distance += (position[n, i] - position[best, i]) ** 2
                if trace > alike and distance < apart:
                    left[n] = False
        start = stop

"""The solver's loops on CPUs: tensors in, Numba's kernels, tensors out.

Numba is imported when a loop first runs: it takes a while, and GPUs need none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.solvers.scene import Climb, Climbed, Scene


def climbed_on_cpu(
    scene: Scene,
    row: Int[Tensor, "n"],
    rotation: Float[Tensor, "n 3 3"],
    position: Float[Tensor, "n 3"],
    climb: Climb,
) -> Climbed:
    """As `climbed`, by Numba, with as many threads as torch has."""
    from cad2pose.solvers import numba_climb

    count = len(row)
    rotation = rotation.float().clone(memory_format=torch.contiguous_format)
    position = position.float().clone(memory_format=torch.contiguous_format)
    value, accepted = rotation.new_zeros(count), torch.zeros_like(row)
    gradient, information = rotation.new_zeros(count, 6), rotation.new_zeros(count, 6, 6)
    expected = position[:, 2].clone() if climb.prior_depth is None else climb.prior_depth.float()
    samples = torch.ones_like(value) if climb.prior_samples is None else climb.prior_samples.float()
    fixed = [
        tensor.contiguous().numpy()
        for tensor in (
            scene.points, scene.normals, scene.keys, scene.area, scene.visible, scene.directions, scene.maps, scene.K,
            scene.sums,
        )
    ]  # fmt: skip
    of_poses = (row, expected, samples, rotation, position, value, accepted, gradient, information)

    def work(some: slice) -> None:
        rows, depth, weight, *out = (tensor[some].contiguous().numpy() for tensor in of_poses)
        options = [np.float32(scene.outliers), np.float32(scene.mask_weight), rows, depth, float(climb.prior_sigma)]
        limits = [float(climb.damping), float(climb.tolerance), float(climb.largest_step)]
        numba_climb.climb(*fixed, *options, weight, climb.iterations, climb.derivatives, *limits, *out)

    _shared_out(work, count)
    return Climbed(rotation, position, value, accepted, gradient, information)


def log_sums_on_cpu(queries: Float[Tensor, "n e"], keys: Float[Tensor, "m e"]) -> Float[Tensor, "n"]:
    """As `log_sums`, by Numba, with as many threads as torch has."""
    from cad2pose.solvers import numba_partition

    found = queries.new_empty(len(queries))
    rows, columns, sums = queries.contiguous().numpy(), keys.T.contiguous().numpy(), found.numpy()
    _shared_out(lambda some: numba_partition.log_sum_exp(rows[some], columns, sums[some]), len(found))
    return found


def _shared_out(work: Callable[[slice], None], count: int) -> None:
    """Work on `count` rows, in as many slices as torch has threads."""
    each = max(1, -(-count // torch.get_num_threads()))
    chunks = [slice(start, start + each) for start in range(0, count, each)]
    if len(chunks) == 1:
        work(chunks[0])
    elif chunks:
        with ThreadPoolExecutor(len(chunks)) as pool:
            list(pool.map(work, chunks))


def distinct_on_cpu(
    poses: tuple[Tensor, ...], crops: int, alike: float, apart: float, chosen: Int[Tensor, "crops wanted"]
) -> Int[Tensor, "crops wanted"]:
    """As `distinct_poses`, by Numba; `poses` are their crops, rotations, positions and values."""
    from cad2pose.solvers import numba_distinct

    row, rotation, position, values = (tensor.contiguous().numpy() for tensor in poses)
    numba_distinct.choose(row, rotation, position, values, crops, alike, apart, chosen.numpy())
    return chosen

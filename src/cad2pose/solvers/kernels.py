"""The solver's work on CUDA in a few launches: the kernels of `cuda/`, with what they need; loops on CPUs, too.

A solver on a GPU waits for launches, not for arithmetic: what takes ten thousand torch operations takes some twenty
kernels. On a CPU it waits for memory where numbers are moved through it many times: `numba_climb.py`,
`numba_distinct.py` and `numba_partition.py` keep them in the cache. Every function here gives None where there is no
kernel (on CPUs for all others; or `cuda_kernels` cannot compile), and its caller then computes the same with torch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from cad2pose import cuda_kernels
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.on_cpu import climbed_on_cpu, distinct_on_cpu, log_sums_on_cpu
from cad2pose.solvers.scene import Climb, Climbed, Scene
from cad2pose.solvers.surface import Surface

_FOLDER = Path(__file__).parent / "cuda"
_THREADS = 256
_SOLVERS = 128  # threads of a block that solve P3P, which takes many registers
_POSES_AT_ONCE = 2048  # what a climb keeps of each between its two passes is 32 bytes a point
_HELD = 8
_MOST_BLOCKS = 8192


def has_kernels(device: torch.device) -> bool:
    """Whether there are kernels for a device."""
    return _kernel("score.cu", "mask_sums", device, EMBEDDING=1) is not None


def climbed(
    scene: Scene,
    row: Int[Tensor, "n"],
    rotation: Float[Tensor, "n 3 3"],
    position: Float[Tensor, "n 3"],
    climb: Climb,
) -> Climbed | None:
    """Poses after a climb (of no steps: their scores)."""
    kernel = _of_scene(scene, "climb.cu", "climb")
    if kernel is None:
        return climbed_on_cpu(scene, row, rotation, position, climb) if row.device.type == "cpu" else None
    count, points = len(row), len(scene.points)
    row = row.contiguous()
    rotation = rotation.float().clone(memory_format=torch.contiguous_format)
    position = position.float().clone(memory_format=torch.contiguous_format)
    value, accepted = rotation.new_empty(count), torch.empty_like(row)
    gradient, information = rotation.new_zeros(count, 6), rotation.new_zeros(count, 6, 6)
    curved = climb.derivatives or climb.iterations > 0
    scratch = rotation.new_empty(min(count, _POSES_AT_ONCE) * _HELD * points if curved else 1)
    expected = position[:, 2].contiguous() if climb.prior_depth is None else climb.prior_depth.contiguous()
    samples = value if climb.prior_samples is None else climb.prior_samples.contiguous()
    arguments = scene.arguments()
    for start in range(0, count, _POSES_AT_ONCE):
        some = slice(start, min(start + _POSES_AT_ONCE, count))
        kernel(
            some.stop - start, _THREADS, *arguments, row[some], expected[some], float(climb.prior_sigma),
            samples[some], climb.iterations, int(climb.derivatives), float(climb.damping), float(climb.tolerance),
            float(climb.largest_step), scratch, rotation[some], position[some], value[some], accepted[some],
            gradient[some], information[some],
        )  # fmt: skip
    return Climbed(rotation, position, value, accepted, gradient, information)


def quick_scores(
    scene: Scene, row: Int[Tensor, "n"], rotation: Float[Tensor, "n 3 3"], position: Float[Tensor, "n 3"]
) -> Float[Tensor, "n"] | None:
    """Scores at the nearest pixels."""
    kernel = _of_scene(scene, "score.cu", "quick")
    if kernel is None:
        return None
    value = position.new_empty(len(row))
    kernel(
        len(row), _THREADS, *scene.arguments(), row.contiguous(), rotation.contiguous(), position.contiguous(), value
    )
    return value


def placed_poses(
    surface: Surface,
    count: int,
    K: Float[Tensor, "b 3 3"],
    total: Float[Tensor, "b"],
    centroid: Float[Tensor, "b 2"],
    moves: int,
    limits: tuple[float, float],
    poses: Hypotheses,
) -> Float[Tensor, "n 3"] | None:
    """Positions moved so that the silhouette of `count` points has the mask's area and centroid."""
    kernel = _kernel("score.cu", "place", K.device, EMBEDDING=1)
    if kernel is None:
        return None
    position = poses.position.clone(memory_format=torch.contiguous_format)
    kernel(
        len(position), _THREADS, surface.points, surface.normals, surface.areas[count], count, surface.visible,
        surface.visible.shape[1], surface.directions, len(surface.directions), K.contiguous(), total.contiguous(),
        centroid.contiguous(), moves, *limits, poses.row.contiguous(), poses.rotation.contiguous(), position,
    )  # fmt: skip
    return position


def prepared_maps(
    queries: Float[Tensor, "b e h w"],
    logits: Float[Tensor, "b h w"],
    valid: Float[Tensor, "b h w"],
    contrast: Float[Tensor, "c e"],
    sharpness: float,
    least_mask: float,
    largest_logit: float,
) -> Float[Tensor, "b hh ww c2"] | None:
    """Maps as `PoseScore` looks them up, padded by a pixel: queries, chance, mask logit, whether it is in the image."""
    crops, embedding, height, width = queries.shape
    kernel = _kernel("score.cu", "prepare", queries.device, EMBEDDING=embedding)
    if kernel is None:
        return None
    maps = queries.new_zeros(crops, height + 2, width + 2, embedding + 3)
    blocks = min(_MOST_BLOCKS, -(-crops * height * width // (_THREADS // 32)))
    kernel(
        blocks, _THREADS, queries.contiguous(), logits.contiguous(), valid.contiguous(), contrast.T.contiguous(),
        len(contrast), crops, height, width, float(sharpness), float(least_mask), float(largest_logit), maps,
    )  # fmt: skip
    return maps


def log_sums(queries: Float[Tensor, "n e"], keys: Float[Tensor, "m e"]) -> Float[Tensor, "n"] | None:
    """Logarithm of the sum over keys of exp(query . key), for every query; float32 on CPUs alone."""
    there = queries.device.type == "cpu" and queries.dtype == keys.dtype == torch.float32
    return log_sums_on_cpu(queries, keys) if there else None


def mask_sums(
    logits: Float[Tensor, "b h w"], valid: Float[Tensor, "b h w"], largest_logit: float
) -> Float[Tensor, "b 3"] | None:
    """Of every crop's pixels inside the image: sum of log(1 - p), sum of p, number (at least 1)."""
    kernel = _kernel("score.cu", "mask_sums", logits.device, EMBEDDING=1)
    if kernel is None:
        return None
    sums = logits.new_empty(len(logits), 3)
    kernel(len(logits), _THREADS, logits.contiguous(), valid.contiguous(), logits[0].numel(), largest_logit, sums)
    return sums


def distinct_poses(
    row: Int[Tensor, "n"],
    rotation: Float[Tensor, "n 3 3"],
    position: Float[Tensor, "n 3"],
    values: Float[Tensor, "n"],
    crops: int,
    wanted: int,
    alike: float,
    apart: float,
) -> Int[Tensor, "crops {wanted}"] | None:
    """For every crop the best poses that differ; see `distinct`. `alike` is a trace, `apart` a squared distance."""
    kernel = _kernel("distinct.cu", "distinct", row.device)
    chosen = torch.empty(crops, wanted, dtype=torch.long, device=row.device)
    if kernel is None:
        arrays = (row, rotation, position, values)
        return distinct_on_cpu(arrays, crops, alike, apart, chosen) if row.device.type == "cpu" else None
    kernel(
        crops, _THREADS, row.contiguous(), rotation.contiguous(), position.contiguous(), values.contiguous(),
        len(row), wanted, float(alike), float(apart), torch.empty_like(values), chosen,
    )  # fmt: skip
    return chosen


def proposed_poses(
    points: Float[Tensor, "m 3"],
    normals: Float[Tensor, "m 3"],
    pixel: Int[Tensor, "b s4"],
    drawn: Int[Tensor, "n 4"],
    K: Float[Tensor, "b 3 3"],
    width: int,
    spread: float,
    distance: tuple[float, float],
) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"], Bool[Tensor, "n"]] | None:
    """Poses from sets of four pixels and surface points, and which of them are kept; see `sample_poses`."""
    kernel = _kernel("p3p.cu", "propose", points.device)
    if kernel is None:
        return None
    count = pixel.numel() // 4
    rotation, position = points.new_empty(count, 3, 3), points.new_empty(count, 3)
    kept = torch.empty(count, dtype=torch.bool, device=points.device)
    kernel(
        -(-count // _SOLVERS), _SOLVERS, points.contiguous(), normals.contiguous(), pixel.contiguous(),
        drawn.contiguous(), K.contiguous(), count // len(pixel), count, width, float(spread), float(distance[0]),
        float(distance[1]), rotation, position, kept,
    )  # fmt: skip
    return rotation, position, kept


def p3p_roots(
    points: Float[Tensor, "n 3 3"], rays: Float[Tensor, "n 3 3"], blur: float
) -> tuple[Float64[Tensor, "n 4 3 3"], Float64[Tensor, "n 4 3"], Bool[Tensor, "n 4"]] | None:
    """Rotations, translations, and which roots are valid; see `p3p`."""
    kernel = _kernel("p3p.cu", "all_roots", points.device)
    if kernel is None:
        return None
    count = len(points)
    rotation = torch.empty(count, 4, 3, 3, dtype=torch.float64, device=points.device)
    translation = torch.empty(count, 4, 3, dtype=torch.float64, device=points.device)
    valid = torch.empty(count, 4, dtype=torch.bool, device=points.device)
    kernel(
        -(-count // _SOLVERS), _SOLVERS, points.double().contiguous(), rays.double().contiguous(), count, blur,
        rotation, translation, valid,
    )  # fmt: skip
    return rotation, translation, valid


def _of_scene(scene: Scene, file: str, name: str) -> cuda_kernels.Kernel | None:
    """A kernel for keys of this length."""
    return _kernel(file, name, scene.maps.device, EMBEDDING=scene.keys.shape[1])


def _kernel(file: str, name: str, device: torch.device, **constants: int) -> cuda_kernels.Kernel | None:
    return cuda_kernels.find_kernel(_FOLDER / file, name, device, **constants)

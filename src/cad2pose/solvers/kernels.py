"""The solver's work on CUDA in a few launches: the kernels of `cuda/`, with what they need; the climb on CPUs, too.

A solver on a GPU waits for launches, not for arithmetic: what takes ten thousand torch operations takes some twenty
kernels. On a CPU it is the climb that takes the time, and memory that the climb waits for: `numba_climb.py`. Every
function here gives None where there is no kernel (for the others, not on CUDA; or `cuda_kernels` cannot compile), and
its caller then computes the same with torch.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from cad2pose import cuda_kernels
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.surface import Surface

_FOLDER = Path(__file__).parent / "cuda"
_THREADS = 256
_SOLVERS = 128  # threads of a block that solve P3P, which takes many registers
_POSES_AT_ONCE = 2048  # what a climb keeps of each between its two passes is 32 bytes a point
_HELD = 8
_MOST_BLOCKS = 8192


@dataclass(frozen=True)
class Scene:
    """What poses of one part in B crops are scored on.

    Args:
        points, normals: `(S, 3)` of the surface samples.
        keys: `(S, E)` of them.
        area: `(S,)` that each stands for.
        visible: `(D, m)` what is seen of the first m >= S samples from the viewpoints.
        directions: `(D, 3)` towards the viewpoints.
        maps: `(B, h + 2, w + 2, E + 3)` as `prepared_maps` gives them.
        K: `(B, 3, 3)`.
        sums: `(B, 3)` as `mask_sums` gives them.
        outliers, mask_weight: of `ScoreOptions`.
    """

    points: Float[Tensor, "s 3"]
    normals: Float[Tensor, "s 3"]
    keys: Float[Tensor, "s e"]
    area: Float[Tensor, "s"]
    visible: Bool[Tensor, "d m"]
    directions: Float[Tensor, "d 3"]
    maps: Float[Tensor, "b h w c"]
    K: Float[Tensor, "b 3 3"]
    sums: Float[Tensor, "b 3"]
    outliers: float
    mask_weight: float

    def arguments(self) -> list[Tensor | int | float]:
        """As the kernels take them."""
        return [
            self.points.contiguous(), self.normals.contiguous(), self.keys.contiguous(), self.area.contiguous(),
            len(self.points), self.visible.contiguous(), self.visible.shape[1], self.directions.contiguous(),
            len(self.directions), self.maps, self.maps.shape[1], self.maps.shape[2], self.K.contiguous(), self.sums,
            float(self.outliers), float(self.mask_weight),
        ]  # fmt: skip

    def kernel(self, file: str, name: str) -> cuda_kernels.Kernel | None:
        """A kernel for keys of this length."""
        return _kernel(file, name, self.maps.device, EMBEDDING=self.keys.shape[1])


@dataclass(frozen=True)
class Climb:
    """Settings of `climbed`: those of `RefineOptions`, whether derivatives are wanted at the end, the depth's prior.

    Args:
        iterations, damping, tolerance, largest_step: see `RefineOptions`.
        derivatives: wanted, of the poses reached.
        prior_sigma: of log z; 0 for no prior.
        prior_depth, prior_samples: `(N,)` expected depths, and what the prior is weighed against.
    """

    iterations: int = 0
    damping: float = 1.0
    tolerance: float = 0.0
    largest_step: float = 1.0
    derivatives: bool = False
    prior_sigma: float = 0.0
    prior_depth: Float[Tensor, "n"] | None = None
    prior_samples: Float[Tensor, "n"] | None = None


@dataclass(frozen=True)
class Climbed:
    """N poses reached, their scores, the steps taken, and derivatives (zeros where they are not wanted)."""

    rotation: Float[Tensor, "n 3 3"]
    position: Float[Tensor, "n 3"]
    value: Float[Tensor, "n"]
    accepted: Int[Tensor, "n"]
    gradient: Float[Tensor, "n 6"]
    information: Float[Tensor, "n 6 6"]


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
    kernel = scene.kernel("climb.cu", "climb")
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


def climbed_on_cpu(
    scene: Scene,
    row: Int[Tensor, "n"],
    rotation: Float[Tensor, "n 3 3"],
    position: Float[Tensor, "n 3"],
    climb: Climb,
) -> Climbed | None:
    """As `climbed`, by Numba, with as many threads as torch has."""
    from cad2pose.solvers import numba_climb  # here and not above: it takes a while, and GPUs need none of it

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

    each = max(1, -(-count // torch.get_num_threads()))
    chunks = [slice(start, start + each) for start in range(0, count, each)]
    if len(chunks) == 1:
        work(chunks[0])
    elif chunks:
        with ThreadPoolExecutor(len(chunks)) as pool:
            list(pool.map(work, chunks))
    return Climbed(rotation, position, value, accepted, gradient, information)


def quick_scores(
    scene: Scene, row: Int[Tensor, "n"], rotation: Float[Tensor, "n 3 3"], position: Float[Tensor, "n 3"]
) -> Float[Tensor, "n"] | None:
    """Scores at the nearest pixels."""
    kernel = scene.kernel("score.cu", "quick")
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
    if kernel is None:
        return None
    chosen = torch.empty(crops, wanted, dtype=torch.long, device=row.device)
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


def _kernel(file: str, name: str, device: torch.device, **constants: int) -> cuda_kernels.Kernel | None:
    return cuda_kernels.find_kernel(_FOLDER / file, name, device, **constants)

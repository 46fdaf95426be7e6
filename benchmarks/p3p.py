"""The batched P3P solver next to PoseLib's and OpenCV's: how often the planted pose is found, and how many a second.

    python benchmarks/p3p.py

Well-conditioned scenes: three image points drawn evenly from a field of view of 70 degrees, at depths of 2 to 8, and
any pose of the object. Nearly degenerate scenes are of four families in equal parts, sizes drawn evenly on a
logarithmic scale:

    nearly collinear    the third point lies 1e-6 to 1e-2 of the edge away from the line through the two others
    danger cylinder     the camera is 1e-8 to 1e-2 of the radius away from the cylinder that stands on the circle
                        through the points (there two roots become one), 1 to 5 radii above their plane
    tiny in the image   the distance is 1e3 to 1e6 times the size of the triangle
    in the plane        the camera, 5 away from points of spread 1, is 1e-6 to 1e-2 away from their plane

A pose is found if one of a solver's roots is within 1e-4 rad and its translation within 1e-4, relative. PoseLib and
OpenCV (AP3P) are called in a Python loop, on arrays that are ready; OpenCV also with the conversion of its rotation
vectors to matrices, which the others give. All run in one thread and take turns, on processor time, so that other work
on the machine counts little. The last line is one JSON object; exit status 1 where fewer than 99.9 % of the
well-conditioned poses are found, or fewer of the nearly degenerate ones than the better one of the others finds.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
import tyro
from torch import Tensor

from cad2pose.geometry import geodesic_distance, random_rotations, rotation_about_z, rotation_to_ray
from cad2pose.solvers.p3p import p3p

F64 = torch.float64
TOLERANCE, WANTED = 1e-4, 0.999
Scene = tuple[Tensor, Tensor, Tensor, Tensor]  # points, rays with z = 1, rotation, translation
Loop = Callable[[np.ndarray, np.ndarray], list[list[tuple[np.ndarray, np.ndarray]]]]


@dataclass(frozen=True)
class Config:
    """P3P solvers side by side in one thread."""

    scenes: int = 10_000
    """Scenes of either kind, and rows of the timed batch."""

    repeats: int = 7
    """Timed runs of each; medians are reported."""

    seed: int = 0
    """Of the scenes."""


class Draw:
    """Seeded random numbers for a number of scenes."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.generator = count, torch.Generator().manual_seed(seed)

    def even(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(self.count, *shape, generator=self.generator, dtype=F64)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.count, *shape, generator=self.generator, dtype=F64)

    def logarithmic(self, low: float, high: float) -> Tensor:
        return self.even(math.log(low), math.log(high)).exp()

    def direction(self) -> Tensor:
        return torch.nn.functional.normalize(self.normal(3), dim=-1)

    def rotation(self) -> Tensor:
        return random_rotations(self.count, self.generator, F64)


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def posed(points: Tensor, rotation: Tensor, translation: Tensor) -> Scene:
    camera = points @ rotation.transpose(-1, -2) + translation[:, None]
    return points, camera / camera[..., 2:], rotation, translation


def viewed(draw: Draw, points: Tensor, eye: Tensor) -> Scene:
    """From `eye` towards the mean of the points, turned about the viewing direction and moved to any frame."""
    frame = draw.rotation()
    points, eye = points @ frame.transpose(-1, -2), apply(frame, eye)
    rotation = rotation_to_ray(points.mean(1) - eye).transpose(-1, -2)
    rotation = rotation_about_z(draw.even(0, 2 * math.pi)) @ rotation
    return posed(points, rotation, -apply(rotation, eye))


def well_conditioned(draw: Draw) -> Scene:
    image = draw.even(-0.7, 0.7, 3, 2)
    rays = torch.cat((image, torch.ones_like(image[..., :1])), dim=-1)
    camera = rays * draw.even(2, 8, 3, 1)
    rotation, translation = draw.rotation(), draw.direction() * draw.even(1, 6, 1)
    return (camera - translation[:, None]) @ rotation, rays, rotation, translation


def nearly_collinear(draw: Draw) -> Scene:
    first, along, share = draw.normal(3), draw.direction(), draw.even(-0.5, 1.5, 1)
    across = torch.nn.functional.normalize(torch.linalg.cross(along, draw.direction()), dim=-1)
    third = first + share * along + draw.logarithmic(1e-6, 1e-2)[:, None] * across
    points, rotation = torch.stack((first, first + along, third), dim=1), draw.rotation()
    centre = torch.cat((0.5 * draw.normal(2), draw.even(3, 7, 1)), dim=-1)
    return posed(points, rotation, centre - apply(rotation, points.mean(1)))


def danger_cylinder(draw: Draw) -> Scene:
    angle = (torch.arange(3, dtype=F64) + draw.even(0, 0.8, 3)) * (2 * math.pi / 3)
    around, away = draw.even(0, 2 * math.pi), draw.logarithmic(1e-8, 1e-2) * draw.normal().sign()
    eye = torch.stack(((1 + away) * around.cos(), (1 + away) * around.sin(), draw.even(1, 5)), dim=-1)
    return viewed(draw, torch.stack((angle.cos(), angle.sin(), torch.zeros_like(angle)), dim=-1), eye)


def tiny_in_the_image(draw: Draw) -> Scene:
    points, rotation = draw.normal(3, 3), draw.rotation()
    centre = torch.cat((draw.even(-0.5, 0.5, 2), torch.ones(draw.count, 1, dtype=F64)), dim=-1)
    return posed(points, rotation, draw.logarithmic(1e3, 1e6)[:, None] * centre)


def in_the_plane(draw: Draw) -> Scene:
    points = torch.cat((draw.normal(3, 2), torch.zeros(draw.count, 3, 1, dtype=F64)), dim=-1)
    around = draw.even(0, 2 * math.pi)
    return viewed(draw, points, torch.stack((5 * around.cos(), 5 * around.sin(), draw.logarithmic(1e-6, 1e-2)), -1))


NEARLY_DEGENERATE = (nearly_collinear, danger_cylinder, tiny_in_the_image, in_the_plane)


def opencv_vectors(points: np.ndarray, rays: np.ndarray) -> list:
    """AP3P's own output, rotation vectors."""
    image, K = np.ascontiguousarray(rays[:, :, None, :2]), np.eye(3)
    return [cv2.solveP3P(p, x, K, None, flags=cv2.SOLVEPNP_AP3P) for p, x in zip(points, image, strict=True)]


def opencv(points: np.ndarray, rays: np.ndarray) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    return [
        [(cv2.Rodrigues(vector)[0], shift[:, 0]) for vector, shift in zip(vectors, shifts, strict=True)]
        for _, vectors, shifts in opencv_vectors(points, rays)
    ]


def poselib_loop() -> Loop | None:
    try:
        import poselib  # type: ignore[import-not-found]
    except ImportError:
        print("PoseLib is not installed and is left out; `pip install poselib` (or cad2pose[dev]) adds it")
        return None

    def solve(points: np.ndarray, rays: np.ndarray) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        return [
            [(pose.R, pose.t) for pose in poselib.p3p(x, p)] for p, x in zip(points, rays, strict=True)
        ]  # its rays have length 1

    return solve


def solved_by(loop: Loop, points: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A loop's roots as batched as ours: rotation, translation, valid."""
    unit = torch.nn.functional.normalize(rays, dim=-1) if loop is not opencv else rays
    rotation = np.zeros((len(points), 4, 3, 3))
    translation, valid = np.zeros((len(points), 4, 3)), np.zeros((len(points), 4), dtype=bool)
    for row, roots in enumerate(loop(points.numpy(), unit.numpy())):
        for slot, (R, t) in enumerate(roots):
            rotation[row, slot], translation[row, slot] = R, t
            valid[row, slot] = bool(np.isfinite(R).all() and np.isfinite(t).all())
    return torch.from_numpy(rotation), torch.from_numpy(translation), torch.from_numpy(valid)


def solved_by_us(points: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    roots = p3p(points, rays)
    return roots.rotation, roots.translation, roots.valid


def found(roots: tuple[Tensor, Tensor, Tensor], rotation: Tensor, translation: Tensor) -> float:
    """Share of scenes whose planted pose is among the roots."""
    rotations, translations, valid = roots
    angle = geodesic_distance(rotations, rotation[:, None].expand_as(rotations))
    shift = (translations - translation[:, None]).norm(dim=-1) / translation.norm(dim=-1)[:, None]
    return float((valid & (angle < TOLERANCE) & (shift < TOLERANCE)).any(1).double().mean())


def rates(scene: Scene, loops: dict[str, Loop], repeats: int) -> dict[str, float]:
    """Solved a second."""
    points, rays = scene[0], scene[1]
    unit = torch.nn.functional.normalize(rays, dim=-1)
    p, x, u = points.numpy(), rays.numpy(), unit.numpy()
    tasks: dict[str, Callable[[], object]] = {"ours": lambda: p3p(points, rays)}
    tasks |= {name: lambda loop=loop: loop(p, x if loop is opencv else u) for name, loop in loops.items()}
    tasks["opencv, vectors"] = lambda: opencv_vectors(p, x)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats + 1):
        for name, task in tasks.items():
            runs = 10 if name == "ours" else 1  # turns of similar length
            start = time.process_time()
            for _ in range(runs):
                task()
            if turn:
                seconds[name].append((time.process_time() - start) / runs)
    return {name: len(points) / median(times) for name, times in seconds.items()}


def main(config: Config) -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    theirs = poselib_loop()
    loops: dict[str, Loop] = {"opencv": opencv} | ({"poselib": theirs} if theirs else {})
    part = config.scenes // len(NEARLY_DEGENERATE)
    families = [(well_conditioned, config.scenes), *((family, part) for family in NEARLY_DEGENERATE)]
    names = ["ours", *loops]
    table: dict[str, dict[str, float]] = {}
    print(f"poses found within {TOLERANCE:g} rad and {TOLERANCE:g} of the translation")
    print(f"{'':24}" + "".join(f"{name:>12}" for name in names))
    for number, (family, count) in enumerate(families):
        points, rays, *truth = family(Draw(count, config.seed + number))
        roots = {"ours": solved_by_us(points, rays)}
        roots |= {name: solved_by(loop, points, rays) for name, loop in loops.items()}
        table[family.__name__] = {name: found(result, *truth) for name, result in roots.items()}
        print(f"{family.__name__:24}" + "".join(f"{table[family.__name__][name]:12.3%}" for name in names))
    hard = {name: sum(table[f.__name__][name] for f in NEARLY_DEGENERATE) / len(NEARLY_DEGENERATE) for name in names}
    print(f"{'nearly degenerate, all':24}" + "".join(f"{hard[name]:12.3%}" for name in names))

    speed = rates(well_conditioned(Draw(config.scenes, config.seed)), loops, config.repeats)
    print(f"\none thread, {config.scenes} rows     P3P a second   ms   ours is faster by")
    for name, rate in speed.items():
        print(f"{name:24}{rate:16,.0f}{1000 * config.scenes / rate:8.1f}{speed['ours'] / rate:10.1f}")
    met = table["well_conditioned"]["ours"] >= WANTED and hard["ours"] >= max(hard[name] for name in loops)
    result = {"found": table | {"nearly_degenerate": hard}, "per_second": {n: round(r) for n, r in speed.items()}}
    print(json.dumps({"benchmark": "p3p", "scenes": config.scenes, **result, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))

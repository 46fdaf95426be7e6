"""The CPU rasteriser next to Embree's ray casting: one mesh, one core, the same pictures.

    python benchmarks/render.py
    python benchmarks/render.py --device cuda

Embree gets what it likes best: its acceleration structure built, and rays in the object's frame computed, before the
clock starts; the clock stops at its bare array of triangle numbers. The rasteriser is timed with everything: vertices
moved and projected, triangles, depth and barycentric coordinates written. The two take turns, so that a busy machine
slows both. On CUDA the rasteriser in torch operations stands next to the CPU's; Embree is not needed then. The last
line is one JSON object; exit status 1 where a figure is missed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import torch
import trimesh
import tyro
from torch import Tensor

from cad2pose.devices import pick_device
from cad2pose.geometry import random_rotations, unproject_pixels
from cad2pose.parts.mesh import Mesh
from cad2pose.rendering import MeshSet, rasterize, render

WANTED = {128: 1.5, 256: 2.5}
DISTANCE, PAD = 600.0, 1.5


@dataclass(frozen=True)
class Config:
    """Rasteriser and Embree side by side on one core."""

    batch: int = 32
    """Images per call."""

    repeats: int = 15
    """Timed calls of each; medians are reported."""

    sizes: tuple[int, ...] = (128, 256)
    """Sides of the square pictures in pixels."""

    device: str = "cpu"
    """cpu, or cuda, cuda:N."""


def bumpy_ball() -> Mesh:
    """20 480 triangles of much the same size, with hills that hide one another; about 100 mm across."""
    ball = trimesh.creation.icosphere(subdivisions=5, radius=1.0)
    x, y, z = ball.vertices.T
    ball.vertices *= 50 * (0.8 + 0.1 * np.sin(7 * x) * np.cos(6 * y) + 0.1 * np.sin(9 * z + 3 * x))[:, None]
    vertices, normals = torch.tensor(ball.vertices), torch.tensor(ball.vertex_normals.copy())
    return Mesh(vertices, torch.tensor(ball.faces.copy()), normals)


def scenes(mesh: Mesh, batch: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Crops as a method sees them: any rotation, the bounding sphere filling 1 / PAD of the picture."""
    T = torch.eye(4).repeat(batch, 1, 1, 1)
    T[:, 0, :3, :3] = random_rotations(batch, torch.Generator().manual_seed(seed))
    T[:, 0, 2, 3] = DISTANCE
    focal = size / 2 / PAD * DISTANCE / float(mesh.vertices.norm(dim=1).max())
    K = torch.tensor([[focal, 0, (size - 1) / 2], [0, focal, (size - 1) / 2], [0, 0, 1]]).repeat(batch, 1, 1)
    return torch.zeros(batch, 1, dtype=torch.int64), T, K


def object_rays(T: Tensor, K: Tensor, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Origins and directions of every pixel's ray in the object's frame, one pair of arrays per picture."""
    v, u = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")
    pixels = torch.stack((u, v), dim=-1).reshape(1, -1, 2).expand(len(K), -1, -1)
    rotation = T[:, 0, :3, :3]
    directions = torch.nn.functional.normalize(unproject_pixels(K, pixels) @ rotation, dim=-1)
    origins = -(T[:, 0, None, :3, 3] @ rotation).expand_as(directions)
    return [(o.contiguous().numpy(), d.contiguous().numpy()) for o, d in zip(origins, directions, strict=True)]


def medians(repeats: int, *tasks: Callable[[], object]) -> list[float]:
    """Median seconds of each task, taking turns."""
    for task in tasks:
        task()
    seconds: list[list[float]] = [[] for _ in tasks]
    for _ in range(repeats):
        for task, times in zip(tasks, seconds, strict=True):
            start = time.perf_counter()
            task()
            times.append(time.perf_counter() - start)
    return [median(times) for times in seconds]


def compare(mesh: Mesh, size: int, config: Config) -> dict[str, float]:
    """Milliseconds per picture of both, their ratio, and the share of pixels where they see the same triangle."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices.float()[mesh.faces].numpy())
    meshes = MeshSet.from_meshes([mesh])
    index, T, K = scenes(mesh, config.batch, size)
    rays = object_rays(T, K, size)

    def cast(output: int | None) -> list:
        return [scene.run(origins, directions, output=output) for origins, directions in rays]

    seconds = medians(
        config.repeats,
        lambda: rasterize(meshes, index, T, K, size, size, "numba"),
        lambda: cast(None),
        lambda: cast(1),
        lambda: render(meshes, index, T, K, size, size, "numba"),
    )
    ours, embree, embree_full, rendered = (1000 * s / config.batch for s in seconds)
    face = rasterize(meshes, index, T, K, size, size, "numba").face
    same = np.stack(cast(None)).reshape(face.shape) == face.numpy()
    return {
        "size": size, "rasterize_ms": ours, "embree_ms": embree, "embree_with_depth_ms": embree_full,
        "render_ms": rendered, "ratio": embree / ours, "ratio_wanted": WANTED.get(size, 0.0),
        "same_triangle": float(same.mean()), "covered": float((face >= 0).double().mean()),
    }  # fmt: skip


def compare_cuda(mesh: Mesh, size: int, config: Config, device: torch.device) -> dict[str, float]:
    """Milliseconds per picture on the device and on one core, and the share of pixels with the same triangle."""
    meshes = MeshSet.from_meshes([mesh])
    index, T, K = scenes(mesh, config.batch, size)
    there = (meshes.to(device), index.to(device), T.to(device), K.to(device), size, size)

    def finished(result: object) -> object:
        torch.cuda.synchronize(device)
        return result

    seconds = medians(
        config.repeats,
        lambda: finished(rasterize(*there)),
        lambda: finished(render(*there)),
        lambda: rasterize(meshes, index, T, K, size, size),
        lambda: render(meshes, index, T, K, size, size),
    )
    rasterized, rendered, rasterized_cpu, rendered_cpu = (1000 * s / config.batch for s in seconds)
    same = rasterize(*there).face.cpu() == rasterize(meshes, index, T, K, size, size).face
    return {
        "size": size, "rasterize_ms": rasterized, "render_ms": rendered, "rasterize_cpu_ms": rasterized_cpu,
        "render_cpu_ms": rendered_cpu, "same_triangle": float(same.double().mean()),
    }  # fmt: skip


def main_cuda(config: Config, device: torch.device) -> int:
    mesh = bumpy_ball()
    print(f"{torch.cuda.get_device_name(device)}; {len(mesh.faces)} triangles, batches of {config.batch}, ms a picture")
    print("size  rasterize  render  rasterize, CPU  render, CPU  same triangle")
    results = [compare_cuda(mesh, size, config, device) for size in config.sizes]
    for r in results:
        print(
            f"{r['size']:4.0f} {r['rasterize_ms']:10.3f} {r['render_ms']:7.3f} {r['rasterize_cpu_ms']:15.3f} "
            f"{r['render_cpu_ms']:12.3f} {r['same_triangle']:14.3%}"
        )
    met = all(r["same_triangle"] > 0.99 for r in results)
    rounded = [{name: round(value, 4) for name, value in r.items()} for r in results]
    name = torch.cuda.get_device_name(device)
    print(json.dumps({"benchmark": "render", "device": name, "results": rounded, "met": met}))
    return 0 if met else 1


def main(config: Config) -> int:
    torch.set_num_threads(1)
    device = pick_device(config.device)
    if device.type == "cuda":
        return main_cuda(config, device)
    mesh = bumpy_ball()
    print(f"{len(mesh.faces)} triangles, batches of {config.batch}, one core; median of {config.repeats}, ms a picture")
    print("size  rasterize  embree  with depth  ratio (wanted)  render, all maps  same triangle  covered")
    results = [compare(mesh, size, config) for size in config.sizes]
    for r in results:
        print(
            f"{r['size']:4.0f} {r['rasterize_ms']:10.2f} {r['embree_ms']:7.2f} {r['embree_with_depth_ms']:11.2f} "
            f"{r['ratio']:6.2f} ({r['ratio_wanted']:.1f}) {r['render_ms']:20.2f} {r['same_triangle']:14.3%} "
            f"{r['covered']:8.1%}"
        )
    met = all(r["ratio"] >= r["ratio_wanted"] and r["same_triangle"] > 0.99 for r in results)
    rounded = [{name: round(value, 4) for name, value in r.items()} for r in results]
    print(json.dumps({"benchmark": "render", "triangles": len(mesh.faces), "results": rounded, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))

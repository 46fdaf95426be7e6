"""The renderer's kernels on CUDA; None where there are none, and torch operations then compute the same."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose import cuda_kernels
from cad2pose.rendering.meshes import MeshSet

_SOURCE = Path(__file__).parent / "cuda" / "rasterize.cu"
_LIGHT = Path(__file__).parent / "cuda" / "light_paths.cu"
_THREADS = 256
_LANES = 8  # threads that share a triangle
_MOST_BLOCKS = 1 << 16
_NOTHING = torch.iinfo(torch.int64).max


def fragments(
    meshes: MeshSet, mesh_index: Int[Tensor, "b m"], P: Float[Tensor, "b m 3 4"], height: int, width: int, near: float
) -> tuple[Float[Tensor, "b h w"], Int[Tensor, "b h w"], Int[Tensor, "b h w"], Float[Tensor, "b h w 3"]] | None:
    """Depth, slot, face and barycentric coordinates as in `Fragments`; `P` is K @ T_cam_obj[:3]."""
    device = meshes.vertices.device
    draw = cuda_kernels.find_kernel(_SOURCE, "draw", device)
    resolve = cuda_kernels.find_kernel(_SOURCE, "resolve", device)
    if draw is None or resolve is None:
        return None
    batch, slots = mesh_index.shape
    longest = int(meshes.face_start.diff().max())
    shape = (batch, height, width)
    keys = torch.full(shape, _NOTHING, device=device)
    depth = torch.empty(shape, device=device)
    slot, face = (torch.empty(shape, dtype=torch.int32, device=device) for _ in range(2))
    barycentric = torch.empty(*shape, 3, device=device)
    drawn = (
        meshes.vertices, meshes.faces, meshes.face_start.to(device, non_blocking=True), mesh_index.long().contiguous(),
        P.double().contiguous(), batch, slots, longest, height, width, float(near), keys,
    )  # fmt: skip
    draw(_blocks(batch * slots * longest * _LANES), _THREADS, *drawn)
    resolve(_blocks(keys.numel()), _THREADS, *drawn, depth, slot, face, barycentric)
    return depth, slot, face, barycentric


def surface_maps(
    meshes: MeshSet,
    T_cam_obj: Float[Tensor, "b m 4 4"],
    slot: Int[Tensor, "b h w"],
    face: Int[Tensor, "b h w"],
    barycentric: Float[Tensor, "b h w 3"],
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]] | None:
    """Object coordinates, camera-frame normals and colours of the visible surface, as in `Rendering`."""
    kernel = cuda_kernels.find_kernel(_SOURCE, "interpolate", face.device)
    if kernel is None:
        return None
    batch, height, width = face.shape
    coordinates, normals, colors = (barycentric.new_empty(batch, 3, height, width) for _ in range(3))
    kernel(
        _blocks(face.numel()), _THREADS, meshes.vertices, meshes.faces, meshes.normals, meshes.colors,
        T_cam_obj.float().contiguous(), batch, T_cam_obj.shape[1], height, width, slot.int().contiguous(),
        face.int().contiguous(), barycentric.contiguous(), coordinates, normals, colors,
    )  # fmt: skip
    return coordinates, normals, colors


def shadow_shares(
    depth: Float[Tensor, "b h w"],
    normals: Float[Tensor, "b 3 h w"],
    K: Float[Tensor, "b 3 3"],
    T_light_cam: Float[Tensor, "b 3 4"],
    settings: Float[Tensor, "b 6"],
    seen: Float[Tensor, "b s s"],
) -> Float[Tensor, "b h w"] | None:
    """Share of a light that reaches each pixel, as in `light_paths.shadows`."""
    kernel = cuda_kernels.find_kernel(_LIGHT, "shadow_shares", depth.device)
    if kernel is None:
        return None
    batch, height, width = depth.shape
    lit = torch.empty(batch, height, width, device=depth.device)
    maps = (tensor.float().contiguous() for tensor in (depth, normals, K, T_light_cam, settings, seen))
    kernel(_blocks(depth.numel()), _THREADS, *maps, batch, height, width, seen.shape[-1], lit)
    return lit


def open_shares(
    depth: Float[Tensor, "b h w"],
    normals: Float[Tensor, "b 3 h w"],
    K: Float[Tensor, "b 3 3"],
    reach: Float[Tensor, "b"],
) -> Float[Tensor, "b h w"] | None:
    """Share of the light from everywhere that reaches each pixel, as in `light_paths.openness`."""
    kernel = cuda_kernels.find_kernel(_LIGHT, "open_shares", depth.device)
    if kernel is None:
        return None
    batch, height, width = depth.shape
    share = torch.empty(batch, height, width, device=depth.device)
    maps = (tensor.float().contiguous() for tensor in (depth, normals, K, reach))
    kernel(_blocks(depth.numel()), _THREADS, *maps, batch, height, width, share)
    return share


def _blocks(threads: int) -> int:
    return min(_MOST_BLOCKS, -(-threads // _THREADS))

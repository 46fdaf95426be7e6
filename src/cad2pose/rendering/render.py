"""Pictures of what the surface is: depth, object coordinates, normals and colours of the foremost surface."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.rendering.meshes import MeshSet
from cad2pose.rendering.rasterizer import Backend, Fragments, rasterize, use_numba


@dataclass(frozen=True)
class Rendering:
    """B rendered scenes; every map is 0 (slot: -1) where there is nothing.

    Args:
        depth: `(B, h, w)` float32, z in mm.
        slot: `(B, h, w)` int32 index of the scene's slot that is seen.
        mask: `(B, h, w)` where anything is seen.
        coordinates: `(B, 3, h, w)` float32 mm, in the mesh file's frame of the surface that is seen.
        normals: `(B, 3, h, w)` float32 unit normals in the camera frame, interpolated between the vertices, on the
            side that the camera sees (never leaning away from it).
        colors: `(B, 3, h, w)` float32 in [0, 1].
        K: `(B, 3, 3)` float32 intrinsics that it was rendered with.
    """

    depth: Float[Tensor, "b h w"]
    slot: Int[Tensor, "b h w"]
    mask: Bool[Tensor, "b h w"]
    coordinates: Float[Tensor, "b 3 h w"]
    normals: Float[Tensor, "b 3 h w"]
    colors: Float[Tensor, "b 3 h w"]
    K: Float[Tensor, "b 3 3"]


def render(
    meshes: MeshSet,
    mesh_index: Int[Tensor, "b m"],
    T_cam_obj: Float[Tensor, "b m 4 4"],
    K: Float[Tensor, "b 3 3"],
    height: int,
    width: int,
    backend: Backend = "auto",
) -> Rendering:
    """Rasterise, then interpolate what the vertices carry. Arguments and errors as of `rasterize`."""
    fragments = rasterize(meshes, mesh_index, T_cam_obj, K, height, width, backend)
    if use_numba(backend, meshes.vertices.device):
        coordinates, normals, colors = _interpolate_numba(meshes, T_cam_obj, fragments)
    else:
        from cad2pose.rendering.torch_backend import interpolate_batch

        coordinates, normals, colors = interpolate_batch(
            meshes, T_cam_obj, fragments.slot, fragments.face, fragments.barycentric
        )
    return Rendering(
        depth=fragments.depth, slot=fragments.slot, mask=fragments.slot >= 0,
        coordinates=coordinates, normals=normals, colors=colors, K=K.float(),
    )  # fmt: skip


def _interpolate_numba(
    meshes: MeshSet, T_cam_obj: Float[Tensor, "b m 4 4"], fragments: Fragments
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]]:
    from cad2pose.rendering import numba_backend

    batch, height, width = fragments.depth.shape
    coordinates, normals, colors = (torch.empty(batch, 3, height, width) for _ in range(3))
    numba_backend.interpolate_batch(
        meshes.vertices.numpy(), meshes.faces.numpy(), meshes.normals.numpy(), meshes.colors.numpy(),
        T_cam_obj.float().contiguous().numpy(), fragments.slot.numpy(), fragments.face.numpy(),
        fragments.barycentric.numpy(), coordinates.numpy(), normals.numpy(), colors.numpy(),
    )  # fmt: skip
    return coordinates, normals, colors

"""Which triangle does each pixel see? One function, two backends.

Conventions: OpenCV camera, pixel centres at integer coordinates, mm. A pixel is covered when its centre lies in a
triangle or on its border. The nearest triangle wins; among equally near ones the lower slot, then the lower face.
Faces are drawn from both sides, because the winding of CAD meshes cannot be relied on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.rendering.meshes import MeshSet

NEAR = 1.0
"""Near plane in mm. A triangle that reaches below it is dropped whole, not clipped."""

Backend = Literal["auto", "numba", "torch"]


@dataclass(frozen=True)
class Fragments:
    """The foremost surface at each pixel.

    Args:
        depth: `(B, h, w)` float32, z in mm, 0 where there is nothing.
        slot: `(B, h, w)` int32 index into the scene's slots, -1 where there is nothing.
        face: `(B, h, w)` int32 index into the packed faces, -1 where there is nothing.
        barycentric: `(B, h, w, 3)` float32 weights of the face's three vertices, perspective-correct; 0 where nothing.
    """

    depth: Float[Tensor, "b h w"]
    slot: Int[Tensor, "b h w"]
    face: Int[Tensor, "b h w"]
    barycentric: Float[Tensor, "b h w 3"]


def rasterize(
    meshes: MeshSet,
    mesh_index: Int[Tensor, "b m"],
    T_cam_obj: Float[Tensor, "b m 4 4"],
    K: Float[Tensor, "b 3 3"],
    height: int,
    width: int,
    backend: Backend = "auto",
) -> Fragments:
    """Draw B scenes of up to M meshes each.

    Args:
        meshes: what there is to draw.
        mesh_index: `(B, M)` which mesh stands in each slot; -1 leaves the slot empty.
        T_cam_obj: `(B, M, 4, 4)` poses in mm; of an empty slot, anything.
        K: `(B, 3, 3)` intrinsics in pixels, last row (0, 0, 1); skew is used.
        height: of the images, in pixels.
        width: of the images, in pixels.
        backend: "numba" (CPU), "torch" (any device), or "auto": numba for tensors on the CPU, torch otherwise.

    Raises:
        ValueError: for an image without pixels, or "numba" with tensors that are not on the CPU.
    """
    if height <= 0 or width <= 0:
        raise ValueError(f"image size must be positive, got {width} x {height}")
    device = meshes.vertices.device
    P = K.double()[:, None] @ T_cam_obj.double()[..., :3, :]
    if use_numba(backend, device):
        return _rasterize_numba(meshes, mesh_index, P, height, width)
    from cad2pose.rendering.torch_backend import rasterize_batch

    return Fragments(*rasterize_batch(meshes, mesh_index, P, height, width, NEAR))


def use_numba(backend: Backend, device: torch.device) -> bool:
    """Whether this backend, for tensors on this device, means Numba.

    Raises:
        ValueError: for "numba" off the CPU, or an unknown name.
    """
    if backend not in ("auto", "numba", "torch"):
        raise ValueError(f"unknown rendering backend {backend!r}; it is auto, numba or torch")
    if backend == "numba" and device.type != "cpu":
        raise ValueError(f'the numba backend draws on the CPU, and the meshes are on {device}; use "torch" or "auto"')
    return backend == "numba" or (backend == "auto" and device.type == "cpu")


def _rasterize_numba(
    meshes: MeshSet, mesh_index: Int[Tensor, "b m"], P: Float[Tensor, "b m 3 4"], height: int, width: int
) -> Fragments:
    # Imported here: Numba takes half a second to load, and a process that draws nothing should not wait for it.
    from cad2pose.rendering import numba_backend

    batch, slots = mesh_index.shape
    screens = torch.empty(slots, int(meshes.vertex_start.diff().max()), 4)
    selected = torch.empty(int(meshes.face_start.diff().max()), dtype=torch.int32)
    fragments = Fragments(
        depth=torch.empty(batch, height, width),
        slot=torch.empty(batch, height, width, dtype=torch.int32),
        face=torch.empty(batch, height, width, dtype=torch.int32),
        barycentric=torch.empty(batch, height, width, 3),
    )
    numba_backend.rasterize_batch(
        meshes.vertices.numpy(), meshes.faces.numpy(), meshes.vertex_start.numpy(), meshes.face_start.numpy(),
        mesh_index.long().contiguous().numpy(), P.contiguous().numpy(), NEAR, screens.numpy(), selected.numpy(),
        fragments.depth.numpy(), fragments.slot.numpy(), fragments.face.numpy(), fragments.barycentric.numpy(),
    )  # fmt: skip
    return fragments

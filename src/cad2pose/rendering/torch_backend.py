"""The rasteriser for accelerators: kernels on CUDA, and the same in torch operations (in tests, the CPU's twin too).

In torch operations, every triangle's bounding box is cut into small tiles; all tiles of all images are evaluated side
by side, and a minimum over (depth, slot, face) packed into one integer keeps the nearest surface of each pixel. How
many tiles there are depends on the poses: that one number is read back by the host, nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.rendering.kernels import fragments, surface_maps
from cad2pose.rendering.meshes import MeshSet

_TILE = 4
_TILES_AT_ONCE = 1 << 17  # times 16 pixels, times some ten float64 values each: about 170 MB
_NOTHING = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class _Triangles:
    """All N = B * M slots' triangles on screen, padded to the longest mesh.

    Args:
        corners: `(N, F, 3, 3)` float32 u, v, 1 / z of the three vertices.
        low: `(N, F, 2)` first pixel x, y of the bounding box, cut by the image.
        high: `(N, F, 2)` last pixel of it.
        visible: `(N, F)` before the near plane, with a pixel centre in the bounding box.
    """

    corners: Float[Tensor, "n f 3 3"]
    low: Int[Tensor, "n f 2"]
    high: Int[Tensor, "n f 2"]
    visible: Bool[Tensor, "n f"]


def rasterize_batch(
    meshes: MeshSet, mesh_index: Int[Tensor, "b m"], P: Float[Tensor, "b m 3 4"], height: int, width: int, near: float
) -> tuple[Float[Tensor, "b h w"], Int[Tensor, "b h w"], Int[Tensor, "b h w"], Float[Tensor, "b h w 3"]]:
    """Depth, slot, face and barycentric coordinates as in `Fragments`; `P` is K @ T_cam_obj[:3]."""
    if not mesh_index.shape[1]:  # one slot, with nothing in it, draws as little
        mesh_index, P = mesh_index.new_full((len(mesh_index), 1), -1), P.new_zeros(len(mesh_index), 1, 3, 4)
    batch, slots = mesh_index.shape
    mesh = mesh_index.flatten().long()
    found = fragments(meshes, mesh_index, P, height, width, near)
    if found is not None:
        return found
    triangles = _project(meshes, mesh, P.flatten(0, 1), height, width, near)
    longest = triangles.corners.shape[1]
    key = _draw(triangles, batch, slots, height, width)

    empty = key == _NOTHING
    order = torch.where(empty, 0, key & 0xFFFFFFFF)
    row = torch.arange(batch, device=key.device)[:, None, None] * slots + order // longest
    local = order % longest
    face_start = meshes.face_start.to(key.device, non_blocking=True)
    inverse = (0x7FFFFFFF - (key >> 32)).int().view(torch.float32)
    return (
        (1 / inverse).masked_fill(empty, 0),
        (order // longest).int().masked_fill(empty, -1),
        (face_start[mesh.clamp(min=0)][row] + local).int().masked_fill(empty, -1),
        _barycentric(triangles.corners[row, local]).masked_fill(empty[..., None], 0),
    )


def _project(
    meshes: MeshSet, mesh: Int[Tensor, "n"], P: Float[Tensor, "n 3 4"], height: int, width: int, near: float
) -> _Triangles:
    device = P.device
    vertex_start = meshes.vertex_start.to(device, non_blocking=True)
    face_start = meshes.face_start.to(device, non_blocking=True)
    most_vertices, most_faces = int(meshes.vertex_start.diff().max()), int(meshes.face_start.diff().max())
    first_vertex, first_face = vertex_start[mesh.clamp(min=0)], face_start[mesh.clamp(min=0)]
    last_face = torch.where(mesh >= 0, face_start[mesh.clamp(min=0) + 1], first_face)

    index = first_vertex[:, None] + torch.arange(most_vertices, device=device)
    vertices = meshes.vertices[index.clamp(max=len(meshes.vertices) - 1)].double()
    image = vertices @ P[:, :, :3].transpose(1, 2) + P[:, None, :, 3]
    inverse = 1 / image[..., 2:]
    in_front = image[..., 2:] >= near
    screen = torch.cat((image[..., :2] * inverse, torch.where(in_front, inverse, 0)), dim=-1).float()

    index = first_face[:, None] + torch.arange(most_faces, device=device)
    faces = meshes.faces[index.clamp(max=len(meshes.faces) - 1)] - first_vertex[:, None, None]
    faces = torch.where((index < last_face[:, None])[..., None], faces, 0)
    corners = screen[torch.arange(len(mesh), device=device)[:, None, None], faces]

    size = torch.tensor([width, height], dtype=torch.float32).to(device, non_blocking=True)
    low = corners[..., :2].amin(2).clamp(min=0).ceil()
    high = torch.minimum(corners[..., :2].amax(2), size - 1).floor()
    visible = (low <= high).all(-1) & (corners[..., 2] > 0).all(-1) & (index < last_face[:, None])
    low, high = (torch.where(visible[..., None], edge, 0).long() for edge in (low, high))
    return _Triangles(corners, low, high, visible)


def _draw(triangles: _Triangles, batch: int, slots: int, height: int, width: int) -> Int[Tensor, "b h w"]:
    """The smallest key of each pixel: farness (inverse depth turned round) before slot before face."""
    longest = triangles.corners.shape[1]
    corners, low, high = triangles.corners.flatten(0, 1), triangles.low.flatten(0, 1), triangles.high.flatten(0, 1)
    across = (high - low) // _TILE + 1
    tiles = across.prod(-1) * triangles.visible.flatten()
    end = tiles.cumsum(0)
    total = int(end[-1])
    owner = torch.repeat_interleave(tiles, output_size=total)
    number = torch.arange(total, device=owner.device) - (end - tiles)[owner]

    key = torch.full((batch * height * width,), _NOTHING, device=corners.device)
    for one, n in zip(owner.split(_TILES_AT_ONCE), number.split(_TILES_AT_ONCE), strict=True):
        first = low[one] + _TILE * torch.stack((n % across[one, 0], n // across[one, 0]), dim=-1)
        step = torch.arange(_TILE, device=one.device)
        x = (first[:, 0, None] + step)[:, None, :]
        y = (first[:, 1, None] + step)[:, :, None]
        inverse, inside = _evaluate(corners[one], x, y)
        right, bottom = high[one, 0, None, None], high[one, 1, None, None]
        inside &= (x <= right) & (y <= bottom)
        order = one % (slots * longest)
        farness = 0x7FFFFFFF - inverse.view(torch.int32).long()
        packed = torch.where(inside, (farness << 32) | order[:, None, None], _NOTHING)
        # Nothing is written beside the triangle, each time in another place: atomics on one address take turns.
        row = (one // (slots * longest) * height)[:, None, None] + torch.minimum(y, bottom)
        pixel = row * width + torch.minimum(x, right)
        key.scatter_reduce_(0, pixel.flatten(), packed.flatten(), "amin")
    return key.view(batch, height, width)


def _evaluate(
    corners: Float[Tensor, "t 3 3"], x: Int[Tensor, "t 1 s"], y: Int[Tensor, "t s 1"]
) -> tuple[Float[Tensor, "t s s"], Bool[Tensor, "t s s"]]:
    """Inverse depth at pixels, and whether they lie in the triangle.

    In float64, where products of float32 are exact: triangles that share an edge leave no pixel between them.
    """
    u, v, w = corners.double()[..., None, None].unbind(2)
    area = (u[:, 1] - u[:, 0]) * (v[:, 2] - v[:, 0]) - (v[:, 1] - v[:, 0]) * (u[:, 2] - u[:, 0])
    inverse, inside = torch.zeros((), dtype=u.dtype, device=u.device), torch.ones_like(x + y, dtype=torch.bool)
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        edge = (u[:, c] - u[:, b]) * (y - v[:, b]) - (v[:, c] - v[:, b]) * (x - u[:, b])
        weight = edge / area
        inside &= weight >= 0
        inverse = inverse + weight * w[:, a]
    return inverse.float(), inside


def _barycentric(corners: Float[Tensor, "b h w 3 3"]) -> Float[Tensor, "b h w 3"]:
    """Perspective-correct weights of each pixel's triangle."""
    height, width = corners.shape[1:3]
    corners = corners.double()
    u = corners[..., 0] - torch.arange(width, device=corners.device)[:, None]
    v = corners[..., 1] - torch.arange(height, device=corners.device)[:, None, None]
    edges = u.roll(-1, -1) * v.roll(-2, -1) - v.roll(-1, -1) * u.roll(-2, -1)
    weights = edges * corners[..., 2]
    return (weights / weights.sum(-1, keepdim=True)).float()


def interpolate_batch(
    meshes: MeshSet,
    T_cam_obj: Float[Tensor, "b m 4 4"],
    slot: Int[Tensor, "b h w"],
    face: Int[Tensor, "b h w"],
    barycentric: Float[Tensor, "b h w 3"],
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]]:
    """Object coordinates, camera-frame normals and colours of the visible surface, as in `Rendering`."""
    found = surface_maps(meshes, T_cam_obj, slot, face, barycentric)
    if found is not None:
        return found
    empty = (face < 0)[..., None]
    corners = meshes.faces[face.clamp(min=0)].long()
    triangle = meshes.vertices[corners]
    weight = barycentric[..., None]
    coordinates = (weight * triangle).sum(-2)
    colors = (weight * meshes.colors[corners]).sum(-2)
    normals = (weight * meshes.normals[corners]).sum(-2)
    # The flat normal decides the side, as an interpolated one may lean past a silhouette.
    flat = torch.linalg.cross(triangle[..., 1, :] - triangle[..., 0, :], triangle[..., 2, :] - triangle[..., 0, :])
    agrees = (normals * flat).sum(-1, keepdim=True)

    image = torch.arange(len(slot), device=slot.device)[:, None, None]
    pose = T_cam_obj.float()[image, slot.clamp(min=0).long()]
    turned = torch.stack((coordinates, normals, flat), dim=-1)
    position, normals, flat = (pose[..., :3, :3] @ turned).unbind(-1)
    ray = torch.nn.functional.normalize(position + pose[..., :3, 3], dim=-1)
    normals = torch.where(agrees * (flat * ray).sum(-1, keepdim=True) > 0, -normals, normals)
    normals = normals - (normals * ray).sum(-1, keepdim=True).clamp(min=0) * ray
    length = normals.norm(dim=-1, keepdim=True)
    normals = normals / length.clamp(min=1e-10)
    normals[..., 2:] = torch.where(length < 1e-10, -1.0, normals[..., 2:])  # a null normal looks at the camera
    maps = (coordinates, normals, colors)
    coordinates, normals, colors = (m.masked_fill(empty, 0).permute(0, 3, 1, 2).contiguous() for m in maps)
    return coordinates, normals, colors

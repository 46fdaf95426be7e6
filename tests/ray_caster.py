"""A plain ray caster, the twin that both rasterisers are tested against: every ray against every triangle, float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cad2pose.rendering import MeshSet


@dataclass(frozen=True)
class Hits:
    """What each pixel's ray meets first; same meaning as `Fragments`, plus the point in the object's frame."""

    depth: Tensor
    slot: Tensor
    face: Tensor
    barycentric: Tensor
    coordinates: Tensor


def cast_rays(
    meshes: MeshSet, mesh_index: Tensor, T_cam_obj: Tensor, K: Tensor, height: int, width: int, near: float
) -> Hits:
    """One scene: `mesh_index (M,)`, `T_cam_obj (M, 4, 4)`, `K (3, 3)`; triangles reaching below `near` are left out."""
    v, u = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    rays = torch.stack((u, v, torch.ones_like(u)), dim=-1).reshape(-1, 3) @ torch.linalg.inv(K.double()).T
    depth = torch.full((len(rays),), torch.inf, dtype=torch.float64)
    slot, face = torch.full((len(rays),), -1), torch.full((len(rays),), -1)
    barycentric, coordinates = torch.zeros(len(rays), 3).double(), torch.zeros(len(rays), 3).double()
    for m, mesh in enumerate(mesh_index.tolist()):
        if mesh < 0:
            continue
        first, last = meshes.face_start[mesh : mesh + 2].tolist()
        model = meshes.vertices[meshes.faces[first:last].long()].double()
        corners = model @ T_cam_obj[m, :3, :3].double().T + T_cam_obj[m, :3, 3].double()
        t, weights = _intersect(rays, corners)
        t = torch.where((corners[..., 2] >= near).all(-1), t, torch.inf)
        distance, nearest = t.min(dim=1)
        wins = (distance < depth).nonzero()[:, 0]
        depth[wins], slot[wins], face[wins] = distance[wins], m, first + nearest[wins]
        barycentric[wins] = weights[wins, nearest[wins]]
        coordinates[wins] = (barycentric[wins, :, None] * model[nearest[wins]]).sum(1)
    depth = torch.where(depth.isinf(), 0, depth)
    maps = (m.unflatten(0, (height, width)) for m in (depth, slot, face, barycentric, coordinates))
    return Hits(*maps)


def _intersect(rays: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Distances in units of the ray (inf: missed) and barycentric weights, `(rays, triangles[, 3])`.

    Ray t d meets the plane of a, b, c where t d = la a + lb b + lc c with la + lb + lc = 1: by Cramer's rule.
    """
    a, b, c = corners.unbind(1)
    shares = torch.stack([rays @ torch.linalg.cross(p, q).T for p, q in ((b, c), (c, a), (a, b))], dim=-1)
    total = shares.sum(-1)
    weights = shares / total[..., None]
    t = (a * torch.linalg.cross(b, c)).sum(-1) / total
    return torch.where((weights >= 0).all(-1) & (t > 0), t, torch.inf), weights

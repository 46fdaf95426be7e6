"""The box of what is seen of a part behind other things, on the host, before anything is rendered.

A detector's box lies around the visible part, so it has to be known where the crop camera looks before the crop can be
rendered. Nothing is rendered for it: points of the part's surface are hidden where they fall inside the outlines of
things before it. Outlines are convex here; what hides too much is put behind the part, by the rule of the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.data.occluders import allowed_cover
from cad2pose.geometry import VirtualCamera, project_points, transform_points
from cad2pose.parts import Mesh, Part, sample_surface
from cad2pose.parts.bounds import extreme_points, padded

_SAMPLES = 250
_RIM = 100  # directions in which a part's outermost points are known
_OUTLINE = 60  # the same of other things
_DIRECTIONS = 12  # in which an outline is known: a circle's is 3 % too large between them
_NEAREST = 1e-3  # of the part's distance: a thing nearer than that has no outline
_SHARES = 10_000  # as which shares of a silhouette are counted


class VisibleBoxes:
    """Tells what is seen of parts.

    Args:
        parts: the method's.
        things: meshes about the origin, which may hide them.
        min_visibility: share of a silhouette that stays visible at least.
    """

    def __init__(self, parts: Sequence[Part], things: Sequence[Mesh], min_visibility: float) -> None:
        samples = [sample_surface(part.mesh, _SAMPLES) for part in parts]
        rims = padded([extreme_points(part.mesh.used_vertices, _RIM) for part in parts])
        self._points = torch.cat((torch.stack([sample.points.double() for sample in samples]), rims), dim=1).float()
        self._normals = torch.stack([sample.normals.float() for sample in samples])
        self._outlines = padded([extreme_points(mesh.used_vertices, _OUTLINE) for mesh in things]).float()
        self._min_visibility = min_visibility

    def __call__(
        self,
        whole: Float[Tensor, "batch 4"],
        camera: VirtualCamera,
        part_index: Int[Tensor, "batch"],
        T_virt_obj: Float[Tensor, "batch 4 4"],
        thing_index: Int[Tensor, "batch m"],
        T_virt_thing: Float[Tensor, "batch m 4 4"],
    ) -> Float[Tensor, "batch 4"]:
        """Boxes x, y, w, h in the source images around what is seen of parts; the whole ones where nothing is.

        Args:
            whole: `(B, 4)` boxes of the whole parts, clipped to the images.
            camera: that looks at them.
            part_index: `(B,)`.
            T_virt_obj: `(B, 4, 4)` of the parts, in that camera.
            thing_index: `(B, m)` into `things`, -1 for none.
            T_virt_thing: `(B, m, 4, 4)` of those; rotations times sizes.
        """
        if not thing_index.numel():
            return whole
        points = transform_points(T_virt_obj.float(), self._points[part_index])
        pixels = project_points(camera.K_cam.float(), points @ camera.R_virt_cam.float())
        inside = ((pixels > -0.5) & (pixels < camera.image_size.float()[:, None] - 0.5)).all(-1)
        outlines = transform_points(T_virt_thing.float(), self._outlines[thing_index.clamp_min(0)])
        owner = _hiding(points, outlines, thing_index >= 0, T_virt_thing[..., 2, 3].float())
        share = self._shares(points, part_index, T_virt_obj) * inside
        hidden = torch.zeros(len(points), outlines.shape[1] + 1).scatter_add_(1, owner, share)[:, :-1]
        allowed = allowed_cover(_counted(hidden), _counted(share.sum(1) - self._min_visibility))
        hides = torch.cat((allowed, allowed.new_zeros(len(allowed), 1)), dim=1).gather(1, owner)
        seen = inside & ~hides
        # how much smaller the box of these points becomes, as they know the outline less well than `whole` does
        least, most = _extent(pixels, seen)
        first, last = _extent(pixels, inside)
        corner = whole[:, :2] + (least - first)
        box = torch.cat((corner, whole[:, :2] + whole[:, 2:] + (most - last) - corner), dim=-1)
        return torch.where(seen.any(1, keepdim=True), box, whole)

    def _shares(
        self,
        points: Float[Tensor, "batch n 3"],
        part_index: Int[Tensor, "batch"],
        T_virt_obj: Float[Tensor, "batch 4 4"],
    ) -> Float[Tensor, "batch n"]:
        """Share of its silhouette that each point stands for.

        Samples stand for the area that they show, front and back alike, so that normals may point either way;
        outermost points for nothing.
        """
        normals = self._normals[part_index] @ T_virt_obj[:, :3, :3].float().transpose(1, 2)
        samples = points[:, : normals.shape[1]] / points[:, :1, 2:].clamp_min(1e-3)
        facing = (normals * samples).sum(-1).abs()
        facing = torch.nn.functional.pad(facing, (0, points.shape[1] - facing.shape[1]))
        return facing / facing.sum(1, keepdim=True).clamp_min(1e-12)


def _counted(shares: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    return (shares * _SHARES).round().long()


def _extent(
    pixels: Float[Tensor, "batch n 2"], chosen: Bool[Tensor, "batch n"]
) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, "batch 2"]]:
    least = torch.where(chosen[..., None], pixels, math.inf).amin(1)
    return least.double(), torch.where(chosen[..., None], pixels, -math.inf).amax(1).double()


def _hiding(
    points: Float[Tensor, "batch n 3"],
    outlines: Float[Tensor, "batch m k 3"],
    present: Bool[Tensor, "batch m"],
    middle: Float[Tensor, "batch m"],
) -> Int[Tensor, "batch n"]:
    """Which thing hides each point: the nearest one; their number, m, where none does."""
    angle = torch.arange(_DIRECTIONS, dtype=points.dtype) * (2 * math.pi / _DIRECTIONS)
    spread = torch.stack((angle.cos(), angle.sin()))
    depth = outlines[..., 2]
    known = present & (depth.amin(-1) > _NEAREST * points[..., 2].mean(1, keepdim=True))
    reach = (outlines[..., :2] / torch.where(known[..., None], depth, 1)[..., None] @ spread).amax(2)
    along = points[..., :2] / points[..., 2:].clamp_min(_NEAREST) @ spread
    covers = known[:, None] & (middle[:, None] < points[..., 2:])
    for i in range(_DIRECTIONS):
        covers &= along[..., i, None] <= reach[:, None, :, i]
    nearest = torch.where(covers, middle[:, None], math.inf).min(-1)
    return torch.where(nearest.values < math.inf, nearest.indices, outlines.shape[1])

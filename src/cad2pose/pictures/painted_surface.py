"""A part in a pose, painted with values that are known at points of its surface."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from cad2pose.geometry import Camera
from cad2pose.parts.part import Part
from cad2pose.pictures.embedding_checks import check_finite
from cad2pose.rendering.meshes import MeshSet
from cad2pose.rendering.render import render

_SUPERSAMPLING = 2
_NEIGHBOURS = 4


@dataclass(frozen=True)
class VisibleSurface:
    """The surface seen in a square picture, finer than the picture so that edges come out smooth.

    Args:
        mask: `(s, s)` where it is seen, row by row the n pixels of the others.
        coordinates: `(n, 3)` mm, mesh file's frame.
        facing: `(n,)` cosine of the angle between the surface's normal and the viewing direction of the picture.
    """

    mask: Bool[Tensor, "s s"]
    coordinates: Float[Tensor, "n 3"]
    facing: Float[Tensor, "n"]

    def values(self, points: Float[Tensor, "m 3"], values: Float[Tensor, "m c"]) -> Float[Tensor, "n c"]:
        """Values at the pixels: means of the four nearest points', weighted by the inverse squared distance."""
        count = min(_NEIGHBOURS, len(points))
        distance, index = _nearest(points, self.coordinates, count)
        closeness = 1 / (distance**2 + 1e-12)
        weight = (closeness / closeness.sum(1, keepdim=True))[..., None]
        return (values.detach().cpu()[index] * weight.to(values.dtype)).sum(1)

    def picture(self, colours: Float[Tensor, "n 3"], ground: float) -> Float[Tensor, "3 h h"]:
        """The picture of the pixels' colours on a gray ground."""
        picture = torch.full((*self.mask.shape, 3), ground)
        picture[self.mask] = colours.float()
        return torch.nn.functional.avg_pool2d(picture.movedim(-1, 0), _SUPERSAMPLING)


def smoothed(points: Float[Tensor, "m 3"], values: Float[Tensor, "m c"], share: float) -> Float[Tensor, "m c"]:
    """Means over the nearest points, each point itself among them; `share` says how many of all."""
    return values[_nearest(points, points, max(1, round(share * len(points))))[1]].mean(1)


def visible_surface(part: Part, T_cam_obj: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: int) -> VisibleSurface:
    """What is seen of the part, alone, in a picture of `size` x `size` pixels.

    Raises:
        ValueError: if the size is not positive, or K is no camera matrix, or the pose is not finite.
    """
    check_finite("pose", T_cam_obj)
    camera = Camera(K.detach().cpu(), size, size).resized(float(_SUPERSAMPLING))
    meshes, index = MeshSet.from_meshes([part.mesh]), torch.zeros(1, 1, dtype=torch.int64)
    pose = T_cam_obj.detach().cpu().double()[None, None]
    seen = render(meshes, index, pose, camera.K[None], camera.height, camera.width)
    mask = seen.mask[0]
    return VisibleSurface(mask, seen.coordinates[0].movedim(0, -1)[mask], seen.normals[0, 2][mask].abs())


def _nearest(
    points: Float[Tensor, "m 3"], places: Float[Tensor, "n 3"], count: int
) -> tuple[Float[Tensor, "n {count}"], Int[Tensor, "n {count}"]]:
    """Distances to and indices of the nearest points of every place."""
    tree = KDTree(points.detach().cpu().double().numpy())
    distance, index = tree.query(places.detach().cpu().double().numpy(), k=count)
    return torch.from_numpy(distance).view(-1, count), torch.from_numpy(index).view(-1, count)

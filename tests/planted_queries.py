"""Query images made by formula: what a perfect network would say of a part in a known pose."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cad2pose.geometry import make_transform, random_rotations
from cad2pose.parts import Part
from cad2pose.rendering import MeshSet, render
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.surface import Surface


@dataclass(frozen=True)
class Planted:
    """Noise-free query images of one part.

    Args:
        maps: of B crops.
        keys: `(m, 4)` of the surface's points.
        rotation: `(B, 3, 3)` true rotations.
        position: `(B, 3)` true positions of the sphere's centre, radii.
    """

    maps: QueryMaps
    keys: Tensor
    rotation: Tensor
    position: Tensor


def gaussian_keys(points: Tensor) -> Tensor:
    """Keys (x, |x|^2): with the query (y, -1/2) / s^2 the softmax is a Gaussian of width s about y."""
    return torch.cat((points, points.square().sum(-1, keepdim=True)), dim=-1)


def plant(
    part: Part, surface: Surface, count: int, side: int, width: float = 0.05, seed: int = 0, lens: float = 3.0
) -> Planted:
    """Crops of `side` pixels that a part fills to about two thirds, in random poses.

    `width` of the distributions; `lens` is the focal length in sides: the part is about 3.2 times as many radii away.
    """
    generator = torch.Generator().manual_seed(seed)
    rotation = random_rotations(count, generator, torch.float64)
    focal = lens * side
    away = 2 * focal / (0.62 * side) * (1 + 0.1 * torch.rand(count, generator=generator, dtype=torch.float64))
    across = 0.06 * (torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5) * away[:, None] / lens
    position = torch.cat((across, away[:, None]), dim=1)
    K = torch.tensor([[focal, 0, (side - 1) / 2], [0, focal, (side - 1) / 2], [0, 0, 1.0]]).expand(count, 3, 3)
    translation = position * part.radius - (rotation @ part.center[:, None])[..., 0]
    T = make_transform(rotation, translation).float()
    seen = render(
        MeshSet.from_meshes([part.mesh]), torch.zeros(count, 1, dtype=torch.long), T[:, None], K, side, side
    )  # fmt: skip
    coordinates = (seen.coordinates - part.center.float()[:, None, None]) / part.radius
    ones = torch.full((count, 1, side, side), -0.5)
    queries = torch.cat((coordinates, ones), dim=1) / width**2 * seen.mask[:, None]
    logits = torch.where(seen.mask, 6.0, -6.0)
    maps = QueryMaps(queries, logits, torch.ones_like(logits), K)
    return Planted(maps, gaussian_keys(surface.points), rotation.float(), position.float())

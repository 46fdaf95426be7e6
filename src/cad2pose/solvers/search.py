"""Deterministic search over SE(3): a grid of rotations, each placed where the mask says, scored and thinned out.

For a rotation the mask alone says where the part stands: its area gives the distance, as the area that the part covers
from that side at unit distance is known, and its centroid the direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry import rotation_about_z, rotation_to_ray
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.quick_score import QuickScore
from cad2pose.solvers.surface import Surface, sphere_directions


@dataclass(frozen=True)
class SearchOptions:
    """Settings of `search`.

    Attributes:
        directions: viewpoints tried.
        turns: turns about the viewing direction tried for each.
        distances: factors tried on the distance that the mask's area gives.
    """

    directions: int = 192
    turns: int = 24
    distances: tuple[float, ...] = (0.92, 1.0, 1.08)


def search(
    surface: Surface, score: QuickScore, maps: QueryMaps, keep: int, options: SearchOptions | None = None
) -> tuple[Hypotheses, Float[Tensor, "n"]]:
    """The `keep` best poses of the grid per crop with their rough scores, best first; crops follow each other."""
    options = options or SearchOptions()
    rotations = rotation_grid(options.directions, options.turns).to(surface.points)
    area, offset = _silhouettes(surface, rotations)
    found = []
    for crop in range(len(maps)):
        total, centroid = _mask_moments(maps, crop)
        focal = maps.K[crop, 0, 0]
        depth = focal * (area / total).sqrt()
        across = (centroid - maps.K[crop, :2, 2]) / focal
        poses = []
        for factor in options.distances:
            z = (depth * factor)[:, None]
            position = torch.cat((across * z - offset, z), dim=1)
            poses.append(Hypotheses(torch.full((len(z),), crop, device=z.device), rotations, position))
        candidates = Hypotheses.join(poses)
        rough = score(candidates.row, candidates.rotation, candidates.position)
        best = rough.topk(min(keep, len(rough)))
        found.append((candidates[best.indices], best.values))
    return Hypotheses.join([poses for poses, _ in found]), torch.cat([values for _, values in found])


@lru_cache(maxsize=4)
def rotation_grid(directions: int, turns: int) -> Float[Tensor, "n 3 3"]:
    """Rotations R_cam_obj that show the part from spiral directions, each turned about the optical axis."""
    towards = sphere_directions(directions)
    upright = rotation_to_ray(-towards).transpose(1, 2)  # the camera looks along -direction
    spin = rotation_about_z(2 * torch.pi * torch.arange(turns, dtype=torch.float64) / turns)
    return (spin[None] @ upright[:, None]).flatten(0, 1)


def _silhouettes(
    surface: Surface, rotations: Float[Tensor, "n 3 3"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 2"]]:
    """Area of the silhouette from far away, in square radii, and where its centroid lies from the sphere's centre."""
    count = 512
    points, normals, share = surface.points[:count], surface.normals[:count], surface.areas[count]
    towards = -rotations[:, 2]
    nearest = (towards @ surface.directions.T).argmax(1)
    weight = (towards @ normals.T).clamp_min(0) * surface.visible[nearest, :count] * share
    area = weight.sum(1)
    centre = torch.einsum("ns,sj,nij->ni", weight, points, rotations[:, :2]) / area[:, None]
    return area, centre


def _mask_moments(maps: QueryMaps, crop: int) -> tuple[Float[Tensor, ""], Float[Tensor, "2"]]:
    """Pixels that the mask holds, and their mean position."""
    probability = torch.sigmoid(maps.mask_logits[crop]) * (maps.valid[crop] >= 0.5)
    probability = probability * (probability > 0.2)
    height, width = probability.shape
    v = torch.arange(height, device=probability.device, dtype=probability.dtype)
    u = torch.arange(width, device=probability.device, dtype=probability.dtype)
    total = probability.sum().clamp_min(1e-3)
    return total, torch.stack(((probability.sum(0) * u).sum(), (probability.sum(1) * v).sum())) / total

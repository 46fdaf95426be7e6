"""Deterministic search over SE(3): a grid of rotations, each placed where the mask says, at several distances.

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
from cad2pose.parts.visibility import sphere_directions
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.kernels import placed_poses
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.surface import Surface

_LEAST_MASK = 0.2
_SILHOUETTE_POINTS = 512
_MOVES = 2  # the first move changes what is seen a little
_MOVE_LIMITS = (0.8, 1.25)  # of the change of distance in a move


@dataclass(frozen=True)
class SearchOptions:
    """Settings of `search_poses`.

    Attributes:
        directions: viewpoints tried.
        turns: turns about the viewing direction tried for each.
        distances: factors tried on the distance that the mask's area gives.
    """

    directions: int = 192
    turns: int = 24
    distances: tuple[float, ...] = (0.92, 1.0, 1.08)

    def __post_init__(self) -> None:
        if self.directions < 1 or self.turns < 1 or not self.distances or min(self.distances) <= 0:
            raise ValueError(f"{self}: directions, turns and distances must be positive, and there must be some")


def search_poses(
    surface: Surface, keys: Float[Tensor, "m e"], maps: QueryMaps, options: SearchOptions | None = None
) -> Hypotheses:
    """The poses of the grid for every crop, as many for each; none for a crop whose mask shows nothing.

    `keys` do not count: which of the poses agrees with the queries is the score's business. Distances come of the
    mask's area, so a part of which the image's border cuts off much is looked for too far away; sampling does not mind.
    """
    options = options or SearchOptions()
    rotations = rotation_grid(options.directions, options.turns).to(surface.points)
    area, offset = _silhouettes(surface, rotations)
    total, centroid = _mask_moments(maps)
    focal = maps.K[:, 0, 0]
    depth = focal[:, None] * (area / total.clamp_min(1e-3)[:, None]).sqrt()
    factors = torch.tensor(options.distances, dtype=depth.dtype, device=depth.device)
    z = (depth[:, None] * factors[:, None])[..., None]
    across = ((centroid - maps.K[:, :2, 2]) / focal[:, None])[:, None, None]
    position = torch.cat((across * z - offset, z), dim=-1).flatten(1, 2)
    row = torch.arange(len(maps), device=z.device)[:, None].expand(position.shape[:2])
    every = Hypotheses(
        row.flatten(), rotations.repeat(len(maps) * len(factors), 1, 1), position.flatten(0, 1)
    )  # fmt: skip
    return every[(total >= 1)[row].flatten().nonzero()[:, 0]]


@lru_cache(maxsize=4)
def rotation_grid(directions: int, turns: int) -> Float[Tensor, "n 3 3"]:
    """Rotations R_cam_obj that show the part from spiral directions, each turned about the optical axis."""
    towards = sphere_directions(directions)
    upright = rotation_to_ray(-towards).transpose(1, 2)  # the camera looks along -direction
    spin = rotation_about_z(2 * torch.pi * torch.arange(turns, dtype=torch.float64) / turns)
    return (spin[None] @ upright[:, None]).flatten(0, 1)


def placed_by_mask(surface: Surface, maps: QueryMaps, poses: Hypotheses) -> Hypotheses:
    """The same rotations, moved so that the silhouette has the mask's area and centroid; at most 25 % in distance."""
    total, centroid = _mask_moments(maps)
    found = placed_poses(surface, _SILHOUETTE_POINTS, maps.K, total, centroid, _MOVES, _MOVE_LIMITS, poses)
    if found is not None:
        return Hypotheses(poses.row, poses.rotation, found)
    focal, middle = maps.K[poses.row, 0, 0], maps.K[poses.row, :2, 2]
    position = poses.position
    for _ in range(_MOVES):
        area, centre = _seen_moments(surface, poses.rotation, position)
        wanted = (centroid[poses.row] - middle) / focal[:, None]
        factor = (area * focal.square() / total[poses.row].clamp_min(1e-3)).sqrt().clamp(*_MOVE_LIMITS)
        z = position[:, 2:] * factor[:, None]
        position = torch.cat(((position[:, :2] / position[:, 2:] + wanted - centre) * z, z), dim=1)
    moved = total[poses.row, None] >= 1
    return Hypotheses(poses.row, poses.rotation, torch.where(moved, position, poses.position))


def _seen_moments(
    surface: Surface, rotation: Float[Tensor, "n 3 3"], position: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 2"]]:
    """Area and centroid of the silhouette in the image plane z = 1."""
    count = _SILHOUETTE_POINTS
    seen = surface.points[:count] @ rotation.transpose(1, 2) + position[:, None]
    normals = surface.normals[:count] @ rotation.transpose(1, 2)
    shown = surface.shown(rotation, position, count)
    depth = seen[..., 2].clamp_min(1e-3)
    weight = -(normals * seen).sum(-1).clamp_max(0) * shown * surface.areas[count] / depth**3
    area = weight.sum(1).clamp_min(1e-9)
    return area, (weight[..., None] * seen[..., :2] / depth[..., None]).sum(1) / area[:, None]


def _silhouettes(
    surface: Surface, rotations: Float[Tensor, "n 3 3"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 2"]]:
    """Area of the silhouette from far away, in square radii, and where its centroid lies from the sphere's centre."""
    count = _SILHOUETTE_POINTS
    points, normals, share = surface.points[:count], surface.normals[:count], surface.areas[count]
    towards = -rotations[:, 2]
    nearest = (towards @ surface.directions.T).argmax(1)
    weight = (towards @ normals.T).clamp_min(0) * surface.visible[nearest, :count] * share
    area = weight.sum(1)
    centre = torch.einsum("ns,sj,nij->ni", weight, points, rotations[:, :2]) / area[:, None]
    return area, centre


def _mask_moments(maps: QueryMaps) -> tuple[Float[Tensor, "b"], Float[Tensor, "b 2"]]:
    """Pixels that each mask holds, and their mean position."""
    probability = torch.sigmoid(maps.mask_logits) * maps.in_mask(_LEAST_MASK)
    v, u = (torch.arange(n, device=probability.device, dtype=probability.dtype) for n in probability.shape[1:])
    along, down = probability.sum(1), probability.sum(2)
    total = along.sum(1)
    moments = torch.stack((along @ u, down @ v), dim=1)
    return total, moments / total.clamp_min(1e-3)[:, None]

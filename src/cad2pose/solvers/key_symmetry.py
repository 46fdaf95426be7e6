"""Which rotations leave a part's keys where they are: the symmetries that a network has learnt of, nobody told it.

A rotation S about the sphere's centre is one where, for nearly all points x of the surface, S x lies on the surface as
well, and has the key of x. A part that is all but symmetric (a disc with a notch) counts: which of its poses an image
shows is the score's business, and this is only where to look for others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from scipy.spatial import KDTree
from torch import Tensor

from cad2pose.geometry import (
    axis_angle_from_rotation,
    geodesic_distance,
    nearest_rotation,
    rotation_from_axis_angle,
)
from cad2pose.solvers.search import rotation_grid
from cad2pose.solvers.surface import Surface

_TARGETS = 8192
_ROUGHEST, _ROUGH, _FINE = 40, 128, 384  # points turned: in the whole grid, its likely ones, and for exactness
_LIKELY = 800
_NEIGHBOURS = 4
_SMOOTHED = 32  # points whose keys are averaged: what differs from point to point tells none of them apart
_PLACE, _KEY = 0.15, 0.63  # radii, and spreads of the keys: what is as good as elsewhere
_ALIKE = 0.45  # mean cost of a symmetry, of at most 1
_RING = 12
_TURNS = 12
_CANDIDATES, _ROUNDS = 96, 16
_SETTLED = 2e-3  # rad; a rotation that moves less is exact


@dataclass(frozen=True)
class KeySymmetry:
    """Rotations of the normalised object frame under which keys hardly change.

    Args:
        rotations: `(g, 3, 3)` distinct ones, the identity first; a ring of them about the axis where there is one.
        axis: `(3,)` unit axis about which every turn is one; zeros where there is none.
    """

    rotations: Float[Tensor, "g 3 3"]
    axis: Float[Tensor, "3"]
    turning: bool = field(init=False)
    """whether there is an axis, known on the host"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "turning", bool(self.axis.any()))

    def to(self, device: torch.device | str) -> KeySymmetry:
        """The same on another device."""
        return KeySymmetry(self.rotations.to(device), self.axis.to(device))


def key_symmetry(
    surface: Surface, keys: Float[Tensor, "m e"], gap: float = 0.3, most: int = 48
) -> KeySymmetry:  # fmt: skip
    """Find them: a grid of rotations, the best of which are made exact by matching points of like keys.

    Args:
        surface: of the part.
        keys: of its points.
        gap: rad; rotations closer than that are one.
        most: rotations kept.
    """
    device = keys.device
    match = _Matcher(surface.points.cpu().double(), keys.cpu().double())
    grid = rotation_grid(162, 20)
    grid = grid[match.cost(grid, _ROUGHEST).argsort()[:_LIKELY]]
    rotations = _apart(grid, match.cost(grid, _ROUGH), gap, _CANDIDATES)
    moving = torch.arange(len(rotations))
    for _ in range(_ROUNDS):
        before = rotations[moving]
        rotations[moving] = match.improved(before)
        moving = moving[geodesic_distance(before, rotations[moving]) > _SETTLED]
        if not len(moving):
            break
    rotations = torch.cat((torch.eye(3, dtype=torch.float64)[None], rotations))
    cost = match.cost(rotations, _FINE)
    alike = (cost < _ALIKE).nonzero()[:, 0]
    rotations, cost = rotations[alike], cost[alike]
    axis = _axis(match, rotations, cost)
    if bool(axis.any()):
        rotations = torch.cat((_about(axis, _RING), rotations))
        cost = match.cost(rotations, _FINE)
    cost[(rotations - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2)) < 1e-6] = -1.0  # the identity stays first
    found = _apart(rotations, cost, gap, most)
    return KeySymmetry(found.float().to(device), axis.float().to(device))


def turns_apart() -> Float64[Tensor, "12"]:
    """Angles in rad by which "any turn is as good" is judged: square multiples of the golden angle.

    Even steps would be the very symmetries of a part with as many teeth, which does not turn freely.
    """
    steps = torch.arange(1, _TURNS + 1, dtype=torch.float64).square()
    return steps * (math.pi * (3 - 5**0.5)) % (2 * math.pi)


class _Matcher:
    """Turns points, and says where they end up."""

    def __init__(self, points: Float64[Tensor, "m 3"], keys: Float64[Tensor, "m e"]) -> None:
        self.points, self.targets = points, points[:_TARGETS]
        self.tree = KDTree(self.targets.numpy())
        near = torch.from_numpy(self.tree.query(self.targets.numpy(), k=_SMOOTHED)[1])
        smooth = keys[:_TARGETS][near].mean(1)
        self.keys = smooth / (smooth - smooth.mean(0)).square().sum(1).mean().sqrt().clamp_min(1e-12)

    def cost(self, rotations: Float64[Tensor, "g 3 3"], count: int) -> Float64[Tensor, "g"]:
        """Mean over the first points of what is amiss with where they end up, at most 1."""
        return torch.cat([self._nearest(some, count)[1].clamp_max(1).mean(1) for some in rotations.split(512)])

    def improved(self, rotations: Float64[Tensor, "g 3 3"]) -> Float64[Tensor, "g 3 3"]:
        """The rotations that bring points nearest to those that they match now (Kabsch)."""
        place, cost = self._nearest(rotations, _FINE)
        weight = (1 - cost).clamp_min(0) + 1e-6
        moment = torch.einsum("gn,gni,nj->gij", weight, self.targets[place], self.points[:_FINE])
        return nearest_rotation(moment)

    def _nearest(self, rotations: Float64[Tensor, "g 3 3"], count: int) -> tuple[Tensor, Float64[Tensor, "g n"]]:
        turned = self.points[:count] @ rotations.transpose(1, 2)
        distance, place = self.tree.query(turned.reshape(-1, 3).numpy(), k=_NEIGHBOURS, distance_upper_bound=_PLACE)
        shape = (len(rotations), count, _NEIGHBOURS)
        distance = torch.from_numpy(distance).view(shape)  # infinite where nothing is that near
        place = torch.from_numpy(place).view(shape).clamp_max(len(self.targets) - 1)
        apart = (self.keys[place] - self.keys[:count, None]).square().sum(-1) / _KEY**2
        cost, best = (apart + (distance / _PLACE).square()).min(-1)
        return place.gather(-1, best[..., None])[..., 0], cost


def _axis(
    match: _Matcher, rotations: Float64[Tensor, "g 3 3"], cost: Float64[Tensor, "g"]
) -> Float64[Tensor, "3"]:  # fmt: skip
    """The axis about which any turn is as good, zeros where none is."""
    vectors = axis_angle_from_rotation(rotations)
    angle = vectors.norm(dim=1)
    turned = angle > 0.3
    axes, angle, cost = vectors[turned] / angle[turned, None], angle[turned], cost[turned]
    best, best_cost = torch.zeros(3, dtype=torch.float64), _ALIKE
    for index in cost.argsort()[:24].tolist():
        along = axes @ axes[index]
        like = along.abs() > math.cos(0.12)
        weight = (angle[like] / 2).sin().square() * along[like].sign()
        axis = torch.nn.functional.normalize((axes[like] * weight[:, None]).sum(0), dim=0)
        worst = float(match.cost(rotation_from_axis_angle(axis * turns_apart()[:, None]), _FINE).max())
        if worst < best_cost:
            best, best_cost = axis, worst
    return best


def _about(axis: Float64[Tensor, "3"], count: int) -> Float64[Tensor, "{count} 3 3"]:
    angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    return rotation_from_axis_angle(axis * angle[:, None])


def _apart(
    rotations: Float64[Tensor, "g 3 3"], cost: Float64[Tensor, "g"], gap: float, most: int
) -> Float64[Tensor, "k 3 3"]:
    """The best ones that are all farther apart than the gap."""
    left, kept = cost.clone(), []
    for _ in range(min(most, len(left))):
        value, index = left.min(0)
        if not torch.isfinite(value):
            break
        kept.append(int(index))
        trace = torch.einsum("gij,ij->g", rotations, rotations[index])
        left[trace > 1 + 2 * math.cos(gap)] = torch.inf
        left[index] = torch.inf
    return rotations[kept]

"""Where the axes of a surface's rotational symmetries may lie: a coarse search, and least squares for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry.rotation import rotation_from_axis_angle, rotation_to_ray
from cad2pose.parts.seen_surface import SeenSurface
from cad2pose.parts.visibility import sphere_directions

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)
_DIRECTIONS = 4000  # over the whole sphere, 3.2 degrees apart; half of them are needed, as an axis has no sign
_COARSE_POINTS = 256
_CAP = 0.3  # of distances in the coarse search, in radii: what breaks a symmetry must not hide it
_HOPELESS = 0.12  # coarse scores above it are not refined; a symmetry that is 8 degrees off has less
_APART = math.cos(math.radians(8))
_SAME_AXIS = math.cos(math.radians(5))
_SAME_LINE = 0.06  # radii
_SCALES = (0.12, 0.08, 0.05, 0.03, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01)  # of the residuals per round, in radii
_MATCHING = 0.3  # cosine between normals of points that belong together
_MOST_RESIDUALS = 12_000


@dataclass(frozen=True, eq=False)
class AxisCandidate:
    """A line about which the surface may be symmetric.

    Args:
        direction: `(3,)` unit vector.
        center: `(3,)` a point of the line, mm.
        error: mean capped distance after the rotation it was found by, in radii.
    """

    direction: Float[Tensor, "3"]
    center: Float[Tensor, "3"]
    error: float


def candidate_axes(surface: SeenSurface, per_order: int = 8, orders: Sequence[int] = PRIMES) -> list[AxisCandidate]:
    """Candidates for all orders, the best first, refined, no line twice.

    A group of rotations has an element of prime order, so prime orders find every axis. Evenly spread directions
    and the principal axes of the surface are tried through the bounding sphere's centre and the centroid; the best of
    each order are refined by least squares, centre and all.
    """
    part = surface.part
    even = surface.points[surface.even]
    middle = even.mean(0)
    directions = sphere_directions(_DIRECTIONS)
    principal = torch.linalg.eigh((even - middle).T @ (even - middle))[1].T
    directions = torch.cat((principal, directions[directions[:, 2] > 0]))
    found: list[AxisCandidate] = []
    for prime in orders:
        angle = 2 * math.pi / prime * max(1, round(0.4 * prime))
        rotations = rotation_from_axis_angle(angle * directions)
        centers = (part.center, middle)
        scores = torch.stack([_coarse(surface, even[:_COARSE_POINTS], rotations, center) for center in centers])
        best, which = scores.min(0)
        left = torch.ones(len(directions), dtype=torch.bool)
        for _ in range(per_order):
            index = int(torch.where(left, best, torch.inf).argmin())
            if not left[index] or float(best[index]) > _HOPELESS:
                break
            left &= (directions @ directions[index]).abs() < _APART
            turn = rotation_from_axis_angle(torch.tensor([[0.0, 0.0, angle]], dtype=torch.float64))
            frame, center = align(surface, turn, frame_with_z(directions[index]), centers[int(which[index])])
            found.append(AxisCandidate(frame[:, 2], center, mean_error(surface, frame @ turn @ frame.T, center)))
    return _without_repeats(sorted(found, key=lambda axis: axis.error), part.radius)


def align(
    surface: SeenSurface, rotations: Float[Tensor, "k 3 3"], frame: Float[Tensor, "3 3"], center: Float[Tensor, "3"]
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """Frame and centre in which all the rotations fit best: Gauss-Newton on point-to-plane distances.

    With g a small motion, the group's element S becomes g S g^-1, so all elements share six unknowns and stay a group.
    Residuals count less the larger they are (Geman-McClure), so that what breaks a symmetry does not bend it.

    Args:
        surface: to be brought onto itself.
        rotations: in the group's own frame.
        frame: rotation from the group's frame to the part's, to start from.
        center: of the group, mm, to start from.
    """
    points, normals = surface.points[surface.even], surface.normals[surface.even]
    if len(rotations) > 1:
        share = max(96, _MOST_RESIDUALS // len(rotations))
        points, normals = points[:share], normals[:share]
    radius = surface.part.radius
    for scale in _SCALES:
        turned = frame @ rotations @ frame.T
        before = points - center
        after = (before @ turned.transpose(1, 2)).flatten(0, 1)
        facing = (normals @ turned.transpose(1, 2)).flatten(0, 1)
        index = torch.from_numpy(surface.tree.query((after + center).numpy())[1])
        target = surface.normals[index]
        residual = ((after + center - surface.points[index]) * target).sum(1) / radius
        source_normal = (target.view(len(rotations), -1, 3) @ turned).flatten(0, 1)
        about = torch.linalg.cross(after, target) - torch.linalg.cross(before.repeat(len(rotations), 1), source_normal)
        jacobian = torch.cat((about / radius, target - source_normal), dim=1)
        weight = (1 + (residual / scale).square()).pow(-2) * ((facing * target).sum(1) > _MATCHING)
        normal_matrix = (jacobian * weight[:, None]).T @ jacobian
        damping = 1e-6 * float(normal_matrix.diagonal().sum()) + 1e-12
        step = -torch.linalg.solve(
            normal_matrix + damping * torch.eye(6, dtype=torch.float64), (jacobian * weight[:, None]).T @ residual
        )
        step = step / max(1.0, float(step.abs().max()) / 0.2)
        frame = rotation_from_axis_angle(step[:3]) @ frame
        center = center + step[3:] * radius
    return frame, center


def frame_with_z(z: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """A rotation that takes (0, 0, 1) to a unit vector."""
    if float(z[2]) < -0.5:  # `rotation_to_ray` is not made for vectors that point straight back
        return rotation_to_ray(-z) @ torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    return rotation_to_ray(z)


def mean_error(surface: SeenSurface, rotations: Float[Tensor, "k 3 3"], center: Float[Tensor, "3"]) -> float:
    """Mean distance of rotated points from the surface, capped, in radii."""
    points = surface.points[surface.even] - center
    turned = (points @ rotations.transpose(1, 2)).flatten(0, 1) + center
    normals = (surface.normals[surface.even] @ rotations.transpose(1, 2)).flatten(0, 1)
    return float((surface.distance(turned, normals, "near")[0] / surface.part.radius).clamp_max(_CAP).mean())


def _coarse(
    surface: SeenSurface, points: Float[Tensor, "n 3"], rotations: Float[Tensor, "k 3 3"], center: Float[Tensor, "3"]
) -> Float[Tensor, "k"]:
    """Mean capped distance, in radii, of the points (mm) after each rotation about the centre."""
    scores = []
    for some in rotations.split(512):
        moved = (points - center) @ some.transpose(1, 2) + center
        scores.append(surface.field.distance(moved).clamp_max(_CAP).mean(1))
    return torch.cat(scores).double()


def _without_repeats(axes: list[AxisCandidate], radius: float) -> list[AxisCandidate]:
    kept: list[AxisCandidate] = []
    for axis in axes:
        if not any(same_line(axis, other, radius) for other in kept):
            kept.append(axis)
    return kept


def same_line(first: AxisCandidate, second: AxisCandidate, radius: float) -> bool:
    """Whether two candidates are within 5 degrees and 6 % of a radius of each other."""
    if float((first.direction @ second.direction).abs()) < _SAME_AXIS:
        return False
    gap = first.center - second.center
    return float((gap - (gap @ first.direction) * first.direction).norm()) < _SAME_LINE * radius

"""The finite and continuous groups of rotations of space about one point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry.rotation import axis_angle_from_rotation, geodesic_distance, rotation_from_axis_angle
from cad2pose.parts.symmetry import ContinuousSymmetry, Symmetries, covering_rotations

ANY_ANGLE = 0
"""In place of an axis' order: every rotation about it."""

_STEPS = (23, 7)  # samples of a continuous axis are these fractions of a turn, so that no facets or teeth recur in step
_COVERING = 160
_SAME = 1e-3
_POLYHEDRAL = {"T": (3, 3, 1 / 3), "O": (4, 4, 0.0), "I": (5, 5, 5**-0.5)}


@dataclass(frozen=True, eq=False)
class RotationGroup:
    """A group in its own frame, whose axes meet in the origin.

    Args:
        name: Schoenflies' symbol: C2, D6, T, O, I; Cinf and Dinf with any rotation about z, SO(3) with all of them.
        elements: `(k, 3, 3)` its rotations without the identity; for continuous ones, even samples of them.
        axes: directions with their orders; `ANY_ANGLE` for any rotation.
        order: number of rotations, `ANY_ANGLE` for a continuous group.
    """

    name: str
    elements: Float[Tensor, "k 3 3"]
    axes: tuple[tuple[Float[Tensor, "3"], int], ...]
    order: int

    def symmetries(self, frame: Float[Tensor, "3 3"], center: Float[Tensor, "3"]) -> Symmetries:
        """The group as BOP states it, its frame turned by `frame` and its origin moved to `center` (mm)."""
        turned = frame @ self.elements @ frame.T
        if self.order != ANY_ANGLE:
            return Symmetries(_about(turned, center))
        continuous = tuple(
            ContinuousSymmetry(upward(frame @ axis), center) for axis, order in self.axes if order == ANY_ANGLE
        )
        flip = len(turns(ANY_ANGLE))  # behind the turns about z
        flips = _about(turned[flip : flip + 1], center) if self.name == "Dinf" else turned.new_zeros(0, 4, 4)
        return Symmetries(flips, continuous)

    def motions(self, frame: Float[Tensor, "3 3"], center: Float[Tensor, "3"]) -> Float[Tensor, "k 4 4"]:
        """The elements as motions of space."""
        return _about(frame @ self.elements @ frame.T, center)


def upward(direction: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """The direction or its opposite, so that its last entry that is not about 0 is positive: one of a line's two."""
    leading = direction[direction.abs() > _SAME * direction.norm()][-1]
    return direction * leading.sign() + 0.0


def turns(order: int) -> Float[Tensor, "k 3 3"]:
    """All rotations about z of an axis of that order but the identity, or some, by growing angle."""
    steps = _STEPS if order == ANY_ANGLE else (order,)
    angles = 2 * math.pi * torch.cat([torch.arange(1, n, dtype=torch.float64) / n for n in steps]).sort()[0]
    return rotation_from_axis_angle(angles[:, None] * _vector(0.0, 0.0, 1.0))


@lru_cache(maxsize=128)
def cyclic(order: int) -> RotationGroup:
    """Rotations about z: C2, C3, ..., or Cinf for `ANY_ANGLE`."""
    name = "Cinf" if order == ANY_ANGLE else f"C{order}"
    return RotationGroup(name, turns(order), ((_vector(0.0, 0.0, 1.0), order),), order)


@lru_cache(maxsize=128)
def dihedral(order: int) -> RotationGroup:
    """Rotations about z and half turns about axes across it, x among them: D2, D3, ..., or Dinf."""
    about = turns(order)
    flip = torch.diag(_vector(1.0, -1.0, -1.0))
    elements = torch.cat((about, flip[None], about @ flip))
    if order == ANY_ANGLE:
        return RotationGroup(
            "Dinf", elements, ((_vector(0.0, 0.0, 1.0), ANY_ANGLE), (_vector(1.0, 0.0, 0.0), 2)), ANY_ANGLE
        )
    return RotationGroup(f"D{order}", elements, _axes_of(elements), 2 * order)


@lru_cache(maxsize=8)
def polyhedral(name: str) -> RotationGroup:
    """T, O or I: rotations of the tetrahedron, octahedron (and cube), icosahedron.

    A main axis is z, the nearest other one of the same order is in the plane of x and z, towards x.
    """
    first, second, cosine = _POLYHEDRAL[name]
    other = _vector((1 - cosine**2) ** 0.5, 0.0, cosine)
    generators = [
        rotation_from_axis_angle(2 * math.pi / first * _vector(0.0, 0.0, 1.0)),
        rotation_from_axis_angle(2 * math.pi / second * other),
    ]
    members = torch.eye(3, dtype=torch.float64)[None]
    grown = 0
    while grown < len(members):
        for generator in generators:
            product = generator @ members[grown]
            if float(geodesic_distance(members, product.expand_as(members)).min()) > _SAME:
                members = torch.cat((members, product[None]))
        grown += 1
    return RotationGroup(name, members[1:], _axes_of(members[1:]), len(members))


@lru_cache(maxsize=1)
def all_rotations() -> RotationGroup:
    """SO(3), the rotations of a ball; any rotation about x, y and z generates it."""
    axes = tuple((axis, ANY_ANGLE) for axis in torch.eye(3, dtype=torch.float64))
    return RotationGroup("SO(3)", covering_rotations(_COVERING)[1:], axes, ANY_ANGLE)


def spanning_angle(group: RotationGroup) -> tuple[int, int, float]:
    """Orders of z and of the axis that fixes x, and the cosine between the two; 0 as second order where there is none.

    Two such axes of a part tell where the group's frame lies.
    """
    if group.name in _POLYHEDRAL:
        return _POLYHEDRAL[group.name]
    main = group.axes[0][1] if group.name.startswith("C") else _main_order(group)
    return main, 2 if group.name.startswith("D") else 0, 0.0


def _main_order(group: RotationGroup) -> int:
    along = [order for axis, order in group.axes if abs(float(axis[2])) > 1 - _SAME]
    return along[0]


def _axes_of(elements: Float[Tensor, "k 3 3"]) -> tuple[tuple[Float[Tensor, "3"], int], ...]:
    """Axes of a finite group's rotations and their orders, the highest first."""
    omega = axis_angle_from_rotation(elements)
    directions = torch.nn.functional.normalize(omega, dim=1)
    axes: list[tuple[Tensor, int]] = []
    left = torch.ones(len(directions), dtype=torch.bool)
    for index in range(len(directions)):
        if left[index]:
            same = (directions @ directions[index]).abs() > 1 - _SAME
            axes.append((upward(directions[index]), int(same.sum()) + 1))
            left &= ~same
    return tuple(sorted(axes, key=lambda item: -item[1]))


def _about(rotations: Float[Tensor, "k 3 3"], center: Float[Tensor, "3"]) -> Float[Tensor, "k 4 4"]:
    transform = torch.eye(4, dtype=torch.float64).repeat(len(rotations), 1, 1)
    transform[:, :3, :3] = rotations
    transform[:, :3, 3] = center - rotations @ center
    return transform


def _vector(x: float, y: float, z: float) -> Float[Tensor, "3"]:
    return torch.tensor([x, y, z], dtype=torch.float64)

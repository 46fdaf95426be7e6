"""Groups of rotations that a handful of axes may belong to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry.rotation import axis_angle_from_rotation, rotation_from_axis_angle
from cad2pose.parts.rotation_groups import (
    ANY_ANGLE,
    RotationGroup,
    all_rotations,
    cyclic,
    dihedral,
    polyhedral,
    spanning_angle,
)
from cad2pose.parts.symmetry_search import AxisCandidate, frame_with_z, same_line

_COSINE_SLACK = 0.12
_PARALLEL = 0.99
_COMBINED = 4
_NO_TURN = 0.1  # rad


@dataclass(frozen=True, eq=False)
class Placed:
    """A group in the frame of a part.

    Args:
        group: in its own frame.
        frame: rotation from that frame to the part's.
        center: where its axes meet, mm.
    """

    group: RotationGroup
    frame: Float[Tensor, "3 3"]
    center: Float[Tensor, "3"]

    @classmethod
    def about_axis(cls, group: RotationGroup, axis: AxisCandidate) -> Placed:
        """The group with its z axis on a line."""
        return cls(group, frame_with_z(axis.direction), axis.center)

    @property
    def motions(self) -> Float[Tensor, "k 4 4"]:
        """Its elements, in the part's frame, mm."""
        return self.group.motions(self.frame, self.center)


@dataclass(frozen=True, eq=False)
class AxisOrder:
    """A line and the order of the rotations about it."""

    axis: AxisCandidate
    order: int

    def allows(self, order: int) -> bool:
        """Whether rotations of that order are among those about the axis."""
        return self.order == ANY_ANGLE or (order != ANY_ANGLE and self.order % order == 0)


def implied_axes(axes: list[AxisOrder], radius: float) -> list[AxisCandidate]:
    """Lines that are not among the axes, about which products of rotations about two of them turn.

    Args:
        axes: with their orders, the best first; the first few are combined.
        radius: of the part, mm.
    """
    finite = [item for item in axes if item.order not in (1, ANY_ANGLE)][:_COMBINED]
    lines = [item.axis for item in axes]
    new: list[AxisCandidate] = []
    for second in range(len(finite)):
        for first in range(second):
            turn, other = (
                rotation_from_axis_angle(2 * math.pi / item.order * item.axis.direction)
                for item in (finite[first], finite[second])
            )
            omega = axis_angle_from_rotation(turn @ other)
            if float(omega.norm()) > _NO_TURN:
                center = _meeting(finite[first].axis, finite[second].axis)
                line = AxisCandidate(omega / omega.norm(), center, 0.0)
                if not any(same_line(line, known, radius) for known in (*lines, *new)):
                    new.append(line)
    return new


def propose_groups(axes: list[AxisOrder]) -> Iterator[Placed]:
    """All groups that the axes may belong to; larger groups before the groups that they contain.

    Two axes of a polyhedral or dihedral group tell where it lies; any two continuous axes make a ball.
    """
    endless = [item for item in axes if item.order == ANY_ANGLE]
    for second in endless[1:]:
        if abs(float(second.axis.direction @ endless[0].axis.direction)) < _PARALLEL:
            yield Placed(all_rotations(), torch.eye(3, dtype=torch.float64), endless[0].axis.center)
            break
    for item in endless:
        yield Placed.about_axis(dihedral(ANY_ANGLE), item.axis)
        yield Placed.about_axis(cyclic(ANY_ANGLE), item.axis)
    for name in "IOT":
        yield from _spanned(polyhedral(name), axes)
    finite = [item for item in axes if item.order != ANY_ANGLE]
    for item in sorted(finite, key=lambda item: -item.order):
        yield from _spanned(dihedral(item.order), [item], axes)
        yield Placed.about_axis(cyclic(item.order), item.axis)


def _spanned(
    group: RotationGroup, first_axes: list[AxisOrder], second_axes: list[AxisOrder] | None = None
) -> Iterator[Placed]:
    """The group with its z axis on one axis and another one of its axes on a second."""
    first_order, second_order, cosine = spanning_angle(group)
    for first in first_axes:
        for second in second_axes or first_axes:
            along = float(first.axis.direction @ second.axis.direction)
            if second is first or not first.allows(first_order) or not second.allows(second_order):
                continue
            if abs(abs(along) - cosine) > _COSINE_SLACK:
                continue
            z, towards = first.axis.direction, second.axis.direction * (1 if along >= 0 else -1)
            x = torch.nn.functional.normalize(towards - (towards @ z) * z, dim=0)
            yield Placed(group, torch.stack((x, torch.linalg.cross(z, x), z), dim=1), _meeting(first.axis, second.axis))


def _meeting(first: AxisCandidate, second: AxisCandidate) -> Float[Tensor, "3"]:
    """The point nearest to both lines."""
    across = [torch.eye(3, dtype=torch.float64) - torch.outer(a.direction, a.direction) for a in (first, second)]
    right = across[0] @ first.center + across[1] @ second.center
    return torch.linalg.lstsq(across[0] + across[1], right[:, None]).solution[:, 0]

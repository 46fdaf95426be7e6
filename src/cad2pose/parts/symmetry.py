"""Symmetries of a part: the motions that leave it looking the same, as BOP's models_info.json states them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry.rotation import geodesic_distance, rotation_from_axis_angle, rotation_from_quaternion
from cad2pose.geometry.transform import make_transform

_RIGID_TOLERANCE = 1e-2
_SAME_ANGLE = 1e-2  # rad; hand-measured symmetries (LM-O's) close up to about 0.3 degrees
_LARGEST_GROUP = 120


@dataclass(frozen=True, eq=False)
class ContinuousSymmetry:
    """Any rotation about an axis.

    Args:
        axis: `(3,)` direction, kept as given and normalised where it is used.
        offset: `(3,)` a point of the axis, mm.

    Raises:
        ValueError: for a zero axis or numbers that are not finite.
    """

    axis: Float[Tensor, "3"]
    offset: Float[Tensor, "3"] = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", self.axis.double())
        object.__setattr__(self, "offset", self.offset.double())
        if not bool(torch.isfinite(torch.cat((self.axis, self.offset))).all()):
            raise ValueError(f"symmetry axis {self.axis.tolist()} at {self.offset.tolist()} is not finite")
        if float(torch.linalg.vector_norm(self.axis)) < 1e-9:
            raise ValueError("the axis of a continuous symmetry is (0, 0, 0); give its direction, such as (0, 0, 1)")

    @property
    def direction(self) -> Float[Tensor, "3"]:
        """The axis, of length 1."""
        return self.axis / torch.linalg.vector_norm(self.axis)

    def rotations(self, steps: int) -> Float[Tensor, "steps 3 3"]:
        """Rotations by i * 360 / steps degrees, identity first."""
        angles = 2 * math.pi / steps * torch.arange(steps, dtype=torch.float64)
        return rotation_from_axis_angle(angles[:, None] * self.direction)

    def transforms(self, steps: int) -> Float[Tensor, "steps 4 4"]:
        """The same as motions about the axis through `offset`."""
        rotations = self.rotations(steps)
        return make_transform(rotations, self.offset - rotations @ self.offset)


@dataclass(frozen=True, eq=False)
class Symmetries:
    """All declared symmetries of a part.

    Args:
        discrete: `(N, 4, 4)` rigid motions of the part, mm; the identity is not listed.
        continuous: axes about which any rotation is one.

    Raises:
        ValueError: if a discrete one is not a rigid motion within 1 %.
    """

    discrete: Float[Tensor, "n 4 4"] = field(default_factory=lambda: torch.zeros(0, 4, 4, dtype=torch.float64))
    continuous: tuple[ContinuousSymmetry, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "discrete", self.discrete.double())
        for index, transform in enumerate(self.discrete):
            _check_rigid(transform, f"discrete symmetry {index}")

    def __len__(self) -> int:
        return len(self.discrete) + len(self.continuous)

    def largest_shift(self, point: Float[Tensor, "3"]) -> float:
        """How far any of the motions takes a point, mm."""
        shifts = [0.0]
        if len(self.discrete):
            moved = self.discrete[:, :3, :3] @ point + self.discrete[:, :3, 3]
            shifts.append(float(torch.linalg.vector_norm(moved - point, dim=1).max()))
        for item in self.continuous:
            away = torch.linalg.cross(point - item.offset, item.direction)
            shifts.append(2 * float(torch.linalg.vector_norm(away)))
        return max(shifts)

    @classmethod
    def generated_by(cls, generators: Float[Tensor, "n 4 4"]) -> Symmetries:
        """All products of the given motions: for symmetries stated by hand (a 60 degree turn gives all six).

        Raises:
            ValueError: if they are not rigid, or the products do not close within 120 motions.
        """
        generators = cls(generators).discrete
        members = torch.eye(4, dtype=torch.float64)[None]
        grown = 0
        while grown < len(members):
            for product in generators @ members[grown]:
                angles = geodesic_distance(members[:, :3, :3], product[:3, :3].expand(len(members), 3, 3))
                if float(angles.min()) > _SAME_ANGLE:
                    members = torch.cat((members, product[None]))
            grown += 1
            if len(members) > _LARGEST_GROUP:
                raise ValueError(
                    f"the symmetries do not close: more than {_LARGEST_GROUP} products; "
                    "check the angles, or declare a continuous symmetry"
                )
        return cls(members[1:])

    @classmethod
    def from_bop(cls, entry: Mapping[str, object]) -> Symmetries:
        """Symmetries of one object's entry in models_info.json (none where the keys are missing).

        Raises:
            ValueError: for lists that are not 16 numbers, motions that are not rigid, a zero axis.
        """
        rows = [
            _numbers(values, 16, f"symmetries_discrete[{index}]")
            for index, values in enumerate(_listed(entry, "symmetries_discrete"))
        ]
        discrete = torch.stack(rows).reshape(-1, 4, 4) if rows else torch.zeros(0, 4, 4, dtype=torch.float64)
        continuous = []
        for index, item in enumerate(_listed(entry, "symmetries_continuous")):
            name = f"symmetries_continuous[{index}]"
            if not isinstance(item, Mapping) or "axis" not in item:
                raise ValueError(f'{name} is {item!r}; it must be {{"axis": [x, y, z], "offset": [x, y, z]}}')
            axis = _numbers(item["axis"], 3, f"{name} axis")
            continuous.append(ContinuousSymmetry(axis, _numbers(item.get("offset", (0, 0, 0)), 3, f"{name} offset")))
        return cls(discrete, tuple(continuous))

    def to_bop(self) -> dict[str, object]:
        """The keys of models_info.json; a kind that does not occur has no key, as in BOP's files."""
        entry: dict[str, object] = {}
        if len(self.discrete):
            entry["symmetries_discrete"] = self.discrete.flatten(1).tolist()
        if self.continuous:
            entry["symmetries_continuous"] = [
                {"axis": item.axis.tolist(), "offset": item.offset.tolist()} for item in self.continuous
            ]
        return entry

    def transforms(self, max_step: float = 0.01) -> Float[Tensor, "k 4 4"]:
        """The motions over which BOP's MSSD and MSPD take the minimum.

        Exactly as the BOP toolkit: identity first, then the discrete ones as listed; each preceded by
        ceil(pi / max_step) rotations about each continuous axis. Two axes give the union, not the
        product; duplicates stay. `max_step` is the way of a point as a share of the diameter.

        Raises:
            ValueError: unless max_step is positive.
        """
        if not max_step > 0:
            raise ValueError(f"max_step is {max_step}; it must be positive (BOP uses 0.01)")
        discrete = torch.cat((torch.eye(4, dtype=torch.float64)[None], self.discrete))
        if not self.continuous:
            return discrete
        turns = torch.cat([item.transforms(math.ceil(math.pi / max_step)) for item in self.continuous])
        return (turns @ discrete[:, None]).flatten(0, 1)

    def rotation_group(self, steps: int = 72) -> Float[Tensor, "k 3 3"]:
        """Rotation parts of all symmetries, for losses: identity first, no duplicates.

        Discrete ones times `steps` rotations about the continuous axis. Axes of different directions make
        every rotation a symmetry (a ball): then `steps`^2 rotations cover SO(3) evenly. The translations
        are left out: a symmetry leaves the bounding sphere's centre where it is.

        Raises:
            ValueError: unless steps is at least 1.
        """
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        identity = torch.eye(3, dtype=torch.float64)
        if not self.continuous:
            return _without_repeats(torch.cat((identity[None], self.discrete[:, :3, :3])))
        axis = self.continuous[0].direction
        if any(float(torch.linalg.cross(axis, other.direction).norm()) > _SAME_ANGLE for other in self.continuous):
            return covering_rotations(steps**2)
        # Turns about the axis lie in the continuous group; so two motions that differ by one give the same rotations.
        kept = [identity]
        for rotation in self.discrete[:, :3, :3]:
            if all(float((rotation @ other.T @ axis - axis).norm()) > _SAME_ANGLE for other in kept):
                kept.append(rotation)
        turns = self.continuous[0].rotations(steps)
        return (turns @ torch.stack(kept)[:, None]).flatten(0, 1)


def covering_rotations(count: int) -> Float[Tensor, "count 3 3"]:
    """`count` rotations spread evenly over SO(3), identity first (super-Fibonacci spirals, Alexa, CVPR 2022)."""
    golden, root = 1.533751168755204288118041, math.sqrt(2)
    step = torch.arange(count, dtype=torch.float64) + 0.5
    inner, outer = (step / count).sqrt(), (1 - step / count).sqrt()
    first, second = 2 * math.pi * step / root, 2 * math.pi * step / golden
    quaternions = (inner * first.sin(), inner * first.cos(), outer * second.sin(), outer * second.cos())
    rotations = rotation_from_quaternion(torch.stack(quaternions, dim=-1))
    return rotations @ rotations[0].T


def _without_repeats(rotations: Float[Tensor, "n 3 3"]) -> Float[Tensor, "k 3 3"]:
    kept: list[Tensor] = []
    for rotation in rotations:
        if all(float(geodesic_distance(rotation, other)) > _SAME_ANGLE for other in kept):
            kept.append(rotation)
    return torch.stack(kept)


def _listed(entry: Mapping[str, object], key: str) -> Sequence[object]:
    values = entry.get(key, ())
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f"{key} is {values!r}; it must be a list")
    return values


def _numbers(values: object, count: int, name: str) -> Float[Tensor, "count"]:
    try:
        numbers = torch.tensor([float(value) for value in values], dtype=torch.float64)  # type: ignore[union-attr]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {values!r}; it must be a list of {count} numbers") from error
    if len(numbers) != count:
        raise ValueError(f"{name} has {len(numbers)} numbers; it must have {count}")
    return numbers


def _check_rigid(transform: Float[Tensor, "4 4"], name: str) -> None:
    rotation = transform[:3, :3]
    error = (rotation.T @ rotation - torch.eye(3, dtype=torch.float64)).abs().max()
    last = transform[3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    rigid = float(error) <= _RIGID_TOLERANCE and float(last.abs().max()) <= 1e-6
    if not (rigid and bool(torch.isfinite(transform).all())):
        raise ValueError(
            f"{name} is not a rigid motion [R t; 0 0 0 1] with orthonormal R (row by row): {transform.tolist()}; "
            "give rotations without scale or mirroring, or let `cad2pose symmetries` find them"
        )
    if float(torch.linalg.det(rotation)) < 0:
        raise ValueError(f"{name} is a mirror image; only motions, with det R = +1, can be symmetries")

"""Rotational symmetries of a part, found from its geometry (and its colours, if asked): whole groups, not lone axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry.rotation import rotation_from_axis_angle
from cad2pose.parts.part import Part
from cad2pose.parts.rotation_groups import ANY_ANGLE, cyclic, upward
from cad2pose.parts.seen_surface import SeenSurface, see_surface
from cad2pose.parts.symmetry import Symmetries
from cad2pose.parts.symmetry_fit import SymmetryFit, least_fit, measure_fit
from cad2pose.parts.symmetry_orders import AxisTrials, Passes, far_better, quick_probes
from cad2pose.parts.symmetry_proposals import AxisOrder, Placed, implied_axes, propose_groups
from cad2pose.parts.symmetry_search import AxisCandidate, align, candidate_axes

_MOST_AXES = 20
_QUICK_SEARCH = (3, (2, 3, 5))  # candidates per order, and orders
_QUICK_SAMPLES = 6000
_BALL = 3
_HOPELESS = 0.12  # mean error of candidates that are not looked at, in radii
_NEAR = 0.25  # of the tolerance: nine tenths of a nearly symmetric surface deviate by less
_MOST_TRIES, _ENOUGH = 12, 3  # proposals of one kind of group that are tried, and that have to pass
_SNAP_ANGLE, _SNAP_CENTER, _SNAP_LOSS = 5e-3, 1e-3, 0.02  # rad; share of the diameter; % of the diameter


@dataclass(frozen=True)
class SymmetryOptions:
    """What counts as a symmetry.

    Raises:
        ValueError: for tolerances or samples out of range.
    """

    tolerance: float = 8.0
    """largest deviation of the surface that is allowed, in % of the diameter"""
    colour: bool = False
    """judge by the vertex colours, too"""
    colour_tolerance: float = 20.0
    """largest difference of colours that is allowed, in % of the range from black to white"""
    samples: int = 20_000
    """points drawn on the surface"""
    quick: bool = False
    """search less thoroughly, and for no near-symmetry: a check that takes about a second"""

    def __post_init__(self) -> None:
        if not 0 < self.tolerance <= 25:
            raise ValueError(f"tolerance is {self.tolerance}; it must be above 0 and at most 25 (% of the diameter)")
        if not 0 < self.colour_tolerance <= 100:
            raise ValueError(f"colour_tolerance is {self.colour_tolerance}; it must be above 0 and at most 100 (%)")
        if not 2000 <= self.samples <= 1_000_000:
            raise ValueError(f"samples is {self.samples}; 2000 to 1,000,000 are allowed")


@dataclass(frozen=True, eq=False)
class SymmetryAxis:
    """An axis of a group.

    Args:
        order: 2 for half turns, 3, ...; 0 (`ANY_ANGLE`) for any rotation.
        direction: `(3,)` unit vector.
        offset: `(3,)` a point of the axis, mm.
        fit: of the rotations about it.
    """

    order: int
    direction: Float[Tensor, "3"]
    offset: Float[Tensor, "3"]
    fit: SymmetryFit


@dataclass(frozen=True, eq=False)
class FoundGroup:
    """A group of rotations that a surface has, or nearly has.

    Args:
        name: Schoenflies' symbol: C2, D6, T, O, I, Cinf, Dinf, SO(3).
        order: number of rotations with the identity, 0 for a continuous group.
        symmetries: as models_info.json states them.
        axes: all of them, the highest order first; of a continuous group, those that generate it.
        fit: of all rotations.
    """

    name: str
    order: int
    symmetries: Symmetries
    axes: tuple[SymmetryAxis, ...]
    fit: SymmetryFit


Found = tuple[Placed, SymmetryFit]


@dataclass(frozen=True, eq=False)
class SymmetryReport:
    """What was found.

    Args:
        part: that was looked at.
        group: within the tolerance; None without any symmetry.
        near: a larger group that something small breaks: nine tenths of the surface deviate by less than a quarter of
            the tolerance; None without one. Its `fit` says how large and where.
    """

    part: Part
    group: FoundGroup | None
    near: FoundGroup | None

    @property
    def symmetries(self) -> Symmetries:
        """Those within the tolerance."""
        return Symmetries() if self.group is None else self.group.symmetries


def find_symmetries(part: Part, options: SymmetryOptions | None = None) -> SymmetryReport:
    """Find the largest group of rotations that brings a part back onto itself within a tolerance.

    Lines that may be axes are searched for and refined, their orders are determined, groups are put together from
    them, refined as groups, and every rotation of a group is checked. The symmetries that the part declares are not
    looked at.

    Raises:
        ValueError: if hardly any of the surface can be seen, or for colour where the mesh has none.
    """
    options = options or SymmetryOptions()
    samples = min(options.samples, _QUICK_SAMPLES) if options.quick else options.samples
    surface = see_surface(part, samples, min(4000, samples // 4), options.colour)
    candidates = candidate_axes(surface, *_QUICK_SEARCH) if options.quick else candidate_axes(surface)
    trials = [AxisTrials(surface, axis) for axis in candidates if axis.error < _HOPELESS][:_MOST_AXES]

    def same_colour(fit: SymmetryFit) -> bool:
        return fit.colour <= options.colour_tolerance

    def passes(fit: SymmetryFit) -> bool:
        return fit.largest <= options.tolerance and same_colour(fit)

    def nearly(fit: SymmetryFit) -> bool:
        return passes(fit) or (fit.percentile_90 <= _NEAR * options.tolerance and same_colour(fit))

    group = _find_group(surface, trials, passes)
    near = None if options.quick else _find_group(surface, trials, nearly)
    if near is not None and group is not None and _size(near[0]) <= _size(group[0]):
        near = None
    if near is not None and passes(near[1]):  # its axes were just off before they were put together
        group, near = near, None
    return SymmetryReport(part, _described(surface, group), _described(surface, near))


def _find_group(surface: SeenSurface, trials: list[AxisTrials], passes: Passes) -> Found | None:
    """The largest group that passes, unless a subgroup fits far better."""
    quick = quick_probes(surface)
    axes: list[AxisOrder] = []
    for trial in trials:
        if (order := trial.order(passes)) != 1:
            axes.append(AxisOrder(trial.axis, order))
        if sum(item.order == ANY_ANGLE for item in axes) >= _BALL:
            break  # a ball has them everywhere
    for line in implied_axes(axes, surface.part.radius):
        axes.append(AxisOrder(line, AxisTrials(surface, line).order(passes)))
    proposals = propose_groups([axis for axis in axes if axis.order != 1])
    fitting: list[tuple[Placed, SymmetryFit]] = []
    tried: dict[str, int] = {}
    for proposal in proposals:
        name = proposal.group.name
        tried[name] = tried.get(name, 0) + 1
        if tried[name] > _MOST_TRIES or sum(found.group.name == name for found, _ in fitting) >= _ENOUGH:
            continue
        placed = _aligned(surface, proposal)
        if not passes(least_fit(surface, placed.motions)):
            continue
        fit = measure_fit(surface, placed.motions, quick, careful=True)
        if passes(fit):
            fitting.append((placed, fit))
    for placed, fit in sorted(fitting, key=lambda item: (-_size(item[0]), item[1].percentile_95)):
        smaller = [other for subgroup, other in fitting if _size(subgroup) < _size(placed)]
        if not any(far_better(other, fit) for other in smaller):
            snapped = _snapped(surface, placed)
            fit = measure_fit(surface, snapped.motions, careful=True)
            if passes(fit):
                return snapped, fit
    return None


def _size(placed: Placed) -> float:
    endless = {"SO(3)": 3e9, "Dinf": 2e9, "Cinf": 1e9}
    return endless.get(placed.group.name, float(placed.group.order))


def _aligned(surface: SeenSurface, placed: Placed) -> Placed:
    frame, center = align(surface, placed.group.elements, placed.frame, placed.center)
    return Placed(placed.group, frame, center)


def _snapped(surface: SeenSurface, placed: Placed) -> Placed:
    """The group with axes and centre along the file's own where they nearly are and nothing gets worse for it."""
    frame = placed.frame
    for direction, _ in placed.group.axes:
        axis = frame @ direction
        near = axis.round()
        if 0 < float((axis - near).norm()) < _SNAP_ANGLE:
            omega = torch.linalg.cross(axis, near)
            frame = rotation_from_axis_angle(omega * (omega.norm().asin() / omega.norm())) @ frame
    center = placed.center
    if len(placed.group.axes) == 1:  # any point of the axis will do
        along = frame @ placed.group.axes[0][0]
        center = center - (center @ along) * along
    frame = (frame * 1e12).round() / 1e12 + 0.0
    close = center.abs() < _SNAP_CENTER * surface.part.diameter
    snapped = Placed(placed.group, frame, torch.where(close, 0.0, center))
    probes = quick_probes(surface)
    before, after = (measure_fit(surface, each.motions, probes, careful=True) for each in (placed, snapped))
    worse = max(after.largest - before.largest, after.percentile_95 - before.percentile_95)
    return placed if worse > _SNAP_LOSS else snapped


def _described(surface: SeenSurface, found: Found | None) -> FoundGroup | None:
    if found is None:
        return None
    placed, fit = found
    axes = []
    for direction, order in placed.group.axes:
        turned = upward(placed.frame @ direction)
        line = Placed.about_axis(cyclic(order), AxisCandidate(turned, placed.center, 0.0))
        axes.append(SymmetryAxis(order, turned, placed.center, measure_fit(surface, line.motions, careful=True)))
    symmetries = placed.group.symmetries(placed.frame, placed.center)
    return FoundGroup(placed.group.name, placed.group.order, symmetries, tuple(axes), fit)

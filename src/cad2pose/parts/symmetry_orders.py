"""The order of an axis: through which fractions of a full turn a surface may be rotated about a line."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.parts.rotation_groups import ANY_ANGLE, cyclic
from cad2pose.parts.seen_surface import SeenSurface
from cad2pose.parts.symmetry_fit import SymmetryFit, least_fit, measure_fit
from cad2pose.parts.symmetry_proposals import Placed
from cad2pose.parts.symmetry_search import PRIMES, AxisCandidate

_HIGHEST_ORDER = 36
_PERHAPS_ROUND = 6  # from this order on, any rotation is tried
_ROUND = 2.0  # % of the diameter: facets up to this size are taken for a round surface
_BETTER = 0.5  # what deviates by less than this share of another is far better
_NEGLIGIBLE = 1.5  # % of the diameter; 95th percentiles below it are all the same
_COARSE = 300.0  # over the root of the samples' number: % of the diameter that deviations may be overrated by
_QUICK_PROBES = 640

Passes = Callable[[SymmetryFit], bool]
"""Whether deviations are small enough."""


class AxisTrials:
    """Rotations about one line, tried on a surface; what was measured once is kept.

    Args:
        surface: to be brought onto itself.
        axis: the line.
    """

    def __init__(self, surface: SeenSurface, axis: AxisCandidate) -> None:
        self.axis = axis
        self._surface = surface
        self._fits: dict[int, SymmetryFit] = {}
        self._one: dict[int, SymmetryFit] = {}

    def order(self, passes: Passes) -> int:
        """The highest order that passes, `ANY_ANGLE` where any rotation does, or 1.

        Of orders that pass, one that fits far better than higher ones is the true one: the corners of a hexagon are
        small enough to pass for a circle's.
        """
        passing: list[int] = []
        endless_tried = False
        for order in range(2, _HIGHEST_ORDER + 1):
            primes = [prime for prime in PRIMES if order % prime == 0 and prime < order]
            if not all(prime in passing for prime in primes) or not self._allowed(order, passes):
                continue
            passing.append(order)
            if order >= _PERHAPS_ROUND and not endless_tried:
                endless_tried = True
                if self._allowed(ANY_ANGLE, passes):
                    return self._round_or_regular()
        for order in reversed(passing):
            if not any(far_better(self._fit(other), self._fit(order)) for other in passing if other < order):
                return order
        return 1

    def _round_or_regular(self) -> int:
        """The order of a regular polygon that is nearly round, or `ANY_ANGLE`."""
        endless = measure_fit(self._surface, self._placed(ANY_ANGLE).motions, quick_probes(self._surface), careful=True)
        if endless.largest <= _ROUND:
            return ANY_ANGLE
        orders = range(2, _HIGHEST_ORDER + 1)
        return max((n for n in orders if self._fits_better(n, endless)), default=ANY_ANGLE)

    def _fits_better(self, order: int, endless: SymmetryFit) -> bool:
        one = self._fit_one(order)  # no better than all of them
        return one.largest < _BETTER * endless.largest and far_better(self._fit(order), endless, by_largest=True)

    def _allowed(self, order: int, passes: Passes) -> bool:
        if order not in self._fits and not passes(least_fit(self._surface, self._placed(order).motions)):
            return False
        return passes(self._fit_one(order, passes)) and passes(self._fit(order, passes))

    def _fit(self, order: int, passes: Passes | None = None) -> SymmetryFit:
        self._fits[order] = self._measured(self._fits.get(order), self._placed(order).motions, passes)
        return self._fits[order]

    def _fit_one(self, order: int, passes: Passes | None = None) -> SymmetryFit:
        """Of one rotation by a large angle, which tells most."""
        motions = self._placed(order).motions
        one = motions[[max(0, round(0.4 * len(motions)) - 1)]]
        self._one[order] = self._measured(self._one.get(order), one, passes)
        return self._one[order]

    def _measured(
        self, known: SymmetryFit | None, motions: Float[Tensor, "k 4 4"], passes: Passes | None
    ) -> SymmetryFit:
        """The fit of some motions; with care where the distance between samples may be what keeps it from passing."""
        fit = known or measure_fit(self._surface, motions, quick_probes(self._surface))
        coarse = _COARSE / len(self._surface.points) ** 0.5
        if passes is None or fit.careful or passes(fit) or not passes(fit.less(coarse)):
            return fit
        return measure_fit(self._surface, motions, quick_probes(self._surface), careful=True)

    def _placed(self, order: int) -> Placed:
        return Placed.about_axis(cyclic(order), self.axis)


def far_better(first: SymmetryFit, second: SymmetryFit, by_largest: bool = False) -> bool:
    """Whether the first deviates so much less that the second, of a larger group, cannot be the true one.

    The 95th percentiles decide, as a small flaw does not make another part of a group's. `by_largest` asks the largest
    deviations, too.
    """
    typical = second.percentile_95 > _NEGLIGIBLE and first.percentile_95 < _BETTER * second.percentile_95
    return typical or (by_largest and first.largest < _BETTER * second.largest)


def quick_probes(surface: SeenSurface) -> Int[Tensor, "m"]:
    """A few of the probes, half of them at corners of triangles."""
    half = min(_QUICK_PROBES, len(surface.probes) // 4) // 2
    return torch.cat((surface.probes[:half], surface.probes[-half:]))

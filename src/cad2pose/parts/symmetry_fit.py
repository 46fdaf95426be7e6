"""How well a motion, or a group of them, brings a surface back onto itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.geometry.transform import transform_points
from cad2pose.parts.distance_field import CELL
from cad2pose.parts.seen_surface import SeenSurface

_BATCH = 16
_MOST_PLACES = 60_000  # of all motions
_LOOKED_AT_AGAIN = 8  # one in so many
_EXACT, _ROUNDS = 32, 12
_FIELD_ERROR = 1.5 * CELL


@dataclass(frozen=True, eq=False)
class SymmetryFit:
    """Deviations of the moved surface from the surface, in % of the diameter; the worst of several motions.

    Args:
        largest: of all points.
        percentile_95: 95 % of the surface deviate by less.
        percentile_90: 90 % of the surface deviate by less.
        place: `(3,)` the point of the surface, mm, that deviates most in the mean over the motions.
        colour: largest difference of colours, in % of the range from black to white; 0 unless asked for.
        points: `(M, 3)` points of the surface, mm.
        deviations: `(M,)` of each point in the mean over the motions, %; colour does not enter.
        careful: whether they are exact; else they are a little too large, by what lies between samples of the surface.
    """

    largest: float
    percentile_95: float
    percentile_90: float
    place: Float[Tensor, "3"]
    colour: float
    points: Float[Tensor, "m 3"]
    deviations: Float[Tensor, "m"]
    careful: bool = False

    def less(self, by: float) -> SymmetryFit:
        """The same with deviations smaller by so many % of the diameter."""
        least = {name: max(0.0, getattr(self, name) - by) for name in ("largest", "percentile_95", "percentile_90")}
        return replace(self, **least)


def least_fit(surface: SeenSurface, motions: Float[Tensor, "k 4 4"]) -> SymmetryFit:
    """What the deviations are at least, from a coarse raster: fast enough to look at everything.

    Surfaces that face another way count as well here, and colours do not.
    """
    points = surface.points[surface.even]
    places = transform_points(motions, points.expand(len(motions), -1, -1))
    distance = (surface.field.distance(places) - _FIELD_ERROR).clamp_min(0).double()
    deviation = distance * (100 * surface.part.radius / surface.part.diameter)
    return _summary(deviation, 0.0, points)


def measure_fit(
    surface: SeenSurface, motions: Float[Tensor, "k 4 4"], probes: Int[Tensor, "m"] | None = None, careful: bool = False
) -> SymmetryFit:
    """Move the probes of a surface and measure how far they then lie from the surface that faces their way.

    One direction is enough for a group: the distances of the surface from the moved surface are those of the surface,
    moved by the inverse, from itself, and the inverse is in the group. So the largest is the Hausdorff distance.

    Args:
        surface: dense samples.
        motions: of a group, without the identity.
        probes: indices of points to move; by default all of the surface's probes, or some for large groups.
        careful: measure the larger ones once more, with care, and the largest exactly.
    """
    if probes is None:
        step = 1 + len(motions) * len(surface.probes) // _MOST_PLACES
        probes = surface.probes[::step]
    points, normals = surface.points[probes], surface.normals[probes]
    distances, colours = [], [torch.zeros(1, dtype=torch.float64)]
    for some in motions.split(_BATCH):
        places, facing = _moved(points, normals, some)
        distance, nearest = surface.distance(places, facing)
        if careful:
            worst = distance.topk(len(distance) // _LOOKED_AT_AGAIN)[1]
            distance[worst], nearest[worst] = surface.distance(places[worst], facing[worst], "careful")
            _correct_largest(surface, places, facing, distance)
        distances.append(distance.view(len(some), -1))
        if surface.colors is not None:
            colours.append(surface.colour_difference(places, surface.colors[probes].repeat(len(some), 1)))
    deviation = torch.cat(distances) * (100 / surface.part.diameter)
    return _summary(deviation, 100 * float(torch.cat(colours).max()), points, careful)


def _moved(
    points: Float[Tensor, "m 3"], normals: Float[Tensor, "m 3"], motions: Float[Tensor, "k 4 4"]
) -> tuple[Float[Tensor, "km 3"], Float[Tensor, "km 3"]]:
    places = transform_points(motions, points.expand(len(motions), -1, -1))
    return places.flatten(0, 1), (normals @ motions[:, :3, :3].transpose(1, 2)).flatten(0, 1)


def _correct_largest(
    surface: SeenSurface, places: Float[Tensor, "k 3"], normals: Float[Tensor, "k 3"], distance: Float[Tensor, "k"]
) -> None:
    """Make the largest distances exact, in place."""
    exact = torch.zeros(len(distance), dtype=torch.bool)
    for _ in range(_ROUNDS):
        worst = distance.topk(min(_EXACT, len(distance)))[1]
        if exact[worst[0]]:
            return
        worst = worst[~exact[worst]]
        distance[worst] = surface.exact_distance(places[worst], normals[worst])
        exact[worst] = True


def _summary(
    deviation: Float[Tensor, "k m"], colour: float, points: Float[Tensor, "m 3"], careful: bool = False
) -> SymmetryFit:
    mean = deviation.mean(0)
    shares = torch.tensor([0.95, 0.9], dtype=torch.float64)
    percentile_95, percentile_90 = deviation.quantile(shares, dim=1).amax(1).tolist()
    place = points[mean.argmax()]
    return SymmetryFit(float(deviation.max()), percentile_95, percentile_90, place, colour, points, mean, careful)

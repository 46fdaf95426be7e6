"""What a pose's score is worth: the chance that the pose is right, by the way that led to it.

Platt, "Probabilistic Outputs for Support Vector Machines" (1999), with one number more than the score: how far off the
pose may be. A model file keeps one fit for every part and way; `cad2pose calibrate` makes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

RIGHT_BELOW = 0.1
"""MSSD as share of the diameter below which a pose counts as right: the event that a score should tell."""

Way = Literal["regression", "refined", "sampling", "search", "pnp"]
"""How a pose came to be: regressed alone, regressed and refined, or solved for."""


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(a score + b + c log(spread)).

    Args:
        a, b, c: the numbers; a = 0 says that the score tells nothing, or that nothing could be learnt of it, c = 0 the
            same of the spread.
        least_spread: the smallest that it was fitted on; a smaller one makes nothing surer. 0 where that is not known.
    """

    a: float
    b: float
    c: float = 0.0
    least_spread: float = 0.0

    def probability(self, scores: Float[Tensor, "n"], spread: Float[Tensor, "n"] | None = None) -> Float[Tensor, "n"]:
        """Probability of the event for each score and spread (see `pose_spread`; 1 by default), float64."""
        logit = self.a * scores.double() + self.b
        if spread is None:
            return torch.sigmoid(logit)
        return torch.sigmoid(logit + self.c * spread.double().clamp_min(self.least_spread).log())


def pose_spread(
    T_cam_obj: Float[Tensor, "n 4 4"], covariance: Float[Tensor, "n 6 6"], center: Float[Tensor, "3"], radius: float
) -> Float[Tensor, "n"]:
    """How far poses may be off, in radii of the part: what their scores mean depends on it.

    By the covariance the standard deviation of where the surface is, or where there is none, the distance: depth is off
    by a share of it.

    Args:
        T_cam_obj: `(N, 4, 4)` mm, mesh file's frame.
        covariance: `(N, 6, 6)` of rotation vector and translation, rad and mm, about the centre; NaN where not known.
        center, radius: of the part's bounding sphere, mm.
    """
    away = (T_cam_obj[:, :3, :3] @ center + T_cam_obj[:, :3, 3]).norm(dim=1) / radius
    variance = covariance.diagonal(dim1=1, dim2=2)
    surface = (variance[:, :3].sum(1) + variance[:, 3:].sum(1) / radius**2).clamp_min(1e-12).sqrt()
    return torch.where(torch.isnan(surface), away, surface)


Calibrations = Mapping[Way, tuple[Calibration | None, ...]]
"""By the way, one for every part of a model, in its order; None where there is none."""


def calibrations_to_json(calibrations: Calibrations) -> dict[str, list[list[float] | None]]:
    """As plain values."""
    return {
        way: [None if one is None else [one.a, one.b, one.c, one.least_spread] for one in of_parts]
        for way, of_parts in calibrations.items()
    }


def calibrations_from_json(value: Any, parts: int) -> Calibrations:
    """What `calibrations_to_json` made, of a model of so many parts.

    Raises:
        ValueError: for anything else.
    """
    known: dict[Way, tuple[Calibration | None, ...]] = {}
    for way, of_parts in dict(value).items():
        if way not in get_args(Way):
            raise ValueError(f"calibration of {way!r}; the ways to a pose are {', '.join(get_args(Way))}")
        if not isinstance(of_parts, list) or len(of_parts) != parts:
            raise ValueError(f"calibration of {way} is not a list of {parts}, one for each part")
        known[way] = tuple(None if numbers is None else _calibration(way, numbers) for numbers in of_parts)
    return known


def _calibration(way: str, numbers: Any) -> Calibration:
    whole = isinstance(numbers, list) and len(numbers) in (3, 4)  # three in files of before
    if not whole or not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"calibration of {way} is {numbers!r}; it must be three or four finite numbers")
    return Calibration(*map(float, numbers))

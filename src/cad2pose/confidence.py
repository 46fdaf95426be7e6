"""What a pose's score is worth: the chance that the pose is right, by the way that led to it.

Platt, "Probabilistic Outputs for Support Vector Machines" (1999). A model file keeps one fit for every part and way;
`cad2pose calibrate` makes them.
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
    """p = sigmoid(a score + b).

    Args:
        a, b: the two numbers; a = 0 says that the score tells nothing, or that nothing could be learnt of it.
    """

    a: float
    b: float

    def probability(self, scores: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Probability of the event for each score, float64."""
        return torch.sigmoid(self.a * scores.double() + self.b)


Calibrations = Mapping[Way, tuple[Calibration | None, ...]]
"""By the way, one for every part of a model, in its order; None where there is none."""


def calibrations_to_json(calibrations: Calibrations) -> dict[str, list[list[float] | None]]:
    """As plain values."""
    return {way: [None if c is None else [c.a, c.b] for c in of_parts] for way, of_parts in calibrations.items()}


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
    whole = isinstance(numbers, list) and len(numbers) == 2
    if not whole or not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"calibration of {way} is {numbers!r}; it must be two finite numbers")
    return Calibration(float(numbers[0]), float(numbers[1]))

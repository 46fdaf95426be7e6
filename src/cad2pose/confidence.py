"""What a pose's score is worth: the chance that the pose is right, by the way that led to it.

Platt, "Probabilistic Outputs for Support Vector Machines" (1999), twice: whether the box shows the part at all, and
whether the pose is right where it does, which one number more than the score has a say in: how far off the pose may be.
A model file keeps one fit for every part and way, or a file beside it does; `cad2pose calibrate` makes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.files import file_digest, write_text

RIGHT_BELOW = 0.1
"""MSSD as share of the diameter below which a pose counts as right: the event that a score should tell."""


class CalibrationError(ValueError):
    """Calibrations beside a model file are damaged, or another model's; the model itself may be used."""


Way = Literal["regression", "refined", "sampling", "search", "pnp"]
"""How a pose came to be: regressed alone, regressed and refined, or solved for."""


@dataclass(frozen=True)
class Calibration:
    """p = p(shown) sigmoid(a score + b + c log(spread)), where p(shown) = sigmoid(d score + e).

    Args:
        a, b, c: the numbers; a = 0 says that the score tells nothing, or that nothing could be learnt of it, c = 0 the
            same of the spread.
        least_spread: the smallest that it was fitted on; a smaller one makes nothing surer. 0 where that is not known.
        shown: d and e, of the chance that the box shows the part; None where nothing is known of boxes that do not:
            p(shown) = 1.
    """

    a: float
    b: float
    c: float = 0.0
    least_spread: float = 0.0
    shown: tuple[float, float] | None = None

    def probability(self, scores: Float[Tensor, "n"], spread: Float[Tensor, "n"] | None = None) -> Float[Tensor, "n"]:
        """Probability of the event for each score and spread (see `pose_spread`; 1 by default), float64."""
        return torch.sigmoid(self.logit(scores, spread)) * self.probability_shown(scores)

    def logit(self, scores: Float[Tensor, "n"], spread: Float[Tensor, "n"] | None = None) -> Float[Tensor, "n"]:
        """Log odds of the event where the box shows the part, float64."""
        logit = self.a * scores.double() + self.b
        if spread is not None:
            logit = logit + self.c * spread.double().clamp_min(self.least_spread).log()
        return logit

    def probability_shown(self, scores: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Probability that the box shows the part at all, float64; 1 where nothing is known of it."""
        if self.shown is None:
            return torch.ones_like(scores, dtype=torch.float64)
        return torch.sigmoid(self.shown[0] * scores.double() + self.shown[1])


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
        way: [None if one is None else [one.a, one.b, one.c, one.least_spread, *(one.shown or ())] for one in of_parts]
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
    whole = isinstance(numbers, list) and len(numbers) in (3, 4, 6)  # three in files of before
    if not whole or not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"calibration of {way} is {numbers!r}; it must be three, four or six finite numbers")
    known = tuple(map(float, numbers))
    return Calibration(*known[:4], shown=known[4:] or None)  # type: ignore[arg-type]


def calibration_path(path: Path | str) -> Path:
    """The file beside a model file that has calibrations learnt later."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".safetensors") + ".calibration.json")


def save_calibrations(path: Path | str, calibrations: Calibrations) -> Path:
    """Write calibrations beside a model file, which stays as it is; they hold in place of its own.

    Raises:
        OSError: if the model file cannot be read, or this one not be written.
    """
    beside = calibration_path(path)
    value = {"model": file_digest(Path(path)), "calibrations": calibrations_to_json(calibrations)}
    write_text(beside, json.dumps(value) + "\n")
    return beside


def calibrations_beside(path: Path, parts: int) -> Calibrations | None:
    """Those in the file beside a model file of so many parts; None where there is none.

    Raises:
        CalibrationError: if it is damaged, or of another model file.
    """
    beside = calibration_path(path)
    if not beside.is_file():
        return None
    again = f"delete it, or renew it with `cad2pose calibrate {path} --beside`"
    try:
        value = json.loads(beside.read_text())
        calibrations = calibrations_from_json(value["calibrations"], parts)
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"{beside}: these calibrations are damaged ({error}); {again}") from error
    if value.get("model") != file_digest(path):
        raise CalibrationError(f"{beside}: these calibrations are of another model than {path.name}; {again}")
    return calibrations

"""A sentence about one estimate: what is wrong with it, in the words of somebody who looks at the picture."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from cad2pose.confidence import RIGHT_BELOW
from cad2pose.report.cases import Case

_TURNED = 90.0  # degrees
_ASKEW = 15.0
_FAR = 0.25  # of the distance


def describe(case: Case, file: int, scores: Sequence[float]) -> str:
    """What is wrong with a file's estimate of a case.

    Args:
        case: the target.
        file: place of the file.
        scores: of all its estimates that count, in ascending order.
    """
    seen = case.truth.visible_fraction
    much = "" if seen is None else f" {seen:.0%} of the part is seen."
    error, T = case.found[file], case.poses[file]
    if error is None or T is None:
        return f"No estimate.{much}"
    if not case.part.is_ahead(T):
        return f"The estimate lies behind the camera.{much}"
    return f"{_fault(case, T, error.mssd, error.rotation)}{much} {_sureness(error.score, scores)}"


def _fault(case: Case, T: Float[Tensor, "4 4"], mssd: float, rotation: float) -> str:
    true, found = map(case.part.middle, (case.truth.T_cam_obj, T))
    along = float(found[2] - true[2])
    aside = float((found[:2] / found[2].clamp(min=1) - true[:2] / true[2]).norm() * true[2])  # as the image shows it
    depth = f"{abs(along):.0f} mm too {'far' if along > 0 else 'near'}"
    if mssd < RIGHT_BELOW:
        return f"Right: {rotation:.1f}° and {(found - true).norm():.0f} mm off."
    if aside > case.part.radius:
        return f"Elsewhere: {aside:.0f} mm beside the part; another thing was taken for it."
    if abs(along) > _FAR * float(true[2]):
        return f"At another distance: {depth}, where the part is {float(true[2]):.0f} mm away; {rotation:.0f}° turned."
    if rotation > _TURNED:
        return f"In place, but turned over by {rotation:.0f}° ({depth})."
    if rotation > _ASKEW:
        return f"Rotation off by {rotation:.0f}°, {depth}."
    if abs(along) > 2 * aside:
        return f"Mostly depth: {depth}; rotation off by {rotation:.0f}°."
    return f"Beside the part by {aside:.0f} mm, {depth}; rotation off by {rotation:.0f}°."


def _sureness(score: float, scores: Sequence[float]) -> str:
    if len(scores) < 2:
        return ""
    if score >= scores[-1]:
        return "No score of the file is higher."
    return f"Its score is above {bisect_left(scores, score) / (len(scores) - 1):.0%} of the file's."

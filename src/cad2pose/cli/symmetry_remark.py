"""A warning for parts whose symmetries nobody has declared."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cad2pose.parts.part import Part
from cad2pose.parts.rotation_groups import ANY_ANGLE
from cad2pose.parts.symmetry_finder import SymmetryOptions, find_symmetries

_SECONDS = 5.0

UNDECLARED = (
    "right poses are scored as wrong ones; let `cad2pose symmetries` write its symmetries to models_info.json of the "
    "data set's models_eval"
)
"""Advice where poses are scored."""

_TRAINING = "let `cad2pose symmetries` write models_info.json and pass --models-info"


def symmetry_remark(part: Part, advice: str = _TRAINING) -> str:
    """What a quick search found of a part without declared symmetries, with advice; empty if there is nothing to say.

    It never fails: a mesh that the finder cannot look at has nothing said of it.
    """
    if len(part.symmetries):
        return ""
    try:
        group = find_symmetries(part, SymmetryOptions(quick=True)).group
    except ValueError:
        return ""
    if group is None:
        return ""
    order = group.axes[0].order
    turn = "any rotation about an axis" if order == ANY_ANGLE else f"a rotation by {360 / order:.4g} degrees"
    return (
        f"{part.name} is declared without symmetries, but its shape looks the same after {turn} (group {group.name}, "
        f"deviations up to {group.fit.largest:.2g} % of the diameter); unless its colours tell, {advice}"
    )


def symmetry_remarks(parts: Sequence[Part], advice: str = _TRAINING, seconds: float = _SECONDS) -> list[str]:
    """Remarks on the parts without declared symmetries, and one that names those that the time did not suffice for.

    Args:
        parts: to be looked at, in this order.
        advice: what to do about a symmetry that was found.
        seconds: after which no further part is begun.
    """
    start, remarks, left = time.monotonic(), [], []
    for part in parts:
        if not len(part.symmetries) and time.monotonic() - start > seconds:
            left.append(part.name)
        elif remark := symmetry_remark(part, advice):
            remarks.append(remark)
    if left:
        remarks.append(
            f"symmetries were looked for during {seconds:g} s only; not looked at: {', '.join(left)} "
            "(`cad2pose symmetries MESH` looks at one)"
        )
    return remarks

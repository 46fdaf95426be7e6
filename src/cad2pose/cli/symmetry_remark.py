"""A warning for parts whose symmetries nobody has declared."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cad2pose.parts.part import Part
from cad2pose.parts.rotation_groups import ANY_ANGLE
from cad2pose.parts.symmetry_finder import SymmetryOptions, find_symmetries

_SECONDS = 5.0


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


def symmetry_remarks(parts: Sequence[Part], advice: str = _TRAINING) -> list[str]:
    """Remarks on as many of the parts as can be looked at in a few seconds."""
    start, remarks = time.monotonic(), []
    for part in parts:
        if time.monotonic() - start > _SECONDS:
            break
        remarks.append(symmetry_remark(part, advice))
    return [remark for remark in remarks if remark]

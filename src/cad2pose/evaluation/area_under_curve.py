"""Area under the curve "share of targets whose error is below a threshold", thresholds from 0 to a maximum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

AUC_MAXIMUM = 100.0
"""mm; the YCB-Video benchmark's largest threshold."""


def area_credit(errors: Float[Tensor, "n"], maximum: float = AUC_MAXIMUM) -> Float[Tensor, "n"]:
    """Each target's part of the exact area, max(0, 1 - error / maximum); their mean is the area, in [0, 1].

    Args:
        errors: of the targets, inf for one without an estimate.
        maximum: in the errors' unit.
    """
    return (1 - errors / maximum).clamp(min=0)


def toolbox_area(errors: Float[Tensor, "n"], maximum: float = AUC_MAXIMUM) -> float:
    """The area as the YCB-Video toolbox sums it: each step of the curve at its right end, so up to 1 / n higher.

    Xiang et al., "PoseCNN" (2018), evaluation code: errors above the maximum are infinite; the sorted errors e_i have
    accuracy i / n; the sum of (e_i - e_(i-1)) accuracy_i runs on to the maximum. 0 where there is no error below it.

    Args:
        errors: of the targets, inf for one without an estimate.
        maximum: in the errors' unit.

    Raises:
        ValueError: if there are no targets.
    """
    if not len(errors):
        raise ValueError("the area under the curve of no targets is not defined; give at least one")
    found = errors[errors <= maximum].double().sort().values
    if not len(found):
        return 0.0
    accuracy = torch.arange(1, len(found) + 1, dtype=torch.float64) / len(errors)
    ends = torch.cat((found, found.new_tensor([maximum])))
    steps = torch.diff(ends, prepend=ends.new_zeros(1))
    return float((steps * torch.cat((accuracy, accuracy[-1:]))).sum() / maximum)

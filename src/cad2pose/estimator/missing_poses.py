"""Boxes that have no pose keep their row, and say why."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from cad2pose.structures import PoseDetails, Poses


def rows_without(reasons: Sequence[str | None]) -> Int[Tensor, "k"]:
    """Rows that nothing speaks against."""
    return torch.tensor([row for row, reason in enumerate(reasons) if reason is None], dtype=torch.int64)


def among(found: Poses, reasons: Sequence[str | None]) -> Poses:
    """A row for every reason: the next of the poses where it is None, else none."""
    row = torch.full((len(reasons),), -1)
    row[rows_without(reasons)] = torch.arange(len(found))
    row[row < 0] = torch.arange(len(found), len(reasons))
    return Poses.join([found, no_poses([reason for reason in reasons if reason is not None])])[row]


def no_poses(reasons: Sequence[str | None]) -> Poses:
    """A row of NaN for every reason."""
    count = len(reasons)
    nothing = torch.full((count, 4, 4), torch.nan, dtype=torch.float64)
    return Poses(nothing, torch.zeros(count, dtype=torch.float64), PoseDetails.unknown(reasons))

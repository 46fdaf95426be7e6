"""Figures of crops whose truth is known, one of each kind per crop: joined over batches, summed up by part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Figures = TypeVar("Figures", bound="CropFigures")


@dataclass(frozen=True)
class CropFigures(ABC):
    """What records of such figures share; every field of theirs is a tensor `(N, ...)`.

    Args:
        part_index: `(N,)` index into the method's list of parts.
    """

    part_index: Int[Tensor, "n"]

    def medians(self, part: int | None = None) -> dict[str, float]:
        """Medians by name over all crops or those of one part; none where there are no such crops."""
        rows = torch.ones_like(self.part_index, dtype=torch.bool) if part is None else self.part_index == part
        return self._medians(rows) if bool(rows.any()) else {}

    @abstractmethod
    def _medians(self, rows: Bool[Tensor, "n"]) -> dict[str, float]:
        """The same over the crops marked in `rows`, of which there are some."""

    @classmethod
    def join(cls: type[Figures], many: Sequence[Figures]) -> Figures:
        """One record of all."""
        return cls(**{f.name: torch.cat([getattr(one, f.name) for one in many]) for f in fields(cls)})

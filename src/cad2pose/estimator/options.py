"""How a pose is estimated: how many copies of each crop are looked at, and how often."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EstimatorOptions:
    """Settings of the estimator; more copies cost time in proportion and make poses steadier."""

    rolls: int = 4
    """copies of every crop, rolled about the viewing axis by 360 / rolls degrees, whose poses are fused"""
    zooms: tuple[float, ...] = (1.0,)
    """the box is also looked at scaled by these factors about its centre"""
    recrop: bool = True
    """estimate twice: the second time from the box of the part as the first pose projects it"""
    batch_size: int = 64
    """crops that go through the network at once"""

    def __post_init__(self) -> None:
        if self.rolls < 1:
            raise ValueError(f"rolls is {self.rolls}; it must be 1 (the crop as it is) or more")
        if not self.zooms or not all(math.isfinite(zoom) and zoom > 0 for zoom in self.zooms):
            raise ValueError(f"zooms is {self.zooms}; it must be one or more positive factors, such as 1.0")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be 1 or more")

"""How a pose is estimated: how many copies of each crop are looked at, how often, and where poses come from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from cad2pose.estimator.pose_solver import RefinementOptions


@dataclass(frozen=True)
class EstimatorOptions:
    """Settings of the estimator; more copies cost time in proportion and make poses steadier."""

    rolls: tuple[float, ...] = (0.0,)
    """every crop is looked at rolled about its axis by these angles in degrees, and the poses are fused; a model
    trained on upright views only (a small --crop-roll) knows small angles only"""
    zooms: tuple[float, ...] = (1.0,)
    """the box is also looked at scaled by these factors about its centre"""
    recrop: bool = True
    """estimate twice: the second time from the box of the part as the first pose projects it"""
    solver: Literal["auto", "regression", "sampling", "search", "pnp"] = "auto"
    """where poses come from: regressed by the network; or solved for from its query image, by sampled correspondences
    or by a search without randomness (such poses are always refined); or from its coordinates by robust PnP (GDR-Net's
    alternative end). auto: regressed by models that do, sampled for SurfEmb's"""
    refine: bool = True
    """let every regressed pose, and the likeliest other rotations, climb the score of the query image, where the model
    has one; without it poses are regressed alone, in a quarter to two thirds of the time on a CPU"""
    refinement: RefinementOptions = field(default_factory=RefinementOptions)
    """settings of that"""
    query_turns: Literal[1, 2, 4] = 1
    """SurfEmb's query image is the mean of those of so many copies of the crop, turned by quarters"""
    batch_size: int = 64
    """crops that go through the network at once"""

    @property
    def calibrated(self) -> bool:
        """Whether scores mean what they meant when the model was calibrated: all but the solver is as by default."""
        usual = EstimatorOptions()
        return replace(self, solver=usual.solver, refine=usual.refine, batch_size=usual.batch_size) == usual

    def __post_init__(self) -> None:
        if not self.rolls or not all(math.isfinite(angle) for angle in self.rolls):
            raise ValueError(f"rolls is {self.rolls}; give one or more angles in degrees, such as 0.0")
        if not self.zooms or not all(math.isfinite(zoom) and zoom > 0 for zoom in self.zooms):
            raise ValueError(f"zooms is {self.zooms}; it must be one or more positive factors, such as 1.0")
        if self.solver not in ("auto", "regression", "sampling", "search", "pnp"):
            raise ValueError(f"solver is {self.solver!r}; it must be auto, regression, sampling, search or pnp")
        if self.query_turns not in (1, 2, 4):
            raise ValueError(f"query_turns is {self.query_turns}; it must be 1, 2 or 4: crops are turned by quarters")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be 1 or more")

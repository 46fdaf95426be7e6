"""The scores of a set of targets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cad2pose.evaluation.area_under_curve import toolbox_area
from cad2pose.evaluation.credits import ADD_THRESHOLDS, recall_name
from cad2pose.evaluation.target_table import TargetTable


@dataclass(frozen=True)
class Spread:
    """Mean and median of an error over the targets that have an estimate; nan where there is none."""

    mean: float
    median: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of the values."""
        return cls(statistics.fmean(values), statistics.median(values)) if values else cls(math.nan, math.nan)


@dataclass(frozen=True)
class ScoreRow:
    """Scores over a set of targets.

    Args:
        targets: instances asked for.
        estimated: how many of them have an estimate; the mean errors are over these, the recalls over all.
        measures: by name, as in the json file; each is a mean over the targets.
        toolbox_areas: areas under the curve as the YCB-Video toolbox sums them, by name.
        rotation, frobenius, translation: degrees, norm of the matrices' difference, mm; symmetry-aware.
        offsets: medians by name as in the json file, signed: px to the right and down, % of the distance away.
    """

    targets: int
    estimated: int
    measures: Mapping[str, float]
    toolbox_areas: Mapping[str, float]
    rotation: Spread
    frobenius: Spread
    translation: Spread
    offsets: Mapping[str, float]

    @classmethod
    def of(cls, table: TargetTable) -> ScoreRow:
        """Of the targets of a table, which has at least one."""
        every = torch.ones(1, len(table.images), dtype=torch.float64)
        found = table.estimated
        rotation, frobenius, translation = (
            Spread.of(table.error[name][found].tolist()) for name in ("rotation", "frobenius", "translation")
        )
        areas = {
            f"AUC_{name.removesuffix('_mm')}_100mm_ycb_toolbox": toolbox_area(values)
            for name, values in table.error.items()
            if name.endswith("_mm")
        }
        measures = {name: float(value) for name, value in table.means(every).items()}
        offsets = {name: float(value) for name, value in table.offset_medians(every).items()}
        return cls(len(table), int(found.sum()), measures, areas, rotation, frobenius, translation, offsets)

    @property
    def AR_VSD(self) -> float | None:
        """BOP's average recall of VSD; None without depth images."""
        return self.measures.get("AR_VSD")

    @property
    def AR_MSSD(self) -> float:
        """BOP's average recall of MSSD."""
        return self.measures["AR_MSSD"]

    @property
    def AR_MSPD(self) -> float:
        """BOP's average recall of MSPD."""
        return self.measures["AR_MSPD"]

    @property
    def AR(self) -> float | None:
        """BOP's average recall, the mean of the three; None without depth images."""
        return self.measures.get("AR")

    @property
    def mean_AR(self) -> float:
        """Mean of AR_MSSD and AR_MSPD; not BOP's AR, which has VSD too and needs depth."""
        return self.measures["mean_AR_MSSD_MSPD"]

    @property
    def add_s(self) -> tuple[float, ...]:
        """ADD(-S) recall at each of ADD_THRESHOLDS."""
        return tuple(self.measures[recall_name("ADD_S", threshold)] for threshold in ADD_THRESHOLDS)

    @property
    def within_5deg_5cm(self) -> float:
        """Share within 5 degrees and 5 cm of any symmetric version of the true pose."""
        return self.measures["recall_5deg_5cm_symmetric"]

    @property
    def within_5deg_5cm_plain(self) -> float:
        """Share within 5 degrees and 5 cm of the true pose itself."""
        return self.measures["recall_5deg_5cm"]

    def to_json(self) -> dict[str, Any]:
        """As json values; null where there is no estimate."""
        entry: dict[str, Any] = {"n": self.targets, "n_estimated": self.estimated}
        entry |= dict(self.measures) | dict(self.toolbox_areas)
        errors = {
            "rotation_deg": self.rotation,
            "rotation_frobenius": self.frobenius,
            "translation_mm": self.translation,
        }
        for name, spread in errors.items():
            entry[name] = {"mean": finite_or_none(spread.mean), "median": finite_or_none(spread.median)}
        return entry | {name: finite_or_none(value) for name, value in self.offsets.items()}


def finite_or_none(value: float) -> float | None:
    """The value as json can hold it."""
    return value if math.isfinite(value) else None

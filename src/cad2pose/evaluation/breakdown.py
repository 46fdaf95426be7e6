"""Where it works and where it does not: scores by object, visible share, distance, and size in the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.evaluation.bootstrap import Interval, image_weights
from cad2pose.evaluation.headline import DRAWS, intervals_json
from cad2pose.evaluation.score_row import ScoreRow
from cad2pose.evaluation.target_table import TargetTable

_VISIBLE_EDGES = (0.0, 0.4, 0.7, 0.9, 1.0)
_PARTS = 3  # of distance and size: as many targets in each


@dataclass(frozen=True)
class Group:
    """Targets that have something in common.

    Args:
        by: what they are grouped by: "object", "visible share", "distance", "box size".
        label: of the group.
        low, high: limits of the property; of an object its id, twice. The upper limit belongs to the next group.
        row: scores.
        intervals: of the measures, over draws of images.
    """

    by: str
    label: str
    low: float
    high: float
    row: ScoreRow
    intervals: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """As json values."""
        about = {"by": self.by, "label": self.label, "low": self.low, "high": self.high}
        return about | self.row.to_json() | {"intervals": intervals_json(self.intervals)}


def break_down(table: TargetTable, draws: int = DRAWS, seed: int = 0) -> tuple[Group, ...]:
    """Scores of every group that has a target.

    Visible share has the fixed limits 0.4, 0.7 and 0.9; distance (mm) and box size (px) have the limits that part the
    targets into thirds. Targets of which a property is not known are in no group of it.

    Args:
        table: of the targets.
        draws: of the bootstrap.
        seed: of the draws.
    """
    weights = image_weights(len(table.images), draws, seed)
    found = []
    for object_id in table.object_id.unique().tolist():
        mine = table.object_id == object_id
        found.append(_group(table, mine, "object", str(object_id), (float(object_id),) * 2, weights))
    properties = {"visible share": table.visible, "distance": table.distance, "box size": table.box_size}
    for by, values in properties.items():
        edges = _VISIBLE_EDGES if by == "visible share" else _thirds(values)
        for place, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            last = place == len(edges) - 2
            mine = (values >= low) & ((values <= high) if last else (values < high))
            if bool(mine.any()):
                digits = 2 if by == "visible share" else 0
                unit = {"visible share": "", "distance": " mm", "box size": " px"}[by]
                label = f"{low:.{digits}f} to {high:.{digits}f}{unit}"
                found.append(_group(table, mine, by, label, (low, high), weights))
    return tuple(found)


def _group(
    table: TargetTable,
    chosen: Bool[Tensor, "n"],
    by: str,
    label: str,
    limits: Sequence[float],
    weights: Float[Tensor, "b i"],
) -> Group:
    mine = table.select(chosen)
    intervals = {name: Interval.of(samples) for name, samples in mine.means(weights).items()}
    return Group(by, label, float(limits[0]), float(limits[1]), ScoreRow.of(mine), intervals)


def _thirds(values: Float[Tensor, "n"]) -> Sequence[float]:
    """Limits of three groups of as many targets; fewer groups where many values are the same."""
    known = values[~values.isnan()]
    if not len(known):
        return ()
    edges = torch.quantile(known, torch.linspace(0, 1, _PARTS + 1, dtype=torch.float64)).tolist()
    distinct = sorted(set(edges))
    return distinct if len(distinct) > 1 else (distinct[0], math.nextafter(distinct[0], math.inf))

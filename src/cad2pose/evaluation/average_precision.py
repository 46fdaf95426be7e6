"""Average precision of detected poses, BOP'24: every estimate counts, and wrong ones cost.

Definition: Hodan et al., "BOP Challenge 2023" and the challenge's page of 2024 (6D detection). Estimates of an image
are matched greedily to the annotations of their object; annotations seen to less than a tenth are no targets, and what
was matched to one is neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.evaluation.pair_errors import SurfaceErrors
from cad2pose.evaluation.pairs import Problem
from cad2pose.evaluation.recall import match_tables

MIN_VISIBLE = 0.1
"""Visible share below which an annotation is no target."""

AP_THRESHOLDS: Mapping[str, tuple[float, ...]] = {
    "AP_MSSD": tuple(i / 20 for i in range(1, 11)),
    "AP_MSSD_mm": tuple(float(2 * i) for i in range(1, 11)),
    "AP_MSPD": tuple(float(5 * i) for i in range(1, 11)),
}
"""Shares of the diameter, mm, px at 640 px width."""

_LEVELS = torch.from_numpy(np.linspace(0, 1, 101))
_CHUNK = 4_000_000  # numbers at a time


@dataclass(frozen=True)
class Outcomes:
    """What became of the estimates of one object, highest score first.

    Args:
        image: `(E,)` index of each estimate's image.
        right: `(K, E)` matched to a target, at each threshold.
        counted: `(K, E)` false for what was matched to an annotation that is no target.
        targets: `(I,)` number of targets in each image.
    """

    image: Int[Tensor, "e"]
    right: Bool[Tensor, "k e"]
    counted: Bool[Tensor, "k e"]
    targets: Int[Tensor, "i"]

    def average_precision(self, weights: Float[Tensor, "b i"]) -> Float[Tensor, "b"]:
        """Mean over the thresholds of the average precision, for B weightings of the images; nan without a target."""
        step = max(1, _CHUNK // max(1, self.right.numel()))
        return torch.cat([self._of(weights[start : start + step]) for start in range(0, len(weights), step)])

    def _of(self, weights: Float[Tensor, "b i"]) -> Float[Tensor, "b"]:
        total = weights @ self.targets.double()
        each = weights[:, None, self.image]
        right = (each * self.right).cumsum(-1)
        all_count = bool(self.counted.all())  # nearly always: one sum then serves all thresholds
        counted = (each if all_count else each * self.counted).cumsum(-1)
        recall = right / total.clamp(min=1)[:, None, None]
        precision = interpolated_average_precision(recall, right / counted.clamp(min=1))
        return torch.where(total > 0, precision.mean(-1), torch.nan)


def interpolated_average_precision(
    recall: Float[Tensor, "*batch e"], precision: Float[Tensor, "*batch e"]
) -> Float[Tensor, "*batch"]:
    """Mean over the recalls 0, 0.01, ... 1 of the highest precision there or beyond, 0 where the recall is not reached.

    Args:
        recall: after each estimate, highest score first; does not fall.
        precision: after each estimate.
    """
    best = precision.flip(-1).cummax(-1).values.flip(-1) if precision.shape[-1] else precision
    best = torch.cat((best, best.new_zeros(*best.shape[:-1], 1)), dim=-1)
    levels = _LEVELS.to(recall).expand(*recall.shape[:-1], 101).contiguous()
    return best.gather(-1, torch.searchsorted(recall.contiguous(), levels)).mean(-1)


def outcomes(
    problems: Sequence[Problem],
    surface: SurfaceErrors,
    diameter: float,
    image_index: Mapping[tuple[int, int], int],
) -> dict[str, Outcomes]:
    """What became of the estimates of one object, by measure (the keys of AP_THRESHOLDS).

    Args:
        problems: detection problems of the object.
        surface: errors of all their pairs.
        diameter: of the object, mm.
        image_index: place of each image, of all the images that are evaluated.
    """
    score = torch.cat([p.score for p in problems]) if problems else torch.zeros(0, dtype=torch.float64)
    order = score.argsort(descending=True, stable=True)
    image = torch.tensor([image_index[p.image] for p in problems for _ in p.rows], dtype=torch.int64)[order]
    valid = [[truth.shows(MIN_VISIBLE) for truth in p.truths] for p in problems]
    targets = torch.zeros(len(image_index), dtype=torch.int64)
    for problem, seen in zip(problems, valid, strict=True):
        targets[image_index[problem.image]] += sum(seen)
    scales = {"AP_MSSD": (0, 1.0), "AP_MSSD_mm": (0, diameter), "AP_MSPD": (1, 1.0)}
    found = {}
    for name, thresholds in AP_THRESHOLDS.items():
        column, scale = scales[name]
        marks = [
            _marks(p, seen, [surface[key][column] * scale for key in p.keys()], thresholds)  # noqa: SIM118
            for p, seen in zip(problems, valid, strict=True)
        ]
        table = torch.cat(marks, dim=1)[:, order] if marks else torch.zeros(len(thresholds), 0, dtype=torch.int64)
        found[name] = Outcomes(image, table == _RIGHT, table != _DROPPED, targets)
    return found


_WRONG, _RIGHT, _DROPPED = range(3)


def _marks(problem: Problem, valid: list[bool], errors: list[float], thresholds: Sequence[float]) -> Int[Tensor, "k e"]:
    """What becomes of each estimate of one problem at each threshold."""
    estimates, truths = problem.shape
    table = [[[error] for error in errors[e * truths : (e + 1) * truths]] for e in range(estimates)]
    marks = torch.full((len(thresholds), estimates), _WRONG, dtype=torch.int64)
    for k, threshold in enumerate(thresholds):
        for match in match_tables(list(range(estimates)), table, [threshold], list(range(truths))):
            marks[k, match.estimate] = _RIGHT if valid[match.ground_truth] else _DROPPED
    return marks


@dataclass(frozen=True)
class PrecisionTable:
    """Outcomes by object and by measure."""

    per_object: Mapping[int, Mapping[str, Outcomes]]

    def of_object(self, object_id: int, weights: Float[Tensor, "b i"]) -> dict[str, Float[Tensor, "b"]]:
        """AP_MSSD, AP_MSSD_mm, AP_MSPD and AP (mean of the first and the last), for B weightings of the images."""
        values = {name: found.average_precision(weights) for name, found in self.per_object[object_id].items()}
        return values | {"AP": (values["AP_MSSD"] + values["AP_MSPD"]) / 2}

    def mean_over_objects(self, weights: Float[Tensor, "b i"]) -> dict[str, Float[Tensor, "b"]]:
        """BOP's mAP: plain means over the objects that have a target."""
        each = [self.of_object(object_id, weights) for object_id in self.per_object]
        return {name: torch.stack([values[name] for values in each]).nanmean(0) for name in each[0]}

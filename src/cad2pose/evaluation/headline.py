"""The figures that a results file is quoted by, with intervals, and the comparison of two files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.evaluation.bootstrap import Interval, PairedTest, image_weights
from cad2pose.evaluation.score_row import finite_or_none
from cad2pose.evaluation.scores import Scores

DRAWS = 1000
"""Draws of the bootstrap, unless said otherwise."""


FIGURE_TITLES = {
    "AR": "AR (BOP)",
    "AR_VSD": "AR VSD",
    "AR_MSSD": "AR MSSD",
    "AR_MSPD": "AR MSPD",
    "mean_AR_MSSD_MSPD": "mean of AR MSSD, MSPD",
    "AP": "AP (BOP'24)",
    "AP_MSSD": "AP MSSD",
    "AP_MSPD": "AP MSPD",
    "recall_ADD_S_0p1d": "ADD(-S) < 0.1 d",
    "AUC_ADD_S_100mm": "AUC of ADD(-S), 100 mm",
    "recall_2deg_2cm_symmetric": "2°2cm",
    "recall_5deg_5cm_symmetric": "5°5cm",
    "recall_10deg_10cm_symmetric": "10°10cm",
    "recall_projection_5px_symmetric": "projection < 5 px",
    "rotation_deg_median": "rotation, median °",
    "translation_mm_median": "translation, median mm",
    "offset_right_px_median": "offset to the right, median px",
    "offset_down_px_median": "offset downwards, median px",
    "offset_farther_percent_median": "offset away, median %",
}
"""Figures that are shown to people, and what they call them; the json file has them all."""


def p_text(value: float) -> str:
    """A p value with three decimals, which is never 0."""
    if math.isnan(value):
        return "-"
    return "< 0.001" if value < 0.0005 else f"{value:.3f}"


def digits_of(name: str) -> int:
    """How many decimals of a figure people are shown."""
    return 2 if name.startswith(("rotation", "translation", "offset")) else 3


@dataclass(frozen=True)
class Figures:
    """Every figure over all targets, by name as in the json file.

    Measures of the pooled targets, average precisions, and means and medians of rotation and translation errors.

    Args:
        values: on the images as they are; nan where a figure is not defined.
        samples: `(B,)` in each draw of images.
        targets: scene, image and object of each target, which two files to be compared share.
    """

    values: Mapping[str, float]
    samples: Mapping[str, Float[Tensor, "b"]]
    targets: tuple[tuple[int, int, int], ...]

    def intervals(self) -> dict[str, Interval]:
        """Interval of every figure."""
        return {name: Interval.of(samples) for name, samples in self.samples.items()}


def draw_figures(scores: Scores, draws: int = DRAWS, seed: int = 0) -> Figures:
    """Every figure of one results file, with its values in draws of images.

    Args:
        scores: of the file.
        draws: of the bootstrap.
        seed: of the draws.
    """
    table = scores.table
    every = torch.ones(1, len(table.images), dtype=torch.float64)
    values = {name: float(value) for name, value in _figures(scores, every).items()}
    samples = _figures(scores, image_weights(len(table.images), draws, seed))
    keys = zip(table.image.tolist(), table.object_id.tolist(), strict=True)
    return Figures(values, samples, tuple((*table.images[image], object_id) for image, object_id in keys))


def paired_tests(first: Figures, second: Figures) -> dict[str, PairedTest]:
    """Second minus first, figure by figure, in the draws of images that both share.

    Args:
        first, second: of two results files, for the same targets, with the same number of draws and the same seed.

    Raises:
        ValueError: if their targets or draws differ.
    """
    if first.targets != second.targets:
        raise ValueError("a paired test needs scores of the same targets; evaluate both files on the same split")
    found = {}
    for name, value in first.values.items():
        if name not in second.values:
            continue
        one, other = first.samples[name], second.samples[name]
        if len(one) != len(other):
            raise ValueError(f"a paired test needs the same draws, got {len(one)} and {len(other)}")
        found[name] = PairedTest.of(second.values[name] - value, other - one)
    return found


def _figures(scores: Scores, weights: Float[Tensor, "b i"]) -> dict[str, Float[Tensor, "b"]]:
    table = scores.table
    return table.means(weights) | scores.precision.mean_over_objects(weights) | table.error_spreads(weights)


def intervals_json(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """As json values."""
    return {name: [finite_or_none(i.low), finite_or_none(i.high)] for name, i in intervals.items()}


def tests_json(tests: Mapping[str, PairedTest]) -> dict[str, Any]:
    """As json values."""
    return {
        name: {
            "difference": finite_or_none(test.difference),
            "interval": [finite_or_none(test.interval.low), finite_or_none(test.interval.high)],
            "p_value": finite_or_none(test.p_value),
        }
        for name, test in tests.items()
    }

"""95 % bootstrap intervals of figures of several runs on the same crops, and of how two contestants differ on them.

Crops that are hard for one are hard for all, so a difference crop by crop is much surer than the figures themselves.
Drawn are runs and crops; where there are two or three seeds, that tells too little of how far another may lie.
"""

from __future__ import annotations

import numpy as np
import torch

from cad2pose.evaluation.bootstrap import Interval, image_weights, weighted_medians

_DRAWS = 2000


def median_interval(values: np.ndarray, draws: int = _DRAWS, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the median of all runs, by the percentile bootstrap over runs and crops.

    Args:
        values: `(runs, crops)`, or `(crops,)` of one run.
        draws: how many.
        seed: of the draws.
    """
    flat = torch.from_numpy(np.atleast_2d(values)).flatten()
    interval = Interval.of(weighted_medians(flat, _often(np.atleast_2d(values), draws, seed)))
    return interval.low, interval.high


def mean_interval(values: np.ndarray, draws: int = _DRAWS, seed: int = 0) -> tuple[float, float]:
    """The same of the mean."""
    flat = torch.from_numpy(np.atleast_2d(values)).flatten()
    interval = Interval.of(_often(np.atleast_2d(values), draws, seed) @ flat.double() / len(flat))
    return interval.low, interval.high


def share_interval(
    values: np.ndarray, base: np.ndarray, draws: int = _DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """Median of the values as share of the base's median, and the ends of its interval; both drawn alike.

    Args:
        values, base: `(runs, crops)`: errors of two contestants on the same crops, under the same seeds.
        draws: how many.
        seed: of the draws.

    Raises:
        ValueError: where there is not the same number of runs and crops of both.
    """
    if values.shape != base.shape:
        raise ValueError(f"errors of {values.shape} and {base.shape} runs and crops; they must be of the same ones")
    often = _often(values, draws, seed)
    ours, theirs = (weighted_medians(torch.from_numpy(one).flatten(), often) for one in (values, base))
    interval = Interval.of(ours / theirs)
    return float(np.median(values) / np.median(base)), interval.low, interval.high


def _often(values: np.ndarray, draws: int, seed: int) -> torch.Tensor:
    """How often every value stands in every draw of runs and crops."""
    runs, crops = (image_weights(count, draws, seed + place) for place, count in enumerate(values.shape))
    return (runs[:, :, None] * crops[:, None]).flatten(1)

"""Bootstrap over images: how far a figure would move if other images of the same kind had been taken.

Images are drawn, not targets: what stands in one image shares its view and its light, and errs together. Efron and
Tibshirani, "An Introduction to the Bootstrap" (1993), percentile intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LEVEL = 0.95
"""Coverage of the intervals."""


@dataclass(frozen=True)
class Interval:
    """Ends of a percentile interval; nan where a figure is not defined in any draw."""

    low: float
    high: float

    @classmethod
    def of(cls, samples: Float[Tensor, "b"], level: float = LEVEL) -> Interval:
        """Of the figure's values in the draws; draws in which it is not defined (nan) are left out."""
        defined = samples[~samples.isnan()].double()
        if not len(defined):
            return cls(float("nan"), float("nan"))
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        low, high = torch.quantile(defined, ends).tolist()
        return cls(low, high)


@dataclass(frozen=True)
class PairedTest:
    """Whether the second of two results files is better or worse than the first, on the same images.

    Args:
        difference: second minus first, on the images as they are.
        interval: of the difference over the draws.
        p_value: two-sided: twice the share of draws whose difference does not have the more frequent sign, at most 1
            and at least 2 / (draws + 1).
    """

    difference: float
    interval: Interval
    p_value: float

    @classmethod
    def of(cls, difference: float, samples: Float[Tensor, "b"]) -> PairedTest:
        """From the differences in draws that both files share."""
        defined = samples[~samples.isnan()]
        if not len(defined):
            return cls(difference, Interval.of(defined), float("nan"))
        fewer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
        return cls(difference, Interval.of(defined), min(1.0, 2 * (fewer + 1) / (len(defined) + 1)))


def image_weights(images: int, draws: int, seed: int = 0) -> Float[Tensor, "b i"]:
    """How often each image stands in each draw of as many images with replacement, float64.

    Args:
        images: how many there are.
        draws: rows of the result.
        seed: the same draws for the same seed and number of images, whatever the results.

    Raises:
        ValueError: if there is no image or no draw.
    """
    if images < 1 or draws < 1:
        raise ValueError(f"a bootstrap needs at least one image and one draw, got {images} and {draws}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(images, (draws, images), generator=generator)
    weights = torch.zeros(draws, images, dtype=torch.float64)
    return weights.scatter_add_(1, chosen, torch.ones_like(weights))


def weighted_medians(values: Float[Tensor, "n"], weights: Float[Tensor, "b n"]) -> Float[Tensor, "b"]:
    """Medians of values that stand in B draws as often as the whole numbers in `weights` say; nan where none does."""
    if not len(values):
        return torch.full((len(weights),), torch.nan, dtype=torch.float64)
    ordered, order = values.double().sort()
    reached = weights[:, order].cumsum(1).contiguous()
    total = reached[:, -1:]
    middle = torch.cat((((total - 1) / 2).floor(), (total / 2).floor()), dim=1)
    places = torch.searchsorted(reached, middle.clamp(min=0), right=True).clamp(max=len(values) - 1)
    return torch.where(total[:, 0] > 0, ordered[places].mean(1), torch.nan)

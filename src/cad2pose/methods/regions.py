"""Surface regions of GDR-Net: which of a part's farthest points is nearest (Wang et al. 2021, section 3.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.methods.part_set import SPARSE_POINTS, PartSet


def check_regions(count: int) -> None:
    """Raise ValueError for a number of regions that cannot be."""
    if not 0 < count <= SPARSE_POINTS:
        raise ValueError(
            f"regions is {count}; it must be 1 to {SPARSE_POINTS}, the even points that a part's centres are among"
        )


def region_centres(parts: PartSet, count: int) -> Float[Tensor, "parts {count} 3"]:
    """The first farthest points of every part, in normalised coordinates; they follow from the part alone."""
    check_regions(count)
    return parts.sparse[:, :count]


def region_labels(
    coordinates: Float[Tensor, "batch 3 h w"], centres: Float[Tensor, "batch n 3"]
) -> Int[Tensor, "batch h w"]:
    """1 + the nearest centre of every cell; 0 is for the background, where labels mean nothing."""
    points = coordinates.flatten(2).transpose(1, 2)
    return 1 + torch.cdist(points, centres).argmin(-1).view(len(points), *coordinates.shape[2:])

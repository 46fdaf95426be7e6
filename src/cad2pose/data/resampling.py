"""Rows of pixels blurred, averaged over coarser pixels and enlarged again, as matrices of each picture's own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST = 1e-3  # overlap in fine pixels of a coarse pixel that is seen at all


def gaussian_matrix(sigma: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch side side"]:
    """Blur of a row of pixels as a matrix; rows sum to 1, also at the ends. The identity for sigma = 0."""
    steps = torch.arange(side, dtype=torch.float32, device=sigma.device)
    distance = (steps[:, None] - steps).square()
    exponent = distance / (2 * sigma.clamp_min(0.05).square())[:, None, None]
    weight = torch.exp(-exponent.clamp_max(16)) * (exponent < 16)  # denormal numbers would slow all products tenfold
    return weight / weight.sum(dim=-1, keepdim=True)


def resampling(
    cell: Float[Tensor, "batch"], phase: Float[Tensor, "batch"], side: int, cells: int
) -> tuple[Float[Tensor, "batch cells side"], Float[Tensor, "batch side cells"]]:
    """Matrices that average a row of pixels over coarser pixels, and that enlarge those bilinearly again.

    Coarse pixels beyond the ends of the row show the last fine ones, and do not count when it is enlarged.

    Args:
        cell: width of the coarse pixels, at least 1.
        phase: where the first one starts, in coarse pixels before the picture's edge.
        side: number of fine pixels.
        cells: number of coarse pixels, enough for the smallest of them.
    """
    steps = torch.arange(side, dtype=torch.float32, device=cell.device)
    centre, width = _centres(cell, phase, cells), cell[:, None, None]
    distance = (centre[:, :, None] - steps).abs()
    overlap = (0.5 * (width + 1) - distance).clamp(min=0).clamp(max=1)
    seen = overlap.sum(-1, keepdim=True) > _LEAST
    down = torch.where(seen, overlap, _between(centre, side))
    down = down / down.sum(dim=-1, keepdim=True)
    tent = ((1 - distance / width).clamp_min(0) * seen).transpose(1, 2)
    return down, tent / tent.sum(dim=-1, keepdim=True).clamp_min(1e-6)


def reading(
    cell: Float[Tensor, "batch"], phase: Float[Tensor, "batch"], side: int, cells: int
) -> Float[Tensor, "batch cells side"]:
    """Matrices that read a row of pixels off at the middles of coarser pixels; arguments as of `resampling`.

    Of a row that `resampling` has enlarged these are the coarse pixels again; beyond its ends the last ones go on.
    """
    return _between(_centres(cell, phase, cells), side)


def _centres(cell: Float[Tensor, "batch"], phase: Float[Tensor, "batch"], cells: int) -> Float[Tensor, "batch cells"]:
    """Middles of coarse pixels in a row of fine ones."""
    return (torch.arange(cells, device=cell.device) + 0.5 - phase[:, None]) * cell[:, None] - 0.5


def _between(place: Float[Tensor, "batch n"], side: int) -> Float[Tensor, "batch n side"]:
    """Linear interpolation at places in a row of pixels; outside, the nearest one."""
    steps = torch.arange(side, dtype=torch.float32, device=place.device)
    return (1 - (place.clamp(0, side - 1)[:, :, None] - steps).abs()).clamp_min(0)


def apply_separable(
    image: Float[Tensor, "batch 3 h w"], vertical: Float[Tensor, "batch m h"], horizontal: Float[Tensor, "batch n w"]
) -> Float[Tensor, "batch 3 m n"]:
    """vertical @ image @ horizontal^T, a linear filter of its own for each picture."""
    count, channels, height, width = image.shape
    wide = torch.bmm(image.reshape(count, channels * height, width), horizontal.transpose(1, 2))
    return vertical[:, None] @ wide.view(count, channels, height, -1)

"""Traces of lossy compression: 8 x 8 cosine blocks with quantised coefficients, as JPEG has them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from cad2pose.devices import constant

_BLOCK = 8
_TO_YCC = ((0.299, 0.587, 0.114), (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813))


def cosine_basis(size: int) -> Float[Tensor, "size size"]:
    """Orthonormal type-II cosine transform, one basis vector a row."""
    index = torch.arange(size, dtype=torch.float32)
    basis = torch.cos(math.pi / size * index[:, None] * (index + 0.5)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def _rows(matrix: Float[Tensor, "n m"]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, matrix.tolist()))


_BASIS = _rows(cosine_basis(_BLOCK))
_TO_RGB = _rows(torch.linalg.inv(torch.tensor(_TO_YCC)))


def compress_blocks(image: Float[Tensor, "batch 3 h w"], step: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3 h w"]:
    """Pictures with the cosine coefficients of each block rounded.

    Args:
        image: `(B, 3, h, w)`, any size.
        step: `(B,)` quantisation step of the lowest frequencies of luma, in units of white; it grows with the
            frequency, and is twice as large for chroma.
    """
    count, _, height, width = image.shape
    device = image.device
    padded = pad(image, (0, -width % _BLOCK, 0, -height % _BLOCK), mode="replicate")
    rows, columns = padded.shape[-2] // _BLOCK, padded.shape[-1] // _BLOCK
    planes = torch.einsum("ij,bjhw->bihw", constant(_TO_YCC, device), padded)
    blocks = planes.view(count, 3, rows, _BLOCK, columns, _BLOCK).transpose(3, 4)
    basis = constant(_BASIS, device)
    frequency = torch.arange(_BLOCK, device=device)
    growth = 1 + 0.5 * (frequency + frequency[:, None])
    channel = constant((1.0, 2.0, 2.0), device)
    steps = step[:, None, None, None, None, None] * channel[:, None, None, None, None] * growth
    steps = steps.clamp_min(1e-6)
    coefficients = ((basis @ blocks @ basis.T) / steps).round() * steps
    planes = (basis.T @ coefficients @ basis).transpose(3, 4).reshape(count, 3, rows * _BLOCK, columns * _BLOCK)
    return torch.einsum("ij,bjhw->bihw", constant(_TO_RGB, device), planes)[..., :height, :width]

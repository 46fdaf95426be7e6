"""Camera matrices K: points to pixels and back, of pinhole cameras (OpenCV axes, pixel centres at integers)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def project_points(K: Float[Tensor, "*batch 3 3"], points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 2"]:
    """Pixel coordinates of points in camera coordinates (the skew entry of K is used)."""
    image = points @ K.transpose(-1, -2)
    return image[..., :2] / image[..., 2:]


def unproject_pixels(
    K: Float[Tensor, "*batch 3 3"], pixels: Float[Tensor, "*batch n 2"]
) -> Float[Tensor, "*batch n 3"]:
    """Rays (x, y, 1) through pixels."""
    return torch.cat((pixels, torch.ones_like(pixels[..., :1])), dim=-1) @ invert_intrinsics(K).transpose(-1, -2)


def resized_intrinsics(K: Float[Tensor, "*batch 3 3"], scale: float) -> Float[Tensor, "*batch 3 3"]:
    """K of the image resized by `scale` (half-pixel rule: add 0.5, scale, subtract 0.5)."""
    resized = K.clone()
    resized[..., :2, :] *= scale
    resized[..., :2, 2] += 0.5 * scale - 0.5
    return resized


def invert_intrinsics(K: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Closed-form inverse of an upper triangular K with last row (0, 0, 1)."""
    fx, skew, cx = K[..., 0, 0], K[..., 0, 1], K[..., 0, 2]
    fy, cy = K[..., 1, 1], K[..., 1, 2]
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = (1 / fx, -skew / (fx * fy), (skew * cy - cx * fy) / (fx * fy), zero, 1 / fy, -cy / fy, zero, zero, one)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))

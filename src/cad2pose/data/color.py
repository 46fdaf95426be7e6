"""Colour changes as one affine map of RGB per picture, so that any number of them costs one."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry import rotation_from_axis_angle

_LUMA = (0.299, 0.587, 0.114)


def hue_rotation(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation of RGB about the gray axis by an angle in radians."""
    return rotation_from_axis_angle(angle[..., None] * (torch.ones(3, device=angle.device) / math.sqrt(3)))


def saturation_matrix(factor: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Moves colours away from (factor > 1) or towards (< 1) the gray of the same luma."""
    gray = torch.tensor(_LUMA, device=factor.device).expand(3, 3)
    eye = torch.eye(3, device=factor.device)
    return gray + factor[..., None, None] * (eye - gray)


def transform_colors(
    image: Float[Tensor, "batch 3 h w"], matrix: Float[Tensor, "batch 3 3"], offset: Float[Tensor, "batch 3"]
) -> Float[Tensor, "batch 3 h w"]:
    """matrix @ rgb + offset at every pixel; not clamped."""
    return torch.baddbmm(offset[:, :, None], matrix, image.flatten(2)).view_as(image)


def tone_curve(image: Float[Tensor, "batch 3 h w"], bend: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3 h w"]:
    """x + bend x (1 - x): brightens (bend > 0) or darkens the middle tones and keeps black and white.

    It stands for a gamma curve at a tenth of its cost; monotone on [0, 1] for |bend| <= 1.
    """
    return image + bend[:, None, None, None] * (image - image * image)

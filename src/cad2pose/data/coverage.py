"""Which pixels of a crop the source image covers."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.geometry import VirtualCamera


def coverage(camera: VirtualCamera, device: torch.device | str = "cpu") -> Float[Tensor, "batch 1 r r"]:
    """Share of each crop pixel that the source image covers, as `warp_to_crops` finds it (to a pixel's width).

    Args:
        camera: of the crops, where it was made.
        device: where the pixels are worked out.
    """
    footprint = (camera.K_cam[:, 0, 0] / camera.K_virt[:, 0, 0])[:, None]
    numbers = torch.cat((camera.inverse_homography.flatten(1), footprint, camera.image_size), dim=1)
    inverse, footprint, size = numbers.to(device, non_blocking=True).split((9, 1, 2), dim=1)
    inverse, footprint = inverse.unflatten(1, (3, 3)), footprint[..., None]
    width, height = size[:, :, None, None].unbind(1)
    steps = torch.arange(camera.size, dtype=inverse.dtype, device=inverse.device)
    u = inverse[:, :, 0, None] * steps
    v = inverse[:, :, 1, None] * steps + inverse[:, :, 2, None]
    x, y, w = (u[:, :, None, :] + v[:, :, :, None]).unbind(1)
    x, y = x / w + 0.5, y / w + 0.5
    margin = torch.minimum(torch.minimum(x, width - x), torch.minimum(y, height - y))
    return ((margin / footprint + 0.5).clamp(0, 1) * (w > 1e-9)).float()[:, None]


def reaches_outside(camera: VirtualCamera) -> Bool[Tensor, "batch"]:
    """Whether a corner of the crop lies within a pixel of the source image's border, or beyond."""
    end = camera.size - 0.5
    corners = torch.tensor([[-0.5, -0.5, 1], [end, -0.5, 1], [-0.5, end, 1], [end, end, 1]]).to(camera.K_virt)
    source = corners @ camera.inverse_homography.transpose(1, 2)
    pixel = source[..., :2] / source[..., 2:]
    footprint = (camera.K_cam[:, 0, 0] / camera.K_virt[:, 0, 0])[:, None, None]
    within = (pixel > footprint) & (pixel < camera.image_size[:, None] - 1 - footprint) & (source[..., 2:] > 1e-9)
    return ~within.flatten(1).all(1)

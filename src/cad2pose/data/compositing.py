"""Putting rendered things together: which one is seen, what shadow it casts, how its edge looks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate

from cad2pose.data.draws import Draws
from cad2pose.rendering import Rendering

_SHADOW_CELLS = 12  # a side


def compose(
    target: Rendering,
    clutter: Rendering,
    in_front: Bool[Tensor, "batch r r"],
    colors: Float[Tensor, "batch 3 r r"],
) -> Rendering:
    """The part (slot 0, in its colours) where it stands in front, elsewhere the clutter (slots from 1)."""
    front = in_front[:, None]
    return Rendering(
        depth=torch.where(in_front, target.depth, clutter.depth),
        slot=torch.where(in_front, 0, clutter.slot + clutter.mask),
        mask=in_front | clutter.mask,
        coordinates=clutter.coordinates,
        normals=torch.where(front, target.normals, clutter.normals),
        colors=torch.where(front, colors, clutter.colors),
        K=target.K,
    )


def soft_shadow(mask: Bool[Tensor, "batch r r"], draws: Draws) -> Float[Tensor, "batch 1 r r"]:
    """How much of the light of the surroundings things block on what lies behind them: broad, a little to one side."""
    count, size = len(mask), mask.shape[-1]
    coarse = adaptive_avg_pool2d(mask[:, None].float(), _SHADOW_CELLS)
    coarse = avg_pool2d(coarse, 3, stride=1, padding=1, count_include_pad=False)
    shift = draws.integers(3, 2, count).to(mask.device, non_blocking=True)
    place = (torch.arange(_SHADOW_CELLS, device=mask.device) + shift[..., None] - 1).clamp(0, _SHADOW_CELLS - 1)
    rows = torch.arange(count, device=mask.device)[:, None, None]
    coarse = coarse[rows, 0, place[0, :, :, None], place[1, :, None, :]][:, None]
    return interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)


def soften_edges(image: Float[Tensor, "batch 3 r r"], owner: Int[Tensor, "batch r r"]) -> Float[Tensor, "batch 3 r r"]:
    """Blend the pixels at which one thing ends and another begins with their neighbours, as a lens would."""
    edge = torch.zeros_like(owner, dtype=torch.bool)
    across, down = owner[:, :, 1:] != owner[:, :, :-1], owner[:, 1:] != owner[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    smooth = image.clone()  # weights 1 2 1 along both axes; the picture's own border stays
    smooth[..., 1:-1] = (image[..., :-2] + image[..., 2:]).add_(image[..., 1:-1], alpha=2).mul_(0.25)
    image = torch.where(edge[:, None], smooth, image)
    smooth = image.clone()
    smooth[..., 1:-1, :] = (image[..., :-2, :] + image[..., 2:, :]).add_(image[..., 1:-1, :], alpha=2).mul_(0.25)
    return torch.where(edge[:, None], smooth, image)

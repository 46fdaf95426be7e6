"""Putting rendered things together: which one is seen, what shadow it casts, how its edge looks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from cad2pose.data.draws import Draws
from cad2pose.rendering import Rendering


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
    size = mask.shape[-1]
    cell = max(1, size // 12)
    coarse = avg_pool2d(mask[:, None].float(), cell)
    coarse = avg_pool2d(coarse, 3, stride=1, padding=1)
    shift = draws.integers(3, 2) - 1
    coarse = coarse.roll((int(shift[0]), int(shift[1])), (2, 3))
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

"""Pictures of a run: what the network sees, and what it says of it."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.methods import Method, QueryOutput
from cad2pose.pictures.image_file import save_png
from cad2pose.structures import CropBatch


def tile(images: Float[Tensor, "n 3 h w"], columns: int) -> Float[Tensor, "3 height width"]:
    """Images side by side, row by row, the last row filled with black."""
    missing = -len(images) % columns
    blank = images.new_zeros((missing, *images.shape[1:]))
    grid = torch.cat((images, blank)).unflatten(0, (-1, columns))
    return grid.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)


def false_colour(maps: Float[Tensor, "batch c h w"], mask: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch 3 h w"]:
    """Query images in colour: sums of groups of channels, scaled to the range they span inside the mask."""
    groups = torch.stack([maps[:, i::3].sum(1) for i in range(3)], dim=1)
    spread = (groups * mask[:, None]).abs().flatten(1).amax(1).clamp_min(1e-6)[:, None, None, None]
    return (0.5 + 0.5 * groups / spread).clamp(0, 1) * mask[:, None]


def save_samples(path: Path, batch: CropBatch, count: int = 24) -> None:
    """Training crops above their true coordinates (occluded part darker)."""
    batch = batch[:count]
    truth = batch.truth
    assert truth is not None
    colours = (0.5 + 0.5 * truth.coordinates) * truth.mask_full[:, None]
    colours = colours * (0.35 + 0.65 * truth.mask_visible[:, None].float())
    pairs = torch.cat((batch.image, colours), dim=2)
    save_png(path, tile(pairs.float().cpu(), 8))


@torch.no_grad()
def save_predictions(path: Path, method: Method, batch: CropBatch) -> None:
    """Crop, mask (visible and full one, where there are both), queries in false colour; one crop a column."""
    output = method(batch)
    size = batch.image.shape[-1]
    both = isinstance(output, QueryOutput)
    mask = torch.sigmoid(output.full_logits if both else output.mask_logits)
    queries = false_colour(output.queries, (mask > 0.5).float())
    masks = torch.stack((torch.sigmoid(output.visible_logits) if both else mask, mask, mask), dim=1)
    small = torch.nn.functional.interpolate(torch.cat((masks, queries)), size=(size, size))
    masks, queries = small.split(len(batch))
    save_png(path, tile(torch.cat((batch.image, masks, queries), dim=2).float().cpu(), len(batch)))

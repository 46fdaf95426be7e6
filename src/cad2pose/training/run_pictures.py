"""Pictures of a run: what the network sees, and what it says of it."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.methods import GdrNetOutput, Method, QueryOutput, SurfEmbOutput
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
    """Crop, masks, and queries in false colour or coordinates as colours; one crop a column."""
    visible, full, dense = _said(method(batch))
    size = batch.image.shape[-1]
    masks = torch.stack((visible, full, full), dim=1)
    small = torch.nn.functional.interpolate(torch.cat((masks, dense)), size=(size, size))
    masks, dense = small.split(len(batch))
    save_png(path, tile(torch.cat((batch.image, masks, dense), dim=2).float().cpu(), len(batch)))


def _said(
    output: QueryOutput | SurfEmbOutput | GdrNetOutput,
) -> tuple[Float[Tensor, "batch m m"], Float[Tensor, "batch m m"], Float[Tensor, "batch 3 m m"]]:
    """Visible and full mask (the same where there is one), and the dense maps in colour."""
    if isinstance(output, GdrNetOutput):
        mask = output.visible
        shown = torch.zeros_like(mask)[:, None].expand(-1, 3, -1, -1)
        if output.coordinates is not None:
            shown = (0.5 + 0.5 * output.coordinates).clamp(0, 1) * mask[:, None]
        return mask, mask, shown
    both = isinstance(output, QueryOutput)
    full = torch.sigmoid(output.full_logits if both else output.mask_logits)
    visible = torch.sigmoid(output.visible_logits) if both else full
    return visible, full, false_colour(output.queries, (full > 0.5).float())

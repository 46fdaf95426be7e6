"""Whether pixels find their surface points, on crops whose truth is known: how methods without a pose are judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.methods import SurfEmbMethod
from cad2pose.methods.contrastive import at_pixels, full_precision
from cad2pose.methods.losses import cell_coordinates, cell_share, draw_pixels
from cad2pose.structures import CropBatch
from cad2pose.training.crop_figures import CropFigures

_POINTS = 2048
_CELLS = 256
_NEAR = 10.0


@dataclass(frozen=True)
class CropMatches(CropFigures):
    """Matches of visible cells to surface points per crop; crops in which no cell is wholly visible are left out.

    Args:
        nce: `(N,)` cross-entropy of a cell's true point against 2048 others; log 2049 = 7.6 by chance.
        mask: `(N,)` cross-entropy of the mask.
        distance: `(N,)` median distance of the likeliest of the 2048 points from the true one or its nearest symmetric
            equivalent, in % of the bounding sphere's diameter.
        matched: `(N,)` share of cells where it is below 10 %.
    """

    nce: Float[Tensor, "n"]
    mask: Float[Tensor, "n"]
    distance: Float[Tensor, "n"]
    matched: Float[Tensor, "n"]

    def _medians(self, rows: Bool[Tensor, "n"]) -> dict[str, float]:
        return {
            "nce": float(self.nce[rows].median()),
            "mask": float(self.mask[rows].median()),
            "match_percent": float(self.distance[rows].median()),
            "share_matched": float(self.matched[rows].median()),
        }


@torch.no_grad()
def crop_matches(method: SurfEmbMethod, batch: CropBatch) -> CropMatches:
    """Matches on one batch with truth, of at most 256 cells a crop; the method must be in eval mode."""
    truth, index = batch.truth, batch.part_index
    assert truth is not None
    assert not method.training
    output, stride = method(batch), method.config.stride
    visible = (cell_share(truth.mask_visible, stride) == 1).flatten(1)
    cells, rows = draw_pixels(visible, _CELLS, torch.Generator(index.device).manual_seed(0))
    queries, points = (at_pixels(maps, cells) for maps in (output.queries, cell_coordinates(truth.coordinates, stride)))
    with full_precision(queries):
        candidates = method.parts.surface[:, :_POINTS]
        keys = method.keys(candidates, torch.arange(len(candidates), device=index.device))[index]
        own, others = (queries * method.keys(points, index)).sum(-1), queries @ keys.transpose(1, 2)
        nce = torch.logaddexp(torch.logsumexp(others, dim=-1), own) - own
        mask = torch.nn.functional.binary_cross_entropy_with_logits(
            output.mask_logits, method.mask_target(batch), reduction="none"
        )
        likeliest = candidates[index].gather(1, others.argmax(-1)[..., None].expand(-1, -1, 3))
        equivalent = torch.einsum("bkij,bnj->bnki", method.parts.symmetry[index], points)
        distance = 50 * (equivalent - likeliest[:, :, None]).norm(dim=-1).amin(-1)  # radii -> % of the diameter
    figures = (index, nce.mean(1), mask.mean((1, 2)), distance.median(1).values, (distance < _NEAR).float().mean(1))
    return CropMatches(*(figure[rows].cpu() for figure in figures))

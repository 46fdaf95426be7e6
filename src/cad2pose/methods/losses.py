"""Losses that several methods share. All are means over the batch, so they do not depend on its size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

_ROOT_FLOOR = 1e-8  # below a root, so that its gradient is finite where both rotations are the same


@dataclass(frozen=True)
class LossTerms:
    """The weighted sum that is descended, and its unweighted terms by name."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


def draw_pixels(
    mask: Bool[Tensor, "batch pixels"], count: int, generator: torch.Generator | None
) -> tuple[Int[Tensor, "batch {count}"], Bool[Tensor, "batch"]]:
    """`count` pixels per row of a mask: without repetition where it has so many, else each about equally often.

    Returns their indices and which rows have any pixel at all; the others get arbitrary indices.
    """
    noise = torch.rand(mask.shape, generator=generator, device=mask.device)
    order = torch.where(mask, noise, noise - 1).topk(min(count, mask.shape[1]), dim=1).indices
    available = mask.sum(1)
    column = torch.arange(count, device=mask.device)[None] % available.clamp(1, order.shape[1])[:, None]
    return order.gather(1, column), available > 0


def info_nce(
    queries: Float[Tensor, "batch n e"],
    positives: Float[Tensor, "batch n e"],
    negatives: Float[Tensor, "batch m e"],
    rows: Bool[Tensor, "batch"],
) -> Float[Tensor, ""]:
    """Contrastive loss of SurfEmb: cross-entropy of each query's own key against m shared negatives.

    Dot products without temperature or normalisation (the query's norm is its certainty). The mean runs
    over the crops marked in `rows`.
    """
    own = (queries * positives).sum(-1)
    others = torch.logsumexp(queries @ negatives.transpose(1, 2), dim=-1)
    loss = torch.nn.functional.softplus(others - own)  # log(exp own + exp others) - own
    weight = rows.to(loss.dtype)
    return (loss.mean(1) * weight).sum() / weight.sum().clamp_min(1)


def mask_loss(logits: Float[Tensor, "batch h w"], target: Float[Tensor, "batch h w"]) -> Float[Tensor, ""]:
    """Binary cross-entropy on logits; the target is the share of each cell that the mask covers."""
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, target)


def point_matching(
    predicted: Float[Tensor, "batch n 3 3"],
    truth: Float[Tensor, "batch n 3 3"],
    points: Float[Tensor, "batch p 3"],
) -> Float[Tensor, "batch n"]:
    """Rotation loss of GDR-Net for n rotations per sample: mean L1 distance (summed over xyz) of rotated points.

    The points are in units of the sphere's radius; the result is in units of its diameter.
    """
    rows = (predicted - truth).flatten(1, 2)  # batch, 3 n, 3
    difference = (rows @ points.transpose(1, 2)).abs().mean(-1)
    return difference.unflatten(1, (-1, 3)).sum(-1) / 2


def chordal_distance(
    predicted: Float[Tensor, "*batch 3 3"], truth: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """Frobenius norm of the difference of rotations, as the thesis has it: 2 sqrt(2) sin(half the angle)."""
    return ((predicted - truth).square().sum((-2, -1)) + _ROOT_FLOOR).sqrt()


def angle_between(
    predicted: Float[Tensor, "*batch 3 3"], truth: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """Geodesic distance of rotations in rad, by the chord, whose gradient stays finite at both ends."""
    return 2 * torch.asin((chordal_distance(predicted, truth) / (2 * 2**0.5)).clamp_max(1 - 1e-6))


def coordinate_loss(
    predicted: Float[Tensor, "batch 3 h w"], truth: Float[Tensor, "batch 3 h w"], weight: Float[Tensor, "batch h w"]
) -> Float[Tensor, ""]:
    """GDR-Net's: L1, summed over x, y and z, mean over all cells of the batch by their weight."""
    return ((predicted - truth).abs().sum(1) * weight).sum() / weight.sum().clamp_min(1)


def region_loss(
    logits: Float[Tensor, "batch c h w"], label: Int[Tensor, "batch h w"], weight: Float[Tensor, "batch h w"]
) -> Float[Tensor, ""]:
    """GDR-Net's: cross-entropy of every cell's region, mean over all cells of the batch by their weight."""
    entropy = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    return (entropy * weight).sum() / weight.sum().clamp_min(1)


def cell_share(mask: Bool[Tensor, "batch r r"], stride: int) -> Float[Tensor, "batch h w"]:
    """Share of every stride x stride cell that the mask covers."""
    return _cell_sums(mask.to(torch.uint8), stride).float() / stride**2


def cell_coordinates(coordinates: Float[Tensor, "batch 3 r r"], stride: int) -> Float[Tensor, "batch 3 h w"]:
    """Mean coordinates of every cell; meaningful where the mask covers the whole cell."""
    return _cell_sums(coordinates, stride) / stride**2


def _cell_sums(values: Shaped[Tensor, "*batch r r"], stride: int) -> Shaped[Tensor, "*batch h w"]:
    """Sums over cells; on a CPU in a third of average pooling's time."""
    rows = reduce(torch.add, values.unflatten(-2, (-1, stride)).unbind(-2))
    return reduce(torch.add, rows.unflatten(-1, (-1, stride)).unbind(-1))

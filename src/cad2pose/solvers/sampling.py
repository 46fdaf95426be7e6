"""Poses from sampled correspondences: a pixel by the mask, a surface point by the pixel's distribution, then P3P.

SurfEmb (Haugaard and Buch 2022) draws (pixel, point) from [p(u) P(x | u)]^1.5 over all n x m pairs at once. Here the
pixel is drawn first, by its share of that sum, and then its point: the same distribution, without n x m ever being
held. Points are drawn for a random subset of the pixels only, which is drawn by the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.p3p import choose_by_fourth, p3p
from cad2pose.solvers.surface import Surface

_CHUNK = 64  # pixels whose distributions over all points are held at a time


@dataclass(frozen=True)
class SamplingOptions:
    """Settings of `sample_poses`.

    Attributes:
        samples: sets of four correspondences per crop.
        pixels: most pixels whose distributions are worked out.
        draws: points drawn for each of them.
        exponent: of the weights; above 1 it prefers the likely.
        least_mask: mask probability below which no pixel is used.
        spread: least distance of the farthest two of three pixels, in map sides.
        distance: nearest and farthest position, as the part's diameter in map sides: largest and smallest.
        seed: of the draws.
    """

    samples: int = 10_000
    pixels: int = 512
    draws: int = 80
    exponent: float = 1.5
    least_mask: float = 0.3
    spread: float = 0.1
    distance: tuple[float, float] = (0.05, 2.0)
    seed: int = 0


def sample_poses(
    surface: Surface, keys: Float[Tensor, "m e"], maps: QueryMaps, crop: int, options: SamplingOptions | None = None
) -> Hypotheses:
    """Poses of one crop from sampled correspondences, in random order; none where the mask shows too little.

    Poses are dropped where three pixels lie close together, where the part would be nearer or farther than the crop
    can show, or where one of the three points faces away.
    """
    options = options or SamplingOptions()
    generator = torch.Generator(device=keys.device).manual_seed(options.seed)
    pixel, weight = _pixels(maps, crop, options, generator)
    if len(pixel) < 4:
        empty = keys.new_zeros(0, 3)
        return Hypotheses(torch.zeros(0, dtype=torch.long, device=keys.device), empty[:, None].expand(0, 3, 3), empty)
    drawn, total = _points(maps.queries[crop].flatten(1)[:, pixel].T, keys, options, generator)
    share = weight * total
    pick = torch.multinomial(share.expand(options.samples, -1), 4, replacement=False, generator=generator)
    slot = torch.randint(drawn.shape[1], pick.shape, generator=generator, device=keys.device)
    point = drawn[pick, slot]
    width = maps.queries.shape[-1]
    place = torch.stack((pixel[pick] % width, pixel[pick] // width), dim=-1).double()
    K = maps.K[crop].double()
    ones = torch.ones_like(place[..., :1])
    rays = torch.cat((place, ones), dim=-1) @ torch.linalg.inv(K).T
    positions = surface.points[point].double()
    rotation, translation, valid, _ = choose_by_fourth(p3p(positions[:, :3], rays[:, :3]), positions[:, 3], rays[:, 3])
    apparent = 2 * K[0, 0] / (translation[:, 2].clamp_min(1e-6) * width)
    kept = valid & (apparent > options.distance[0]) & (apparent < options.distance[1])
    kept &= torch.cdist(place[:, :3], place[:, :3]).flatten(1).amax(1) >= options.spread * width
    seen = positions[:, :3] @ rotation.transpose(1, 2) + translation[:, None]
    normals = surface.normals[point[:, :3]].double() @ rotation.transpose(1, 2)
    kept &= ((normals * seen).sum(-1) < 0).all(1)
    rows = torch.full((int(kept.sum()),), crop, dtype=torch.long, device=keys.device)
    return Hypotheses(rows, rotation[kept].float(), translation[kept].float())


def _pixels(
    maps: QueryMaps, crop: int, options: SamplingOptions, generator: torch.Generator
) -> tuple[Int[Tensor, "p"], Float[Tensor, "p"]]:
    """Pixels drawn by the mask without repetition, and the weights that make up for pixels not being drawn evenly.

    With Gumbel noise the largest are a draw by probability; each stands for as much as any other then.
    """
    probability = torch.sigmoid(maps.mask_logits[crop]) * (maps.valid[crop] >= 0.5)
    usable = (probability.flatten() > options.least_mask).nonzero()[:, 0]
    weight = probability.flatten()[usable] ** options.exponent
    if len(usable) <= options.pixels:
        return usable, weight
    uniform = torch.rand(len(usable), generator=generator, device=usable.device).clamp(1e-7, 1 - 1e-7)
    chosen = (weight.log() - (-uniform.log()).log()).topk(options.pixels).indices
    return usable[chosen], torch.ones_like(weight[chosen])


def _points(
    queries: Float[Tensor, "p e"], keys: Float[Tensor, "m e"], options: SamplingOptions, generator: torch.Generator
) -> tuple[Int[Tensor, "p draws"], Float[Tensor, "p"]]:
    """For every pixel, points drawn by P(x | u)^exponent, and that weight's sum over the points."""
    drawn, totals = [], []
    for chunk in queries.split(_CHUNK):
        logits = torch.log_softmax(chunk @ keys.T, dim=1)
        steps = (options.exponent * logits).clamp_min(-80).exp().cumsum(1)
        total = steps[:, -1:].contiguous()
        uniform = torch.rand(len(chunk), options.draws, generator=generator, device=keys.device) * total
        drawn.append(torch.searchsorted(steps, uniform, right=True).clamp_max(len(keys) - 1))
        totals.append(total[:, 0])
    return torch.cat(drawn), torch.cat(totals)

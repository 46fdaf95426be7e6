"""Poses from sampled correspondences: a pixel by the mask, a surface point by the pixel's distribution, then P3P.

SurfEmb (Haugaard and Buch 2022) draws (pixel, point) from [p(u) P(x | u)]^1.5 over all n x m pairs at once. Here the
pixel is drawn first, by its share of that sum, and then its point: the same distribution, without n x m ever being
held. Points are drawn for a random subset of the pixels only, which is drawn by the mask. Crops share what is random,
so that what is found in one does not depend on those beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.kernels import proposed_poses
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.p3p import choose_by_fourth, p3p
from cad2pose.solvers.surface import Surface

_PAIRS = {"cpu": 2_000_000, "cuda": 13_000_000}  # pixel-point pairs held at a time
_LEAST_LOGIT = -70.0  # weights below exp of it are as good as nothing; far smaller ones would be slow


@dataclass(frozen=True)
class SamplingOptions:
    """Settings of `sample_poses`.

    Attributes:
        samples: sets of four correspondences per crop.
        kept: most poses kept per crop.
        pixels: most pixels whose distributions are worked out.
        draws: points drawn for each of them.
        exponent: of the weights; above 1 it prefers the likely.
        least_mask: mask probability below which no pixel is used.
        spread: least distance of the farthest two of three pixels, in map sides.
        distance: farthest and nearest position, as the part's diameter in map sides: smallest and largest. A slender
            part's largest is as many times larger as its radius is of its second extent: seen along its axis, it
            fills a crop from far nearer.
        seed: of the draws.
    """

    samples: int = 10_000
    kept: int = 1000
    pixels: int = 256
    draws: int = 160
    exponent: float = 1.5
    least_mask: float = 0.3
    spread: float = 0.1
    distance: tuple[float, float] = (0.05, 2.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "kept", "pixels", "draws", "exponent"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0 < self.distance[0] < self.distance[1]:
            raise ValueError(f"distance is {self.distance}; give a smallest and a larger largest diameter")


def sample_poses(
    surface: Surface, keys: Float[Tensor, "m e"], maps: QueryMaps, options: SamplingOptions | None = None
) -> Hypotheses:
    """Poses of every crop from sampled correspondences, in random order; none where the mask shows too little.

    Poses are dropped where three pixels lie close together, where the part would be nearer or farther than the crop
    can show, or where one of the three points faces away; of the others, the first `kept` of a crop are given.
    """
    options = options or SamplingOptions()
    pixel, point, some = _correspondences(keys, maps, options)
    row = torch.arange(len(maps), device=keys.device).repeat_interleave(options.samples)
    rotation, position, kept = _solved(surface, maps, pixel, point, options)
    kept = kept & some[row]
    among = kept.view(-1, options.samples)
    first = (among & (among.cumsum(1) <= options.kept)).flatten().nonzero()[:, 0]
    return Hypotheses(row[first], rotation[first].float(), position[first].float())


def _correspondences(
    keys: Float[Tensor, "m e"], maps: QueryMaps, options: SamplingOptions
) -> tuple[Int[Tensor, "b s4"], Int[Tensor, "n 4"], Bool[Tensor, "b"]]:
    """Pixels of every crop, four for each sample, their points, and whether the mask has four at all."""
    generator = torch.Generator(device=keys.device).manual_seed(options.seed)
    pixel, weight = _pixels(maps, options, generator)
    drawn, total = _points(maps.queries.flatten(2), pixel, keys, options, generator)
    share = weight * total
    some = (weight > 0).sum(1) >= 4
    share = torch.where(some[:, None], share, 1.0)
    steps = share.double().cumsum(1)
    even = torch.rand(1, 4 * options.samples, generator=generator, device=keys.device, dtype=torch.float64)
    pick = torch.searchsorted(steps, even * steps[:, -1:], right=True)
    slot = torch.randint(options.draws, even.shape, generator=generator, device=keys.device)
    point = drawn.flatten(1).gather(1, pick * options.draws + slot).view(-1, 4)
    return pixel.gather(1, pick), point, some


def _solved(
    surface: Surface,
    maps: QueryMaps,
    pixel: Int[Tensor, "b s4"],
    point: Int[Tensor, "n 4"],
    options: SamplingOptions,
) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"], Bool[Tensor, "n"]]:
    """The pose of every four correspondences, and whether it is one that the crop can show."""
    width = maps.queries.shape[-1]
    distance = options.distance[0], options.distance[1] * surface.slenderness
    found = proposed_poses(surface.points, surface.normals, pixel, point, maps.K, width, options.spread, distance)
    if found is not None:
        return found
    place = torch.stack((pixel % width, pixel // width), dim=-1).double()
    K = maps.K.double()
    focal = torch.stack((K[:, 0, 0], K[:, 1, 1]), dim=1)[:, None]
    rays = torch.cat(((place - K[:, None, :2, 2]) / focal, torch.ones_like(place[..., :1])), dim=-1)
    place, rays = place.view(-1, 4, 2), rays.view(-1, 4, 3)
    positions = surface.points[point].double()
    rotation, translation, valid, _ = choose_by_fourth(p3p(positions[:, :3], rays[:, :3]), positions[:, 3], rays[:, 3])
    apparent = 2 * focal[:, 0, 0].repeat_interleave(options.samples) / (translation[:, 2].clamp_min(1e-6) * width)
    kept = valid & (apparent > distance[0]) & (apparent < distance[1])
    kept &= _spread(place[:, :3]) >= options.spread * width
    seen = positions[:, :3] @ rotation.transpose(1, 2) + translation[:, None]
    normals = surface.normals[point[:, :3]].double() @ rotation.transpose(1, 2)
    kept &= ((normals * seen).sum(-1) < 0).all(1)
    return rotation, translation, kept


def _pixels(
    maps: QueryMaps, options: SamplingOptions, generator: torch.Generator
) -> tuple[Int[Tensor, "b p"], Float[Tensor, "b p"]]:
    """Pixels of every crop drawn by the mask without repetition, and weights that make up for their not being all.

    With Gumbel noise the largest are such a draw, and a pixel of weight w is among them with probability
    1 - exp(-w exp(-t)), t being the largest value that is not; it stands for w over that (Duffield, Lund and Thorup
    2007; Horvitz and Thompson 1952). Places that a crop has too few pixels for have weight 0.
    """
    usable = maps.in_mask(options.least_mask).flatten(1)
    weight = torch.sigmoid(maps.mask_logits).flatten(1) ** options.exponent
    uniform = torch.rand(1, weight.shape[1], generator=generator, device=weight.device).clamp(1e-7, 1 - 1e-7)
    race = torch.where(usable, weight.log() - (-uniform.log()).log(), -torch.inf)
    count = min(options.pixels, race.shape[1])
    largest = race.topk(min(count + 1, race.shape[1]), dim=1)
    chosen = largest.indices[:, :count]
    threshold = largest.values[:, count:] if largest.values.shape[1] > count else -torch.inf
    weight, there = weight.gather(1, chosen), usable.gather(1, chosen)
    among = -torch.expm1(-(weight.log() - threshold).exp())
    return chosen, torch.where(there, weight / among, 0.0)


def _points(
    queries: Float[Tensor, "b e n"],
    pixel: Int[Tensor, "b p"],
    keys: Float[Tensor, "m e"],
    options: SamplingOptions,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "b p draws"], Float[Tensor, "b p"]]:
    """For every pixel, points drawn by P(x | u)^exponent, and that weight's sum over the points."""
    rows = queries.gather(2, pixel[:, None].expand(-1, queries.shape[1], -1)).transpose(1, 2).flatten(0, 1)
    uniform = torch.rand(pixel.shape[1], options.draws, generator=generator, device=keys.device).repeat(len(pixel), 1)
    found, sums = [], []
    size = max(1, _PAIRS[keys.device.type] // len(keys))
    for chunk, even in zip(rows.split(size), uniform.split(size), strict=True):
        logits = chunk @ keys.T
        likely = logits.sub_(logits.amax(1, keepdim=True)).clamp_(min=_LEAST_LOGIT / options.exponent).exp_()
        certainty = likely.sum(1)
        steps = _power(likely, options.exponent).cumsum(1)
        last = steps[:, -1:]
        found.append(torch.searchsorted(steps, even * last, right=True).clamp_max(len(keys) - 1))
        sums.append(last[:, 0] / certainty**options.exponent)
    return torch.cat(found).view(*pixel.shape, -1), torch.cat(sums).view_as(pixel)


def _power(likely: Float[Tensor, "n m"], exponent: float) -> Float[Tensor, "n m"]:
    return likely * likely.sqrt() if exponent == 1.5 else likely**exponent  # the root is many times as fast


def _spread(place: Float[Tensor, "n 3 2"]) -> Float[Tensor, "n"]:
    """Largest distance between two of three pixels."""
    return (place - place.roll(1, dims=1)).square().sum(-1).amax(1).sqrt()

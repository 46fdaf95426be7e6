"""One score for poses: how likely a query image and its mask are, if the part stood there.

With p(u) the mask's probability at pixel u and S the part's silhouette in the pose, the score is the mean over the n
pixels of the crop that lie inside the image of log p(u) inside S and log(1 - p(u)) outside, plus

    (M / n) mean over S of c(u),   c(u) = log((1 - e) m P(x | u) + e),   M = sum of p(u)

x is the surface point that the pose shows at u, P(x | u) its probability among m surface samples by query and keys, so
that m P is 1 by chance, and e the share of outliers. Where the mask all but excludes the part, c is 0: no network is
taught what to say there. The correspondences count as many pixels as the mask holds, whatever the silhouette covers:
where the part ends is the mask's business alone, and a pose gains nothing by claiming pixels (or giving up some) whose
correspondence is merely better (or worse) than chance.

No renderer is needed: the sum over the silhouette is one over surface samples, each weighted with the area that it
covers in the image. That makes the score smooth in the pose, but for the visible set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.solvers.kernels import climbed, log_sums, mask_sums, prepared_maps
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.scene import Climb, Scene
from cad2pose.solvers.surface import Surface

_ROWS = 16_384  # pixels whose probabilities are normalised at once
LARGEST_RATIO = 12.0  # of log(m P); beyond it, nothing changes (and denormal numbers would slow everything)


@dataclass(frozen=True)
class ScoreOptions:
    """Settings of `PoseScore`.

    Attributes:
        points: surface samples used, of the evenly spread ones.
        contrast: surface samples over which probabilities are normalised.
        outliers: share e of pixels whose correspondence means nothing.
        mask_weight: weight of the mask's terms against the correspondences'.
        largest_logit: mask logits are bounded by it, so that no pixel decides alone.
        least_mask: mask probability below which c is 0.
        sharpness: factor on the queries; below 1 every pixel is less sure, and a pose is drawn from farther away.
    """

    points: int = 1024
    contrast: int = 4096
    outliers: float = 0.3
    mask_weight: float = 1.0
    largest_logit: float = 5.0
    least_mask: float = 0.1
    sharpness: float = 1.0


@dataclass(frozen=True)
class Linearization:
    """Score, gradient and curvature of N poses in (rotation vector, translation): left perturbation, radii.

    Args:
        value: `(N,)`.
        gradient: `(N, 6)`.
        information: `(N, 6, 6)` positive semidefinite stand-in for the negative Hessian.
    """

    value: Float[Tensor, "n"]
    gradient: Float[Tensor, "n 6"]
    information: Float[Tensor, "n 6 6"]


class PoseScore:
    """Scores poses of one part in B crops.

    Poses are rotations `(N, 3, 3)` and positions `(N, 3)` of the bounding sphere's centre in radii, in the crop camera;
    `row` `(N,)` says in which crop.

    Args:
        surface: of the part.
        keys: `(m, E)` of the surface's points.
        maps: of the B crops.
        options: settings.

    Raises:
        ValueError: for a number of points that the surface has not, or keys of another dimension than the queries.
    """

    def __init__(
        self,
        surface: Surface,
        keys: Float[Tensor, "m e"],
        maps: QueryMaps,
        options: ScoreOptions | None = None,
    ) -> None:
        self.options = options or ScoreOptions()
        count = self.options.points
        self.points, self.normals, self.area = surface.points[:count], surface.normals[:count], surface.area(count)
        self.surface = surface
        self.keys = keys[:count]
        if keys.shape[1] != maps.queries.shape[1]:
            raise ValueError(f"keys have {keys.shape[1]} numbers, queries {maps.queries.shape[1]}; use one model's")
        self.K = maps.K
        self.maps = padded_maps(keys, maps, self.options)
        self.sums = summed_mask(maps, self.options.largest_logit)
        self.background, self.expected, self.pixels = self.sums.unbind(1)

    def scene(self) -> Scene:
        """What kernels need."""
        return Scene(
            self.points, self.normals, self.keys, self.area, self.surface.visible, self.surface.directions, self.maps,
            self.K, self.sums, self.options.outliers, self.options.mask_weight,
        )  # fmt: skip

    def __call__(
        self, row: Int[Tensor, "n"], rotation: Float[Tensor, "n 3 3"], position: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n"]:
        """Scores; higher is better, 0 would be certainty."""
        return self.linearize(row, rotation, position, derivatives=False).value

    def linearize(
        self,
        row: Int[Tensor, "n"],
        rotation: Float[Tensor, "n 3 3"],
        position: Float[Tensor, "n 3"],
        derivatives: bool = True,
    ) -> Linearization:
        """Scores, and their derivatives where asked for (else zeros)."""
        fused = climbed(self.scene(), row, rotation, position, Climb(derivatives=derivatives))
        if fused is not None:
            return Linearization(fused.value, fused.gradient, fused.information)
        turned = self.points @ rotation.transpose(1, 2)
        normals = self.normals @ rotation.transpose(1, 2)
        seen = turned + position[:, None]
        depth = seen[..., 2].clamp_min(1e-3)
        focal = torch.stack((self.K[row, 0, 0], self.K[row, 1, 1]), dim=1)[:, None]
        centre = self.K[row, :2, 2][:, None]
        pixel = seen[..., :2] / depth[..., None] * focal + centre
        facing = -(normals * seen).sum(-1)
        scale = self.area * self._visible(rotation, position) * (focal[..., 0] * focal[..., 1]) * (facing > 0)
        covered = scale * facing / depth**3
        mask, match, inside, mask_slope, match_slope = self._sample(row, pixel, derivatives)
        covered, scale = covered * inside, scale * inside
        total = covered.sum(1).clamp_min(1e-6)
        mean = (covered * match).sum(1) / total
        share = self.expected[row] / total
        pixels, weight = self.pixels[row], self.options.mask_weight
        value = weight * (self.background[row] + (covered * mask).sum(1)) + self.expected[row] * mean
        value = value / pixels
        if not derivatives:
            zeros = value.new_zeros(len(value), 6)
            return Linearization(value, zeros, zeros[..., None] * zeros[:, None])
        gain = weight * mask + share[:, None] * (match - mean[:, None])
        slope = weight * mask_slope + share[:, None, None] * match_slope
        slope = slope * focal / depth[..., None]
        inward = torch.cat((slope, -(slope * seen[..., :2]).sum(-1, keepdim=True) / depth[..., None]), dim=-1)
        step = torch.cat((torch.linalg.cross(turned, inward), inward), dim=-1)
        along = torch.tensor([0.0, 0.0, 1.0], device=seen.device).expand_as(turned)
        closer = torch.cat((torch.linalg.cross(turned, along), along), dim=-1)
        tilt = -torch.cat((torch.linalg.cross(normals, position[:, None].expand_as(normals)), normals), dim=-1)
        growth = (scale / depth**3)[..., None] * tilt - (3 * covered / depth)[..., None] * closer
        gradient = ((covered[..., None] * step) + gain[..., None] * growth).sum(1)
        information = (covered[..., None] * step).transpose(1, 2) @ step
        return Linearization(value, gradient / pixels[:, None], information / pixels[:, None, None])

    def _visible(self, rotation: Float[Tensor, "n 3 3"], position: Float[Tensor, "n 3"]) -> Float[Tensor, "n s"]:
        """What nothing hides, as the surface's viewpoints have it."""
        return self.surface.share_shown(rotation, position, len(self.points))

    def _sample(
        self, row: Int[Tensor, "n"], pixel: Float[Tensor, "n s 2"], derivatives: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """At the pixel that each point covers: mask logit, c, share inside the image; slopes of the first two."""
        height, width, channels = self.maps.shape[1:]
        limit = torch.tensor([width - 1.001, height - 1.001], device=pixel.device)
        place = torch.minimum((pixel + 1).clamp_min(0), limit)
        corner = place.floor()
        u, v = (place - corner).unbind(-1)
        corner = corner.long()
        first = (row[:, None] * height + corner[..., 1]) * width + corner[..., 0]
        flat = self.maps.view(-1, channels)
        values = []
        for offset in (0, 1, width, width + 1):
            found = flat[first + offset]
            ratio = torch.einsum("nse,se->ns", found[..., : channels - 3], self.keys) + found[..., -3]
            values.append(
                torch.stack((ratio.clamp(-LARGEST_RATIO, LARGEST_RATIO).exp(), found[..., -2], found[..., -1]), dim=-1)
            )
        top = torch.lerp(values[0], values[1], u[..., None])
        bottom = torch.lerp(values[2], values[3], u[..., None])
        likely, logit, inside = torch.lerp(top, bottom, v[..., None]).unbind(-1)
        share = self.options.outliers
        density = (1 - share) * likely + share
        match = torch.log(density)
        if not derivatives:
            return logit, match, inside, logit, match
        across = torch.lerp(values[1] - values[0], values[3] - values[2], v[..., None])
        change = torch.stack((across, bottom - top), dim=-2)
        return logit, match, inside, change[..., 1], ((1 - share) / density)[..., None] * change[..., 0]


def padded_maps(keys: Float[Tensor, "m e"], maps: QueryMaps, options: ScoreOptions) -> Float[Tensor, "b hh ww c"]:
    """Maps to be looked up, channels last, with a border of zeros one pixel wide: queries, log of chance, mask logit,
    whether the pixel lies inside the image."""
    fused = prepared_maps(
        maps.queries, maps.mask_logits, maps.valid, _contrast(keys, options), options.sharpness, options.least_mask,
        options.largest_logit,
    )  # fmt: skip
    if fused is not None:
        return fused
    queries, chance = ratio_maps(keys, maps, options)
    logits = maps.mask_logits.clamp(-options.largest_logit, options.largest_logit)
    inside = (maps.valid >= 0.5).float()
    stacked = torch.cat((queries, chance[:, None], logits[:, None], inside[:, None]), dim=1)
    return torch.nn.functional.pad(stacked, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()


def summed_mask(maps: QueryMaps, largest_logit: float) -> Float[Tensor, "b 3"]:
    """Of every crop's pixels inside the image: sum of log(1 - p), sum of p, number (at least 1)."""
    fused = mask_sums(maps.mask_logits, maps.valid, largest_logit)
    if fused is not None:
        return fused
    logits, inside = maps.mask_logits.clamp(-largest_logit, largest_logit), (maps.valid >= 0.5).float()
    terms = (torch.nn.functional.logsigmoid(-logits), torch.sigmoid(logits), torch.ones_like(logits))
    sums = torch.stack([(term * inside).flatten(1).sum(1) for term in terms], dim=1)
    return torch.cat((sums[:, :2], sums[:, 2:].clamp_min(1)), dim=1)


def _contrast(keys: Float[Tensor, "m e"], options: ScoreOptions) -> Float[Tensor, "c e"]:
    """The keys that probabilities are normalised over."""
    return keys[:: max(1, len(keys) // options.contrast)]


def ratio_maps(
    keys: Float[Tensor, "m e"], maps: QueryMaps, options: ScoreOptions
) -> tuple[Float[Tensor, "b e h w"], Float[Tensor, "b h w"]]:
    """Queries and what to add to their products with keys for log(m P); both 0 where the mask says that nothing is.

    Probabilities are normalised over every so many keys, in chunks of pixels, so that n x m is never held.
    """
    contrast = _contrast(keys, options)
    counted = maps.in_mask(options.least_mask)
    queries = maps.queries.permute(0, 2, 3, 1)[counted] * options.sharpness
    partition = log_sums(queries, contrast)
    if partition is None:
        partition = torch.cat([_log_sum_exp(some @ contrast.T) for some in queries.split(_ROWS)])
    chance = torch.zeros_like(maps.mask_logits)
    chance[counted] = math.log(len(contrast)) - partition
    return maps.queries * (options.sharpness * counted[:, None]), chance


def _log_sum_exp(values: Float[Tensor, "n c"]) -> Float[Tensor, "n"]:
    """Of every row, whose values are lost; many times as fast as torch's where numbers would become denormal."""
    largest = values.amax(1, keepdim=True)
    return values.sub_(largest).clamp_(min=-60).exp_().sum(1).log_() + largest[:, 0]

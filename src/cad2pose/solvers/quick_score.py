"""The score for thousands of poses at once: fewer points, looked up at the nearest pixel in a table."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.solvers.kernels import has_kernels, quick_scores
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.score import LARGEST_RATIO, PoseScore, ScoreOptions, ratio_maps
from cad2pose.solvers.surface import Surface

_POINTS = 256
_CHUNK = 2048


class QuickScore:
    """As `PoseScore`, but rough: 256 points, no interpolation, no derivatives.

    Args:
        surface, keys, maps, options: as of `PoseScore`; the number of points of the options does not count.
    """

    def __init__(
        self, surface: Surface, keys: Float[Tensor, "m e"], maps: QueryMaps, options: ScoreOptions | None = None
    ) -> None:
        options = options or ScoreOptions()
        self.scene = None
        if has_kernels(keys.device):
            self.scene = PoseScore(surface, keys, maps, replace(options, points=_POINTS)).scene()
            return
        self.points, self.normals = surface.points[:_POINTS], surface.normals[:_POINTS]
        self.area, self.surface = surface.areas[_POINTS], surface
        self.K, self.weight = maps.K, options.mask_weight
        self.width, self.height = maps.queries.shape[-1], maps.queries.shape[-2]
        inside = (maps.valid >= 0.5).float()
        logits = maps.mask_logits.clamp(-options.largest_logit, options.largest_logit)
        queries, chance = ratio_maps(keys, maps, options)
        counted = maps.in_mask(options.least_mask)
        ratio = queries.permute(0, 2, 3, 1)[counted] @ keys[:_POINTS].T + chance[counted][:, None]
        match = torch.log((1 - options.outliers) * ratio.clamp(-LARGEST_RATIO, LARGEST_RATIO).exp() + options.outliers)
        self.match = torch.cat((match.new_zeros(1, _POINTS), match)).flatten()  # the first row: of all other pixels
        self.place = torch.where(counted.flatten(), counted.flatten().cumsum(0), 0)
        self.mask, self.inside = (logits * inside).flatten(), inside.flatten()
        self.pixels = inside.flatten(1).sum(1).clamp_min(1)
        self.background = (torch.nn.functional.logsigmoid(-logits) * inside).flatten(1).sum(1)
        self.expected = (torch.sigmoid(logits) * inside).flatten(1).sum(1)

    def __call__(
        self, row: Int[Tensor, "n"], rotation: Float[Tensor, "n 3 3"], position: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n"]:
        """Scores of N poses."""
        fused = None if self.scene is None else quick_scores(self.scene, row, rotation, position)
        if fused is not None:
            return fused
        parts = zip(row.split(_CHUNK), rotation.split(_CHUNK), position.split(_CHUNK), strict=True)
        return torch.cat([self._chunk(*part) for part in parts])

    def _chunk(
        self, row: Int[Tensor, "n"], rotation: Float[Tensor, "n 3 3"], position: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n"]:
        turned = torch.stack((self.points, self.normals)).flatten(0, 1) @ rotation.transpose(1, 2)
        seen, normals = turned[:, :_POINTS] + position[:, None], turned[:, _POINTS:]
        depth = seen[..., 2].clamp_min(1e-3)
        K = self.K[row]
        u = (seen[..., 0] / depth * K[:, 0, 0, None] + K[:, 0, 2, None]).round().clamp(-1e6, 1e6)
        v = (seen[..., 1] / depth * K[:, 1, 1, None] + K[:, 1, 2, None]).round().clamp(-1e6, 1e6)
        within = (u >= 0) & (v >= 0) & (u < self.width) & (v < self.height)
        pixel = v.clamp(0, self.height - 1).long() * self.width + u.clamp(0, self.width - 1).long()
        pixel = row[:, None] * (self.width * self.height) + pixel
        shown = self.surface.shown(rotation, position, _POINTS)
        facing = -(normals * seen).sum(-1)
        scale = self.area * shown * (K[:, 0, 0] * K[:, 1, 1])[:, None]
        covered = scale * facing.clamp_min(0) / depth**3 * within * self.inside[pixel]
        match = self.match[self.place[pixel] * _POINTS + torch.arange(_POINTS, device=pixel.device)]
        mean = (covered * match).sum(1) / covered.sum(1).clamp_min(1e-6)
        mask = self.background[row] + (covered * self.mask[pixel]).sum(1)
        return (self.weight * mask + self.expected[row] * mean) / self.pixels[row]

"""Methods with a query image: what solvers need of them, and how well a pose agrees with their output."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.geometry import project_points
from cad2pose.geometry.crop import sample_image
from cad2pose.methods.method import Method
from cad2pose.networks import KeyNetwork
from cad2pose.solvers import QueryMaps
from cad2pose.structures import CropBatch

_CONTRAST_KEYS = 1024
_KEY_CHUNK = 16_384


class QueryImageMethod(Method):
    """A method that gives every pixel a query and every point of a surface a key.

    Attributes:
        keys: a coordinate network per part.
    """

    keys: KeyNetwork
    _known_keys: Tensor | None = None

    @abstractmethod
    def query_maps(self, output: Any, batch: CropBatch) -> QueryMaps:
        """The query images of an output, with the full silhouettes and the cameras that see them."""

    def load_state_dict(self, *args: Any, **named: Any) -> Any:
        """As ever; keys of the weights before are forgotten."""
        self._known_keys = None
        return super().load_state_dict(*args, **named)

    def train(self, mode: bool = True) -> QueryImageMethod:
        """As in torch; also forgets the keys it keeps, which training would change."""
        self._known_keys = None
        super().train(mode)
        return self

    @torch.no_grad()
    def surface_keys(self, part_index: int, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n e"]:
        """Keys of one part's surface points, in normalised coordinates; to be kept by whoever needs them again."""
        index = torch.tensor([part_index], device=points.device)
        chunks = [self.keys(chunk[None], index)[0] for chunk in points.split(_KEY_CHUNK)]
        return torch.cat(chunks)

    @torch.no_grad()
    def agreement(
        self,
        maps: QueryMaps,
        rotation: Float[Tensor, "batch 3 3"],
        position: Float[Tensor, "batch 3"],
        index: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch"]:
        """How well poses agree with the masks and the queries, in [0, 1].

        The front-facing ones of 256 surface points are projected with the pose; each adds the mask's
        probability there times sigmoid(log p(point | query) - log p(point | chance)).

        Args:
            maps: of B crops.
            rotation, position: R_virt_obj, and where the sphere's centre is, mm.
            index: of the parts.
        """
        points = self.parts.sparse[index] * self.parts.radius[index][:, None, None]
        seen = points @ rotation.transpose(1, 2) + position[:, None]
        normals = self.parts.sparse_normals[index] @ rotation.transpose(1, 2)
        front = ((normals * seen).sum(-1) < 0).float()
        cells = project_points(maps.K.to(seen), seen)[:, :, None]
        sampled, inside = sample_image(torch.cat((maps.queries, torch.sigmoid(maps.mask_logits)[:, None]), 1), cells)
        sampled = sampled[..., 0].transpose(1, 2)
        queries, mask = sampled[..., :-1], sampled[..., -1] * inside[:, 0, :, 0]
        own_keys, contrast_keys = self._few_keys()
        own = (queries * own_keys[index]).sum(-1)
        chance = torch.logsumexp(queries @ contrast_keys[index].transpose(1, 2), -1)
        ratio = own - chance + math.log(_CONTRAST_KEYS)
        return (front * mask * torch.sigmoid(ratio)).sum(1) / front.sum(1).clamp_min(1)

    def _few_keys(self) -> tuple[Float[Tensor, "parts 256 e"], Float[Tensor, "parts contrast e"]]:
        """Keys of the points that are projected, and of those that stand for chance."""
        keys = self._known_keys
        if keys is None or self.training:
            points = torch.cat((self.parts.sparse, self.parts.surface[:, :_CONTRAST_KEYS]), dim=1)
            keys = self.keys(points, torch.arange(len(self.parts), device=points.device))
            self._known_keys = keys
        sparse = self.parts.sparse.shape[1]
        return keys[:, :sparse], keys[:, sparse:]

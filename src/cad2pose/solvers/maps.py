"""What a network says of B crops, as solvers take it: query images, masks, and the cameras that see them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from cad2pose.geometry import resized_intrinsics


@dataclass(frozen=True)
class QueryMaps:
    """Query images with their masks.

    Args:
        queries: `(B, E, h, w)`.
        mask_logits: `(B, h, w)` of the full silhouette.
        valid: `(B, h, w)` share of each pixel that lies inside the source image.
        K: `(B, 3, 3)` of the crop cameras at this resolution, pixel centres at integers.
    """

    queries: Float[Tensor, "b e h w"]
    mask_logits: Float[Tensor, "b h w"]
    valid: Float[Tensor, "b h w"]
    K: Float[Tensor, "b 3 3"]

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: slice | Tensor) -> QueryMaps:
        return QueryMaps(self.queries[index], self.mask_logits[index], self.valid[index], self.K[index])

    @classmethod
    def of_crops(
        cls,
        queries: Float[Tensor, "b e h w"],
        mask_logits: Float[Tensor, "b h w"],
        valid: Float[Tensor, "b 1 r r"],
        K_virt: Float[Tensor, "b 3 3"],
    ) -> QueryMaps:
        """From a method's output and the crops (r x r) it looked at."""
        stride = valid.shape[-1] // queries.shape[-1]
        K = resized_intrinsics(K_virt.to(queries.dtype), 1 / stride)
        return cls(queries.float(), mask_logits.float(), avg_pool2d(valid, stride)[:, 0], K)

    def in_mask(self, least: float) -> Bool[Tensor, "b h w"]:
        """Pixels inside the source image that show the part with at least this probability."""
        return (self.valid >= 0.5) & (torch.sigmoid(self.mask_logits) >= least)

    def factor_of_side(self, side: int) -> int:
        """By which these maps are made coarser at most, if at least `side` pixels are to be left across."""
        return max(1, self.queries.shape[-1] // side)

    def coarser(self, factor: int) -> QueryMaps:
        """Means over factor x factor pixels; a remainder on the right and lower side is left out."""
        if factor == 1:
            return self
        small = avg_pool2d(torch.cat((self.queries, self.mask_logits[:, None], self.valid[:, None]), dim=1), factor)
        return QueryMaps(small[:, :-2], small[:, -2], small[:, -1], resized_intrinsics(self.K, 1 / factor))

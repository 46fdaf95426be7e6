"""Distances from a surface on a raster: coarse, and very fast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

_CELLS = 96  # along each side
_EXTENT = 1.1  # of the raster, in radii from the centre
CELL = 2 * _EXTENT / _CELLS
"""Side of a cell in radii; distances are wrong by about as much, by 1.5 of it at most."""


@dataclass(frozen=True, eq=False)
class DistanceField:
    """Distances at the cells of a raster over a ball.

    Args:
        distances: of the cells' middles in radii, flat.
        center: `(3,)` of the ball, mm.
        radius: of the ball, mm.
    """

    distances: Float[Tensor, "cells"]
    center: Float[Tensor, "3"]
    radius: float

    @classmethod
    def of_points(cls, points: Float[Tensor, "n 3"], center: Float[Tensor, "3"], radius: float) -> DistanceField:
        """Field of points that are dense on a surface, all in the ball, mm."""
        unit = ((points - center) / radius).numpy()
        index = np.clip((unit / _EXTENT + 1) * (_CELLS / 2), 0, _CELLS - 1).astype(np.int64)
        empty = np.ones((_CELLS,) * 3, dtype=bool)
        empty[tuple(index.T)] = False
        distances = torch.from_numpy(np.asarray(distance_transform_edt(empty), dtype=np.float32)).flatten() * CELL
        return cls(distances, center, radius)

    def distance(self, places: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape"]:
        """Distances of places (mm) in radii, float32; beyond the raster, that of its rim."""
        unit = (places - self.center) / self.radius
        cell = ((unit / _EXTENT + 1) * (_CELLS / 2)).long().clamp_(0, _CELLS - 1)
        return self.distances[(cell[..., 0] * _CELLS + cell[..., 1]) * _CELLS + cell[..., 2]]

"""The best of many poses that differ from each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.kernels import distinct_poses


@dataclass(frozen=True)
class Gap:
    """Two poses are the same where both their rotations and their positions are closer than this.

    Attributes:
        rotation: rad.
        position: radii.
    """

    rotation: float = 0.3
    position: float = 0.3


def distinct(
    poses: Hypotheses, values: Float[Tensor, "n"], crops: int, count: int, gap: Gap
) -> Int[Tensor, "crops {count}"]:
    """For every crop the indices of up to `count` poses, best first: each the best that differs from those before.

    Poses of a crop must follow each other. Where there are no more, or none of a finite value, the index is -1.
    """
    alike = 1 + 2 * math.cos(gap.rotation)  # trace of the rotation between two that are as close
    found = distinct_poses(poses.row, poses.rotation, poses.position, values, crops, count, alike, gap.position**2)
    if found is not None:
        return found
    sizes = torch.bincount(poses.row, minlength=crops)
    longest = max(1, int(sizes.max()) if crops else 1)
    first = sizes.cumsum(0) - sizes
    place = torch.arange(len(poses), device=poses.row.device) - first[poses.row]
    table = torch.full((crops, longest), -torch.inf, device=values.device, dtype=values.dtype)
    table[poses.row, place] = torch.where(values.isfinite(), values, -torch.inf)
    rotation = poses.rotation.new_zeros(crops, longest, 9)
    rotation[poses.row, place] = poses.rotation.flatten(1)
    position = poses.position.new_zeros(crops, longest, 3)
    position[poses.row, place] = poses.position
    crop = torch.arange(crops, device=values.device)
    picked = []
    for _ in range(count):
        best, index = table.max(1)
        picked.append(torch.where(best.isfinite(), first + index, -1))
        trace = torch.einsum("bnk,bk->bn", rotation, rotation[crop, index])
        apart = (position - position[crop, index][:, None]).square().sum(-1)
        table = table.masked_fill((trace > alike) & (apart < gap.position**2), -torch.inf)
        table[crop, index] = -torch.inf
    return torch.stack(picked, dim=1)

"""Several estimates of one pose, made from differently cut crops, become one: robust, symmetry-aware."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.geometry import geodesic_distance, make_transform, nearest_rotation
from cad2pose.structures import Poses

INLIER_ANGLE = math.radians(30)


def fuse_poses(
    T_cam_obj: Float[Tensor, "batch copies 4 4"],
    score: Float[Tensor, "batch copies"],
    symmetry: Float[Tensor, "symmetries 3 3"],
    center: Float[Tensor, "3"],
    inlier_angle: float = INLIER_ANGLE,
) -> tuple[Float[Tensor, "batch 4 4"], Float[Tensor, "batch"]]:
    """One pose from each group of copies.

    The medoid is the copy whose rotation has the least score-weighted sum of symmetry-aware angles to the others.
    Every copy is brought to its symmetric equivalent nearest to the medoid; those nearer than `inlier_angle` are
    averaged: the chordal mean of the rotations (weighted by score), and medians for where the part's centre is seen
    and for the logarithm of its distance. Copies without a pose (NaN) have no say in it.

    Args:
        T_cam_obj: `(B, N, 4, 4)` poses of the copies, mm, mesh file's frame.
        score: `(B, N)` of the copies, not negative; 0 where there is no pose.
        symmetry: `(K, 3, 3)` rotations that leave the part unchanged, identity among them; as they leave the
            centre of its bounding sphere where it is, they need no translation.
        center: `(3,)` centre of the part's bounding sphere, mm, mesh file's frame.
        inlier_angle: in radians.

    Returns:
        `(B, 4, 4)` poses, NaN where no copy has one, and `(B,)` scores: the mean score of all copies times the share
        of inliers.
    """
    fused = _fuse(T_cam_obj, score, symmetry, center, inlier_angle)
    return fused.T_cam_obj, fused.score


def fuse_copies(
    copies: Poses, count: int, symmetry: Float[Tensor, "symmetries 3 3"], center: Float[Tensor, "3"]
) -> Poses:
    """As `fuse_poses`, of `count` copies of each pose that follow each other, with what is known of them.

    The alternatives and the free axis are the medoid's; the covariance is the inliers' mean: the copies are looks at
    one picture, and what misleads one misleads all.
    """
    shape = (len(copies) // count, count)
    fused = _fuse(copies.T_cam_obj.unflatten(0, shape), copies.score.unflatten(0, shape), symmetry, center)
    details = copies.details[torch.arange(shape[0]) * count + fused.medoid]
    weight = fused.inlier.double()
    each = copies.details.covariance.unflatten(0, shape)
    mean = (torch.nan_to_num(each) * weight[..., None, None]).sum(1) / weight.sum(1)[:, None, None]
    unknown = (torch.isnan(each).flatten(2).any(2) & fused.inlier).any(1) | ~fused.inlier.any(1)
    mean[unknown] = torch.nan
    alternatives = details.alternatives.clone()
    if alternatives.shape[1]:
        known = ~torch.isnan(alternatives[:, 0, 0, 0])
        alternatives[known, 0] = fused.T_cam_obj[known]
    return Poses(fused.T_cam_obj, fused.score, replace(details, covariance=mean, alternatives=alternatives))


@dataclass(frozen=True)
class _Fused:
    T_cam_obj: Float[Tensor, "batch 4 4"]
    score: Float[Tensor, "batch"]
    medoid: Int[Tensor, "batch"]
    inlier: Bool[Tensor, "batch copies"]


def _fuse(
    T_cam_obj: Float[Tensor, "batch copies 4 4"],
    score: Float[Tensor, "batch copies"],
    symmetry: Float[Tensor, "symmetries 3 3"],
    center: Float[Tensor, "3"],
    inlier_angle: float = INLIER_ANGLE,
) -> _Fused:
    there = torch.isfinite(T_cam_obj).all(-1).all(-1)
    T_cam_obj = torch.where(there[..., None, None], T_cam_obj, torch.eye(4).to(T_cam_obj))
    rotation = T_cam_obj[..., :3, :3]
    position = rotation @ center.to(rotation) + T_cam_obj[..., :3, 3]
    weight = torch.where(there, score + 1e-9, 0)
    medoid, nearest, angle = _medoid(rotation, weight, there, symmetry.to(rotation))
    rows = torch.arange(len(rotation), device=rotation.device)
    aligned = rotation @ symmetry.to(rotation)[nearest[rows, :, medoid]]
    inlier = there & (angle[rows, :, medoid] <= inlier_angle)
    mean = _chordal_mean(aligned, torch.where(inlier, weight, 0))
    middle = _median_position(position, inlier)
    fused = make_transform(mean, middle - mean @ center.to(mean))
    fused[~there.any(1)] = torch.nan
    return _Fused(fused, (score * there).mean(1) * inlier.to(score).mean(1), medoid, inlier)


def _medoid(
    rotation: Float[Tensor, "batch copies 3 3"],
    weight: Float[Tensor, "batch copies"],
    there: Bool[Tensor, "batch copies"],
    symmetry: Float[Tensor, "symmetries 3 3"],
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch copies copies"], Float[Tensor, "batch copies copies"]]:
    """Index of the medoid; for each pair (i, j) the symmetry that takes copy i nearest to j, and the angle left."""
    between = rotation[:, None].transpose(-1, -2) @ rotation[:, :, None]  # [i, j] = R_j^T R_i
    trace = torch.einsum("bijmn,knm->bijk", between, symmetry)  # of R_j^T R_i S_k
    nearest = trace.argmax(-1)
    left = between @ symmetry[nearest]
    angle = geodesic_distance(torch.eye(3).to(left).expand_as(left), left)
    medoid = (weight[:, :, None] * angle).sum(1).masked_fill(~there, torch.inf).argmin(-1)
    return medoid, nearest, angle


def _chordal_mean(
    rotation: Float[Tensor, "batch copies 3 3"], weight: Float[Tensor, "batch copies"]
) -> Float[Tensor, "batch 3 3"]:
    """The rotation with the least weighted sum of squared Frobenius distances (Hartley et al. 2013, section 5.3)."""
    total = weight.sum(1)[:, None, None]
    mean = (weight[..., None, None] * rotation).sum(1) / total
    return nearest_rotation(torch.where(total > 0, mean, torch.eye(3).to(mean)))


def _median_position(
    position: Float[Tensor, "batch copies 3"], use: Bool[Tensor, "batch copies"]
) -> Float[Tensor, "batch 3"]:
    """Median of the directions and of the logarithms of the distances of the positions in use.

    Depth is far less certain than direction, so the two must not mix as they would in a median of x, y and z.
    """
    distance = torch.linalg.vector_norm(position, dim=-1, keepdim=True).clamp_min(1e-9)
    polar = torch.cat((position / distance, distance.log()), dim=-1)
    polar = torch.where(use[..., None], polar, torch.nan)
    polar = polar.nanquantile(0.5, dim=1) if len(polar) else polar.sum(1)  # torch has no quantile of nothing
    return torch.nn.functional.normalize(polar[:, :3], dim=-1) * polar[:, 3:].exp()

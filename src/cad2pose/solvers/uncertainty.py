"""How sure a pose is: covariance from the score's curvature, and directions that nothing is known of.

Near its maximum the likelihood is taken for a Gaussian (Laplace): the covariance is the inverse of the information of
all pixels together. Neighbouring pixels say nearly the same, so a crop counts as `independent` pixels only; what that
number should be depends on the network, and one factor that is fitted on crops of known pose sets it right.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from cad2pose.geometry import axis_angle_from_rotation, rotation_from_axis_angle
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.key_symmetry import turns_apart
from cad2pose.solvers.score import PoseScore

CHI_SQUARE_90 = {5: 9.2364, 6: 10.6446}
"""What a chi-square variable of so many degrees of freedom stays below with probability 0.9."""

_AS_LIKELY = 0.01


def free_axes(
    score: PoseScore, poses: Hypotheses, axis: Float[Tensor, "3"], crops: int, independent: float
) -> Float[Tensor, "crops 3"]:
    """The axis about which the pose of a crop may turn at will, in the crop camera; zeros where there is none.

    Args:
        score: of poses.
        poses: at most one of each crop.
        axis: about which the keys are (all but) symmetric, in the object's frame, of length 1.
        crops: their number.
        independent: pixels that a crop counts as; every turn must be at least `_AS_LIKELY` times as likely as the pose.
    """
    free = torch.zeros(crops, 3, device=axis.device)
    if not len(poses):
        return free
    axes = poses.rotation @ axis
    angle = turns_apart().to(axes)
    rotation = (rotation_from_axis_angle(axes[:, None] * angle[:, None]) @ poses.rotation[:, None]).flatten(0, 1)
    row, position = (t.repeat_interleave(len(angle), dim=0) for t in (poses.row, poses.position))
    there = score(row, rotation, position).unflatten(0, (len(poses), -1))
    loss = (score(poses.row, poses.rotation, poses.position)[:, None] - there).amax(1)
    free[poses.row] = axes * (independent * loss < -math.log(_AS_LIKELY))[:, None]
    return free


def covariance(
    information: Float[Tensor, "n 6 6"], free: Float[Tensor, "n 3"], independent: float
) -> Float64[Tensor, "n 6 6"]:
    """Inverse of the information of `independent` pixels; nothing of it along the free axes.

    Directions are (rotation vector, translation) of the left perturbation, rad and radii; the translations that a turn
    about a free axis would bring are kept.
    """
    total = information.double() * independent
    axis = torch.cat((free.double(), torch.zeros_like(free.double())), dim=1)
    others = torch.eye(6, dtype=torch.float64, device=total.device) - axis[:, :, None] * axis[:, None]
    within = others @ total @ others
    scale = torch.diagonal(total, dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-9)
    # a stand-in curvature along the axis makes the matrix invertible and is taken out of the inverse again
    whole = within + scale * axis[:, :, None] * axis[:, None]
    whole = whole + 1e-6 * scale * torch.eye(6, dtype=torch.float64, device=total.device)
    return others @ torch.linalg.inv(whole) @ others


def squared_distance(
    rotation: Float[Tensor, "n 3 3"],
    position: Float[Tensor, "n 3"],
    rotation_true: Float[Tensor, "n 3 3"],
    position_true: Float[Tensor, "n 3"],
    covariance: Float[Tensor, "n 6 6"],
) -> Float64[Tensor, "n"]:
    """Squared Mahalanobis distance of true poses from estimates, in the directions that have a variance.

    Where the estimates are right about themselves it is chi-square distributed, with 6 degrees of freedom or, next to
    a free axis, 5. Units as of the covariance.
    """
    turn = axis_angle_from_rotation(rotation_true.double() @ rotation.double().transpose(1, 2))
    error = torch.cat((turn, position_true.double() - position.double()), dim=1)
    inverse = torch.linalg.pinv(covariance.double(), rtol=1e-9, hermitian=True)
    return torch.einsum("ni,nij,nj->n", error, inverse, error)


def fit_factor(squared: Float[Tensor, "n"], degrees: Int[Tensor, "n"]) -> float:
    """The factor on covariances by which 90 % of the true poses lie within the 90 % ellipsoid.

    Args:
        squared: `(N,)` squared Mahalanobis distances of true poses.
        degrees: `(N,)` degrees of freedom of each, 5 or 6.
    """
    limits = torch.tensor([CHI_SQUARE_90[int(d)] for d in degrees], dtype=torch.float64)
    return float((squared.double().cpu() / limits).quantile(0.9))


def within_90(squared: Float[Tensor, "n"], degrees: Int[Tensor, "n"], factor: float = 1.0) -> Bool[Tensor, "n"]:
    """Which true poses the 90 % ellipsoid holds, its covariance times a factor."""
    limits = torch.tensor([CHI_SQUARE_90[int(d)] for d in degrees], dtype=torch.float64)
    return squared.double().cpu() <= factor * limits

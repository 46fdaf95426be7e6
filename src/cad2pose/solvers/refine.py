"""Refinement: poses climb the score by damped Newton-like steps on SE(3), many at once.

Levenberg-Marquardt with the score's information matrix in place of the Hessian, left perturbations
R <- exp(w) R, t <- t + d (rad, and radii of the bounding sphere). Steps are sought for (w, across, scale): two of d are
radii across the view, the third is a share of the position itself, a move along the ray. Written in radii, the depth of
a part that is seen from far away changes the picture so little that damping would hold it where it is. A step is taken
only where the score, with the visible set of the new pose, is higher; so no step lowers it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.geometry import rotation_from_axis_angle
from cad2pose.solvers.kernels import climbed
from cad2pose.solvers.scene import Climb
from cad2pose.solvers.score import Linearization, PoseScore

_TAIL = 8.0  # degrees of freedom of a prior's distribution


@dataclass(frozen=True)
class RefineOptions:
    """Settings of `refine`.

    Attributes:
        iterations: most steps tried.
        damping: factor on the information matrix in the first step; it falls with every success.
        tolerance: where a step is smaller (rad, radii, share of the position), nothing more is tried.
        largest_step: in the same units.
    """

    iterations: int = 20
    damping: float = 0.3
    tolerance: float = 3e-4
    largest_step: float = 0.3


@dataclass(frozen=True)
class DepthPrior:
    """What is known of the depths before: log z lies about that of `depth`, by Student's t of eight degrees of freedom,
    so that an image which tells another depth altogether overrules it.

    Args:
        depth: `(N,)` expected depth of the sphere's centre, radii.
        sigma: scale of log z.
        samples: `(N,)` independent pixels behind each score, a mean, which the prior is weighed against.
    """

    depth: Float[Tensor, "n"]
    sigma: float
    samples: Float[Tensor, "n"]

    def __getitem__(self, index: Tensor) -> DepthPrior:
        return DepthPrior(self.depth[index], self.sigma, self.samples[index])

    def added_to(self, found: Linearization, position: Float[Tensor, "n 3"]) -> Linearization:
        """The score with the prior's logarithm."""
        z = position[:, 2]
        off = torch.log(z / self.depth) / self.sigma
        weight = (_TAIL + 1) / (_TAIL + off.square()) / self.samples
        gradient, information = found.gradient.clone(), found.information.clone()
        gradient[:, 5] -= weight * off / (self.sigma * z)
        information[:, 5, 5] += weight / (self.sigma * z).square()
        lost = (_TAIL + 1) / 2 * torch.log1p(off.square() / _TAIL) / self.samples
        return Linearization(found.value - lost, gradient, information)


@dataclass(frozen=True)
class Refined:
    """Poses after refinement.

    Args:
        rotation: `(N, 3, 3)`.
        position: `(N, 3)`.
        score: `(N,)`, the prior included.
        accepted: `(N,)` steps taken.
    """

    rotation: Float[Tensor, "n 3 3"]
    position: Float[Tensor, "n 3"]
    score: Float[Tensor, "n"]
    accepted: Int[Tensor, "n"]


def refine(
    score: PoseScore,
    row: Int[Tensor, "n"],
    rotation: Float[Tensor, "n 3 3"],
    position: Float[Tensor, "n 3"],
    options: RefineOptions | None = None,
    prior: DepthPrior | None = None,
) -> Refined:
    """Climb from every given pose to a maximum of the score near it, of score and prior where one is given."""
    options = options or RefineOptions()
    fused = climbed(score.scene(), row, rotation, position, _climb(options, prior))
    if fused is not None:
        return Refined(fused.rotation, fused.position, fused.value, fused.accepted)

    def judged(
        rows: Int[Tensor, "k"], rotation: Float[Tensor, "k 3 3"], position: Float[Tensor, "k 3"]
    ) -> Linearization:
        found = score.linearize(row[rows], rotation, position)
        return found if prior is None else prior[rows].added_to(found, position)

    active = torch.arange(len(row), device=row.device)
    rotation, position = rotation.clone(), position.clone()
    now = judged(active, rotation, position)
    value = now.value.clone()
    damping = torch.full_like(now.value, options.damping)
    accepted = torch.zeros_like(row)
    for _ in range(options.iterations):
        step, size = _step(now, position[active], damping, options.largest_step)
        rotation_next, position_next = perturb(step, rotation[active], position[active])
        following = judged(active, rotation_next, position_next)
        better = following.value > now.value
        rotation[active] = torch.where(better[:, None, None], rotation_next, rotation[active])
        position[active] = torch.where(better[:, None], position_next, position[active])
        now = _chosen(better, following, now)
        value[active] = now.value
        accepted[active] += better
        damping = torch.where(better, damping * 0.4, damping * 4).clamp(1e-3, 1e3)
        going = (size >= options.tolerance).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(active):
            active, damping = active[going], damping[going]
            now = Linearization(now.value[going], now.gradient[going], now.information[going])
    return Refined(rotation, position, value, accepted)


def _climb(options: RefineOptions, prior: DepthPrior | None) -> Climb:
    """Settings as the kernel takes them."""
    climb = Climb(options.iterations, options.damping, options.tolerance, options.largest_step)
    if prior is None:
        return climb
    return replace(climb, prior_sigma=prior.sigma, prior_depth=prior.depth, prior_samples=prior.samples)


def perturb(
    step: Float[Tensor, "n 6"], rotation: Float[Tensor, "n 3 3"], position: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
    """Left perturbation: rotation vector first, then translation."""
    return rotation_from_axis_angle(step[:, :3]) @ rotation, position + step[:, 3:]


def _step(
    now: Linearization, position: Float[Tensor, "n 3"], damping: Float[Tensor, "n"], largest: float
) -> tuple[Float[Tensor, "n 6"], Float[Tensor, "n"]]:
    """The damped step as a left perturbation, and its largest part in the unknowns that it is sought in."""
    along = torch.eye(6, dtype=position.dtype, device=position.device).repeat(len(position), 1, 1)
    along[:, 3:, 5] = position
    information = along.transpose(1, 2) @ now.information @ along
    gradient = (along.transpose(1, 2) @ now.gradient[..., None])[..., 0]
    diagonal = torch.diagonal(information, dim1=1, dim2=2)
    floor = diagonal.mean(1, keepdim=True).clamp_min(1e-9)
    damped = (information + torch.diag_embed(0.1 * diagonal + 1e-2 * floor)) * damping[:, None, None]
    step = torch.nan_to_num(torch.linalg.solve_ex(damped.double(), gradient.double())[0].to(gradient))
    step = step * (largest / step.abs().amax(1, keepdim=True).clamp_min(largest))
    return (along @ step[..., None])[..., 0], step.abs().amax(1)


def _chosen(better: Bool[Tensor, "n"], a: Linearization, b: Linearization) -> Linearization:
    return Linearization(
        torch.where(better, a.value, b.value),
        torch.where(better[:, None], a.gradient, b.gradient),
        torch.where(better[:, None, None], a.information, b.information),
    )

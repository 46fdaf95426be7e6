"""Depth refinement: where a depth image is given, it says how far away a pose is.

A pose moves along the ray through the bounding sphere's centre until its visible surface lies where most measurements
have it. Measurements may be missing, wrong, or of something that stands before the part: the shift that most of them
agree on is looked for first, and then their robust mean (iteratively reweighted, Tukey's biweight). Rotation, and where
the centre is seen, stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cad2pose.settings import check_positive
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.maps import QueryMaps
from cad2pose.solvers.surface import Surface

_STEPS = 121
_TUKEY = 4.685  # times the spread: where the biweight ends, for 95 % efficiency
_MAD = 1.4826


@dataclass(frozen=True)
class DepthOptions:
    """Settings of `refine_depth`.

    Attributes:
        points: surface samples used, of the evenly spread ones.
        reach: largest relative change of the distance.
        expected: standard deviation of the relative error of the distance before.
        width: measurements within this many radii agree, to begin with.
        rounds: of the robust mean.
        least_mask: mask probability below which a measurement does not count.
        least_points: samples with a measurement without which nothing is changed.
        least_agreeing: share of the measurements that must agree, without which nothing is changed.
        independent: the measurements count as so many independent ones at most.
        largest_ratio: of measured and expected distance, beyond which the depth image is in another unit.
    """

    points: int = 1024
    reach: float = 0.3
    expected: float = 0.1
    width: float = 0.1
    rounds: int = 6
    least_mask: float = 0.3
    least_points: int = 16
    least_agreeing: float = 0.15
    independent: float = 25.0
    largest_ratio: float = 3.0

    def __post_init__(self) -> None:
        check_positive(
            self, "points", "reach", "expected", "width", "rounds", "least_points", "independent", "largest_ratio"
        )


@dataclass(frozen=True)
class DepthRefined:
    """Poses after depth refinement.

    Args:
        position: `(N, 3)` radii.
        sigma: `(N,)` standard deviation of the distance, radii; NaN where depth changed nothing.
        agreeing: `(N,)` share of the measurements on the visible surface that agree with the pose.
    """

    position: Float[Tensor, "n 3"]
    sigma: Float[Tensor, "n"]
    agreeing: Float[Tensor, "n"]


def refine_depth(
    surface: Surface,
    maps: QueryMaps,
    depth: Float[Tensor, "b r r"],
    K: Float[Tensor, "b 3 3"],
    poses: Hypotheses,
    options: DepthOptions | None = None,
) -> DepthRefined:
    """Move poses along their rays to where the depth image has the part.

    Args:
        surface: of the part.
        maps: of the B crops; their masks say which measurements count.
        depth: z in the crop camera in radii, 0 where there is none; of any resolution.
        K: of the crop cameras at the depth's resolution.
        poses: in these crops.
        options: settings.

    Raises:
        ValueError: for a number of points that the surface has not.
    """
    options = options or DepthOptions()
    if not len(poses):
        return DepthRefined(poses.position, poses.position[:, 0], poses.position[:, 0])
    measured = _in_mask(depth, maps, options.least_mask)
    start = poses.position[:, 2]
    position = poses.position
    shift = torch.linspace(-1, 1, _STEPS, device=start.device) * options.reach * start[:, None]
    residual, weight = _residuals(surface, measured, K, poses, position, options.points)
    count = (weight > 0).sum(1)
    agree = torch.zeros_like(shift)
    for column, offset in enumerate(shift.unbind(1)):  # one at a time: all of them would take much memory
        near = ((residual - offset[:, None]) / options.width).square()
        agree[:, column] = (weight * torch.exp(-0.5 * near.clamp_max(50))).sum(1)
    likely = agree * torch.exp(-0.5 * (shift / (options.expected * start[:, None])).square())
    move = shift.gather(1, likely.argmax(1, keepdim=True))[:, 0]
    spread = torch.full_like(start, 1.5 * options.width)
    for _ in range(options.rounds):
        position = position * (1 + move / position[:, 2]).clamp(0.2, 5)[:, None]
        residual, weight = _residuals(surface, measured, K, poses, position, options.points)
        bi = (1 - (residual / (_TUKEY * spread[:, None])).square()).clamp_min(0).square() * weight
        move = (bi * residual).sum(1) / bi.sum(1).clamp_min(1e-9)
        off = (residual - move[:, None]).abs()
        near = weight * (bi > 0)
        spread = (_MAD * _weighted_median(off, near)).clamp(0.01, 1.5 * options.width)
    position = position * (1 + move / position[:, 2])[:, None]
    agreeing = near.sum(1) / weight.sum(1).clamp_min(1e-9)
    changed = (position[:, 2] / start - 1).abs() <= 1.2 * options.reach
    used = (count >= options.least_points) & (agreeing >= options.least_agreeing) & changed
    sigma = spread / count.clamp(1, options.independent).sqrt()
    return DepthRefined(
        torch.where(used[:, None], position, poses.position), sigma.masked_fill(~used, torch.nan),
        torch.where(used, agreeing, 0.0),
    )  # fmt: skip


def other_unit(
    maps: QueryMaps, depth: Float[Tensor, "b r r"], distance: Float[Tensor, "b"], options: DepthOptions | None = None
) -> list[str | None]:
    """For crops whose depth is nowhere near the part's distance, the reason why it cannot be of use.

    Args:
        maps, depth: as of `refine_depth`.
        distance: of the part in every crop as the image has it, radii; NaN where there is no pose.
        options: settings.
    """
    options = options or DepthOptions()
    measured = _in_mask(depth, maps, options.least_mask).flatten(1)
    known = torch.where(measured > 0, measured, torch.nan)
    ratio = known.nanmedian(1).values / distance
    told = (known.isfinite().sum(1) >= options.least_points) & ratio.isfinite()  # NaN: no pose
    apart = told & ((ratio <= 1 / options.largest_ratio) | (ratio >= options.largest_ratio))
    return [
        f"the depth image has the part at {times:.3g} times the distance at which the image shows it; "
        "is it in another unit than mm?" if wrong else None
        for times, wrong in zip(ratio.tolist(), apart.tolist(), strict=True)
    ]  # fmt: skip


def measured_along_ray(
    covariance: Float[Tensor, "n 6 6"], position: Float[Tensor, "n 3"], sigma: Float[Tensor, "n"]
) -> Float64[Tensor, "n 6 6"]:
    """Covariances of poses whose distance was measured: along the ray nothing is left of what was thought before.

    Args:
        covariance: of the left perturbation (rotation vector, translation).
        position: of the sphere's centre.
        sigma: standard deviation of z; NaN where it was not measured.
    """
    ray = position.double() / position.double()[:, 2:]
    along = torch.cat((torch.zeros_like(ray), ray), dim=1)
    # translations lose their part along the ray: what the ray's z component says is put in its place
    keep = torch.eye(6, dtype=torch.float64, device=ray.device).repeat(len(ray), 1, 1)
    keep[:, :, 5] -= along
    new = keep @ covariance.double() @ keep.transpose(1, 2)
    new = new + sigma.double().square()[:, None, None] * along[:, :, None] * along[:, None]
    return torch.where(torch.isnan(sigma)[:, None, None], covariance.double(), new)


def _in_mask(depth: Float[Tensor, "b r r"], maps: QueryMaps, least: float) -> Float[Tensor, "b r r"]:
    """Measurements where the mask has the part, 0 elsewhere."""
    shown = maps.in_mask(least).float()[:, None]
    inside = torch.nn.functional.interpolate(shown, size=depth.shape[1:], mode="nearest")[:, 0]
    return torch.where((inside > 0) & torch.isfinite(depth), depth, 0.0).clamp_min(0)


def _residuals(
    surface: Surface,
    depth: Float[Tensor, "b r r"],
    K: Float[Tensor, "b 3 3"],
    poses: Hypotheses,
    position: Float[Tensor, "n 3"],
    count: int,
) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"]]:
    """Measured less expected depth of every sample, and the area that it covers; 0 where nothing is measured."""
    seen = surface.points[:count] @ poses.rotation.transpose(1, 2) + position[:, None]
    normals = surface.normals[:count] @ poses.rotation.transpose(1, 2)
    z = seen[..., 2].clamp_min(1e-3)
    K = K.to(seen)[poses.row]
    u = (seen[..., 0] / z * K[:, 0, 0, None] + K[:, 0, 2, None]).round().clamp(-1e6, 1e6).long()
    v = (seen[..., 1] / z * K[:, 1, 1, None] + K[:, 1, 2, None]).round().clamp(-1e6, 1e6).long()
    height, width = depth.shape[1:]
    within = (u >= 0) & (v >= 0) & (u < width) & (v < height)
    there = depth[poses.row[:, None], v.clamp(0, height - 1), u.clamp(0, width - 1)]
    facing = -(normals * seen).sum(-1).clamp_max(0)
    shown = surface.shown(poses.rotation, position, count) & within & (there > 0)
    return there - seen[..., 2], surface.area(count) * facing / z**3 * shown


def _weighted_median(values: Float[Tensor, "n s"], weight: Float[Tensor, "n s"]) -> Float[Tensor, "n"]:
    order = values.argsort(1)
    total = weight.gather(1, order).cumsum(1)
    middle = torch.searchsorted(total, (total[:, -1:] / 2).contiguous()).clamp_max(values.shape[1] - 1)
    return values.gather(1, order.gather(1, middle))[:, 0]

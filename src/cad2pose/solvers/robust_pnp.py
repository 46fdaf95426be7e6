"""Poses from dense coordinates, by PnP that survives wrong ones: GDR-Net's alternative end.

OpenCV's USAC (Raguram et al. 2013) with MSAC's score and local optimisation: with nine tenths of the coordinates wrong
it still finds the pose, where plain `solvePnPRansac` does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cad2pose.solvers.usable import THIN, on_a_line

_LEAST = 4


@dataclass(frozen=True)
class CoordinateMaps:
    """What a network says of B crops: the surface point that every cell shows.

    Args:
        points: `(B, 3, h, w)` in the object's frame.
        mask: `(B, h, w)` probability that a cell shows the part.
        K: `(B, 3, 3)` of the crop cameras at this resolution, cell centres at integers.
    """

    points: Float[Tensor, "b 3 h w"]
    mask: Float[Tensor, "b h w"]
    K: Float[Tensor, "b 3 3"]


@dataclass(frozen=True)
class PnPOptions:
    """Settings of `robust_pnp`.

    Attributes:
        least_mask: cells of less mask probability are not used.
        threshold: largest reprojection error of an inlier, in cells.
        confidence: with which the best pose is to be found, if inliers are as many as they seem.
        iterations: most samples drawn.
        least_inliers: with fewer there is no pose.
        seed: of the samples.
    """

    least_mask: float = 0.5
    threshold: float = 1.0
    confidence: float = 0.9999
    iterations: int = 10_000
    least_inliers: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("threshold", "iterations", "least_inliers"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("least_mask", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")


@dataclass(frozen=True)
class PnPPoses:
    """B poses.

    Args:
        T_virt_obj: `(B, 4, 4)` in the unit of the points; NaN where there is none.
        inliers: `(B,)` share of the used cells that agree.
        reasons: why there is no pose; None where there is one.
    """

    T_virt_obj: Float64[Tensor, "b 4 4"]
    inliers: Float64[Tensor, "b"]
    reasons: tuple[str | None, ...]


def robust_pnp(maps: CoordinateMaps, options: PnPOptions | None = None) -> PnPPoses:
    """The pose that most cells of a crop agree on, crop by crop, on the CPU."""
    options = options or PnPOptions()
    every, every_mask = maps.points.detach().double().cpu(), maps.mask.detach().double().cpu()
    poses, shares, reasons = [], [], []
    for points, mask, K in zip(every, every_mask, maps.K.detach().double().cpu(), strict=True):
        used = (mask >= options.least_mask) & torch.isfinite(points).all(0)
        place = used.nonzero().flip(1).double().contiguous().numpy()  # column, row
        T, inliers, reason = _pose(points[:, used].T.contiguous().numpy(), place, K.contiguous().numpy(), options)
        poses.append(torch.from_numpy(T))
        shares.append(inliers / max(1, len(place)))
        reasons.append(reason)
    T_virt_obj = torch.stack(poses) if poses else torch.zeros(0, 4, 4, dtype=torch.float64)
    return PnPPoses(T_virt_obj, torch.tensor(shares, dtype=torch.float64), tuple(reasons))


def _pose(
    points: np.ndarray, place: np.ndarray, K: np.ndarray, options: PnPOptions
) -> tuple[np.ndarray, int, str | None]:
    """The pose, its inliers, and why there is none."""
    nothing = np.full((4, 4), np.nan)
    if len(points) < max(_LEAST, options.least_inliers):
        return nothing, 0, f"{len(points)} cells show the part; PnP needs at least {max(_LEAST, options.least_inliers)}"
    if np.linalg.eigvalsh(np.cov(place.T, bias=True))[0] < THIN**2:
        return nothing, 0, on_a_line(len(points))
    center = points.mean(axis=0)  # wherever the file's origin lies
    usac = cv2.UsacParams()
    usac.confidence, usac.maxIterations, usac.threshold = options.confidence, options.iterations, options.threshold
    usac.score, usac.sampler = cv2.SCORE_METHOD_MSAC, cv2.SAMPLING_UNIFORM
    usac.loMethod, usac.randomGeneratorState = cv2.LOCAL_OPTIM_INNER_LO, options.seed
    try:
        found, _, turn, shift, inliers = cv2.solvePnPRansac(points - center, place, K.copy(), None, params=usac)
    except cv2.error:  # of degenerate points
        found, turn, shift, inliers = False, None, None, None
    count = 0 if inliers is None else len(inliers)
    if not found or turn is None or shift is None or count < options.least_inliers or shift[2, 0] <= 0:
        return nothing, count, f"PnP found no pose that {options.least_inliers} of {len(points)} coordinates agree on"
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(turn)[0]
    T[:3, 3] = shift[:, 0] - T[:3, :3] @ center
    return (T, count, None) if np.isfinite(T).all() else (nothing, count, "PnP gave a pose that is not finite")

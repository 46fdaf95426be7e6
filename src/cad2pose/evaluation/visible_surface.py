"""VSD, the visible surface discrepancy: how far two poses differ in what a depth camera sees of the part.

Definitions: Hodan et al., "BOP Challenge 2020 on 6D Object Localization" (step cost, visibility of 2019), and Hodan et
al., "BOP: Benchmark for 6D Object Pose Estimation" (2018). Nothing is rendered here: depth images come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

VisibilityMode = Literal["bop19", "bop18"]
Cost = Literal["step", "tlinear"]

VSD_DELTA = 15.0
"""mm by which a surface may lie behind the measured one and still count as visible."""

VSD_TAUS = tuple(i / 20 for i in range(1, 11))
"""BOP's tolerances of misalignment, shares of the diameter."""


def depth_to_distance(
    depth: Float[Tensor, "*batch h w"], K: Float[Tensor, "3 3"], origin: tuple[int, int] = (0, 0)
) -> Float[Tensor, "*batch h w"]:
    """Distance of each pixel's point from the camera centre, mm, float64: z sqrt(1 + ((u-cx)/fx)^2 + ((v-cy)/fy)^2).

    Args:
        depth: z in mm, 0 where there is nothing.
        K: intrinsics of the whole image, pixel centres at integers.
        origin: column and row of the whole image at which the depth image's first pixel lies.
    """
    height, width = depth.shape[-2:]
    K = K.double()
    x = (torch.arange(width, dtype=torch.float64) + origin[0] - K[0, 2]) / K[0, 0]
    y = (torch.arange(height, dtype=torch.float64) + origin[1] - K[1, 2]) / K[1, 1]
    return depth.double() * (1 + x.square() + y.square()[:, None]).sqrt()


def visible_mask(
    measured: Float[Tensor, "h w"],
    model: Float[Tensor, "h w"],
    delta: float = VSD_DELTA,
    mode: VisibilityMode = "bop19",
) -> Bool[Tensor, "h w"]:
    """Where a model is seen: it is there, and at most `delta` behind what was measured.

    Args:
        measured: distances that the sensor measured, mm, 0 for none.
        model: distances of the rendered model, mm, 0 where it is not.
        delta: mm.
        mode: what a pixel without a measurement means: "bop19" visible, "bop18" not visible.
    """
    near = model - measured <= delta
    return (model > 0) & ((near | (measured == 0)) if mode == "bop19" else (near & (measured > 0)))


def visibility_masks(
    measured: Float[Tensor, "h w"],
    true: Float[Tensor, "h w"],
    estimated: Float[Tensor, "h w"],
    delta: float = VSD_DELTA,
    mode: VisibilityMode = "bop19",
) -> tuple[Bool[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Masks of the true and of the estimated pose, from distances in mm.

    The estimate also counts as visible wherever it covers what is visible of the truth.
    """
    seen = visible_mask(measured, true, delta, mode)
    return seen, visible_mask(measured, estimated, delta, mode) | (seen & (estimated > 0))


def vsd_error(
    measured: Float[Tensor, "h w"],
    true: Float[Tensor, "h w"],
    estimated: Float[Tensor, "h w"],
    taus: Sequence[float],
    delta: float = VSD_DELTA,
    cost: Cost = "step",
    mode: VisibilityMode = "bop19",
) -> Float[Tensor, "t"]:
    """VSD at each tolerance, in [0, 1]; 1 where neither pose is visible.

    Args:
        measured, true, estimated: distances (not depths) of the sensor, of the true and of the estimated pose, mm.
        taus: tolerances, mm (BOP's: VSD_TAUS times the diameter).
        delta: mm, of the visibility.
        cost: of a pixel that both see: "step" 1 where the distances differ by tau or more; "tlinear" min(diff/tau, 1).
        mode: see `visible_mask`.

    Raises:
        ValueError: for a tolerance that is not positive.
    """
    limits = torch.tensor([float(tau) for tau in taus], dtype=torch.float64)
    if not bool((limits > 0).all()):
        raise ValueError(f"VSD tolerances must be positive, got {list(taus)}")
    seen_true, seen_estimated = visibility_masks(measured, true, estimated, delta, mode)
    both, union = seen_true & seen_estimated, int((seen_true | seen_estimated).sum())
    if not union:
        return torch.ones_like(limits)
    share = (true[both] - estimated[both]).abs().double() / limits[:, None]
    costs = (share >= 1).double() if cost == "step" else share.clamp(max=1)
    return (costs.sum(1) + (union - int(both.sum()))) / union

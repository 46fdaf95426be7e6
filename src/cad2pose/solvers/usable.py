"""Which crops can have a pose at all, and why the others cannot."""

from __future__ import annotations

import torch

from cad2pose.solvers.maps import QueryMaps

_LEAST_MASK = 0.3
THIN = 0.5
"""Pixels: a mask whose pixels lie that close to one line leaves a pose open."""


def on_a_line(pixels: int) -> str:
    """Why a crop of such a mask has no pose."""
    return f"the {pixels} pixels that show the part lie on a line, which leaves its pose open"


def unusable(maps: QueryMaps, started: bool = False) -> list[str | None]:
    """Why a crop can have no pose, for those that cannot.

    Args:
        maps: of crops.
        started: there are poses to start from, so that pixels on a line (a rod's) do not leave everything open.
    """
    finite = torch.isfinite(maps.queries).all(1).flatten(1).all(1) & torch.isfinite(maps.mask_logits).flatten(1).all(1)
    shown = maps.in_mask(_LEAST_MASK).double()
    v, u = (torch.arange(n, device=shown.device, dtype=shown.dtype) for n in shown.shape[1:])
    powers_v, powers_u = (torch.stack((torch.ones_like(x), x, x * x)) for x in (v, u))
    moments = powers_v @ shown @ powers_u.T  # of v along rows, of u along columns
    read = torch.cat((finite[:, None].to(moments), moments.flatten(1)), dim=1).cpu()  # one wait for all of them
    count = read[:, 1].long()
    m = read[:, 1:].unflatten(1, (3, 3)) / read[:, 1, None, None].clamp_min(1)
    uu, vv = m[:, 0, 2] - m[:, 0, 1].square(), m[:, 2, 0] - m[:, 1, 0].square()
    uv = m[:, 1, 1] - m[:, 0, 1] * m[:, 1, 0]
    thin = (uu + vv) / 2 - ((uu - vv).square() / 4 + uv.square()).sqrt()  # variance across the longest direction
    reasons: list[str | None] = []
    for fine, pixels, across in zip(read[:, 0].tolist(), count.tolist(), thin.tolist(), strict=True):
        if not fine:
            reasons.append("the network's output holds numbers that are not finite")
        elif not pixels:
            reasons.append(f"no pixel shows the part: the mask's probability is below {_LEAST_MASK} everywhere")
        elif pixels < 4:
            reasons.append(f"{pixels} pixels show the part; a pose needs at least 4 correspondences")
        elif across < THIN**2 and not started:
            reasons.append(on_a_line(pixels))
        else:
            reasons.append(None)
    return reasons

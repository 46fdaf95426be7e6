"""Which crops can have a pose at all, and why the others cannot."""

from __future__ import annotations

import torch

from cad2pose.solvers.maps import QueryMaps

_LEAST_MASK = 0.3
_THIN = 0.5  # pixels; a mask whose pixels lie that close to one line shows no part


def unusable(maps: QueryMaps) -> list[str | None]:
    """Why a crop can have no pose, for those that cannot."""
    finite = torch.isfinite(maps.queries).all(1).flatten(1).all(1) & torch.isfinite(maps.mask_logits).flatten(1).all(1)
    shown = maps.in_mask(_LEAST_MASK)
    count = shown.sum((1, 2))
    weight = shown.double()
    v, u = (torch.arange(n, device=weight.device, dtype=weight.dtype) for n in weight.shape[1:])
    total = count.clamp_min(1).double()
    mu, mv = (weight.sum(1) * u).sum(1) / total, (weight.sum(2) * v).sum(1) / total
    uu, vv = (weight.sum(1) * u * u).sum(1) / total - mu * mu, (weight.sum(2) * v * v).sum(1) / total - mv * mv
    uv = torch.einsum("bvu,v,u->b", weight, v, u) / total - mu * mv
    thin = (uu + vv) / 2 - ((uu - vv).square() / 4 + uv.square()).sqrt()  # variance across the longest direction
    reasons: list[str | None] = []
    for fine, pixels, across in zip(finite.tolist(), count.tolist(), thin.tolist(), strict=True):
        if not fine:
            reasons.append("the network's output holds numbers that are not finite")
        elif not pixels:
            reasons.append(f"no pixel shows the part: the mask's probability is below {_LEAST_MASK} everywhere")
        elif pixels < 4:
            reasons.append(f"{pixels} pixels show the part; a pose needs at least 4 correspondences")
        elif across < _THIN**2:
            reasons.append(f"the {pixels} pixels that show the part lie on a line, which leaves its pose open")
        else:
            reasons.append(None)
    return reasons

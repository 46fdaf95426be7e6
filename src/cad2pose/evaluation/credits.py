"""What each target earns: the share of a measure's thresholds at which an estimate takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.evaluation.area_under_curve import area_credit
from cad2pose.evaluation.pair_errors import DEGREE_CENTIMETRES, PairErrors
from cad2pose.evaluation.pairs import PairKey, Problem
from cad2pose.evaluation.pose_error import OFFSETS
from cad2pose.evaluation.recall import TargetErrors, target_credits, target_errors
from cad2pose.evaluation.visible_surface import VSD_TAUS

ADD_THRESHOLDS = (0.02, 0.05, 0.10)
"""Shares of the diameter."""

MSSD_THRESHOLDS = tuple(i / 20 for i in range(1, 11))
"""BOP's, shares of the diameter."""

MSPD_THRESHOLDS = tuple(float(5 * i) for i in range(1, 11))
"""BOP's, px at 640 px width."""

VSD_THRESHOLDS = tuple(i / 20 for i in range(1, 11))
"""BOP's limits of VSD, at each of its tolerances."""

_PROJECTION = 5.0  # px

Columns = tuple[str, ...]
Thresholds = Sequence[Sequence[float]]


def recall_name(measure: str, threshold: float) -> str:
    """recall_ADD_S_0p1d and the like."""
    return f"recall_{measure}_{threshold:g}".replace(".", "p") + "d"


def measures(adi_of_all: bool) -> dict[str, tuple[Columns, Thresholds]]:
    """Columns of PairErrors and thresholds of every measure that is a recall, or a mean of recalls."""
    found: dict[str, tuple[Columns, Thresholds]] = {
        "AR_MSSD": (("mssd",), [[threshold] for threshold in MSSD_THRESHOLDS]),
        "AR_MSPD": (("mspd",), [[threshold] for threshold in MSPD_THRESHOLDS]),
    }
    names = {"ADD_S": "add_s", "ADD": "add"} | ({"ADI": "adi"} if adi_of_all else {})
    for name, column in names.items():
        found |= {recall_name(name, threshold): ((column,), [[threshold]]) for threshold in ADD_THRESHOLDS}
    for n in DEGREE_CENTIMETRES:
        found[f"recall_{n}deg_{n}cm_symmetric"] = (("degrees_cm",), [[float(n)]])
        found[f"recall_{n}deg_{n}cm"] = (("rotation", "translation"), [[float(n), 10.0 * n]])
    found["recall_projection_5px_symmetric"] = (("symmetric_projection",), [[_PROJECTION]])
    found["recall_projection_5px"] = (("projection",), [[_PROJECTION]])
    return found


def object_credits(
    problems: Sequence[Problem],
    errors: PairErrors,
    diameter: float,
    vsd: Mapping[PairKey, Float[Tensor, "t"]] | None,
    adi_of_all: bool = False,
) -> tuple[dict[str, Float[Tensor, "n"]], dict[str, Float[Tensor, "n"]]]:
    """Credits and errors of the targets of one object, by measure (see `TargetTable`).

    Args:
        problems: of the object.
        errors: of all their pairs.
        diameter: mm.
        vsd: VSD at BOP's tolerances of all pairs, None without depth images.
        adi_of_all: whether the errors have ADI.
    """
    credit = {}
    for name, (columns, thresholds) in measures(adi_of_all).items():
        table = torch.stack([getattr(errors, column) for column in columns], dim=1)
        credit[name] = target_credits(cut(problems, table), torch.tensor(thresholds, dtype=torch.float64))
    credit["mean_AR_MSSD_MSPD"] = (credit["AR_MSSD"] + credit["AR_MSPD"]) / 2
    if vsd is not None:
        credit["AR_VSD"] = _vsd_credit(problems, vsd)
        credit["AR"] = (credit["AR_VSD"] + credit["AR_MSSD"] + credit["AR_MSPD"]) / 3
    error: dict[str, Float[Tensor, "n"]] = {}
    columns = {
        "mssd": "mssd", "rotation": "symmetric_rotation", "frobenius": "symmetric_frobenius",
        "translation": "symmetric_translation", **{name: name for name in OFFSETS},
    }  # fmt: skip
    paired = target_errors(cut(problems, torch.stack([getattr(errors, column) for column in columns.values()], dim=1)))
    error |= dict(zip(columns, paired.unbind(1), strict=True))
    for name, column in {"ADD_S": "add_s", "ADD": "add", **({"ADI": "adi"} if adi_of_all else {})}.items():
        nearest = target_errors(cut(problems, getattr(errors, column)[:, None]))[:, 0] * diameter
        error[f"{name}_mm"], credit[f"AUC_{name}_100mm"] = nearest, area_credit(nearest)
    return credit, error


def cut(problems: Sequence[Problem], table: Float[Tensor, "p c"]) -> list[TargetErrors]:
    """The table of all pairs of an object -> one block (E, G, C) per problem."""
    blocks = table.split([p.shape[0] * p.shape[1] for p in problems])
    return [
        TargetErrors(p.target.object_id, p.score, block.reshape(*p.shape, table.shape[1]))
        for p, block in zip(problems, blocks, strict=True)
    ]


def _vsd_credit(problems: Sequence[Problem], vsd: Mapping[PairKey, Float[Tensor, "t"]]) -> Float[Tensor, "n"]:
    """Mean over the tolerances of the share of limits that VSD is below."""
    pairs = [vsd[key] for p in problems for key in p.keys()]  # noqa: SIM118
    table = torch.stack(pairs) if pairs else torch.zeros(0, len(VSD_TAUS), dtype=torch.float64)
    limits = torch.tensor(VSD_THRESHOLDS, dtype=torch.float64)[:, None]
    each = [target_credits(cut(problems, column[:, None]), limits) for column in table.unbind(1)]
    return torch.stack(each).mean(0)

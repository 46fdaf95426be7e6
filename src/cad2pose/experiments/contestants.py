"""Who takes part in a comparison: a method with its settings, how it is trained, and the ways to a pose.

The thesis' models (its section 7.4) have its head, its loss of rotations and its optimiser; what was wrong with them is
set right for all (DropBlock off at test time, allocentric rotations, targets that roll with the crop, means over the
batch). So they differ from each other, and from the flagship, in what their names say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cad2pose.estimator import EstimatorOptions
from cad2pose.methods import GdrNetConfig, MethodConfig, QueryConfig, SurfEmbConfig
from cad2pose.methods.query import LossWeights

_ONE_LOOK = EstimatorOptions(recrop=False, refine=False)
WAYS = {
    "regression": _ONE_LOOK,
    "regression, refined": replace(_ONE_LOOK, refine=True),
    "sampling, refined": replace(_ONE_LOOK, solver="sampling"),
    "search, refined": replace(_ONE_LOOK, solver="search"),
    "PnP": replace(_ONE_LOOK, solver="pnp"),
}
"""Ways to a pose, all from one look at a crop."""


@dataclass(frozen=True)
class Contestant:
    """One of them.

    Attributes:
        about: what it is, in a few words.
        method: its settings; given whether the full-size models are compared.
        ways: names of `WAYS`.
        training: changes of `TrainingConfig`.
        start: contestant whose model of the same seed it starts from.
        shown: has rows of its own in the report.
    """

    about: str
    method: Callable[[bool], MethodConfig]
    ways: tuple[str, ...] = ("regression",)
    training: tuple[tuple[str, Any], ...] = ()
    start: str | None = None
    shown: bool = True


def _query(full: bool, **changes: Any) -> QueryConfig:
    return replace(QueryConfig.full() if full else QueryConfig(), **changes)


def _gdrnet(full: bool, **changes: Any) -> GdrNetConfig:
    return replace(GdrNetConfig.full() if full else GdrNetConfig(), **changes)


def _surfemb(full: bool) -> SurfEmbConfig:
    return SurfEmbConfig.full() if full else SurfEmbConfig()


_THESIS: dict[str, Any] = {"head": "thesis", "charts": 1, "rotation_loss": "frobenius"}
_ADAM = (("optimizer", "adam"),)
_RANGER = (("optimizer", "ranger"), ("flat_share", 0.72))
_NO_POSE = LossWeights(rotation=0.0, chart=0.0, centre=0.0, depth=0.0)

CONTESTANTS: dict[str, Contestant] = {
    "flagship": Contestant(
        "queries, 60 charts, refined", _query, ("regression", "regression, refined", "sampling, refined")
    ),
    "one-chart": Contestant("the flagship with one regressed rotation", lambda full: _query(full, charts=1)),
    "queries+coordinates": Contestant(
        "the flagship with coordinates beside the queries",
        lambda full: _query(full, intermediate="queries+coordinates"), ("regression", "PnP"),
    ),
    "no-symmetry": Contestant(
        "the flagship without the symmetric loss", lambda full: _query(full, symmetric_loss=False),
        ("regression", "regression, refined"),
    ),
    "surfemb": Contestant("SurfEmb's networks", _surfemb, ("sampling, refined", "search, refined")),
    "gdrnet": Contestant("GDR-Net as published", _gdrnet, ("regression", "PnP"), _RANGER),
    "gdrnet-no-symmetry": Contestant(
        "GDR-Net without the symmetric loss", lambda full: _gdrnet(full, symmetric_loss=False), ("regression",), _RANGER
    ),
    "gdrnpp": Contestant("GDRNPP", GdrNetConfig.gdrnpp, ("regression", "PnP"), _RANGER),
    "coordinates": Contestant(
        "the flagship's networks and charts on coordinates and regions",
        lambda full: _gdrnet(full, encoder="resnet18", decoder="unet", charts=60, mask_loss="bce", double_mask=True),
        ("regression", "PnP"),
    ),
    "e2e.all": Contestant(
        "the thesis: queries, trained end to end", lambda full: _query(full, **_THESIS), ("regression",), _ADAM
    ),
    "e2e.pose": Contestant(
        "the thesis: the same without the embedding loss",
        lambda full: _query(full, weights=LossWeights(nce=0.0), **_THESIS), ("regression",), _ADAM,
    ),
    "query-network": Contestant(
        "queries alone, which pre.q starts from", lambda full: _query(full, weights=_NO_POSE), ("sampling, refined",),
        shown=False,
    ),
    "pre.q": Contestant(
        "the thesis: its head on frozen queries", lambda full: _query(full, frozen=True, **_THESIS), ("regression",),
        _ADAM, "query-network",
    ),
    "pre.c": Contestant(
        "the thesis: its head on rendered coordinates",
        lambda full: _gdrnet(full, intermediate="true coordinates", **_THESIS), ("regression",), _ADAM,
    ),
    "raw-crop": Contestant(
        "the thesis, section 7.2.1: its head on the crop and its mask",
        lambda full: _gdrnet(full, intermediate="image", **_THESIS), ("regression",), _ADAM,
    ),
}  # fmt: skip
"""All contestants by name."""


def chosen(names: tuple[str, ...]) -> list[str]:
    """The contestants of these names, and before each the one that it starts from.

    Raises:
        ValueError: for a name that is not known, or none at all.
    """
    if unknown := [name for name in names if name not in CONTESTANTS]:
        raise ValueError(f"there is no contestant {unknown[0]!r}; there are {', '.join(CONTESTANTS)}")
    if not names:
        raise ValueError(f"no contestant was given; there are {', '.join(CONTESTANTS)}")
    order: list[str] = []
    for name in names:
        for needed in (CONTESTANTS[name].start, name):
            if needed is not None and needed not in order:
                order.append(needed)
    return order

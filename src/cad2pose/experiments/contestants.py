"""Who takes part in a comparison: a method with its settings, how it is trained, and the ways to a pose.

The thesis' models (its section 7.4) have its head, its loss of rotations and its optimiser; what was wrong with them
is set right for all (DropBlock off at test time, allocentric rotations, targets that roll with the crop, means over the
batch), and all see the same maps of places, through the flagship's encoder and decoder. So they differ from each other,
and from the flagship, in what their names say. The head itself is as published, batch norm and all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from cad2pose.data.synthetic import SyntheticConfig
from cad2pose.estimator import EstimatorOptions
from cad2pose.experiments.ingredients import INGREDIENTS, strong_colours, wilder_boxes
from cad2pose.methods import GdrNetConfig, MethodConfig, QueryConfig, SurfEmbConfig
from cad2pose.methods.gdrnet import GdrNetWeights
from cad2pose.methods.query import LossWeights

_ONE_LOOK = EstimatorOptions(recrop=False, refine=False)
Size = Literal["tiny", "small", "full"]
"""Of the networks: for comparisons on a few CPU cores, as `cad2pose train` has them, and as published."""

WAYS = {
    "regression": _ONE_LOOK,
    "regression, refined": replace(_ONE_LOOK, refine=True),
    "sampling, refined": replace(_ONE_LOOK, solver="sampling"),
    "search, refined": replace(_ONE_LOOK, solver="search"),
    "PnP": replace(_ONE_LOOK, solver="pnp"),
}
"""Ways to a pose, all from one look at a crop."""


_Sized = TypeVar("_Sized", QueryConfig, GdrNetConfig, SurfEmbConfig)


@dataclass(frozen=True)
class Contestant:
    """One of them.

    Attributes:
        about: what it is, in a few words.
        method: its settings; given the size of the networks.
        ways: names of `WAYS`.
        training: changes of `TrainingConfig`.
        start: contestant whose model of the same seed it starts from.
        shown: has rows of its own in the report.
        crops: what it changes of the training crops.
    """

    about: str
    method: Callable[[Size], MethodConfig]
    ways: tuple[str, ...] = ("regression",)
    training: tuple[tuple[str, Any], ...] = ()
    start: str | None = None
    shown: bool = True
    crops: Callable[[SyntheticConfig], SyntheticConfig] = lambda style: style


def _sized(method: type[_Sized], size: Size) -> _Sized:
    return {"tiny": method.tiny, "small": method, "full": method.full}[size]()


def _query(size: Size, **changes: Any) -> QueryConfig:
    return replace(_sized(QueryConfig, size), **changes)


def _coarse(size: Size, **changes: Any) -> QueryConfig:
    return _query(size, stride=4, **changes)


def _side(size: Size, share: float) -> int:
    return round(share * _query(size).crop_size)


def _gdrnet(size: Size, **changes: Any) -> GdrNetConfig:
    return replace(_sized(GdrNetConfig, size), **changes)


def _surfemb(size: Size) -> SurfEmbConfig:
    return replace(_sized(SurfEmbConfig, size), crop_size=_query(size).crop_size)


def _gdrnpp(size: Size) -> GdrNetConfig:
    return GdrNetConfig.gdrnpp(_sized(GdrNetConfig, size))


def _same(size: Size) -> dict[str, Any]:
    """What makes a `GdrNetMethod` see through the flagship's networks, and its head the same places."""
    return {
        "encoder": "resnet18", "decoder": "unet", "stride": _query(size).stride, "mask_loss": "bce",
        "double_mask": True, "pixel_map": "rays",
    }  # fmt: skip


_THESIS: dict[str, Any] = {"head": "thesis", "charts": 1, "rotation_loss": "frobenius", "pose_gradient": 1.0}
_REFINED = ("regression", "regression, refined")
_QUERY_WAYS = (*_REFINED, "sampling, refined")
_ADAM = (("optimizer", "adam"),)
_RANGER = (("optimizer", "ranger"), ("flat_share", 0.72), ("weight_decay", 0.0))
_GDRNPP = (("optimizer", "ranger"), ("flat_share", 0.72), ("weight_decay", 0.01))
_OURS = LossWeights()
_NO_POSE = LossWeights(rotation=0.0, chart=0.0, centre=0.0, depth=0.0)

CONTESTANTS: dict[str, Contestant] = {
    "flagship": Contestant("queries, 60 charts, refined", _query, _QUERY_WAYS),
    "end-to-end": Contestant(
        "the flagship with the whole gradient of the pose passed on to queries and encoder",
        lambda size: _query(size, pose_gradient=1.0), _QUERY_WAYS,
    ),
    "detached": Contestant(
        "the flagship with none of it: queries learnt as if there were no pose",
        lambda size: _query(size, pose_gradient=0.0), _QUERY_WAYS,
    ),
    "coarse": Contestant(
        "the flagship with a query for every fourth pixel, as the full-size one has anyway", _coarse, _QUERY_WAYS
    ),
    "coarse-smaller-crops": Contestant(
        "coarse on crops of three quarters the side", lambda size: _coarse(size, crop_size=_side(size, 0.75)), _REFINED
    ),
    "coarse-larger-crops": Contestant(
        "coarse on crops of five quarters the side", lambda size: _coarse(size, crop_size=_side(size, 1.25)), _REFINED
    ),
    "coarse-wide": Contestant(
        "coarse with half as many channels again in the encoder",
        lambda size: _coarse(size, width=_query(size).width * 3 // 2), _REFINED,
    ),
    "coarse-annealed": Contestant(
        "coarse with a learning rate that falls from the start", _coarse, _REFINED, (("flat_share", 0.0),)
    ),
    "coarse-eased": Contestant(
        "coarse with easy crops first (a curriculum over 0.6 of all steps)", _coarse, _REFINED, (("curriculum", 0.6),)
    ),
    "coarse-flat": Contestant(
        "coarse with a learning rate that falls in the last third only", _coarse, _REFINED, (("flat_share", 0.67),)
    ),
    "coarse-unaveraged": Contestant(
        "coarse with the last weights in place of their moving average", _coarse, _REFINED, (("ema_decay", 0.0),)
    ),
    "coarse-strong-colours": Contestant(
        "coarse with the parts' own colours changed by twice as much", _coarse, _REFINED, crops=strong_colours
    ),
    "coarse-wilder-boxes": Contestant(
        "coarse with boxes that err half as much again as most of detectors' do", _coarse, _REFINED, crops=wilder_boxes
    ),
    "coarse-nce": Contestant(
        "coarse with three times the weight on the contrastive loss",
        lambda size: _coarse(size, weights=replace(_OURS, nce=3 * _OURS.nce)), _REFINED,
    ),
    "coarse-light-mask": Contestant(
        "coarse with a third of the weight on the masks",
        lambda size: _coarse(size, weights=replace(_OURS, mask=_OURS.mask / 3)), _REFINED,
    ),
    "coarse-heavy-mask": Contestant(
        "coarse with 3.3 times the weight on the masks",
        lambda size: _coarse(size, weights=replace(_OURS, mask=3.3 * _OURS.mask)), _REFINED,
    ),
    "one-chart": Contestant("the flagship with one regressed rotation", lambda size: _query(size, charts=1)),
    "queries+coordinates": Contestant(
        "the flagship with coordinates beside the queries",
        lambda size: _query(size, intermediate="queries+coordinates"), ("regression", "PnP"),
    ),
    "no-symmetry": Contestant(
        "the flagship without the symmetric loss", lambda size: _query(size, symmetric_loss=False), _REFINED
    ),
    "surfemb": Contestant("SurfEmb's networks", _surfemb, ("sampling, refined", "search, refined")),
    "gdrnet": Contestant("GDR-Net as published", _gdrnet, ("regression", "PnP"), _RANGER),
    "gdrnet-no-symmetry": Contestant(
        "GDR-Net without the symmetric loss", lambda size: _gdrnet(size, symmetric_loss=False), ("regression",), _RANGER
    ),
    "gdrnpp": Contestant("GDRNPP's networks, on the same crops as all", _gdrnpp, ("regression", "PnP"), _GDRNPP),
    "coordinates": Contestant(
        "the flagship's networks, head and charts on coordinates and regions",
        lambda size: _gdrnet(
            size, charts=60, head_masks=True, rotation_loss="points", pose_gradient=QueryConfig().pose_gradient,
            weights=GdrNetWeights(mask=_OURS.mask, coordinates=_OURS.coordinates, rotation=_OURS.rotation),
            **_same(size),
        ),
        ("regression", "PnP"),
    ),
    "e2e.all": Contestant(
        "the thesis: queries, trained end to end", lambda size: _query(size, **_THESIS), ("regression",), _ADAM
    ),
    "e2e.pose": Contestant(
        "the thesis: the same without the embedding loss",
        lambda size: _query(size, weights=LossWeights(nce=0.0), **_THESIS), ("regression",), _ADAM,
    ),
    "e2e.plain": Contestant(
        "e2e.all without DropBlock", lambda size: _query(size, **_THESIS | {"head": "thesis-plain"}), ("regression",),
        _ADAM,
    ),
    "e2e.group": Contestant(
        "e2e.plain with group norm in place of batch norm",
        lambda size: _query(size, **_THESIS | {"head": "thesis-group"}), ("regression",), _ADAM,
    ),
    "e2e.patch-pnp": Contestant(
        "e2e.all with Patch-PnP in place of the thesis' head",
        lambda size: _query(size, **_THESIS | {"head": "patch-pnp"}), ("regression",), _ADAM,
    ),
    "query-network": Contestant(
        "queries alone, which pre.q starts from", lambda size: _query(size, weights=_NO_POSE), ("sampling, refined",),
        shown=False,
    ),
    "pre.q": Contestant(
        "the thesis: its head on frozen queries, which have seen as many crops before",
        lambda size: _query(size, frozen=True, **_THESIS), ("regression",), _ADAM, "query-network",
    ),
    "pre.q.plain": Contestant(
        "pre.q without DropBlock", lambda size: _query(size, frozen=True, **_THESIS | {"head": "thesis-plain"}),
        ("regression",), _ADAM, "query-network",
    ),
    "pre.c": Contestant(
        "the thesis: its head on rendered coordinates",
        lambda size: _gdrnet(
            size, intermediate="true coordinates", weights=GdrNetWeights(rotation=_OURS.rotation), **_same(size),
            **_THESIS,
        ),
        ("regression",), _ADAM,
    ),
    "raw-crop": Contestant(
        "the thesis, section 7.2.1: its head on the crop and its mask",
        lambda size: _gdrnet(
            size, intermediate="image", weights=GdrNetWeights(rotation=_OURS.rotation), **_same(size),
            **_THESIS,
        ),
        ("regression",), _ADAM,
    ),
    **{
        f"without-{name}": Contestant(
            f"coarse, trained without {about}", _coarse, _REFINED, crops=crops
        )
        for name, (about, crops) in INGREDIENTS.items()
    },
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

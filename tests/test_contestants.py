"""Contestants on equal terms: each differs from its rival in what its name says, and nothing else differs for it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from cad2pose.data.synthetic import SyntheticConfig
from cad2pose.estimator import EstimatorOptions
from cad2pose.estimator.looking import Look
from cad2pose.experiments import CONTESTANTS, ComparisonConfig, compare, comparison
from cad2pose.experiments.contestants import WAYS
from cad2pose.experiments.ingredients import INGREDIENTS
from cad2pose.experiments.judging import NO_POSE, errors_of, judge
from cad2pose.methods import GdrNetConfig, QueryConfig
from cad2pose.structures import PoseDetails, Poses
from small_models import SMALL, SMALL_GDRNET, random_model, wedge

RIVALS: dict[tuple[str, str], dict[str, tuple[Any, Any]]] = {
    ("flagship", "end-to-end"): {"pose_gradient": (0.1, 1.0)},
    ("flagship", "detached"): {"pose_gradient": (0.1, 0.0)},
    ("flagship", "coarse"): {"stride": (2, 4)},
    ("flagship", "one-chart"): {"charts": (60, 1)},
    ("flagship", "queries+coordinates"): {"intermediate": ("queries", "queries+coordinates")},
    ("flagship", "no-symmetry"): {"symmetric_loss": (True, False)},
    ("flagship", "query-network"): {
        f"weights.{name}": (value, 0.0) for name, value in asdict(QueryConfig().weights).items()
        if name in ("rotation", "chart", "centre", "depth")
    },
    ("gdrnet", "gdrnet-no-symmetry"): {"symmetric_loss": (True, False)},
    ("gdrnet", "gdrnpp"): {
        "encoder": ("resnet34", "convnext"), "double_mask": (False, True), "class_aware": (False, True),
    },
    ("flagship", "e2e.all"): {
        "head": ("patch-pnp", "thesis"), "charts": (60, 1), "rotation_loss": ("points", "frobenius"),
        "pose_gradient": (0.1, 1.0),
    },
    ("e2e.all", "e2e.pose"): {"weights.nce": (1.0, 0.0)},
    ("e2e.all", "e2e.plain"): {"head": ("thesis", "thesis-plain")},
    ("e2e.plain", "e2e.group"): {"head": ("thesis-plain", "thesis-group")},
    ("e2e.all", "e2e.patch-pnp"): {"head": ("thesis", "patch-pnp")},
    ("e2e.all", "pre.q"): {"frozen": (False, True)},
    ("pre.q", "pre.q.plain"): {"head": ("thesis", "thesis-plain")},
    ("coarse", "coarse-nce"): {"weights.nce": (1.0, 3.0)},
    ("coarse", "coarse-light-mask"): {"weights.mask": (3.0, 1.0)},
    ("coarse", "coarse-heavy-mask"): {"weights.mask": (3.0, pytest.approx(9.9))},
    ("coarse", "coarse-annealed"): {},
    ("coarse", "coarse-eased"): {},
    ("coarse", "coarse-flat"): {},
    ("coarse", "coarse-unaveraged"): {},
    ("coarse", "without-box-errors"): {},
    ("pre.c", "raw-crop"): {"intermediate": ("true coordinates", "image")},
}  # fmt: skip
TRAINING = {
    "gdrnet": {"optimizer": "ranger", "flat_share": 0.72, "weight_decay": 0.0},
    "gdrnet-no-symmetry": {"optimizer": "ranger", "flat_share": 0.72, "weight_decay": 0.0},
    "gdrnpp": {"optimizer": "ranger", "flat_share": 0.72, "weight_decay": 0.01},
    "coarse-annealed": {"flat_share": 0.0},
    "coarse-eased": {"curriculum": 0.6},
    "coarse-flat": {"flat_share": 0.67},
    "coarse-unaveraged": {"ema_decay": 0.0},
    **{
        name: {"optimizer": "adam"} for name in CONTESTANTS
        if name.startswith(("e2e.", "pre.")) or name == "raw-crop"
    },
}  # fmt: skip


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def differences(one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    first, second = flat(asdict(one)), flat(asdict(other))
    return {name: (first[name], second[name]) for name in first if first[name] != second[name]}


@pytest.mark.parametrize("size", ["tiny", "small", "full"])
@pytest.mark.parametrize("pair", RIVALS, ids=" - ".join)
def test_rivals_differ_in_what_their_names_say(pair, size):
    first, second = (CONTESTANTS[name].method(size) for name in pair)
    expected = RIVALS[pair]
    if pair == ("flagship", "coarse") and size == "full":
        expected = {}  # with crops of 256 px the flagship has a query for every fourth pixel itself
    if pair == ("gdrnet", "gdrnpp") and size == "full":
        expected = expected | {"width": (64, 96)}  # ConvNeXt's own
    assert differences(first, second) == expected


@pytest.mark.parametrize("size", ["tiny", "small", "full"])
def test_what_regresses_coordinates_with_the_flagships_networks_shares_its_terms(size):
    flagship, coordinates = CONTESTANTS["flagship"].method(size), CONTESTANTS["coordinates"].method(size)
    assert isinstance(flagship, QueryConfig)
    assert isinstance(coordinates, GdrNetConfig)
    for same in ("stride", "charts", "rotation_loss", "pose_gradient", "symmetric_loss", "head_width", "head_hidden"):
        assert getattr(coordinates, same) == getattr(flagship, same), same
    assert (coordinates.encoder, coordinates.decoder, coordinates.mask_loss) == ("resnet18", "unet", "bce")
    assert coordinates.pixel_map == "rays"
    assert coordinates.double_mask
    assert coordinates.head_masks
    for same in ("coordinates", "rotation", "chart", "centre", "depth"):
        assert getattr(coordinates.weights, same) == getattr(flagship.weights, same), same


def test_contestants_are_trained_by_their_own_rules_and_those_alone():
    changed = {name: dict(one.training) for name, one in CONTESTANTS.items() if one.training}
    assert changed == TRAINING
    assert {name: one.start for name, one in CONTESTANTS.items() if one.start} == dict.fromkeys(
        ("pre.q", "pre.q.plain"), "query-network"
    )


def test_ways_are_what_they_are_called_and_take_one_look():
    one_look = EstimatorOptions(recrop=False, refine=False)
    assert one_look.query_turns == 1
    assert {way: differences(one_look, options) for way, options in WAYS.items()} == {
        "regression": {}, "regression, refined": {"refine": (False, True)},
        "sampling, refined": {"solver": ("auto", "sampling")},
        "search, refined": {"solver": ("auto", "search")}, "PnP": {"solver": ("auto", "pnp")},
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CONTESTANTS if name.startswith("without-")])
def test_what_lacks_an_ingredient_lacks_nothing_else(name):
    contestant, coarse = CONTESTANTS[name], CONTESTANTS["coarse"]
    style = SyntheticConfig()
    assert contestant.method("small") == coarse.method("small")
    assert contestant.training == coarse.training
    assert contestant.crops(style) == INGREDIENTS[name.removeprefix("without-")][1](style)
    assert contestant.crops(style) != style or name == "without-photographs"  # there are none by default


def test_other_contestants_learn_from_the_crops_as_they_are():
    style = SyntheticConfig()
    changing = {name for name, contestant in CONTESTANTS.items() if contestant.crops(style) is not style}
    assert changing <= {
        "coarse-strong-colours",
        "coarse-wilder-boxes",
        *(name for name in CONTESTANTS if name.startswith("without-")),
    }


def test_all_are_trained_as_the_comparison_says_and_judged_on_the_same_crops(tmp_path, monkeypatch):
    names = ("coarse", "gdrnet", "without-neighbours")
    for name in names:
        config = SMALL_GDRNET if name == "gdrnet" else SMALL
        small = replace(CONTESTANTS[name], method=lambda size, config=config: config, ways=("regression",))
        monkeypatch.setitem(CONTESTANTS, name, small)
    made, trained = [], []

    class Watched(comparison.SyntheticCrops):
        def __init__(self, parts, config, device, seed):
            made.append((config, seed))
            super().__init__(parts, config, device, seed)

    def watching(run, crops, fresh, out):
        trained.append((run.training, crops.config, fresh.config, fresh.seed))
        return train(run, crops, fresh, out)

    train = comparison.train
    monkeypatch.setattr(comparison, "train", watching)
    monkeypatch.setattr("cad2pose.experiments.judging.SyntheticCrops", Watched)
    config = ComparisonConfig(
        names, samples=8, batch_size=4, learning_rate=2e-3, key_learning_rate=5e-4, judged=3, validations=1, seeds=(3,)
    )
    compare([wedge()], config, tmp_path, torch.device("cpu"), {"pictures": 4})
    for name, (training, style, fresh, seed) in zip(names, trained, strict=True):
        assert (training.samples, training.batch_size, training.seed) == (8, 4, 3)
        assert (training.learning_rate, training.key_learning_rate) == (2e-3, 5e-4)
        for setting, value in TRAINING.get(name, {"optimizer": "adamw", "flat_share": training.flat_share}).items():
            assert getattr(training, setting) == value, (name, setting)
        assert style == CONTESTANTS[name].crops(trained[0][1]), name
        assert (fresh, seed) == trained[0][2:]
        assert fresh == trained[0][1].judging()
    assert trained[2][1] != trained[0][1]
    assert made == [(trained[0][2], 2_000_000)] * 3, "judged in a style and on crops that no contestant changes"


def test_a_crop_without_a_pose_counts_as_wholly_wrong(monkeypatch):
    known, style = random_model(), SyntheticConfig(crop_size=SMALL.crop_size, pad=SMALL.pad, pictures=4)
    batch = comparison.SyntheticCrops([wedge()], style, seed=0).batch(0, 4)
    assert batch.truth is not None
    T = batch.truth.T_virt_obj.double()
    T[1], T[3] = torch.nan, torch.nan
    found = Poses(T, torch.ones(len(T), dtype=torch.float64), PoseDetails.unknown([None] * len(T)))
    monkeypatch.setattr(Look, "__call__", lambda self, of, crops: found)
    errors = errors_of(known, Look(WAYS["regression"]), batch)
    assert NO_POSE == (180.0, 100.0)
    assert errors.rotation[[1, 3]].tolist() == [180.0, 180.0]
    assert errors.translation[[1, 3]].tolist() == [100.0, 100.0]
    assert float(errors.rotation[[0, 2]].max()) < 0.1
    assert float(errors.translation[[0, 2]].max()) < 0.01


def test_every_way_is_judged_by_its_own_look(monkeypatch):
    seen = []
    called = Look.__call__

    def watching(self, of, batch, *others):
        seen.append((self.options, len(batch)))
        return called(self, of, batch, *others)

    monkeypatch.setattr(Look, "__call__", watching)
    known, part = replace(random_model(), info={"seconds": "90"}), wedge()
    style = SyntheticConfig(crop_size=SMALL.crop_size, pad=SMALL.pad, pictures=4).judging()
    ways = CONTESTANTS["flagship"].ways
    rows = judge(known, part, style, 17, ways, torch.device("cpu"))
    assert [row["way"] for row in rows] == list(ways)
    assert all(len(row["rotation"]) == len(row["translation"]) == 17 for row in rows)
    assert seen == [(WAYS[way], count) for way in ways for count in (1, 16, 1)]  # the first warms up
    assert rows[0]["rotation"] != rows[1]["rotation"]
    assert rows[0]["minutes"] == 1.5

"""Benchmarks that look inside: what they look at is still there."""

from __future__ import annotations

import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cad2pose.data.synthetic import SyntheticConfig
from cad2pose.geometry import rotation_about_z
from cad2pose.methods import QueryConfig
from cad2pose.model_file import save_model
from cad2pose.parts import Symmetries
from small_models import SMALL, SMALL_GDRNET, random_model, wedge

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """A module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


def last_line(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


def test_every_stage_of_training_is_timed(benchmark, monkeypatch, capsys):
    train = benchmark("train")
    monkeypatch.setattr(train, "QueryConfig", lambda: replace(QueryConfig.tiny(), crop_size=64))
    monkeypatch.setattr(train, "SyntheticConfig", lambda **sizes: SyntheticConfig(pictures=4, **sizes))
    train.main(train.Config(batch_size=2, parts=("nut",), repeats=1))
    text = capsys.readouterr().out
    assert all(name in text for name in (*train.RENDER, *train.AUGMENT))
    row = last_line(text)
    assert row["benchmark"] == "train"


@pytest.mark.parametrize("refine", [False, True])
def test_every_stage_of_an_estimate_is_timed(benchmark, tmp_path, capsys, refine):
    infer = benchmark("infer")
    model = random_model()
    assert model.method.config == SMALL
    save_model(tmp_path / "model.safetensors", model.method, model.parts, model.info)
    infer.main(infer.Config(("cpu",), tmp_path / "model.safetensors", detections=(2,), repeats=1, refine=refine))
    (row,) = last_line(capsys.readouterr().out)["results"]
    assert row["detections"] == 2
    assert row["total_ms"] >= row["crops_ms"] + row["network_ms"] + row["poses_ms"] > 0
    assert min(row["crops_ms"], row["network_ms"], row["poses_ms"]) > 0


def test_networks_are_timed_side_by_side(benchmark, monkeypatch, capsys):
    networks = benchmark("networks")
    for name in ("flagship", "gdrnet"):
        config = SMALL if name == "flagship" else SMALL_GDRNET
        contestant = replace(networks.CONTESTANTS[name], method=lambda size, config=config: config)
        monkeypatch.setitem(networks.CONTESTANTS, name, contestant)
    monkeypatch.setattr(networks, "SyntheticConfig", lambda **sizes: SyntheticConfig(pictures=4, **sizes))
    config = networks.Config(("flagship", "gdrnet"), batch_size=2, repeats=1)
    monkeypatch.setattr(networks, "WANTED", 1e9)
    assert networks.main(config) == 0
    figures = last_line(capsys.readouterr().out)["milliseconds"]
    assert figures["gdrnet"]["parameters"] == sum(value.numel() for value in SMALL_GDRNET.build([wedge()]).parameters())
    assert all(0 < row["network"] < 1e5 and 0 < row["step"] < 1e5 for row in figures.values())
    monkeypatch.setattr(networks, "WANTED", 0.0)
    assert networks.main(config) == 1


def test_the_best_constant_rotation_is_nearest_to_all(benchmark):
    """Of three, the last two of which are near each other, it is one of those; a symmetry brings the first near."""
    best = benchmark("box_alone").best_rotation
    turns = rotation_about_z(torch.tensor([3.0, 0.1, 0.0], dtype=torch.float64))
    assert torch.equal(best(turns, Symmetries()), turns[1])
    half = torch.eye(4, dtype=torch.float64)
    half[:2, :2] *= -1
    near = rotation_about_z(torch.tensor([0.05 + math.pi, 0.1, 0.0], dtype=torch.float64))
    assert torch.equal(best(near, Symmetries(discrete=half[None])), near[0])

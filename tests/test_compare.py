"""`cad2pose compare`: runs that go on where they stopped, figures, intervals, the report."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cad2pose.cli import main
from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.pose_prior import PosePrior
from cad2pose.experiments import CONTESTANTS, Comparison, ComparisonConfig, compare, comparison, write_report
from cad2pose.experiments.contestants import WAYS, chosen
from cad2pose.experiments.report import median_interval, table
from cad2pose.methods import GdrNetConfig, QueryConfig, SurfEmbConfig
from small_models import SMALL, SMALL_GDRNET, SMALL_SURFEMB, wedge

CONFIG = ComparisonConfig(("pre.q", "gdrnet", "surfemb"), samples=16, batch_size=8, judged=5, validations=2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contestants with networks of no size."""
    for name, contestant in CONTESTANTS.items():
        wanted = contestant.method("small")
        if isinstance(wanted, QueryConfig):
            config = replace(SMALL, frozen=wanted.frozen, charts=wanted.charts)
        else:
            config = SMALL_GDRNET if isinstance(wanted, GdrNetConfig) else SMALL_SURFEMB
        monkeypatch.setitem(CONTESTANTS, name, replace(contestant, method=lambda size, config=config: config))


def one(**changes: object) -> Comparison:
    base = Comparison("p", "flagship", "regression", 0, (1.0, 2.0), (3.0, 4.0), 5.0, 6.0, 1_000_000, 7.0, ())
    return replace(base, **changes)  # type: ignore[arg-type]


def test_every_contestant_can_be_made_in_all_sizes():
    for name, contestant in CONTESTANTS.items():
        for size in ("tiny", "small", "full"):
            config = contestant.method(size)
            assert isinstance(config, (QueryConfig, GdrNetConfig, SurfEmbConfig)), name
            assert config.crop_size >= (224 if size == "full" else 128)
        assert set(contestant.ways) <= set(WAYS)
        assert contestant.start in {None, *CONTESTANTS}
    small = CONTESTANTS["e2e.all"].method("small"), CONTESTANTS["e2e.pose"].method("small")
    assert isinstance(small[0], QueryConfig)
    assert isinstance(small[1], QueryConfig)
    assert replace(small[0], weights=small[1].weights) == small[1]  # they differ in the embedding loss alone
    assert small[1].weights == replace(small[0].weights, nce=0.0)


def test_what_a_contestant_starts_from_comes_first_and_once():
    assert chosen(("pre.q", "gdrnet", "query-network")) == ["query-network", "pre.q", "gdrnet"]
    with pytest.raises(ValueError, match="no contestant 'gdr'"):
        chosen(("gdr",))


@pytest.mark.parametrize(
    "settings", [{"samples": 0}, {"seeds": (0, 0)}, {"seeds": ()}, {"contestants": ()}, {"judged": 0}]
)
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings)).removesuffix("s")):
        ComparisonConfig(**settings)


@pytest.mark.usefixtures("tiny")
def test_runs_are_made_once_and_all_see_the_same_crops(tmp_path, monkeypatch):
    part, crops = wedge(), {"appearance": AppearanceConfig.modest(), "prior": PosePrior(), "pictures": 4}
    found = compare([part], CONFIG, tmp_path, torch.device("cpu"), crops)
    assert [(c.contestant, c.way) for c in found] == [
        ("query-network", "sampling, refined"), ("pre.q", "regression"), ("gdrnet", "regression"), ("gdrnet", "PnP"),
        ("surfemb", "sampling, refined"), ("surfemb", "search, refined"),
    ]  # fmt: skip
    for run in found:
        assert len(run.rotation) == len(run.translation) == 5
        assert all(0 <= angle <= 180 for angle in run.rotation)
        assert run.parameters > 0
        assert len(run.curve) == (2 if run.contestant != "surfemb" else 0)
    query, frozen = (
        json.loads((tmp_path / "wedge" / name / "0" / "config.json").read_text()) for name in ("query-network", "pre.q")
    )
    assert query["crops"] == frozen["crops"]
    assert frozen["start"]["samples"] == "16"
    monkeypatch.setattr(comparison, "_judge", lambda *_: pytest.fail("judged twice"))
    assert compare([part], CONFIG, tmp_path, torch.device("cpu"), crops) == found
    with pytest.raises(ValueError, match="another training run"):
        compare([part], replace(CONFIG, samples=24), tmp_path, torch.device("cpu"), crops)
    page = write_report(found, CONFIG, tmp_path, "CPU").read_text()
    assert "| gdrnet | PnP | 1 |" in page
    assert "query-network" not in page
    assert len(json.loads((tmp_path / "comparison.json").read_text())) == len(found)


def test_the_table_puts_seeds_together():
    runs = [one(), one(seed=1, rotation=(30.0, 40.0), minutes=9.0), one(way="regression, refined")]
    head, _, first, second = table(runs).splitlines()
    cells = dict(zip(head.split(" | "), first.split(" | "), strict=True))
    assert cells["R median (deg)"].startswith("16.0 (")
    assert cells["R mean (deg)"] == "18.2"
    assert cells["R under 10 deg"] == "50 %"
    assert cells["seeds"] == "2"
    assert cells["minutes |"] == "8 |"
    expected = np.mean(2 * np.sqrt(2) * np.sin(np.radians([1, 2, 30, 40]) / 2))
    assert float(cells["R mean (Frobenius)"]) == pytest.approx(expected, abs=1e-3)
    assert "regression, refined" in second


def test_intervals_hold_the_true_median_as_often_as_they_should():
    draws = np.random.default_rng(0).exponential(size=(200, 60))
    held = [low <= np.log(2) <= high for low, high in (median_interval(row, 400) for row in draws)]
    assert 0.88 < np.mean(held) < 0.99


@pytest.mark.usefixtures("tiny")
def test_recorded_crops_are_made_once_for_all_and_removed(tmp_path, monkeypatch):
    made = []
    batch = comparison.SyntheticCrops.batch

    def counted(self, index, size):
        made.append((self.seed, index))
        return batch(self, index, size)

    monkeypatch.setattr(comparison.SyntheticCrops, "batch", counted)
    config = replace(CONFIG, contestants=("gdrnet", "gdrnet-no-symmetry"), record_crops=True)
    compare([wedge()], config, tmp_path, torch.device("cpu"), {"pictures": 4})
    assert sorted(key for key in made if key[0] == 0) == [(0, 0), (0, 1)]
    assert not (tmp_path / "wedge" / "crops" / "0").exists()


@pytest.mark.usefixtures("tiny")
def test_the_command_writes_its_report(tmp_path, capsys):
    arguments = ["compare", "bracket", "--out", str(tmp_path / "c"), "--contestants", "gdrnet", "--samples", "8"]
    assert main([*arguments, "--batch-size", "8", "--judged", "2", "--validations", "1"]) == 0
    assert "bracket: gdrnet, seed 0" in capsys.readouterr().out
    assert (tmp_path / "c" / "comparison.md").is_file()
    assert main([*arguments[:4], "--contestants", "none"]) == 2
    assert "no contestant 'none'" in capsys.readouterr().err

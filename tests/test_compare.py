"""`cad2pose compare`: runs that go on where they stopped, figures, intervals, the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bop_world import make_bop, small_parts
from cad2pose.cli import main
from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.pose_prior import PosePrior
from cad2pose.estimator import PoseEstimator
from cad2pose.experiments import (
    CONTESTANTS,
    Comparison,
    ComparisonConfig,
    compare,
    comparison,
    finished,
    write_report,
)
from cad2pose.experiments.contestants import WAYS, chosen
from cad2pose.experiments.finished_runs import on_photographs, outdated
from cad2pose.experiments.intervals import mean_interval, median_interval, share_interval
from cad2pose.experiments.photographs import Photographs
from cad2pose.experiments.pixel_matches import PixelScores
from cad2pose.experiments.report import pixels_table, shares_table, table
from cad2pose.methods import GdrNetConfig, QueryConfig, SurfEmbConfig
from cad2pose.model_file import load_model, save_model
from cad2pose.structures import PoseDetails
from small_models import SMALL, SMALL_GDRNET, SMALL_SURFEMB, wedge

CONFIG = ComparisonConfig(("pre.q", "gdrnet", "surfemb"), samples=16, batch_size=8, judged=5, validations=2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contestants with networks of no size."""
    for name, contestant in CONTESTANTS.items():
        wanted = contestant.method("small")
        config: QueryConfig | GdrNetConfig | SurfEmbConfig = SMALL_SURFEMB
        if isinstance(wanted, QueryConfig):
            config = replace(SMALL, frozen=wanted.frozen, charts=wanted.charts)
        if isinstance(wanted, GdrNetConfig):
            config = replace(SMALL_GDRNET, intermediate=wanted.intermediate)
        monkeypatch.setitem(CONTESTANTS, name, replace(contestant, method=lambda size, config=config: config))


def one(**changes: object) -> Comparison:
    base = Comparison("p", "flagship", "regression", 0, (1.0, 2.0), (3.0, 4.0), 5.0, 6.0, 1_000_000, 7.0, ())
    return replace(base, **changes)  # type: ignore[arg-type]


def test_every_contestant_can_be_made_in_all_sizes():
    for name, contestant in CONTESTANTS.items():
        for size in ("tiny", "small", "full"):
            config = contestant.method(size)
            assert isinstance(config, (QueryConfig, GdrNetConfig, SurfEmbConfig)), name
            assert config.crop_size >= (224 if size == "full" else 128) or name == "coarse-smaller-crops"
        assert set(contestant.ways) <= set(WAYS)
        assert contestant.start in {None, *CONTESTANTS}
    assert ComparisonConfig.__doc__ is not None
    listed = ComparisonConfig.__doc__.split("any of ")[1].split("; comparison.md")[0]
    shown = [name for name, contestant in CONTESTANTS.items() if contestant.shown]
    assert " ".join(listed.split()).split(", ") == shown, "the help text names them"
    for size in ("tiny", "small", "full"):
        flagship = CONTESTANTS["flagship"].method(size)
        for name in ("coordinates", "pre.c", "raw-crop", "e2e.all", "pre.q"):
            config = CONTESTANTS[name].method(size)
            for same in ("crop_size", "pad", "stride", "width", "head_width"):
                assert getattr(config, same) == getattr(flagship, same), (name, size, same)
        sides = {name: contestant.method(size).crop_size for name, contestant in CONTESTANTS.items()}
        assert sides.pop("coarse-smaller-crops") == 3 * flagship.crop_size // 4
        assert sides.pop("coarse-larger-crops") == 5 * flagship.crop_size // 4
        assert set(sides.values()) == {flagship.crop_size}
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
    assert not (tmp_path / "wedge" / "crops").exists()
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
    monkeypatch.setattr(comparison, "judge", lambda *_: pytest.fail("judged twice"))
    assert compare([part], CONFIG, tmp_path, torch.device("cpu"), crops) == found
    with pytest.raises(ValueError, match=r"another comparison; it differs in config.samples"):
        compare([part], replace(CONFIG, samples=24), tmp_path, torch.device("cpu"), crops)
    other = replace(CONFIG, contestants=("e2e.all",), learning_rate=1e-4)
    with pytest.raises(ValueError, match=r"another comparison; it differs in config.learning_rate"):
        compare([part], other, tmp_path, torch.device("cpu"), crops)
    with pytest.raises(ValueError, match=r"another comparison; it differs in crops.pictures"):
        compare([part], CONFIG, tmp_path, torch.device("cpu"), crops | {"pictures": 5})
    # a model trained anew is judged anew
    monkeypatch.setattr(comparison, "judge", lambda *_: [])
    model = tmp_path / "wedge" / "gdrnet" / "0" / "model.safetensors"
    known = load_model(model)
    save_model(model, known.method, known.parts, {**known.info, "seconds": "99"})
    again = compare([part], CONFIG, tmp_path, torch.device("cpu"), crops)
    assert [c.contestant for c in again] == ["query-network", "pre.q", "surfemb", "surfemb"]
    page = write_report(found, CONFIG, tmp_path, "CPU").read_text()
    assert "| gdrnet | PnP | 0 |" in page
    assert "query-network" not in page
    assert "Left out" not in page
    assert len(json.loads((tmp_path / "comparison.json").read_text())) == len(found)
    # what was judged by other rules, or of a model that is gone, does not stand beside the others
    record = tmp_path / "wedge" / "pre.q" / "0" / "judged.json"
    judged = json.loads(record.read_text())
    judged["settings"]["judge"] -= 1
    record.write_text(json.dumps(judged))
    (tmp_path / "wedge" / "surfemb" / "0" / "model.safetensors").unlink()
    assert [run.contestant for run in finished(tmp_path)] == ["query-network"]  # gdrnet's record has no rows
    assert outdated(tmp_path) == ["wedge: surfemb, seed 0", "wedge: pre.q, seed 0"]
    page = write_report(finished(tmp_path), CONFIG, tmp_path, "CPU").read_text()
    assert "wedge: surfemb, seed 0; wedge: pre.q, seed 0." in page


def test_times_of_several_devices_are_told_apart(tmp_path):
    here, there = {"trained_on": "CPU", "judged_on": "CPU"}, {"trained_on": "a GPU", "judged_on": "a GPU"}
    old = one(contestant="surfemb")
    page = write_report([old, one(**here)], CONFIG, tmp_path, "a GPU").read_text()
    assert "crops each; CPU." in page
    mixed = one(trained_on="a GPU", judged_on="CPU")
    assert "trained on a GPU, judged on CPU." in write_report([mixed], CONFIG, tmp_path, "CPU").read_text()
    assert "crops each; a GPU." in write_report([old], CONFIG, tmp_path, "a GPU").read_text()
    assert "Trained on" not in page
    page = write_report([one(**here), one(contestant="gdrnet", seed=1, **there)], CONFIG, tmp_path, "CPU").read_text()
    assert "of several devices, whose times do not compare" in page
    assert "Trained on CPU, judged on CPU: flagship, seed 0." in page
    assert "Trained on a GPU, judged on a GPU: gdrnet, seed 1." in page


def test_a_report_before_anything_is_shown_or_has_a_curve(tmp_path):
    hidden = one(contestant="query-network")
    assert "## p" not in write_report([hidden], CONFIG, tmp_path, "CPU").read_text()
    assert not (tmp_path / "p.png").exists()
    page = write_report([hidden, one(contestant="surfemb", curve=())], CONFIG, tmp_path, "CPU").read_text()
    assert "| surfemb |" in page
    assert "No curve of errors has surfemb: its validations" in page
    assert (tmp_path / "p.png").exists()


def test_the_table_puts_seeds_together():
    runs = [one(), one(seed=1, rotation=(30.0, 40.0), minutes=9.0), one(way="regression, refined")]
    head, _, first, second = table(runs).splitlines()
    cells = dict(zip(head.split(" | "), first.split(" | "), strict=True))
    assert cells["R median (deg)"].startswith("16.0 (")
    assert cells["R mean (deg)"].startswith("18.2 (1.0 to ")
    assert cells["R under 10 deg"] == "50 %"
    assert cells["seeds"] == "0, 1"
    assert cells["minutes |"] == "8 |"
    expected = np.mean(2 * np.sqrt(2) * np.sin(np.radians([1, 2, 30, 40]) / 2))
    assert float(cells["R mean (Frobenius)"]) == pytest.approx(expected, abs=1e-3)
    assert "regression, refined" in second


@pytest.mark.parametrize(("interval", "true"), [(median_interval, np.log(2)), (mean_interval, 1.0)])
def test_intervals_hold_the_truth_as_often_as_they_should(interval, true):
    draws = np.random.default_rng(0).exponential(size=(200, 60))
    held = [low <= true <= high for low, high in (interval(row, 400) for row in draws)]
    assert 0.88 < np.mean(held) < 0.99


def test_shares_are_of_the_first_contestants_errors_on_the_same_crops_under_the_same_seeds():
    generator = np.random.default_rng(0)
    base = generator.exponential(size=(2, 200)) * 10  # some crops are hard for all
    runs = [one(seed=seed, rotation=tuple(base[seed]), translation=tuple(base[seed])) for seed in (0, 1)]
    runs.append(one(seed=7, rotation=(1.0,) * 200, translation=(1.0,) * 200))  # a seed that the other has not
    for seed, factor in ((0, 0.8), (1, 0.6)):
        better = tuple(base[seed] * factor * generator.uniform(0.99, 1.01, 200))
        runs.append(one(contestant="coarse", seed=seed, rotation=better, translation=tuple(base[seed])))
    runs.append(one(contestant="coarse", seed=0, way="PnP"))  # the first has no such way
    (row,) = shares_table(runs).splitlines()[2:]
    name, way, seeds, turn, shift = row.removeprefix("| ").removesuffix(" |").split(" | ")
    assert (name, way, seeds) == ("coarse", "regression", "0, 1")
    share, own = turn.split(": ")
    assert [float(value) for value in own.split(", ")] == pytest.approx([0.8, 0.6], abs=0.02)
    low, high = (float(end) for end in share.split(" (")[1].removesuffix(")").split(" to "))
    assert 0.57 < low < float(share.split(" ")[0]) < high < 0.83
    assert shift == "1.00 (1.00 to 1.00): 1.00, 1.00"
    assert shares_table(runs[:3]) == ""


@pytest.mark.parametrize(("share", "true"), [(0.7, 0.7), (1.0, 1.0)])
def test_intervals_of_shares_hold_the_truth_and_are_narrower_than_the_figures_own(share, true):
    generator = np.random.default_rng(0)
    held, widths, own = [], [], []
    for _ in range(100):
        base = generator.exponential(size=(1, 60))
        ours = share * base * np.exp(0.1 * generator.standard_normal(base.shape))
        found, low, high = share_interval(ours, base, 400)
        held.append(low <= true <= high)
        widths.append((high - low) / found)
        ends = median_interval(ours, 400)
        own.append((ends[1] - ends[0]) / np.median(ours))
    assert 0.85 < np.mean(held) <= 1.0
    assert np.mean(widths) < 0.4 * np.mean(own)


def test_pixels_stand_beside_those_of_the_first_contestant_under_the_same_seeds():
    base = np.random.default_rng(0).random((2, 40, 3))
    rows = [PixelScores("p", "coarse", seed, tuple(map(tuple, base[seed]))) for seed in (0, 1)]
    for seed, apart in ((0, 0.02), (1, 0.04)):
        rows.append(PixelScores("p", "without-light", seed, tuple(map(tuple, base[seed] - apart))))
    first, second = pixels_table(rows).splitlines()[2:]
    assert first.startswith(f"| coarse | 0, 1 | 40 | {base[..., 0].mean():.3f} |")
    assert f"| {base[..., 0].mean() - 0.03:.3f}, -0.030 (-0.040 to -0.020): -0.020, -0.040 |" in second


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
    assert not (tmp_path / "wedge" / "crops").exists()


@pytest.mark.usefixtures("tiny")
def test_the_command_writes_its_report(tmp_path, capsys):
    arguments = ["compare", "bracket", "--out", str(tmp_path / "c"), "--contestants", "gdrnet", "--samples", "8"]
    assert main([*arguments, "--batch-size", "8", "--judged", "2", "--validations", "1"]) == 0
    assert "bracket: gdrnet, seed 0" in capsys.readouterr().out
    assert (tmp_path / "c" / "comparison.md").is_file()
    assert main([*arguments[:4], "--contestants", "none"]) == 2
    assert "no contestant 'none'" in capsys.readouterr().err


def boxes_of(root: Path, object_id: int) -> Path:
    """A file with the first annotated box of an object in every image."""
    found = []
    for scene in sorted((root / "test").iterdir()):
        truth, infos = (json.loads((scene / name).read_text()) for name in ("scene_gt.json", "scene_gt_info.json"))
        for image, instances in truth.items():
            place = next(i for i, instance in enumerate(instances) if instance["obj_id"] == object_id)
            found.append({
                "scene_id": int(scene.name), "image_id": int(image), "category_id": object_id, "score": 1.0,
                "bbox": infos[image][place]["bbox_visib"], "time": 0.1,
            })  # fmt: skip
    path = root / "boxes.json"
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize("targets", [True, False])
def test_the_detectors_surest_boxes_are_taken_as_many_as_there_are_instances(tmp_path, targets):
    root, part = make_bop(tmp_path), small_parts()[1]  # of which every image shows two
    boxes = boxes_of(root, part.object_id)
    known = json.loads(boxes.read_text())
    boxes.write_text(json.dumps([{**one, "score": 0.1 * number} for number in range(5) for one in known]))
    if not targets:
        (root / "test_targets_bop19.json").unlink()
    tasks = Photographs(root, boxes, "test", [part])._tasks[part.object_id]
    assert [sorted(task.detections.score.tolist()) for task in tasks] == [pytest.approx([0.3, 0.4])] * 4


@pytest.mark.usefixtures("tiny")
def test_models_are_judged_on_photographs_once_and_by_the_results_code(tmp_path, monkeypatch):
    root = make_bop(tmp_path / "bop")
    part = small_parts()[0]
    config = replace(
        CONFIG, contestants=("gdrnet", "pre.c"), photographs=root, detections=boxes_of(root, part.object_id)
    )
    perfect = []

    def truthful(self, image, camera, detections):
        estimates = estimate(self, image, camera, detections)
        scene, number = divmod(round(255 * float(image[0, 0, 0])), 10)
        truth = json.loads((root / "test" / f"{scene:06d}" / "scene_gt.json").read_text())[str(number)][0]
        T = torch.eye(4, dtype=torch.float64)
        T[:3, :3] = torch.tensor(truth["cam_R_m2c"], dtype=torch.float64).reshape(3, 3)
        T[:3, 3] = torch.tensor(truth["cam_t_m2c"], dtype=torch.float64)
        T[2, 3] += 10.0 * (scene == 2)
        perfect.append(len(estimates))
        known = PoseDetails.unknown([None])
        return replace(estimates, T_cam_obj=T[None], score=torch.ones(1, dtype=torch.float64), details=known)

    estimate = PoseEstimator.estimate
    monkeypatch.setattr(PoseEstimator, "estimate", truthful)
    compare([part], config, tmp_path / "out", torch.device("cpu"), {"pictures": 4})
    assert perfect == [1] * 8  # two ways, four images, and none by true coordinates
    rows = on_photographs(tmp_path / "out")
    assert [(row.contestant, row.way, row.targets, row.estimated) for row in rows] == [
        ("gdrnet", "regression", 4, 4), ("gdrnet", "PnP", 4, 4)
    ]  # fmt: skip
    assert rows[0].figures["rotation_deg_mean"] == pytest.approx(0, abs=1e-4)
    assert rows[0].figures["translation_mm_mean"] == pytest.approx(5.0)
    missed = sum(part.diameter * k / 20 < 10.0 for k in range(1, 11))  # of BOP's thresholds, in half of the images
    assert missed == 2
    assert rows[0].figures["mean_AR"] == pytest.approx(1 - missed / 40)
    compare([part], config, tmp_path / "out", torch.device("cpu"), {"pictures": 4})
    assert len(perfect) == 8  # not judged twice
    (root / "boxes.json").write_text((root / "boxes.json").read_text().replace('"score": 1.0', '"score": 0.9'))
    compare([part], config, tmp_path / "out", torch.device("cpu"), {"pictures": 4})
    assert len(perfect) == 16  # but other boxes in a file of the same name are
    page = write_report(finished(tmp_path / "out"), config, tmp_path / "out", "CPU").read_text()
    assert "| gdrnet | PnP | 0 | 4 of 4 |" in page
    low, high = rows[0].intervals["translation_mm_mean"]
    assert 0 <= low < 5 < high <= 10 + 1e-6
    assert f"| 5.0 ({low:.1f} to {high:.1f}) |" in page
    # of several boxes of one instance the detector's surest is looked at, whatever the poses' scores
    surer = [{**box, "score": 0.95, "bbox": [1, 2, 30, 40]} for box in json.loads((root / "boxes.json").read_text())]
    less = [{**box, "score": 0.5, "bbox": [5, 5, 20, 20]} for box in surer]
    (root / "boxes.json").write_text(json.dumps(json.loads((root / "boxes.json").read_text()) + surer + less))
    looked = []
    monkeypatch.setattr(
        PoseEstimator, "estimate",
        lambda self, image, camera, detections: looked.append(detections.box.tolist()) or truthful(
            self, image, camera, detections
        ),
    )  # fmt: skip
    compare([part], config, tmp_path / "out", torch.device("cpu"), {"pictures": 4})
    assert looked == [[[1.0, 2.0, 30.0, 40.0]]] * 8
    # a run that was judged by other boxes does not stand beside those of the last call
    other = replace(config, contestants=("gdrnpp",), detections=boxes_of(root, part.object_id))
    compare([part], other, tmp_path / "out", torch.device("cpu"), {"pictures": 4})
    assert {row.contestant for row in on_photographs(tmp_path / "out")} == {"gdrnpp"}
    assert outdated(tmp_path / "out") == [f"{part.name}: gdrnet, seed 0", f"{part.name}: pre.c, seed 0"]
    assert len(json.loads((tmp_path / "out" / "photographs.json").read_text())) == 2


def test_photographs_without_boxes_or_without_the_part_are_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="photographs is given alone"):
        replace(CONFIG, photographs=tmp_path)
    root = make_bop(tmp_path / "bop")
    config = replace(CONFIG, photographs=root, detections=boxes_of(root, 1))
    with pytest.raises(ValueError, match="show no wedge"):
        compare([replace(wedge(), object_id=77)], config, tmp_path / "out", torch.device("cpu"))
    with pytest.raises(ValueError, match="has no box of the objects"):
        compare([replace(wedge(), object_id=2)], config, tmp_path / "out", torch.device("cpu"))
    (root / "test" / "000002" / "rgb" / "000003.png").unlink()
    with pytest.raises(ValueError, match="no image 000003"):
        compare([replace(wedge(), object_id=1)], config, tmp_path / "out", torch.device("cpu"))
    assert not (tmp_path / "out").exists()

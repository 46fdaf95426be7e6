"""Scores that are worth something: calibrations in model files, what estimates make of them, how they are learnt."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from cad2pose.cli import main
from cad2pose.confidence import (
    Calibration,
    CalibrationError,
    Calibrations,
    calibrations_from_json,
    calibrations_to_json,
    pose_spread,
    save_calibrations,
)
from cad2pose.data import SyntheticConfig, SyntheticCrops
from cad2pose.data.pose_prior import PosePrior
from cad2pose.estimator import EstimatorOptions, PoseEstimator, likely_right
from cad2pose.experiments import calibrate, calibration_crops, calibration_outcomes, crops_in_all, usual_ways
from cad2pose.experiments.calibration_crops import inside as inside_of
from cad2pose.experiments.calibration_crops import photograph
from cad2pose.geometry import Camera, project_points, projected_box, transform_points
from cad2pose.methods import GdrNetMethod, QueryMethod, SurfEmbMethod
from cad2pose.model_file import Model, load_model, save_model
from cad2pose.structures import Detections, PoseDetails, PoseEstimates
from small_models import SMALL, SMALL_GDRNET, SMALL_SURFEMB, PlantedMethod, planted_model, random_model, wedge

CAMERA = Camera.from_values(600.0, 610.0, 150.0, 130.0, 320, 240)
IMAGE = torch.full((3, 240, 320), 0.5)
STYLE = SyntheticConfig.evaluation(crop_size=32, pictures=4)
HALF = Calibration(2.0, -1.0)


def at(depth: float) -> torch.Tensor:
    T = torch.eye(4, dtype=torch.float64)
    T[:3, 3] = torch.tensor([-100.0, -100.0, depth])
    return T


def model_of(calibrations, *poses):
    parts = [wedge(1 + i, f"part {i}") for i in range(len(poses))]
    return replace(planted_model(torch.stack(poses), *parts), calibrations=calibrations)


def detections(*ids):
    return Detections(torch.tensor(ids), torch.tensor([[100.0, 90, 60, 60]] * len(ids)), torch.ones(len(ids)))


def test_an_estimate_has_the_chance_that_the_model_file_promises():
    nothing = torch.full((4, 4), torch.nan, dtype=torch.float64)
    calibrations = {"regression": (Calibration(4.0, -1.5, -0.4), HALF, None)}
    model = model_of(calibrations, at(500.0), nothing, at(600.0))
    found = PoseEstimator([model], "cpu").estimate(IMAGE, CAMERA, detections(1, 2, 3, 1))
    part = model.parts[0]
    away = float((part.center + at(500.0)[:3, 3]).norm()) / part.radius  # no covariance is known
    p = 1 / (1 + math.exp(1.5 - 4 * 0.75 + 0.4 * math.log(away)))
    assert found.confidence[[0, 3]].tolist() == pytest.approx([p, p])
    assert float(found.confidence[1]) == 0, "no pose is certainly not right"
    assert math.isnan(found.confidence[2])
    assert found[torch.tensor([3, 1])].confidence.tolist() == pytest.approx([p, 0])


@pytest.mark.parametrize(
    "options",
    [{"rolls": (0.0, 90.0)}, {"zooms": (0.9,)}, {"recrop": False}],
    ids=lambda options: next(iter(options)),
)
def test_scores_of_another_kind_have_no_chance_stated(options):
    model = model_of({"regression": (HALF,)}, at(500.0))
    found = PoseEstimator([model], "cpu", EstimatorOptions(**options)).estimate(IMAGE, CAMERA, detections(1))
    assert math.isnan(found.confidence[0])
    plain = PoseEstimator([model], "cpu", EstimatorOptions(batch_size=1, refine=False))
    assert float(plain.estimate(IMAGE, CAMERA, detections(1)).confidence[0]) == pytest.approx(0.622, abs=1e-3)
    assert not EstimatorOptions(query_turns=2).calibrated


def test_poses_that_are_hardly_right_can_be_left_out():
    nothing = torch.full((4, 4), torch.nan, dtype=torch.float64)
    model = model_of({"regression": (HALF, HALF, None)}, at(500.0), nothing, at(600.0))
    found = PoseEstimator([model], "cpu").estimate(IMAGE, CAMERA, detections(1, 2))
    assert likely_right(found, 0.6).object_id.tolist() == [1, 2], "a box without a pose keeps its reason"
    assert likely_right(found, 0.7).object_id.tolist() == [2]
    unknown = PoseEstimator([model], "cpu").estimate(IMAGE, CAMERA, detections(1, 3))
    with pytest.raises(ValueError, match="object 3 are right is not known"):
        likely_right(unknown, 0.1)


def test_spread_is_what_the_covariance_says_or_the_distance():
    T = torch.stack([at(500.0)] * 2)
    covariance = torch.stack(
        (torch.full((6, 6), torch.nan), torch.diag(torch.tensor([0.01, 0, 0, 0, 0, 9.0])))
    ).double()
    center = torch.tensor([100.0, 100.0, 0.0]).double()
    found = pose_spread(T, covariance, center, 10.0).tolist()
    assert found == pytest.approx([50.0, math.sqrt(0.01 + 0.09)])


def test_every_way_has_its_own_calibration():
    model = replace(random_model(), calibrations={"refined": (HALF,)})
    regressed = PoseEstimator([model], "cpu", EstimatorOptions(refine=False))
    refined = PoseEstimator([model], "cpu")
    assert math.isnan(regressed.estimate(IMAGE, CAMERA, detections(1)).confidence[0])
    found = refined.estimate(IMAGE, CAMERA, detections(1))
    assert float(found.confidence[0]) in (0, pytest.approx(float(HALF.probability(found.score)[0])))
    assert not math.isnan(found.confidence[0])
    with_depth = refined.estimate(IMAGE, CAMERA, detections(1), depth=torch.zeros(240, 320))
    assert math.isnan(with_depth.confidence[0]), "a depth image moves poses"


def test_a_model_file_keeps_its_calibrations(tmp_path):
    model = random_model(wedge(1, "a"), wedge(2, "b"))
    known: Calibrations = {"regression": (HALF, None), "refined": (None, Calibration(-0.1234567890123, 1e-9, -7.5))}
    save_model(tmp_path / "a", model.method, model.parts, model.info, known)
    assert load_model(tmp_path / "a").calibrations == known
    save_model(tmp_path / "b", model.method, model.parts, model.info)
    assert load_model(tmp_path / "b").calibrations == {}


def test_a_spread_smaller_than_any_fitted_on_makes_nothing_surer():
    spread = torch.tensor([0.5, 2.0, 4.0])
    open_ended, known = Calibration(3.0, -1.0, -1.5), Calibration(3.0, -1.0, -1.5, least_spread=2.0)
    score = torch.full((3,), 0.4)
    bare, clamped = (one.probability(score, spread) for one in (open_ended, known))
    assert float(bare[0]) > float(bare[1])
    torch.testing.assert_close(clamped, torch.stack((bare[1], bare[1], bare[2])))
    assert calibrations_from_json({"refined": [[1.0, 2.0, 3.0]]}, 1) == {"refined": (Calibration(1.0, 2.0, 3.0),)}


def test_a_box_that_may_not_show_the_part_makes_nothing_likely():
    spread, score = torch.tensor([1.0, 1.0]), torch.tensor([0.2, 0.6])
    of_pose = Calibration(0.5, 1.0, -1.5)
    known = replace(of_pose, shown=(20.0, -8.0))
    shown = known.probability_shown(score)
    torch.testing.assert_close(shown, torch.sigmoid(torch.tensor([-4.0, 4.0], dtype=torch.float64)), atol=1e-6, rtol=0)
    torch.testing.assert_close(known.probability(score, spread), of_pose.probability(score, spread) * shown)
    assert of_pose.probability_shown(score).tolist() == [1.0, 1.0]
    assert calibrations_from_json(calibrations_to_json({"refined": (known, None)}), 2) == {"refined": (known, None)}


def test_calibrations_beside_a_model_file_hold_in_place_of_its_own(tmp_path):
    path, model = tmp_path / "m.safetensors", random_model()
    save_model(path, model.method, model.parts, model.info, {"refined": (HALF,)})
    written = path.read_bytes()
    beside = save_calibrations(path, {"refined": (replace(HALF, shown=(3.0, -1.0)),)})
    assert (beside.name, path.read_bytes()) == ("m.calibration.json", written)
    assert load_model(path).calibrations == {"refined": (replace(HALF, shown=(3.0, -1.0)),)}
    kept = beside.read_text()
    beside.write_text(kept.replace("refined", "guess"))
    with pytest.raises(ValueError, match="damaged .*delete it, or renew it"):
        load_model(path)
    beside.write_text("[]")
    with pytest.raises(ValueError, match="damaged"):
        load_model(path)
    beside.write_text(kept)
    path.write_bytes(written)
    assert load_model(path).calibrations != {"refined": (HALF,)}
    other = tmp_path / "other.safetensors"
    save_model(other, model.method, model.parts, {"samples": "7"})
    path.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="of another model than m.safetensors"):
        load_model(path)
    save_model(path, model.method, model.parts, model.info)
    assert not beside.exists(), "they were the other file's"
    assert load_model(path).calibrations == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"guess": [[1, 2, 0]]}, "guess"), ({"refined": [[1, 2, 0]] * 2}, "not a list of 1"), ({"refined": 3}, "list"),
        ({"refined": [[1.0, 2.0]]}, "three, four or six finite"),
        ({"refined": [[1.0, math.nan, 0.0]]}, "three, four or six finite"),
        ({"refined": [[1.0, "x", 0.0]]}, "three, four or six finite"),
    ],
)  # fmt: skip
def test_broken_calibrations_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        calibrations_from_json(value, 1)
    assert calibrations_from_json(calibrations_to_json({"pnp": (HALF,)}), 1) == {"pnp": (HALF,)}


def test_a_wide_crop_is_a_photograph_of_what_the_crop_shows():
    model = model_of({}, at(500.0))
    wide = replace(STYLE, crop_size=48, pad=SMALL_GDRNET.pad * 1.5)
    batch = SyntheticCrops(model.parts, wide, "cpu", 3).batch(0, 4)
    assert batch.truth is not None
    assert isinstance(model.method, PlantedMethod)
    for row in range(4):
        truth = batch.truth.T_virt_obj[row].double()
        model.method.plant(truth[None])
        estimator = PoseEstimator([model], "cpu", EstimatorOptions(recrop=False))
        view = photograph(batch, row, wide.pad)
        found = estimator.estimate(view.image, view.camera, Detections(torch.tensor([1]), view.box, torch.ones(1)))
        assert float(found.score[0]) == 0.75
        inside = inside_of(batch.valid[row, 0] == 1)
        torch.testing.assert_close(view.T_cam_obj, truth, atol=0, rtol=0)
        torch.testing.assert_close(found.T_cam_obj[0], truth, atol=1e-3, rtol=1e-5)
        seen = model.method.seen[0]
        if inside == (0, 48, 0, 48):
            torch.testing.assert_close(seen.image[0], batch.image[row, :, 8:40, 8:40], atol=1e-4, rtol=0)


def test_what_is_outside_of_the_image_is_cut_off():
    valid = torch.ones(10, 12, dtype=torch.bool)
    valid[:, :3] = False
    valid[8:] = False
    valid[7, 6:] = False  # an edge that is not quite straight
    assert inside_of(valid) == (0, 7, 3, 12)
    assert inside_of(torch.ones(4, 4, dtype=torch.bool)) == (0, 4, 0, 4)


@pytest.fixture
def honest(monkeypatch):
    """Estimates that are right with the square of their score as chance, or always where they say they are precise."""
    generator = torch.Generator().manual_seed(0)

    def estimate(estimator, seen, boxes):
        score, chance, other = torch.rand(3, generator=generator).tolist()
        precise = other < 0.3
        T = seen.T_cam_obj[None].clone()
        T[:, 2, 3] += 60 * (chance > score**2 and not precise)
        if seen.kind == calibration_crops.WITHOUT:
            T, score = torch.eye(4).double()[None], score / 10
        details = PoseDetails.unknown([None])
        details = replace(details, covariance=torch.eye(6).double()[None] * (1e-4 if precise else 100.0))
        return PoseEstimates(boxes.object_id, T, torch.tensor([score]).double(), boxes.box, details=details)

    def crops(parts, config, device, seed):
        return SyntheticCrops(parts, replace(config, crop_size=32, pictures=4), device, seed)

    monkeypatch.setattr(calibration_outcomes, "_estimate", estimate)
    monkeypatch.setattr(calibration_crops, "SyntheticCrops", crops)


def test_scores_are_learnt_from_some_crops_and_tested_on_others(honest):
    model = replace(random_model(wedge(1, "a"), wedge(2, "b")), calibrations={"search": (HALF, None)})
    done = []
    known, tests = calibrate(
        model, STYLE, ("regression",), torch.device("cpu"), 150, 250, lambda way, n: done.append((way, n))
    )
    assert known["search"] == (HALF, None)
    assert done[-1] == ("regression", 2 * (crops_in_all(150) + crops_in_all(250)))
    assert [(test.part, test.fitted, test.tested) for test in tests] == [
        ("a", 150, 250), ("b", 150, 250), ("all parts", 300, 500),
    ]  # fmt: skip
    for fit in known["regression"]:
        assert fit is not None
        vague, precise = torch.full((2,), 17.3), torch.full((2,), 0.0173)  # as the covariances above have it
        low, high = fit.probability(torch.tensor([0.2, 0.9]), vague).tolist()
        assert low < 0.25
        assert high > 0.55
        assert fit.probability(torch.tensor([0.2, 0.9]), precise).min() > 0.9
    assert all(0.4 < test.right < 0.7 for test in tests)
    assert tests[-1].error < 0.1
    assert sum(b.count for b in tests[-1].bins) == 500
    assert [(test.rough, test.without) for test in tests] == [(62, 62), (62, 62), (124, 124)]
    for test in tests:
        assert test.without_promised is not None
        assert test.rough_right is not None
        assert test.rough_promised == pytest.approx(test.rough_right, abs=0.15)
        assert test.without_promised < 0.15
    for fit in known["regression"]:
        assert fit is not None
        assert fit.shown is not None
        assert fit.probability_shown(torch.tensor([0.0, 0.5])).tolist() == [
            pytest.approx(0.25, abs=0.25), pytest.approx(1, abs=0.03),
        ]  # fmt: skip


def test_some_crops_show_the_part_in_a_rough_box_and_some_do_not_show_it():
    model = random_model(wedge(1, "a"), wedge(2, "b"))
    seen = list(calibration_crops.calibration_crops(model, STYLE, 5, 8, torch.device("cpu")))
    assert len(seen) == 2 * crops_in_all(8) == 24
    assert [one.part_index for one in seen] == [0, 1] * 12
    assert [one.kind for one in seen[::2]] == [0, 0, 0, 0, 1, 2] * 2
    off = []
    for one in seen:
        assert bool(torch.isnan(one.T_cam_obj).all()) == (one.kind == calibration_crops.WITHOUT)
        image, end = torch.tensor([one.camera.width, one.camera.height]), one.box[0, :2] + one.box[0, 2:]
        assert bool((end > 0).all() & (one.box[0, :2] < image).all())
        if one.kind != calibration_crops.WITHOUT:
            part = model.parts[one.part_index]
            whole = projected_box(part.mesh.used_vertices[None], one.T_cam_obj[None], one.camera.K[None])
            off.append((one.kind, float((one.box[0, 2:] / whole[0, 2:]).log().abs().mean())))
    usual = [error for kind, error in off if kind == calibration_crops.USUAL]
    rough = [error for kind, error in off if kind == calibration_crops.ROUGH]
    assert sum(usual) / len(usual) < 0.2
    assert sum(rough) / len(rough) > 1.5 * sum(usual) / len(usual)


def test_every_method_has_a_way():
    part = wedge()
    gdrnet = Model(GdrNetMethod(SMALL_GDRNET, [part]), (part,), {})
    surfemb = Model(SurfEmbMethod(SMALL_SURFEMB, [part]), (part,), {})
    assert usual_ways(random_model()) == ("regression", "refined")
    assert usual_ways(gdrnet) == ("regression", "pnp")
    assert usual_ways(surfemb) == ("sampling",)
    both = replace(SMALL, intermediate="queries+coordinates")
    model = Model(QueryMethod(both, [part]).eval().requires_grad_(False), (part,), {})
    assert usual_ways(model) == ("regression", "refined", "pnp")
    assert PoseEstimator([model], "cpu").way_of(model) in usual_ways(model), "what is asked for by default is known"


def test_the_command_writes_the_model_anew(honest, tmp_path, capsys, monkeypatch):
    model, path = random_model(), tmp_path / "model.safetensors"
    save_model(path, model.method, model.parts, {"samples": "7"})
    size = ["--fit-crops", "8", "--test-crops", "8", "--device", "cpu"]
    assert main(["calibrate", str(path), *size, "--out", str(tmp_path / "b"), "--figures", str(tmp_path / "f")]) == 0
    assert "wedge" in capsys.readouterr().out
    assert not load_model(path).calibrations
    there = load_model(tmp_path / "b")
    assert set(there.calibrations) == {"regression", "refined"}
    assert there.info["samples"] == "7"
    figures = json.loads((tmp_path / "f").read_text())
    assert [(f["way"], f["tested"]) for f in figures] == [("regression", 8), ("refined", 8)]
    assert figures[0]["rough"] == figures[0]["without"] == 2
    before = path.read_bytes()
    assert main(["calibrate", str(path), *size, "--beside"]) == 0
    assert path.read_bytes() == before
    assert "model.calibration.json" in capsys.readouterr().out
    assert set(load_model(path).calibrations) == {"regression", "refined"}
    assert main(["calibrate", str(path), *size, "--beside", "--out", str(tmp_path / "c")]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path), *size, "--beside"]) == 0, "a folder with one model is that model"
    assert "model.calibration.json" in capsys.readouterr().out
    assert main(["calibrate", str(path), *size, "--ways", "pnp"]) == 2
    assert "regresses no coordinates" in capsys.readouterr().err
    (tmp_path / "other.safetensors").write_bytes(before)
    assert main(["calibrate", str(tmp_path), *size]) == 2
    assert "model.safetensors, other.safetensors in it; give one" in capsys.readouterr().err
    assert main(["calibrate", str(path), "--fit-crops", "0", "--device", "cpu"]) == 2
    assert "needs crops" in capsys.readouterr().err
    monkeypatch.setattr("cad2pose.cli.calibrate.calibrate", lambda *_: pytest.fail("crops were made"))
    for where in ("--out", "--figures"):
        assert main(["calibrate", str(path), *size, where, str(path / "new" / "file")]) == 2
        assert "is a file, so nothing can be written" in capsys.readouterr().err
        assert main(["calibrate", str(path), *size, where, str(tmp_path)]) == 2
        assert "is a folder, but a file is to be written there" in capsys.readouterr().err
    assert main(["calibrate", str(path), *size, "--out", str(tmp_path / "m-00001-of-00002.safetensors")]) == 2
    assert "one file of several" in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path / "none")]) == 2
    assert "there is no model file" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["damaged", "of another model"])
def test_calibrations_that_cannot_be_used_are_renewed_by_the_command_that_the_error_names(
    honest, tmp_path, capsys, fault
):
    model, path = random_model(), tmp_path / "model.safetensors"
    save_model(path, model.method, model.parts, {})
    size = ["--fit-crops", "8", "--test-crops", "8", "--device", "cpu"]
    assert main(["calibrate", str(path), *size, "--beside"]) == 0
    beside = tmp_path / "model.calibration.json"
    value = json.loads(beside.read_text())
    beside.write_text("{" if fault == "damaged" else json.dumps({**value, "model": "sha256:0"}))
    with pytest.raises(CalibrationError, match=f"these calibrations are {fault}.*--beside"):
        load_model(path)
    assert not load_model(path, beside=False).calibrations
    capsys.readouterr()
    assert main(["calibrate", str(path), *size, "--beside"]) == 0
    assert "they are made anew" in " ".join(capsys.readouterr().out.split())
    assert set(load_model(path).calibrations) == {"regression", "refined"}


def test_fits_are_tested_on_crops_that_they_have_not_seen(honest, monkeypatch):
    seeds: list[int] = []
    plain = calibration_crops.SyntheticCrops

    def crops(parts, config, device, seed):
        seeds.append(seed)
        return plain(parts, config, device, seed)

    monkeypatch.setattr(calibration_crops, "SyntheticCrops", crops)
    calibrate(random_model(), STYLE, ("regression", "refined"), torch.device("cpu"), 4, 4)
    assert len(seeds) == len(set(seeds)) == 2


def test_equivalent_poses_of_a_symmetric_part_are_right():
    part = wedge(symmetric=True)
    model = Model(random_model(part).method, (part,), {})
    true = at(500.0)
    turned = true @ part.symmetries.transforms()[5].double()
    far = turned.clone()
    far[2, 3] += 100
    found = []
    for T in (turned, far):
        seen = calibration_crops.BoxedPart(0, 0, IMAGE, CAMERA, torch.zeros(1, 4), true)
        boxes = detections(1)
        estimates = PoseEstimates(
            boxes.object_id, T[None], torch.tensor([0.5]).double(), boxes.box, details=PoseDetails.unknown([None])
        )
        found.append((0, seen, estimates))
    assert calibration_outcomes.judged(model, found).right.tolist() == [True, False]


def test_a_cut_photograph_has_the_intrinsics_of_what_is_left():
    part = wedge()
    style = replace(STYLE, crop_size=48, pad=3.0, prior=PosePrior(border_share=1.0))
    batch = SyntheticCrops([part], style, "cpu", 3).batch(0, 8)
    assert batch.truth is not None
    cut = 0
    for row in range(8):
        top, _, left, _ = inside_of(batch.valid[row, 0] == 1)
        view = photograph(batch, row, 3.0)
        middle = transform_points(view.T_cam_obj, part.center[None].double())
        seen = project_points(view.camera.K, middle)[0]
        there = project_points(batch.camera.K_virt[row].double(), middle)[0]
        torch.testing.assert_close(seen, there - torch.tensor([left, top]).double(), atol=1e-3, rtol=0)
        assert float((view.box[0, :2] + view.box[0, 2:] / 2 - (24 - torch.tensor([left, top]))).abs().max()) < 1e-3
        cut += left + top > 0
    assert cut > 0


def test_a_way_that_a_model_does_not_have_is_refused():
    part = wedge()
    gdrnet = Model(GdrNetMethod(SMALL_GDRNET, [part]), (part,), {})
    surfemb = Model(SurfEmbMethod(SMALL_SURFEMB, [part]), (part,), {})
    with pytest.raises(ValueError, match="no poses by 'refined'; asked for these it gives 'regression'"):
        calibrate(gdrnet, STYLE, ("refined",), torch.device("cpu"), 4, 4)
    with pytest.raises(ValueError, match="no poses by 'regression'; asked for these it gives 'sampling'"):
        calibrate(surfemb, STYLE, ("regression",), torch.device("cpu"), 4, 4)

from __future__ import annotations

import json
import math
from dataclasses import replace

import cv2
import pytest
import torch

from cad2pose.cli import main
from cad2pose.cli.demo import PoseErrors, errors_table, pose_errors
from cad2pose.data.results import read_results_csv
from cad2pose.data.scenes import Photo, synthetic_photo
from cad2pose.estimator import PoseEstimator
from cad2pose.geometry import Camera, make_transform, random_rotations, rotation_about_z
from cad2pose.model_file import save_model
from cad2pose.parts import builtin_part
from cad2pose.structures import Detections, PoseDetails, PoseEstimates
from small_models import planted_model, random_model, wedge

ZERO = torch.zeros(3, dtype=torch.float64)


def _photo(T_cam_obj):
    count = len(T_cam_obj)
    boxes = Detections(torch.ones(count, dtype=torch.int64), torch.ones(count, 4), torch.ones(count))
    return Photo(torch.zeros(3, 4, 4), T_cam_obj, boxes, torch.full((count,), 0.8))


def _found(T_cam_obj):
    count = len(T_cam_obj)
    ids = torch.ones(count, dtype=torch.int64)
    return PoseEstimates(ids, T_cam_obj, torch.full((count,), 0.3), torch.ones(count, 4))


def _turned(truth, part, angle, shift):
    """The pose turned about the z axis through the part's centre, and its centre moved."""
    rotation = truth[:3, :3] @ rotation_about_z(torch.tensor(math.radians(angle)).double())
    position = truth[:3, :3] @ part.center + truth[:3, 3]
    return make_transform(rotation, position + torch.tensor(shift).double() - rotation @ part.center)


@pytest.mark.parametrize(("symmetric", "expected"), [(False, 77.0), (True, 0.0)])
def test_errors_are_those_planted(symmetric, expected, generator):
    part = wedge(symmetric=symmetric)
    rotation = random_rotations(1, generator, torch.float64)[0]
    truth = make_transform(rotation, torch.tensor([0.0, 0, 500]).double() - rotation @ part.center)
    estimator = PoseEstimator([planted_model(truth[None], part)], "cpu")
    (error,) = pose_errors(3, estimator, _photo(truth[None]), _found(_turned(truth, part, 77.0, (3.0, 4, 0))[None]))
    assert error.rotation_deg == pytest.approx(expected, abs=0.3)
    assert error.translation_mm == pytest.approx(5)
    assert error.translation_percent == pytest.approx(1)
    assert (error.picture, error.part) == (3, "wedge")
    assert error.score == pytest.approx(0.3)
    assert error.visibility == pytest.approx(0.8)


def test_boxes_without_a_pose_are_left_out(tmp_path, capsys, monkeypatch):
    model = random_model()
    save_model(tmp_path / "m.safetensors", model.method, model.parts, {})
    estimate = PoseEstimator.estimate

    def lost(self, image, camera, detections):
        found = estimate(self, image, camera, detections)
        return replace(
            found, T_cam_obj=torch.full_like(found.T_cam_obj, math.nan),
            details=PoseDetails.unknown(["no pixel shows the part"] * len(found)),
        )  # fmt: skip

    monkeypatch.setattr(PoseEstimator, "estimate", lost)
    command = ["demo", "--model", str(tmp_path / "m.safetensors"), "--images", "2", "--out", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu"]) == 0
    assert "no pose was found in 2 of 2 boxes" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "out" / "errors.json").read_text())["poses"] == []
    assert (tmp_path / "out" / "demo.png").is_file()


def test_the_table_has_medians_per_part():
    errors = [PoseErrors(i, name, value, 2.0, 0.5, 0.9, 1.0) for i, name, value in ((0, "a", 1.0), (1, "a", 3.0))]
    table = errors_table([*errors, PoseErrors(0, "b", 9.0, 2.0, 0.5, 0.9, 1.0)])
    assert list(table.columns[2].cells) == ["1.0", "3.0", "2.0", "9.0", "9.0", "3.0"]
    assert errors_table([]).row_count == 0


def test_true_poses_of_a_photo_have_no_error():
    parts = [builtin_part("nut"), builtin_part("bushing")]
    camera = Camera.from_values(200.0, 200.0, 79.5, 59.5, 160, 120)
    photo = synthetic_photo(parts, camera, 5)
    models = [planted_model(pose[None], part) for pose, part in zip(photo.T_cam_obj, parts, strict=True)]
    estimator = PoseEstimator(models, "cpu")
    found = estimator.estimate(photo.image, camera, photo.detections)
    for error in pose_errors(0, estimator, photo, found):
        assert error.rotation_deg < 0.1
        assert error.translation_percent < 0.01


def test_the_demo_runs(tmp_path, capsys):
    model = random_model(builtin_part("nut"), builtin_part("disc"))
    save_model(tmp_path / "model.safetensors", model.method, model.parts, {})
    arguments = ["--images", "1", "--rolls", "0", "--no-recrop", "--device", "cpu", "--seed", "7"]
    run = ["demo", "--model", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "out"), *arguments]
    assert main(run) == 0
    said = capsys.readouterr().out
    assert "seed 7" in said
    assert "median" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["demo.png", "errors.json", "results.csv"]
    assert sorted(read_results_csv(tmp_path / "out" / "results.csv").object_id.tolist()) == [2, 4]
    content = json.loads((tmp_path / "out" / "errors.json").read_text())
    assert sorted(content["medians"]) == ["disc", "nut"]
    picture = cv2.imread(str(tmp_path / "out" / "demo.png"))
    assert picture is not None
    assert picture.shape[1] > 480


def test_the_demo_without_weights_says_so(tmp_path, capsys):
    assert main(["demo", "--model", str(tmp_path / "absent.safetensors"), "--out", str(tmp_path / "out")]) == 2
    assert "absent.safetensors" in capsys.readouterr().err
    assert main(["demo", "--images", "0"]) == 2
    assert not (tmp_path / "out").exists()

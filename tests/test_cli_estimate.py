from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cad2pose.cli import main
from cad2pose.confidence import Calibration, Calibrations
from cad2pose.data.images import read_image
from cad2pose.data.results import read_results_csv
from cad2pose.estimator import PoseEstimator
from cad2pose.model_file import load_model, save_model
from cad2pose.parts import builtin_part
from small_models import SMALL_GDRNET, random_model, wedge

CAMERA = {"fx": 300.0, "fy": 300.0, "cx": 79.5, "cy": 59.5, "width": 160, "height": 120}
FAST = ("--device", "cpu", "--rolls", "0", "180")


def _picture(path, size=(120, 160, 3), dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, size, dtype=dtype)
    cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture
def world(tmp_path):
    """A model of objects 5 and 6, a picture and its camera."""
    model = random_model(wedge(5, "duck"), wedge(6, "cat", shift=0.0))
    save_model(tmp_path / "model.safetensors", model.method, model.parts, {})
    (tmp_path / "camera.json").write_text(json.dumps(CAMERA))
    _picture(tmp_path / "image.png")
    return tmp_path


def _run(world, *arguments, model="model.safetensors", out="out"):
    return main(["estimate", "--model", str(world / model), "--out", str(world / out), *map(str, arguments), *FAST])


def _image(world, name="image.png"):
    return "--image", world / name, "--camera", world / "camera.json"


def _refused(world, capsys, *arguments, **settings):
    """The error message of a run that must write nothing."""
    assert _run(world, *arguments, **settings) == 2
    assert not (world / settings.get("out", "out")).exists()
    message = capsys.readouterr().err
    assert message.startswith("cad2pose: error: ")
    return message


BOX = ("--box", "40", "30", "60", "50", "--object-id", "6")
SURE = ("--min-confidence", "0.9")


def test_a_box_in_an_image(world, capsys):
    assert _run(world, *_image(world), *BOX) == 0
    results = read_results_csv(world / "out" / "results.csv")
    assert results.object_id.tolist() == [6]
    content = json.loads((world / "out" / "results.json").read_text())
    (entry,) = content["images"][0]["poses"]
    assert entry["name"] == "cat"
    assert entry["box"] == [40, 30, 60, 50]
    np.testing.assert_allclose(entry["t"], results.T_cam_obj[0, :3, 3])
    picture = cv2.imread(str(world / "out" / "pictures" / "image.png"))
    assert picture is not None
    assert picture.shape == (120, 160, 3)
    assert "cat (object 6)" in capsys.readouterr().out
    assert sorted(p.name for p in (world / "out").iterdir()) == ["pictures", "results.csv", "results.json"]


def test_a_box_is_given_for_every_instance(world, capsys):
    assert _run(world, *_image(world), *BOX, "--box", "10", "10", "50", "40") == 0
    content = json.loads((world / "out" / "results.json").read_text())
    assert [entry["box"] for entry in content["images"][0]["poses"]] == [[40, 30, 60, 50], [10, 10, 50, 40]]
    assert _run(world, *_image(world), *BOX, "--box", "10", "10", "50", out="second") == 2
    assert not (world / "second").exists()
    output = capsys.readouterr()
    assert "Expected 4 values" in output.out + output.err


def test_a_mask_is_its_box(world):
    mask = np.zeros((120, 160), dtype=np.uint8)
    mask[30:80, 40:100] = 1
    cv2.imwrite(str(world / "mask.png"), mask)
    assert _run(world, *_image(world), *BOX, "--no-pictures") == 0
    by_mask = ("--mask", world / "mask.png", "--object-id", 6, "--no-pictures")
    assert _run(world, *_image(world), *by_mask, out="second") == 0
    first, second = (read_results_csv(world / out / "results.csv") for out in ("out", "second"))
    torch.testing.assert_close(first.T_cam_obj, second.T_cam_obj)
    assert not (world / "out" / "pictures").exists()


@pytest.mark.parametrize(
    ("size", "dtype"), [((120, 160), np.uint8), ((120, 160, 4), np.uint8), ((120, 160), np.uint16)]
)
def test_gray_alpha_and_sixteen_bits_are_handled(world, size, dtype):
    _picture(world / "other.png", size, dtype)
    assert _run(world, *_image(world, "other.png"), *BOX) == 0
    assert len(read_results_csv(world / "out" / "results.csv").object_id) == 1
    assert read_image(world / "out" / "pictures" / "other.png").shape == (3, *size[:2])


def _bop_list(*rows):
    keys = ("scene_id", "image_id", "category_id", "bbox", "score")
    return json.dumps([dict(zip(keys, row, strict=True)) for row in rows])


def test_every_box_has_a_pose_unless_fewer_instances_are_asked_for(world):
    box = [40, 30, 60, 50]
    (world / "d.json").write_text(_bop_list((3, 7, 5, box, 0.9), (3, 7, 5, [10, 10, 60, 50], 0.8), (3, 7, 6, box, 0.7)))
    assert _run(world, *_image(world), "--detections", world / "d.json") == 0
    assert sorted(read_results_csv(world / "out" / "results.csv").object_id.tolist()) == [5, 5, 6]
    assert _run(world, *_image(world), "--detections", world / "d.json", "--instances", "1") == 0
    results = read_results_csv(world / "out" / "results.csv")
    assert sorted(results.object_id.tolist()) == [5, 6]
    assert results.scene_id.unique().tolist() == [3]
    assert _run(world, *_image(world), "--detections", world / "d.json", "--objects", "6", "--min-score", "1") == 0
    assert len(read_results_csv(world / "out" / "results.csv")) == 0


@pytest.mark.parametrize("score", ["2", "-0.1", "nan"])
def test_scores_that_no_pose_has_are_refused(world, capsys, score):
    assert "between 0 and 1" in _refused(world, capsys, *_image(world), *BOX, "--min-score", score)


@pytest.mark.parametrize(("offset", "kept"), [(9.0, 1), (-9.0, 0)])
def test_poses_that_are_hardly_right_are_left_out_if_asked(world, capsys, offset, kept):
    assert "poses of object 6 are right is not known" in _refused(world, capsys, *_image(world), *BOX, *SURE)
    model = load_model(world / "model.safetensors")
    calibrations: Calibrations = {"regression": (None, Calibration(0.0, offset))}
    save_model(world / "model.safetensors", model.method, model.parts, model.info, calibrations)
    alone = ("--model", str(world / "model.safetensors"), "--out", str(world / "out"), "--no-refine", "--device", "cpu")
    assert main(["estimate", *alone, *map(str, (*_image(world), *BOX, *SURE))]) == 0
    assert len(read_results_csv(world / "out" / "results.csv").object_id) == kept
    assert "between 0 and 1" in _refused(world, capsys, *_image(world), *BOX, *SURE[:1], "1.5", out="second")


def test_images_get_their_own_boxes_or_none(world, capsys):
    """Detections go by number: two pictures of one number, or one that the file says nothing of, are refused."""
    boxes = [(0, 0, 5, [40, 30, 60, 50], 0.9), (0, 1, 5, [10, 30, 60, 50], 0.9), (0, 2, 5, [20, 30, 60, 50], 0.9)]
    (world / "d.json").write_text(_bop_list(*boxes))
    for name in ("1.png", "2.jpg", "2.png"):
        _picture(world / "images" / name)
    wanted = (*_image(world, "images"), "--detections", world / "d.json")
    assert "2.jpg and 2.png have the same number" in _refused(world, capsys, *wanted)
    _picture(world / "images" / "2.jpg").unlink()
    _picture(world / "images" / "._1.png").write_bytes(b"what a Mac leaves beside pictures")
    assert _run(world, *wanted) == 0
    assert read_results_csv(world / "out" / "results.csv").image_id.tolist() == [1, 2]
    _picture(world / "17.png")
    (world / "one.json").write_text(_bop_list((7, *boxes[2][1:])))
    assert _run(world, *_image(world), "--detections", world / "one.json", out="any") == 0  # image.png has no number
    rows = read_results_csv(world / "any" / "results.csv")
    assert (rows.scene_id.tolist(), rows.image_id.tolist()) == ([7], [2]), "of which the file is"
    assert _run(world, *_image(world, "17.png"), "--detections", world / "one.json", out="other") == 2
    message = capsys.readouterr().err
    assert "no detections for image 17" in message
    assert "it is about image 2" in message


def test_a_picture_named_after_the_time_keeps_its_pose(world):
    _picture(world / "20240311123045123456.png")  # more than 64 bits
    assert _run(world, *_image(world, "20240311123045123456.png"), *BOX) == 0
    assert read_results_csv(world / "out" / "results.csv").image_id.tolist() == [0]


def test_a_broken_picture_does_not_cost_the_others(world, capsys):
    for number in (1, 2, 3):
        _picture(world / "images" / f"{number}.jpg")
    whole = (world / "images" / "2.jpg").read_bytes()
    (world / "images" / "2.jpg").write_bytes(whole[: len(whole) // 2])  # its header is whole
    assert _run(world, *_image(world, "images"), *BOX) == 2
    message = capsys.readouterr().err
    assert "2.jpg cannot be read" in message
    assert "1 of 3 images were left out" in message
    assert read_results_csv(world / "out" / "results.csv").image_id.tolist() == [1, 3]
    images = json.loads((world / "out" / "results.json").read_text())["images"]
    assert [("left_out" in image, image["im_id"]) for image in images] == [(False, 1), (False, 3), (True, 2)]


def test_boxes_of_objects_that_no_model_knows_are_passed_over(world):
    box = [40, 30, 60, 50]
    for number in (1, 2):
        _picture(world / "images" / f"{number}.png")
    (world / "d.json").write_text(_bop_list((3, 1, 6, box, 0.9), (3, 1, 8, box, 0.8), (3, 2, 8, box, 0.7)))
    assert _run(world, *_image(world, "images"), "--detections", world / "d.json") == 0
    results = read_results_csv(world / "out" / "results.csv")
    assert (results.image_id.tolist(), results.object_id.tolist()) == ([1], [6])


def test_an_image_without_detections_is_of_the_same_scene(world):
    for number in (1, 2):
        _picture(world / "images" / f"{number}.png")
    (world / "d.json").write_text(_bop_list((3, 1, 6, [40, 30, 60, 50], 0.9)))
    assert _run(world, *_image(world, "images"), "--detections", world / "d.json") == 0
    images = json.loads((world / "out" / "results.json").read_text())["images"]
    assert [(image["scene_id"], image["im_id"], len(image["poses"])) for image in images] == [(3, 1, 1), (3, 2, 0)]


def test_a_folder_of_numbered_images(world):
    for number in (4, 11):
        _picture(world / "images" / f"{number:06d}.png")
    box = [40, 30, 60, 50]
    by_image = {f"2/{n}": [{"obj_id": 6, "bbox_est": box, "score": 1.0, "time": 0.1}] for n in (11, 4, 99)}
    (world / "d.json").write_text(json.dumps(by_image))
    assert _run(world, *_image(world, "images"), "--detections", world / "d.json") == 0
    results = read_results_csv(world / "out" / "results.csv")
    assert results.image_id.tolist() == [4, 11]
    assert sorted(p.name for p in (world / "out" / "pictures").iterdir()) == ["000004.png", "000011.png"]


@pytest.fixture
def bop(world):
    scene = world / "bop" / "test" / "000002"
    for number in (0, 1, 2):
        _picture(scene / "rgb" / f"{number:06d}.png")
    K = [300.0, 0, 79.5, 0, 300.0, 59.5, 0, 0, 1]
    (scene / "scene_camera.json").write_text(json.dumps({str(n): {"cam_K": K, "depth_scale": 1.0} for n in range(3)}))
    box, other = [40, 30, 60, 50], [20, 20, 60, 50]
    rows = [(2, n, i, b, 0.5) for n in range(3) for i in (1, 5, 6) for b in (box, other)]
    (world / "d.json").write_text(_bop_list(*rows))
    return world / "bop"


def _targets(bop, *rows):
    keys = ("scene_id", "im_id", "obj_id", "inst_count")
    content = [dict(zip(keys, row, strict=True)) for row in rows]
    (bop / "test_targets_bop19.json").write_text(json.dumps(content))


def test_a_video_of_a_symmetric_part_is_steadied_if_asked(world, monkeypatch):
    part = builtin_part("nut")
    model = random_model(part)
    save_model(world / "nut.safetensors", model.method, model.parts, {})
    names = ("a", "b", "c")
    for name in names:
        _picture(world / "images" / f"{name}.png")
    found, turn = [], part.symmetries.discrete[4]
    estimate = PoseEstimator.estimate

    def flickering(self, *given, **named):
        found.append(estimate(self, *given, **named))
        T = found[0].T_cam_obj if len(found) % 2 else found[0].T_cam_obj @ turn
        return replace(found[-1], T_cam_obj=T)

    monkeypatch.setattr(PoseEstimator, "estimate", flickering)
    box = ("--box", "40", "30", "60", "50")
    for arguments, changes in (((), True), (("--steady",), False)):
        found.clear()
        assert _run(world, *_image(world, "images"), *box, *arguments, model="nut.safetensors") == 0
        poses = json.loads((world / "out" / "results.json").read_text())["images"]
        first, second, third = (torch.tensor(image["poses"][0]["R"]) for image in poses)
        assert torch.allclose(first, third, atol=1e-6)
        assert torch.allclose(first, second, atol=1e-6) != changes


def test_bop_targets_say_how_many_of_what(world, bop):
    _targets(bop, (2, 0, 5, 1), (2, 0, 6, 2), (2, 2, 6, 1), (2, 2, 1, 1))
    assert _run(world, "--bop", bop, "--detections", world / "d.json") == 0
    results = read_results_csv(world / "out" / "results.csv")
    rows = sorted(zip(results.image_id.tolist(), results.object_id.tolist(), strict=True))
    assert rows == [(0, 5), (0, 6), (0, 6), (2, 6)]
    assert len(results.seconds[results.image_id == 0].unique()) == 1
    assert float(results.seconds.min()) > 0
    assert sorted(p.name for p in (world / "out" / "pictures").iterdir()) == ["000002_000000.png", "000002_000002.png"]


def test_bop_objects_and_all_images(world, bop):
    _targets(bop, (2, 0, 5, 1), (2, 0, 6, 2))
    arguments = ("--bop", bop, "--detections", world / "d.json", "--objects", "5")
    assert _run(world, *arguments, "--no-pictures") == 0
    assert read_results_csv(world / "out" / "results.csv").image_id.tolist() == [0]
    assert _run(world, *arguments, "--all-images") == 0
    results = read_results_csv(world / "out" / "results.csv")
    assert results.image_id.tolist() == [0, 0, 1, 1, 2, 2]
    assert results.object_id.unique().tolist() == [5]
    assert _run(world, *arguments, "--all-images", "--instances", "1") == 0
    assert read_results_csv(world / "out" / "results.csv").image_id.tolist() == [0, 1, 2]


def test_bop_without_targets_takes_every_image(world, bop):
    assert _run(world, "--bop", bop, "--detections", world / "d.json", "--instances", "1") == 0
    assert len(read_results_csv(world / "out" / "results.csv")) == 6


def test_a_bop_image_that_is_not_there_does_not_cost_the_others(world, bop, capsys):
    given = ("--bop", bop, "--detections", world / "d.json", "--instances", "1", "--no-pictures")
    (bop / "test/000002/rgb/000001.png").unlink()
    assert _run(world, *given) == 2
    assert "has no image 000001" in capsys.readouterr().err
    assert read_results_csv(world / "out" / "results.csv").image_id.unique().tolist() == [0, 2]
    assert _left_out(world / "out") == [False, False, True]
    for number in (0, 1):
        _depth(bop / f"test/000002/depth/{number:06d}.png")
    assert _run(world, *given, "--bop-depth", out="with_depth") == 2
    assert "2 of 3 images were left out" in capsys.readouterr().err
    assert _left_out(world / "with_depth") == [False, True, True]
    (bop / "test/000002/depth/000000.png").unlink()
    assert "no depth image 000000" in _refused(world, capsys, *given, "--bop-depth", out="none")


# --- bad input


def test_combinations_that_mean_nothing(world, capsys):
    image = _image(world)
    assert "either --image" in _refused(world, capsys)
    assert "one of --box" in _refused(world, capsys, *image)
    message = _refused(world, capsys, *image, *BOX, "--detections", "x.json")
    assert "one of --box" in message
    assert "--box and --detections are given" in message
    assert "--instances is 0" in _refused(world, capsys, *image, *BOX, "--instances", "0")
    assert "needs --camera" in _refused(world, capsys, *image[:2], *BOX)
    assert "--bop needs --detections" in _refused(world, capsys, "--bop", world)
    assert "not both" in _refused(world, capsys, *image, *BOX, "--bop", world)
    detections = ("--detections", "x.json")
    for given in (("--targets", "x.json"), ("--all-images",), ("--split", "val")):
        assert "about a BOP dataset" in _refused(world, capsys, *image, *BOX, *given)
    assert "--objects chooses among" in _refused(world, capsys, *image, *BOX, "--objects", 6)
    assert "--objects chooses" in _refused(world, capsys, *image, *detections, "--object-id", 6)
    assert "--objects chooses" in _refused(world, capsys, "--bop", world, *detections, "--object-id", 6)
    assert "about SurfEmb's models" in _refused(world, capsys, *image, *BOX, "--query-turns", 4)


def test_names_are_printed_as_they_are(world, capsys):
    out = "a[red]b:smile:[/c]"
    assert _run(world, *_image(world), *BOX, out=out) == 0
    assert f"{out}/results.csv" in capsys.readouterr().out


def test_boxes_that_cannot_be(world, capsys):
    image = _image(world)
    of = ("--object-id", "6")
    assert "outside the image" in _refused(world, capsys, *image, "--box", "500", "1", "5", "5", *of)
    assert "narrower than a pixel" in _refused(world, capsys, *image, "--box", "0.2", "0.3", "0.4", "0.4", *of)
    assert "w > 0 and h > 0" in _refused(world, capsys, *image, "--box", "5", "1", "0", "5", *of)
    assert "--object-id" in _refused(world, capsys, *image, *BOX[:5])
    assert "object id 9 is not known" in _refused(world, capsys, *image, *BOX[:5], "--object-id", "9")
    cv2.imwrite(str(world / "mask.png"), np.zeros((120, 160), dtype=np.uint8))
    assert "is empty" in _refused(world, capsys, *image, "--mask", world / "mask.png", *of)
    cv2.imwrite(str(world / "mask.png"), np.ones((12, 16), dtype=np.uint8))
    assert "16 x 12" in _refused(world, capsys, *image, "--mask", world / "mask.png", *of)


def test_detections_that_cannot_be(world, capsys):
    given = (*_image(world), "--detections", world / "d.json")
    assert "d.json" in _refused(world, capsys, *given)
    (world / "d.json").write_text("{")
    assert "d.json" in _refused(world, capsys, *given)
    (world / "d.json").write_text(_bop_list((1, 1, 8, [1, 1, 5, 5], 0.5)))
    assert "d.json has no box of the objects [5, 6]; its boxes are of [8]" in _refused(world, capsys, *given)
    assert "object id 3 is not known" in _refused(world, capsys, *given, "--objects", "3")


def test_images_and_cameras_that_cannot_be(world, capsys):
    (world / "broken.png").write_bytes(b"no image")
    assert "broken.png" in _refused(world, capsys, *_image(world, "broken.png"), *BOX)
    assert "absent.png" in _refused(world, capsys, *_image(world, "absent.png"), *BOX)
    _picture(world / "large.png", (240, 320, 3))
    assert "320 x 240 pixels, but its camera 160 x 120" in _refused(world, capsys, *_image(world, "large.png"), *BOX)
    (world / "camera.json").write_text(json.dumps(CAMERA | {"fx": -3}))
    assert "focal lengths must be positive" in _refused(world, capsys, *_image(world), *BOX)
    (world / "camera.json").write_text(json.dumps({"cam_K": [1, 2, 3], "width": 160, "height": 120}))
    assert "cam_K has 3 numbers" in _refused(world, capsys, *_image(world), *BOX)


def test_models_that_cannot_be(world, capsys):
    given = (*_image(world), *BOX)
    assert "absent" in _refused(world, capsys, *given, model="absent")
    data = (world / "model.safetensors").read_bytes()
    (world / "half.safetensors").write_bytes(data[: len(data) // 2])
    assert "truncated" in _refused(world, capsys, *given, model="half.safetensors")
    (world / "half.safetensors").write_bytes(data)
    assert "serve object id 5" in _refused(world, capsys, *given, model=".")


def test_images_of_another_size_and_broken_ones_are_left_out(world, capsys):
    _picture(world / "images" / "000001.png")
    _picture(world / "images" / "000002.png", (60, 80, 3))
    (world / "images" / "000003.png").write_bytes((world / "images" / "000001.png").read_bytes()[:60])
    (world / "images" / "000004.png").write_bytes(b"no picture")
    assert _run(world, *_image(world, "images"), *BOX) == 2
    message = capsys.readouterr().err
    assert "000002.png" in message
    assert "3 of 4 images were left out" in message
    images = json.loads((world / "out" / "results.json").read_text())["images"]
    assert ["left_out" in image for image in images] == [False, True, True, True]
    assert "80 x 60" in images[1]["left_out"]


def test_images_none_of_which_is_right_stop_the_run_before_anything_is_written(world, capsys):
    _picture(world / "images" / "000002.png", (60, 80, 3))
    assert "000002.png is 80 x 60" in _refused(world, capsys, *_image(world, "images"), *BOX)


def test_a_disk_that_fills_up_leaves_no_half_files(world, capsys, monkeypatch):
    def full_disk(path, image):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cad2pose.cli.estimate.save_png", full_disk)
    assert _run(world, *_image(world), *BOX) == 2
    assert "No space left" in capsys.readouterr().err
    assert not (world / "out").exists()


def test_a_folder_that_cannot_be_is_found_out_first(world, capsys):
    assert _run(world, *_image(world), *BOX, out="image.png") == 2
    assert "image.png is a file, so nothing can be written into" in capsys.readouterr().err
    assert _run(world, *_image(world), *BOX, out="image.png/deeper") == 2
    assert "image.png is a file, so nothing can be written into" in capsys.readouterr().err


def _depth(path, size=(120, 160), value=900):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full(size, value, dtype=np.uint16))
    return path


def test_a_box_without_a_pose_has_a_row_with_the_reason(world, capsys):
    _depth(world / "depth.png", size=(60, 160))
    assert _run(world, *_image(world), *BOX, "--depth", world / "depth.png") == 0
    (entry,) = json.loads((world / "out" / "results.json").read_text())["images"][0]["poses"]
    assert entry["no_pose"] == "the depth image is 160 x 60 pixels, the image 160 x 120"
    assert entry["box"] == [40, 30, 60, 50]
    assert "R" not in entry
    assert len(read_results_csv(world / "out" / "results.csv")) == 0
    assert (world / "out" / "pictures" / "image.png").is_file()
    said = capsys.readouterr().out
    assert "cat (object 6): no pose: the depth image is 160 x 60" in said
    assert "0 poses in 1 images (1 box without a pose, see results.json)" in said


def test_refined_poses_have_covariance_and_alternatives(world):
    assert _run(world, *_image(world), *BOX, "--refine", "--no-pictures") == 0
    (entry,) = json.loads((world / "out" / "results.json").read_text())["images"][0]["poses"]
    assert np.array(entry["covariance"]).shape == (6, 6)
    assert sum(other["probability"] for other in entry["alternatives"]) == pytest.approx(1)
    assert entry["alternatives"][0]["t"] == pytest.approx(entry["t"])
    assert entry["free_axis"] is None or len(entry["free_axis"]) == 3
    assert "confidence" not in entry, "this model was not calibrated"


def test_depth_images_go_by_name_and_scale(world, capsys):
    for name in ("a", "b"):
        _picture(world / "images" / f"{name}.png")
        _depth(world / "depth" / f"{name}.png")
    images = ("--image", world / "images", "--camera", world / "camera.json")
    assert _run(world, *images, *BOX, "--depth", world / "depth", "--depth-scale", "0.5", "--no-pictures") == 0
    (world / "depth" / "b.png").unlink()
    assert _run(world, *images, *BOX, "--depth", world / "depth", out="second") == 2
    assert "no depth image named b" in capsys.readouterr().err
    assert _left_out(world / "second") == [False, True]
    (world / "depth" / "b.png").write_bytes(b"not a picture")
    assert _run(world, *images, *BOX, "--depth", world / "depth", out="third") == 2
    assert "b.png" in capsys.readouterr().err
    assert _left_out(world / "third") == [False, True]
    one = ("--depth", world / "depth" / "a.png")
    assert "is one depth image" in _refused(world, capsys, *images, *BOX, *one, out="fourth")
    (world / "depth" / "a.png").unlink()
    (world / "depth" / "b.png").unlink()
    assert "no depth image named a" in _refused(world, capsys, *images, *BOX, "--depth", world / "depth", out="fifth")


def _left_out(out):
    return ["left_out" in image for image in json.loads((out / "results.json").read_text())["images"]]


def test_a_mask_that_is_empty_or_lacking_costs_its_own_image_only(world, capsys):
    (world / "masks").mkdir()
    mask = np.zeros((120, 160), dtype=np.uint8)
    for name in ("a", "b", "c"):
        _picture(world / "images" / f"{name}.png")
    cv2.imwrite(str(world / "masks" / "b.png"), mask)
    mask[30:80, 40:100] = 1
    cv2.imwrite(str(world / "masks" / "a.png"), mask)
    (world / "masks" / "a.png").rename(world / "masks" / "a.PNG")
    images = ("--image", world / "images", "--camera", world / "camera.json", "--no-pictures")
    assert _run(world, *images, "--mask", world / "masks", "--object-id", 6) == 2
    message = capsys.readouterr().err
    assert "is empty" in message
    assert "2 of 3 images were left out" in message
    assert _left_out(world / "out") == [False, True, True]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--depth-scale", "2"), "there is no --depth"),
        (("--bop-depth",), "--depth FILE with --image"),
        (("--depth-scale", "0"), "--depth-scale is 0.0"),
        (("--depth", "nowhere.png"), "nowhere.png"),
    ],
)
def test_depth_arguments_that_cannot_be(world, capsys, arguments, says):
    assert says in _refused(world, capsys, *_image(world), *BOX, *arguments)


def test_debug_sheets_are_drawn_for_every_box(world):
    box = [40, 30, 60, 50]
    (world / "d.json").write_text(_bop_list((0, 0, 5, box, 0.9), (0, 0, 6, box, 0.7)))
    arguments = ("--detections", world / "d.json", "--debug-pictures", "--no-pictures")
    assert _run(world, *_image(world), *arguments) == 0
    sheets = sorted((world / "out" / "debug").iterdir())
    assert [sheet.name for sheet in sheets] == ["image_00_duck.png", "image_01_cat.png"]
    for sheet in sheets:
        picture = cv2.imread(str(sheet))
        assert picture is not None
        assert picture.shape[1] > 1000
    _depth(world / "depth.png", size=(60, 160))
    assert _run(world, *_image(world), *arguments, "--depth", world / "depth.png", out="lost") == 0
    assert len(list((world / "lost" / "debug").iterdir())) == 2


def test_debug_sheets_of_models_without_query_images_are_refused_at_once(world, capsys):
    part = wedge(6, "cat")
    save_model(world / "gdrnet.safetensors", SMALL_GDRNET.build([part]).eval(), (part,), {})
    given = (*_image(world), *BOX, "--debug-pictures", "--solver", "regression")
    message = _refused(world, capsys, *given, model="gdrnet.safetensors")
    assert "the model of cat is a GdrNetMethod, which has no query image" in message

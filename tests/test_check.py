from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bop_world import edit_json, make_bop
from cad2pose.cli import main
from cad2pose.data.check import check_bop


def test_a_whole_folder_has_no_problem(tmp_path, capsys):
    found = check_bop(make_bop(tmp_path))
    assert found.problems == ()
    assert found.summary == (
        "models: 2 objects",
        "models_eval: 2 objects",
        "test: 2 scenes, 4 images, 12 annotated objects",
        "test_targets_bop19.json: 12 targets",
    )
    assert main(["check", str(tmp_path)]) == 0
    assert "nothing is missing or broken" in capsys.readouterr().out


def _drop_models(root):
    for name in ("models", "models_eval"):
        for path in (root / name).iterdir():
            path.unlink()
        (root / name).rmdir()


DAMAGES = {
    "image missing": (
        lambda root: (root / "test/000001/rgb/000003.png").unlink(),
        ["scene_camera.json: lists images that are not on disk (1): 3", "scene_gt.json: lists images that are not on"],
    ),
    "image broken": (
        lambda root: (root / "test/000001/rgb/000003.png").write_bytes(b"no image"),
        ["test/000001/rgb/000003.png cannot be read as an image"],
    ),
    "image of another size": (
        lambda root: Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "test/000001/rgb/000003.png"),
        ["test/000001/rgb/000003.png is 9 x 9 pixels, but its camera has 64 x 48"],
    ),
    "depth missing": (
        lambda root: (root / "test/000002/depth/000005.png").unlink(),
        ["test/000002/depth: has no depth image for (1): 5"],
    ),
    "depth broken": (
        lambda root: (root / "test/000002/depth/000005.png").write_bytes(b"cut off"),
        ["test/000002/depth/000005.png cannot be read"],
    ),
    "mask broken": (
        lambda root: (root / "test/000002/mask_visib/000005_000001.png").write_bytes(b"cut off"),
        ["test/000002/mask_visib/000005_000001.png cannot be read"],
    ),
    "mask missing": (
        lambda root: (root / "test/000002/mask_visib/000005_000001.png").unlink(),
        ["test/000002/mask_visib/000005_000001.png: does not exist"],
    ),
    "no camera": (
        lambda root: edit_json(root / "test/000001/scene_camera.json", lambda c: c.pop("5")),
        ["scene_camera.json: has no camera for images of scene_gt.json (1): 5"],
    ),
    "broken camera": (
        lambda root: edit_json(root / "test/000001/scene_camera.json", lambda c: c["5"].update(cam_K=[1, 2])),
        ["scene_camera.json, image 5: cam_K has 2 numbers"],
    ),
    "broken camera.json": (lambda root: (root / "camera.json").write_text("{"), ["camera.json is not valid json"]),
    "broken ground truth": (
        lambda root: (root / "test/000002/scene_gt.json").write_text("[1,"),
        ["test/000002/scene_gt.json is not valid json"],
    ),
    "info too short": (
        lambda root: edit_json(root / "test/000002/scene_gt_info.json", lambda c: c["3"].pop()),
        ["scene_gt.json, image 3: 3 annotations, but scene_gt_info.json has 2 entries"],
    ),
    "info missing": (
        lambda root: edit_json(root / "test/000002/scene_gt_info.json", lambda c: c.pop("3")),
        ["scene_gt_info.json: has no entry for images of scene_gt.json (1): 3"],
    ),
    "mesh missing": (
        lambda root: (root / "models/obj_000002.ply").unlink(),
        ["models/obj_000002.ply: does not exist, but models_info.json lists it"],
    ),
    "mesh broken": (
        lambda root: (root / "models_eval/obj_000002.ply").write_bytes(b"ply\n"),
        ["models_eval/obj_000002.ply: "],
    ),
    "entry missing": (
        lambda root: edit_json(root / "models/models_info.json", lambda c: c.pop("2")),
        [
            "models/models_info.json: has no entry for object 2, which has a mesh",
            "models: lacks objects that are annotated in test: 2",
        ],
    ),
    "no models": (_drop_models, ["has no folder of models"]),
    "unknown object": (
        lambda root: edit_json(root / "test/000001/scene_gt.json", lambda c: c["3"][0].update(obj_id=9)),
        [
            "models: lacks objects that are annotated in test: 9",
            "models_eval: lacks objects that are annotated in test: 9",
            "test_targets_bop19.json: asks for 1 of object 1 in scene 1, image 3; scene_gt.json has 0",
        ],
    ),
    "target without scene": (
        lambda root: edit_json(root / "test_targets_bop19.json", lambda c: c[0].update(scene_id=7)),
        ["test_targets_bop19.json: asks for scene 7, which test does not have"],
    ),
    "broken targets": (
        lambda root: edit_json(root / "test_targets_bop19.json", lambda c: c[0].update(im_id="x")),
        ["test_targets_bop19.json, target 0: im_id must be a whole number, it is 'x'"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_named(tmp_path, damage):
    harm, expected = DAMAGES[damage]
    root = make_bop(tmp_path)
    harm(root)
    problems = check_bop(root).problems
    for text in expected:
        assert any(text in problem for problem in problems), f"{text!r} not in {problems}"
    assert len(problems) <= len(expected) + 1
    assert not any(str(root) in problem for problem in problems if damage != "no models")


def test_all_damages_are_named_in_one_go(tmp_path, capsys):
    root = make_bop(tmp_path)
    kept = ("depth missing", "mask missing", "image broken", "info missing", "mesh missing", "broken targets")
    for name in kept:
        DAMAGES[name][0](root)
    problems = check_bop(root).problems
    for name in kept:
        for text in DAMAGES[name][1]:
            assert any(text in problem for problem in problems), f"{text!r} not in {problems}"
    assert main(["check", str(root)]) == 1
    out = capsys.readouterr().out
    assert all(problem in out for problem in problems)
    assert f"{len(problems)} problems" in out


def test_scenes_of_several_sensors_are_looked_at_sensor_by_sensor(tmp_path):
    root = make_bop(tmp_path)
    for scene in sorted((root / "test").iterdir()):
        for path in sorted(scene.iterdir()):
            path.rename(path.with_name(f"{path.stem}_cam1{path.suffix}"))
    assert check_bop(root).problems == ()
    mask = root / "test/000001/mask_visib_cam1/000003_000001.png"
    mask.unlink()
    (problem,) = check_bop(root).problems
    assert "000001/mask_visib_cam1/000003_000001.png: does not exist" in problem
    edit_json(root / "test_targets_bop19.json", lambda targets: targets[0].update(im_id=4))
    assert any("asks for images that test/000001 does not have (1): 4" in text for text in check_bop(root).problems)


def test_targets_are_held_against_the_split_that_they_are_about(tmp_path):
    root = make_bop(tmp_path)
    (root / "test").rename(root / "test_primesense")
    assert check_bop(root).problems == ()
    edit_json(root / "test_targets_bop19.json", lambda targets: targets[0].update(im_id=4))
    (problem,) = check_bop(root).problems
    assert "asks for images that test_primesense/000001 does not have (1): 4" in problem


def test_splits_can_be_chosen(tmp_path, capsys):
    root = make_bop(tmp_path)
    (root / "val").mkdir()
    assert check_bop(root, ["test"]).problems == ()
    assert "val: is no folder of numbered scene folders; splits found: test" in check_bop(root, ["val"]).problems[0]
    assert main(["check", str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_lmo(bop_path):
    assert check_bop(bop_path / "lmo").problems == ()

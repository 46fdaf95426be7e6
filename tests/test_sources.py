"""What a user names on the command line: meshes, built-in parts, BOP folders, cameras."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cad2pose.cli.crop_style import CropStyle
from cad2pose.cli.sources import builtin_name, find_camera, find_part, find_parts, find_start, find_straight_camera
from cad2pose.model_file import save_model
from cad2pose.parts import BUILTIN_PARTS, builtin_part, save_ply, write_models_info
from small_models import random_model, wedge

CAMERA = {"fx": 300.0, "fy": 310.0, "cx": 79.5, "cy": 59.5, "width": 160, "height": 120}


@pytest.fixture
def mesh(tmp_path: Path) -> str:
    save_ply(tmp_path / "wedge.ply", wedge().mesh)
    return str(tmp_path / "wedge.ply")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A BOP folder of objects 2 and 7, with models only."""
    parts = [wedge(2, "obj_000002"), wedge(7, "obj_000007", symmetric=True)]
    for part in parts:
        save_ply(tmp_path / "set" / "models" / f"{part.name}.ply", part.mesh)
    write_models_info(tmp_path / "set" / "models" / "models_info.json", parts)
    return tmp_path / "set"


def test_built_in_parts_go_by_name_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert builtin_name("nut") == builtin_name("builtin:nut") == "nut"
    assert builtin_name("bolt") is None
    Path("nut").write_text("mine")
    assert builtin_name("nut") is None
    assert builtin_name("builtin:nut") == "nut"
    with pytest.raises(ValueError, match="no built-in part 'bolt'; there are bracket, nut, bushing, disc"):
        find_part("builtin:bolt")


def test_all_built_in_parts_at_once():
    parts = find_parts(["builtin"], (), "mm")
    assert [part.name for part in parts] == list(BUILTIN_PARTS)
    assert [part.object_id for part in parts] == [1, 2, 3, 4]


def test_ids_are_given_or_follow_from_the_order(mesh):
    assert [part.object_id for part in find_parts([mesh, mesh], (), "mm")] == [1, 2]
    assert [part.object_id for part in find_parts([mesh, mesh], (9, 4), "mm")] == [9, 4]
    assert [part.object_id for part in find_parts([mesh, "bracket", mesh], (), "mm")] == [2, 1, 3]
    assert [part.object_id for part in find_parts(["nut"], (8,), "mm")] == [8]


def test_files_of_one_name_are_told_apart(mesh, tmp_path):
    for folder in ("bracket", "nut"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mesh.ply").write_bytes(Path(mesh).read_bytes())
    parts = find_parts([str(tmp_path / folder / "mesh.ply") for folder in ("bracket", "nut")], (), "mm")
    assert [part.name for part in parts] == ["mesh_1", "mesh_2"]


def test_ids_that_clash_or_cannot_be_are_refused(mesh, dataset):
    with pytest.raises(ValueError, match=r"\[3, 3\]; give every part its own"):
        find_parts([mesh, "nut"], (3, 3), "mm")
    with pytest.raises(ValueError, match="1 object ids were given for 2 meshes"):
        find_parts([mesh, "nut"], (3,), "mm")
    with pytest.raises(ValueError, match="object id 0 was given; ids are 1 or more"):
        find_parts([mesh], (0,), "mm")
    with pytest.raises(ValueError, match=r"\[7, 7\]"):
        find_parts([str(dataset)], (7, 7), "mm")
    with pytest.raises(ValueError, match="has no object 5; it has 2, 7"):
        find_parts([str(dataset)], (5,), "mm")


@pytest.mark.parametrize("how", ["path", "models", "name"])
def test_a_bop_folder_gives_its_models(dataset, monkeypatch, how):
    monkeypatch.setenv("BOP_PATH", str(dataset.parent))
    source = {"path": str(dataset), "models": str(dataset / "models"), "name": "set"}[how]
    assert [part.object_id for part in find_parts([source], (), "mm")] == [2, 7]
    (part,) = find_parts([source], (7,), "mm")
    assert part.name == "obj_000007"
    assert len(part.symmetries.continuous) == 1


def test_symmetries_of_a_mesh_file_come_from_models_info(mesh, tmp_path):
    write_models_info(tmp_path / "info.json", [wedge(3, symmetric=True)])
    assert not find_parts([mesh], (3,), "mm")[0].symmetries.continuous
    (part,) = find_parts([mesh], (3,), "mm", tmp_path / "info.json")
    assert len(part.symmetries.continuous) == 1
    with pytest.raises(ValueError, match="has no object 1; it has 3"):
        find_parts([mesh], (), "mm", tmp_path / "info.json")


def test_units_hold_for_mesh_files_alone(mesh):
    large, nut = find_parts([mesh, "nut"], (), "cm")
    assert large.diameter == pytest.approx(10 * wedge().diameter)
    assert nut.diameter == pytest.approx(builtin_part("nut").diameter)


@pytest.mark.parametrize(("units", "info"), [("m", None), ("mm", Path("nowhere.json"))])
def test_what_is_about_mesh_files_is_refused_where_there_are_none(dataset, units, info):
    with pytest.raises(ValueError, match="is in mm and has a models_info.json"):
        find_parts([str(dataset)], (), units, info)
    with pytest.raises(ValueError, match="nut, disc: built-in parts are in mm"):
        find_parts(["nut", "disc"], (), units, info)
    with pytest.raises(ValueError, match="nut: built-in parts are in mm"):
        find_part("nut", units, 5, info)


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([], "no part was given"),
        (["absent.stl"], "no mesh file absent.stl"),
        (["absent"], r"no built-in part \(bracket, nut, bushing, disc\), and no BOP folder"),
        (["bracket", "absent"], "neither a mesh file nor a built-in part"),
    ],
)
def test_parts_that_are_not_there(sources, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BOP_PATH", raising=False)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        find_parts(sources, (), "mm")


def test_a_camera_is_read_in_both_forms(tmp_path):
    (tmp_path / "camera.json").write_text(json.dumps(CAMERA))
    assert find_camera(tmp_path / "camera.json").K[1].tolist() == [0, 310, 59.5]
    (tmp_path / "camera.json").write_text(json.dumps({"cam_K": [300, 0, 80, 0, 300, 60, 0, 0, 1]}))
    camera = find_camera(tmp_path / "camera.json", 160, 120)
    assert (camera.width, camera.height) == (160, 120)
    assert torch.equal(camera.K[2], torch.tensor([0, 0, 1], dtype=torch.float64))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no camera file"),
        (b"{", "camera.json"),
        (b"\xff\xfe\x00", "camera.json"),
        (b"[1, 2]", "must hold one JSON object"),
        (json.dumps(CAMERA | {"fx": 0}).encode(), "focal lengths must be positive"),
        (json.dumps(CAMERA | {"height": 0}).encode(), "image size must be positive"),
        (b'{"fx": 300}', "no width and height"),
        (b'{"fx": 300, "width": 160, "height": 120}', "a camera needs cam_K, or fx, fy, cx and cy"),
    ],
)
def test_cameras_that_cannot_be(tmp_path, content, words):
    path = tmp_path / "camera.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        find_camera(path)
    assert "camera.json" in str(caught.value)


def test_pictures_are_rendered_for_the_camera_without_its_distortion(tmp_path):
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(CAMERA | {"distortion": [0.1, 0.0, 0.0, 0.0]}))
    with pytest.warns(UserWarning, match=r"camera\.json has lens distortion.*without it") as caught:
        camera = find_straight_camera(path)
    assert len(caught) == 1
    assert torch.equal(camera.K, find_camera(path).K)
    assert (camera.width, camera.height, any(camera.distortion)) == (160, 120, False)
    with pytest.warns(UserWarning, match="has lens distortion"):
        config = CropStyle(camera=path).config(32, 1.5)
    assert config.camera is not None
    assert torch.equal(config.camera.K, camera.K)
    path.write_text(json.dumps(CAMERA | {"distortion": [0.0, 0.0, 0.0, 0.0]}))
    assert find_straight_camera(path).distortion == find_camera(path).distortion


def test_a_model_to_start_from_is_a_file_a_run_folder_or_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [part.name for part in find_start(Path("builtin")).parts] == list(BUILTIN_PARTS)
    model = random_model()
    save_model(tmp_path / "run" / "model.safetensors", model.method, model.parts, {})
    for start in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        assert [part.name for part in find_start(start).parts] == ["wedge"]
    (tmp_path / "run" / "model.calibration.json").write_text("{")  # no business of a model that is trained further
    assert [part.name for part in find_start(tmp_path / "run").parts] == ["wedge"]
    save_model(tmp_path / "run" / "other.safetensors", model.method, model.parts, {})
    with pytest.raises(ValueError, match=r"2 model files \(model.safetensors, other.safetensors\)"):
        find_start(tmp_path / "run")
    (tmp_path / "builtin").mkdir()  # what is there by that name comes first
    with pytest.raises(ValueError, match=r"0 model files \(none\)"):
        find_start(Path("builtin"))
    with pytest.raises(FileNotFoundError, match="no model file absent; .* a run's folder, or builtin"):
        find_start(Path("absent"))

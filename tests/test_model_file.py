from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cad2pose.confidence import Calibration, save_calibrations
from cad2pose.estimator import PoseEstimator
from cad2pose.model_file import (
    load_model,
    model_files,
    save_model,
    shipped_model_path,
)
from small_models import SMALL, random_model, wedge


@pytest.fixture
def saved(tmp_path):
    parts = (wedge(7, "left"), wedge(9, "right", shift=0.0, symmetric=True))
    model = random_model(*parts)
    path = tmp_path / "model.safetensors"
    save_model(path, model.method, parts, {"samples": "12", "device": "cpu"})
    return path, model


def _rewritten(path, change):
    """The file with its metadata changed."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(metadata, tensors)
    save_file(tensors, path, metadata)
    return path


def _in_header(key, value):
    def change(metadata, tensors):
        header = json.loads(metadata["header"])
        header[key] = value
        metadata["header"] = json.dumps(header)

    return change


def test_a_model_comes_back_as_it_was(saved):
    path, model = saved
    loaded = load_model(path)
    assert loaded.info == {"samples": "12", "device": "cpu"}
    assert loaded.method.config == SMALL
    assert not loaded.method.training
    assert not any(p.requires_grad for p in loaded.method.parameters())
    for (name, was), (other, now) in zip(
        model.method.named_parameters(), loaded.method.named_parameters(), strict=True
    ):
        assert name == other
        assert now.dtype == torch.float32
        torch.testing.assert_close(now, was.half().float(), rtol=0, atol=0, msg=name)
    for name, was in model.method.named_buffers():
        torch.testing.assert_close(dict(loaded.method.named_buffers())[name], was, rtol=1e-6, atol=1e-5)


def test_parts_come_back_exactly_where_it_matters(saved):
    path, model = saved
    for was, now in zip(model.parts, load_model(path).parts, strict=True):
        assert (now.name, now.object_id, now.radius, now.diameter) == (
            was.name,
            was.object_id,
            was.radius,
            was.diameter,
        )
        assert torch.equal(now.center, was.center)
        assert torch.equal(now.mesh.faces, was.mesh.faces)
        torch.testing.assert_close(now.mesh.vertices, was.mesh.vertices, rtol=1e-7, atol=0)
        assert ((now.mesh.normals - was.mesh.normals).norm(dim=-1) < 5e-4).all()  # 0.03 degrees
        torch.testing.assert_close(now.mesh.normals.norm(dim=-1), was.mesh.normals.norm(dim=-1), rtol=0, atol=1e-6)
        assert now.mesh.colors is not None
        torch.testing.assert_close(now.mesh.colors, was.mesh.colors, rtol=0, atol=0.501 / 255)
        assert torch.equal(now.symmetries.rotation_group(), was.symmetries.rotation_group())


@pytest.mark.parametrize(("vertices", "kind"), [(1 << 16, torch.uint16), ((1 << 16) + 1, torch.int32)])
def test_faces_take_two_bytes_where_their_vertices_allow_it(tmp_path, vertices, kind):
    part = wedge(7, "left")
    repeats = -(-vertices // len(part.mesh.vertices))
    mesh = part.mesh
    faces = mesh.faces.clone()
    faces[-1, 0] = vertices - 1
    mesh = replace(
        mesh, vertices=mesh.vertices.repeat(repeats, 1)[:vertices], normals=mesh.normals.repeat(repeats, 1)[:vertices],
        faces=faces, colors=None if mesh.colors is None else mesh.colors.repeat(repeats, 1)[:vertices],
    )  # fmt: skip
    path = tmp_path / "model.safetensors"
    save_model(path, random_model(part).method, (replace(part, mesh=mesh),), {})
    with safe_open(path, framework="pt") as file:
        written = file.get_tensor("parts.0.faces")
    assert written.dtype == kind
    assert torch.equal(written.to(torch.int64), faces)


def test_weights_are_halves_and_nothing_is_pickled(saved):
    path, _ = saved
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["header"])
        assert file.get_tensor(_first_weight(file)).dtype == torch.float16
    assert "conventions" in header
    assert "cad2pose" in header
    assert b"\x80\x04" not in path.read_bytes()[:64]


def _first_weight(file):
    return next(name for name in file.keys() if name.startswith("weights.encoder") and name.endswith("weight"))  # noqa: SIM118


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(saved, share):
    path, _ = saved
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="truncated or not a cad2pose model"):
        load_model(path)


def test_files_of_other_kinds_are_refused(tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="not a cad2pose model"):
        load_model(other)
    other.write_text("hello, this is a text file that is longer than eight bytes")
    with pytest.raises(ValueError, match="truncated or not a cad2pose model"):
        load_model(other)
    with pytest.raises(FileNotFoundError, match="no model file"):
        load_model(tmp_path / "absent.safetensors")


def test_another_format_version_is_named(saved):
    path = _rewritten(saved[0], lambda metadata, tensors: metadata.update(format_version="7"))
    with pytest.raises(ValueError, match="version 7; .* understands version 1"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_in_header("method", "OtherMethod"), "OtherMethod"),
        (_in_header("config", {"crop_size": 32}), "lacks"),
        (_in_header("parts", []), "damaged"),
        (lambda metadata, tensors: metadata.update(header="{"), "damaged"),
        (lambda metadata, tensors: metadata.pop("header"), "missing"),
        (lambda metadata, tensors: tensors.pop("parts.1.faces"), "missing"),
        (lambda metadata, tensors: tensors["parts.0.faces"].fill_(99), "vertex 99"),
        (lambda metadata, tensors: tensors.pop(next(n for n in tensors if n.startswith("weights."))), "damaged"),
    ],
)
def test_damaged_files_are_refused(saved, change, message):
    path = _rewritten(saved[0], change)
    with pytest.raises(ValueError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value)


def test_diverged_weights_are_not_saved(tmp_path):
    model = random_model()
    path = tmp_path / "model.safetensors"
    with torch.no_grad():
        next(model.method.parameters()).flatten()[0] = 1e6
    with pytest.raises(ValueError, match="not finite"):
        save_model(path, model.method, model.parts, {})
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    path, model = saved
    before = path.read_bytes()

    real = Path.write_bytes

    def full_disk(aside, data):
        real(aside, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        save_model(path, model.method, model.parts, {})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_saved_twice_is_the_same_file(saved, tmp_path):
    path, model = saved
    again = tmp_path / "again.safetensors"
    loaded = load_model(path)
    save_model(again, loaded.method, loaded.parts, loaded.info)
    assert torch.equal(_all(again), _all(path))


def _all(path):
    with safe_open(path, framework="pt") as file:
        return torch.cat([file.get_tensor(name).double().flatten() for name in sorted(file.keys())])


def test_an_absent_shipped_model_is_named():
    with pytest.raises(FileNotFoundError, match="no model named 'no-such'"):
        shipped_model_path("no-such")


def test_a_model_in_several_files_is_the_same_model(saved, tmp_path):
    path, model = saved
    folder = tmp_path / "several"
    files = save_model(folder / "lmo.safetensors", model.method, model.parts, {"samples": "12"}, None, 130_000)
    assert [file.name for file in files] == [
        f"lmo-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)
    ]
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) <= 130_000
    whole = load_model(path)
    for name in (files[0], files[-1], folder / "lmo.safetensors"):
        found = load_model(name)
        assert found.info == {"samples": "12"}
        assert all(
            torch.equal(value, found.method.state_dict()[key]) for key, value in whole.method.state_dict().items()
        )
        assert torch.equal(found.parts[1].mesh.vertices, whole.parts[1].mesh.vertices)
    assert model_files(folder) == [files[0]]
    assert sorted(PoseEstimator.load(folder, "cpu").parts) == [7, 9]
    save_calibrations(files[0], {"refined": (Calibration(1.0, 0.0), None)})
    assert load_model(files[-1]).calibrations == {"refined": (Calibration(1.0, 0.0), None)}
    # another model of that name leaves nothing of this one
    assert save_model(folder / "lmo.safetensors", model.method, model.parts, {}) == (folder / "lmo.safetensors",)
    assert [file.name for file in folder.iterdir()] == ["lmo.safetensors"]


def test_files_of_several_that_do_not_belong_together_are_named(saved, tmp_path):
    _, model = saved
    first, second = (
        save_model(tmp_path / name / "m.safetensors", model.method, model.parts, {"name": name}, None, 130_000)
        for name in "ab"
    )
    first[1].write_bytes(second[1].read_bytes())
    with pytest.raises(ValueError, match="of different models; copy all files of one"):
        load_model(first[0])
    first[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"missing: {first[1].name}"):
        load_model(first[0])
    with pytest.raises(ValueError, match="alone takes"):
        save_model(tmp_path / "c.safetensors", model.method, model.parts, {}, None, 6_000)
    with pytest.raises(ValueError, match="one file of several"):
        save_model(second[0], model.method, model.parts, {})

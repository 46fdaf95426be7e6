"""`cad2pose train`, run as a user would: tiny model, few crops."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cad2pose.cli import main
from cad2pose.cli.train import _method_config
from cad2pose.confidence import Calibration, save_calibrations
from cad2pose.data.synthetic import SyntheticCrops
from cad2pose.files import alone, is_leftover
from cad2pose.methods import GdrNetConfig, QueryConfig, SurfEmbConfig, SurfEmbMethod
from cad2pose.model_file import load_model
from cad2pose.networks import ResNetEncoder
from cad2pose.parts import save_ply, write_models_info
from small_models import wedge

SHORT = [
    "--device", "cpu", "--samples", "16", "--batch-size", "8", "--warmup-steps", "1", "--validation-crops", "4",
    "--validations", "1", "--calibration-crops", "0",
]  # fmt: skip
TINY = [
    *SHORT, "--model.crop-size", "32", "--model.stride", "4", "--model.width", "8",
    "--model.key-width", "8", "--model.head-width", "8", "--model.head-hidden", "16", "8", "--model.positives", "8",
    "--model.negatives", "16",
]  # fmt: skip
TINY_SURFEMB = [
    *SHORT, "--method", "surfemb", "--surfemb.crop-size", "32", "--surfemb.stride", "2", "--surfemb.width", "8",
    "--surfemb.key-width", "8", "--surfemb.positives", "8", "--surfemb.negatives", "16",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _few_backgrounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pool of background pictures takes seconds."""

    def crops(parts, config, device, seed):
        return SyntheticCrops(parts, replace(config, pictures=4), device, seed)

    monkeypatch.setattr("cad2pose.cli.crop_style.SyntheticCrops", crops)


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    save_ply(tmp_path / "wedge.ply", wedge().mesh)
    return tmp_path / "wedge.ply"


def run(*arguments: object) -> int:
    return main(["train", *TINY, *map(str, arguments)])  # of an option given twice, the last counts


def refused(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> str:
    """The error message of a run that must leave its folder as it was."""
    before = _contents(out)
    assert run(*arguments, "--out", out) == 2
    assert _contents(out) == before
    return " ".join(capsys.readouterr().err.split())


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_its_resumption_and_other_settings(mesh, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(mesh, "--out", out) == 0
    text = capsys.readouterr().out
    for words in ("wedge", "16 in 2 steps of 8", "parameters", "minutes", "memory", "model.safetensors", "16/16"):
        assert words in text
    model = load_model(out / "model.safetensors")
    assert model.method.config.crop_size == 32
    assert [part.name for part in model.parts] == ["wedge"]
    settings = json.loads((out / "config.json").read_text())
    assert settings["crops"]["crop_size"] == settings["method"]["crop_size"] == 32
    assert settings["crops"]["camera"] is None

    assert run(mesh, "--out", out) == 0  # done already: nothing is learnt again
    text = capsys.readouterr().out
    assert "going on with the run" in text
    assert "16/16" in text
    assert len([line for line in (out / "curves.jsonl").read_text().splitlines() if "total" in line]) == 1

    assert "training.learning_rate (there: 0.001, now: 0.5)" in refused(capsys, out, mesh, "--learning-rate", 0.5)
    assert "crops.roll" in refused(capsys, out, mesh, "--crop-roll", 5)
    assert "parts" in refused(capsys, out, "nut")
    assert "not empty and holds no training run" in refused(capsys, tmp_path, mesh)


def test_what_the_scores_are_worth_is_learnt_once_at_the_end(mesh, tmp_path, capsys, monkeypatch):
    calibrated = []

    def calibrate(console, file, *settings):
        calibrated.append(file)
        save_calibrations(file, {"regression": (Calibration(2.0, -1.0),)})

    monkeypatch.setattr("cad2pose.cli.train.calibrate_file", calibrate)
    out = tmp_path / "run"
    for _ in range(2):
        assert run(mesh, "--out", out, "--calibration-crops", 8) == 0
    assert calibrated == [out / "model.safetensors"]
    assert "known already" in " ".join(capsys.readouterr().out.split())
    assert load_model(out / "model.safetensors").calibrations
    (out / "model.calibration.json").write_text("{")
    assert run(mesh, "--out", out, "--calibration-crops", 8) == 0
    assert len(calibrated) == 2, "damaged ones are learnt anew"


def test_surfemb_of_two_parts_from_a_query_model(mesh, tmp_path, capsys, monkeypatch):
    def run_surfemb(*arguments: object) -> int:
        return main(["train", *TINY_SURFEMB, *map(str, arguments)])

    out, lent = tmp_path / "run", tmp_path / "query" / "model.safetensors"
    assert run(mesh, "--out", lent.parent) == 0
    settings = ("--start", lent, "--surfemb.mask-from", "visible", "--validations", 2)
    assert run_surfemb(mesh, "nut", "--out", out, *settings) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "pixels matched" in text
    assert "random at the start decoders, keys" in text.replace(" │", "").replace("│ ", "")
    model = load_model(out / "model.safetensors")
    assert isinstance(model.method, SurfEmbMethod)
    assert model.method.config.mask_from == "visible"
    assert len(model.method.decoders) == len(model.parts) == 2
    judged = json.loads((out / "curves.jsonl").read_text().splitlines()[-1])
    assert {"validation/nce", "validation/mask", "validation/share_matched", "validation/nut/nce"} <= set(judged)
    assert not any("deg" in name for name in judged)  # it has no pose
    monkeypatch.setattr("cad2pose.cli.train._OVERFIT_STEPS", 2)
    assert run_surfemb(mesh, "--out", tmp_path / "one", "--overfit") == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "mask" in text
    assert "rotation" not in text


def test_objects_of_a_bop_folder_with_a_camera_and_a_viewpoint_prior(tmp_path):
    parts = [wedge(2, "obj_000002"), wedge(7, "obj_000007", symmetric=True)]
    for part in parts:
        save_ply(tmp_path / "models" / f"{part.name}.ply", part.mesh)
    write_models_info(tmp_path / "models" / "models_info.json", parts)
    camera = {"fx": 500.0, "fy": 500.0, "cx": 319.5, "cy": 239.5, "width": 640, "height": 480}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    views = ("--views.free-share", 0.5, "--views.elevation", 10, 80, "--crop-roll", 20)
    arguments = ("--camera", tmp_path / "camera.json", *views, "--effects", "colourful")
    arguments += ("--boxes", "amodal", "--box-errors", 0.06, 0.1)
    assert run(tmp_path, "--objects", 7, "--out", tmp_path / "run", *arguments) == 0
    (part,) = load_model(tmp_path / "run" / "model.safetensors").parts
    assert part.object_id == 7
    assert len(part.symmetries.continuous) == 1
    crops = json.loads((tmp_path / "run" / "config.json").read_text())["crops"]
    assert crops["camera"]["K"][0] == [500, 0, 319.5]
    assert crops["prior"]["elevation"] == [10, 80]
    assert crops["roll"] == 20
    assert crops["box"] == {"shift": 0.06, "scale": 0.1, "visible_share": 0}
    assert crops["augmentation"]["saturation"] == 1


def test_overfitting_says_what_was_reached_and_writes_nothing(mesh, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cad2pose.cli.train._OVERFIT_STEPS", 2)
    assert run(mesh, "--out", tmp_path / "run", "--overfit") == 1  # two steps teach nothing
    text = capsys.readouterr().out
    for words in ("one batch by heart", "2/2", "rotation", "wanted below", "no"):
        assert words in text
    assert not (tmp_path / "run").exists()


def test_bad_input_is_named_and_leaves_nothing(mesh, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BOP_PATH", raising=False)
    out = tmp_path / "run"
    for arguments, words in (
        (("absent.stl",), "no mesh file absent.stl"),
        (("absent",), "no BOP folder"),
        (("builtin:bolt",), "no built-in part 'bolt'"),
        ((), "no part was given"),
        ((mesh, "nut", "--objects", 3, 3), "give every part its own with --objects"),
        ((mesh, "--units", "m"), "2 mm to 5 m is allowed"),
        ((mesh, "--models-info", "absent.json"), "absent.json"),
        ((mesh, "--camera", "absent.json"), "no camera file absent.json"),
        ((mesh, "--backgrounds", "absent"), "absent"),
        ((mesh, "--full"), "either --full or settings of the model (--model...)"),
        ((mesh, "--method", "surfemb"), "--model... sets another method than --method surfemb"),
        ((mesh, "--surfemb.stride", 1), "--surfemb... sets another method than --method query"),
        ((mesh, "--surfemb.crop-size", 33), "crop_size is 33"),
        ((mesh, "--threads", 0), "threads is 0"),
        ((mesh, "--samples", 0), "samples is 0"),
        ((mesh, "--learning-rate", "nan"), "learning_rate is nan"),
        ((mesh, "--checkpoint-minutes", -1), "checkpoint_minutes is -1"),
        ((mesh, "--crop-roll", 500), "roll is 500"),
        ((mesh, "--model.crop-size", 33), "crop_size is 33"),
        ((mesh, "--views.elevation", 50, 20), "elevation is (50.0, 20.0)"),
    ):
        assert run(*arguments, "--out", out) == 2
        assert words in " ".join(capsys.readouterr().err.split())
        assert not out.exists()
    assert "is a file" in refused(capsys, mesh, mesh)


def test_a_full_disk_leaves_no_half_checkpoint(mesh, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    real = Path.write_bytes

    def full_disk(path, data):
        if path.name.startswith(".cad2pose-checkpoint"):
            real(path, bytes(data)[:1000])
            raise OSError(28, "No space left on device")
        return real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full_disk)
        assert run(mesh, "--out", out) == 2
    assert f"{out / 'checkpoint.pt'}: No space left on device" in capsys.readouterr().err
    assert not list(out.glob(".*"))
    assert not list(out.glob("checkpoint*"))
    assert run(mesh, "--out", out) == 0
    load_model(out / "model.safetensors")


def test_temporary_files_of_a_killed_run_are_cleared_away(mesh, tmp_path):
    out = tmp_path / "run"
    assert run(mesh, "--out", out) == 0
    leftover = out / ".cad2pose-checkpoint-0a1b2c3d.pt"
    leftover.write_bytes(b"half")
    assert is_leftover(leftover)
    assert run(mesh, "--out", out) == 0
    assert not leftover.exists()


def test_ctrl_c_is_one_line_and_the_run_can_go_on(mesh, tmp_path, capsys, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cad2pose.training.loop.training_step", interrupted)
        assert run(mesh, "--out", tmp_path / "run") == 130
    assert capsys.readouterr().err == "cad2pose: error: interrupted\n"
    assert not list((tmp_path / "run").glob(".*"))
    assert run(mesh, "--out", tmp_path / "run") == 0


def test_a_head_is_trained_on_a_frozen_query_network(tmp_path, capsys):
    small = [
        "--samples", "8", "--batch-size", "4", "--validations", "1", "--validation-crops", "2",
        "--calibration-crops", "0",
    ]  # fmt: skip
    sizes = ["--model.width", "8", "--model.key-width", "8", "--model.crop-size", "64", "--model.positives", "8"]
    assert main(["train", "bracket", "--out", str(tmp_path / "queries"), *small, *sizes]) == 0
    frozen = ["train", "bracket", "--out", str(tmp_path / "head"), *small, *sizes, "--model.frozen"]
    assert main(frozen) == 2
    assert "give a trained model of these parts" in capsys.readouterr().err
    assert not (tmp_path / "head").exists()
    assert main([*frozen, "--start", str(tmp_path / "queries" / "model.safetensors")]) == 0
    both = [load_model(tmp_path / name / "model.safetensors").method.state_dict() for name in ("queries", "head")]
    same = {name for name, value in both[0].items() if torch.equal(value, both[1][name])}
    assert {name for name in both[0] if name.startswith(("encoder.", "decoder.", "keys."))} <= same
    assert "head.output_bias" not in same


def test_two_trainings_do_not_share_a_folder(tmp_path, capsys):
    with alone(tmp_path / "run"):
        assert main(["train", *TINY, "bracket", "--out", str(tmp_path / "run")]) == 2
    assert "another run is writing into" in capsys.readouterr().err


def test_gdrnpp_is_gdrnet_with_its_differences_in_the_sizes_that_are_asked_for():
    plain = {"model": QueryConfig(), "surfemb": SurfEmbConfig(), "gdrnet": GdrNetConfig()}
    assert _method_config("gdrnpp", False, plain) == GdrNetConfig.gdrnpp()
    assert _method_config("gdrnpp", True, plain) == GdrNetConfig.gdrnpp(GdrNetConfig.full())
    small = replace(GdrNetConfig(), decoder_width=64)
    assert _method_config("gdrnpp", False, plain | {"gdrnet": small}) == GdrNetConfig.gdrnpp(small)
    with pytest.raises(ValueError, match=r"--model... sets another method than --method gdrnpp"):
        _method_config("gdrnpp", False, plain | {"model": QueryConfig.tiny()})


def test_an_encoders_weights_are_taken_from_a_file(tmp_path, capsys):
    encoder = ResNetEncoder(width=64)
    state = {**encoder.state_dict(), "fc.weight": torch.zeros(10, 512)}
    torch.save(state, tmp_path / "resnet.pth")
    sizes = ("--model.width", "64", "--model.crop-size", "32", "--model.stride", "4", "--model.key-width", "8")
    few = ("--samples", "2", "--batch-size", "2", "--learning-rate", "1e-9", "--validation-crops", "1")
    out = str(tmp_path / "run")
    command = ["train", "nut", "--out", out, *sizes, *few, "--calibration-crops", "0", "--device", "cpu"]
    assert main([*command, "--backbone", str(tmp_path / "resnet.pth")]) == 0
    assert "decoder, keys, head" in " ".join(capsys.readouterr().out.split())  # what is random at the start
    learnt = load_model(tmp_path / "run" / "model.safetensors").method.state_dict()
    for name, value in encoder.state_dict().items():
        if name.endswith("weight") and name != "conv1.weight":
            torch.testing.assert_close(learnt[f"encoder.{name}"], value, rtol=1e-2, atol=1e-3)
    assert main(command) == 2
    assert "differs in start" in capsys.readouterr().err
    for arguments, says in (
        (("--backbone", "none.pth"), "none.pth: No such file or directory"),
        (("--backbone", "a.pth", "--start", "b.safetensors"), "--start and --backbone are both given"),
        (("--backbone", str(tmp_path / "resnet.pth"), "--method", "gdrnpp"), "this model has a ConvNeXtEncoder"),
    ):
        other = [*command[:2], "--out", str(tmp_path / "other"), *few, "--device", "cpu"]
        assert main([*other, *arguments]) == 2
        assert says in capsys.readouterr().err

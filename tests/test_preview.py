"""`cad2pose preview`: rendered crops, and beneath photographs the same parts in the same poses."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import cv2
import pytest
import torch

from bop_world import make_bop
from cad2pose.cli import main
from cad2pose.cli.crop_style import CropStyle
from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.bop import BopDataset
from cad2pose.data.occluders import ClutterConfig
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.data.twins import real_crops
from cad2pose.experiments.ingredients import SWITCHES, without


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_bop(tmp_path / "world")


def test_twins_have_the_poses_of_the_photographs(world):
    dataset = BopDataset(world, "test")
    parts = dataset.parts([1, 2])
    real = real_crops(dataset, parts, 48, 5)
    assert real.image.shape == (5, 3, 48, 48)
    assert real.part_index.tolist() == [0, 1, 1, 0, 1]
    first = next(iter(dataset))
    back = real.camera.to_source(real.T_virt_obj)
    for row, instance in enumerate(first.instances):
        assert torch.allclose(back[row], instance.T_cam_obj.double(), atol=1e-6)
    config = SyntheticConfig(crop_size=48, pictures=4, clutter=ClutterConfig(0, 0.0, 0.0, 0, blob_share=0.0))
    rendered = SyntheticCrops(parts, config).batch_of(real.part_index, real.camera, real.T_virt_obj, 0)
    assert rendered.truth is not None
    assert torch.allclose(rendered.truth.T_virt_obj, real.T_virt_obj.float())
    assert torch.equal(rendered.camera.K_virt, real.camera.K_virt.float())
    with pytest.raises(ValueError, match="is known to show any of the objects"):
        real_crops(dataset, [], 48, 5)


def test_without_boxes_of_what_is_seen_masks_tell(world):
    before = real_crops(BopDataset(world, "test"), BopDataset(world, "test").parts([1, 2]), 48, 5)
    for file in world.glob("test/*/scene_gt_info.json"):
        file.unlink()
    dataset = BopDataset(world, "test")
    real = real_crops(dataset, dataset.parts([1, 2]), 48, 5)
    assert torch.equal(real.image, before.image), "masks are those boxes"
    for file in world.glob("test/*/mask_visib/*.png"):
        file.unlink()
    with pytest.raises(ValueError, match=r"none has a bbox_visib of theirs \(scene_gt_info.json\), nor a mask"):
        real_crops(dataset, dataset.parts([1, 2]), 48, 5)


def test_the_command_writes_rendered_crops(tmp_path, capsys):
    out = tmp_path / "new" / "crops.png"
    arguments = ["preview", "nut", "--out", str(out), "--count", "4", "--columns", "2", "--crop-size", "32"]
    assert main(arguments) == 0
    assert "4 crops" in capsys.readouterr().out
    first = cv2.imread(str(out))
    plain = ["--look.shadow-share", "0", "--table.share", "0"]
    assert (
        main(["preview", "nut", "--out", str(out), "--count", "4", "--columns", "2", "--crop-size", "32", *plain]) == 0
    )
    assert (cv2.imread(str(out)) != first).any(), "switches must do something"
    wide = tmp_path / "truth.png"
    assert main(["preview", "nut", "--out", str(wide), "--count", "1", "--crop-size", "32", "--truth"]) == 0
    sheet = cv2.imread(str(wide))
    assert sheet is not None
    assert sheet.shape[1] > 90


def test_the_command_puts_photographs_above(world, tmp_path, capsys):
    out = tmp_path / "pairs.png"
    arguments = ["preview", str(world), "--real", "--out", str(out), "--count", "3", "--columns", "2"]
    assert main([*arguments, "--crop-size", "32"]) == 0
    assert "3 crops" in capsys.readouterr().out
    assert cv2.imread(str(out)) is not None
    assert main(["preview", "nut", "bracket", "--real", "--out", str(out)]) == 2
    assert "one BOP folder" in capsys.readouterr().err
    assert main(["preview", "nut", "--out", str(out), "--split", "val"]) == 2
    assert "add --real, or leave it out" in capsys.readouterr().err
    assert main(["preview", "nut", "--out", str(out), "--count", "0"]) == 2
    assert "count is 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", SWITCHES)
def test_every_ingredient_can_be_left_out(name):
    about, leave_out = SWITCHES[name]
    style = SyntheticConfig(backgrounds=Path("somewhere"))
    changed = leave_out(style)
    assert about
    assert changed != style
    assert leave_out(changed) == changed


def test_ingredients_are_left_out_by_name_and_groups_are_what_they_are_made_of():
    assert CropStyle.__doc__ is not None
    listed = CropStyle.__doc__.split("leave out: ")[1].replace("; or groups:", ",").rstrip(".\n ")
    assert sorted(" ".join(listed.split()).split(", ")) == sorted(SWITCHES), "the help text names them"
    plain = CropStyle().settings()
    less = CropStyle(without=("noise", "vignette", "border-cuts")).settings()
    assert {name for name in plain if plain[name] != less[name]} == {"augmentation", "prior"}
    assert less["augmentation"] == replace(plain["augmentation"], noise=0.0, vignette=0.0)
    assert less["prior"] == replace(plain["prior"], border_share=0.0)
    style = SyntheticConfig()
    for group, members in {
        "blur": ("source-resolution", "gaussian-blur", "defocus", "motion"), "grain": ("noise", "bayer", "compression"),
        "processing": ("sharpening", "equalisation", "shades", "vignette"),
        "light": ("tables", "shadows", "openness", "metal"),
    }.items():  # fmt: skip
        assert without(style, (group,)) == without(style, members)
    plain_light = without(style, ("light",)).appearance
    for name, value in asdict(AppearanceConfig.plain()).items():
        if name in ("roughness", "metallic_share", "shadow_share", "openness_share", "mirror_share"):
            assert getattr(plain_light, name) == value
    with pytest.raises(ValueError, match="no ingredient 'jpeg' to leave out; there are tables, shadows"):
        CropStyle(without=("jpeg",)).settings()

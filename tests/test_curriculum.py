"""Easy crops first: which batches are easy, and what easy means."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from cad2pose.cli import main
from cad2pose.cli.crop_style import CropSources
from cad2pose.data.curriculum import Curriculum, crops_to_learn
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.training import Run, TrainingConfig
from cad2pose.training.run_folder import RunFolder
from small_models import SMALL, wedge

STYLE = SyntheticConfig(crop_size=32, pictures=4)


class Named:
    """Says which of its batches were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def batch(self, index, size):
        self.asked.append(index)
        return BATCH


BATCH = SyntheticCrops([wedge()], STYLE, "cpu", 0).batch(0, 1)


def asked(batches: int, seed: int, indices) -> tuple[list[int], list[int]]:
    easy, meant = Named(), Named()
    source = Curriculum(easy, meant, batches, seed)
    for index in indices:
        source.batch(index, 1)
    return easy.asked, meant.asked


def test_easy_batches_become_rare_and_end():
    easy, meant = asked(1000, 0, range(1500))
    assert 0 in easy
    assert max(easy) < 1000
    assert sorted(easy + meant) == list(range(1500))
    shares = [sum(first <= index < first + 250 for index in easy) / 250 for first in (0, 250, 500, 750)]
    for share, wanted in zip(shares, (0.875, 0.625, 0.375, 0.125), strict=True):
        assert share == pytest.approx(wanted, abs=0.1)
    assert asked(1000, 0, reversed(range(1500)))[0] == easy[::-1], "by seed and index alone"
    assert asked(1000, 1, range(1500))[0] != easy
    with pytest.raises(ValueError, match="a batch at least, got 0"):
        Curriculum(Named(), Named(), 0, 0)


def test_easy_crops_have_no_neighbours_and_their_own_colours():
    easy = STYLE.easy()
    assert (easy.clutter.occluders, easy.clutter.others, easy.clutter.occluded_share) == (0, 0, 0.0)
    assert easy.clutter.blob_share == STYLE.clutter.blob_share
    assert not easy.augmentation.auto_exposure
    assert (easy.augmentation.color_share, easy.augmentation.gray_share, easy.augmentation.invert_share) == (0, 0, 0)
    assert replace(easy, clutter=STYLE.clutter, augmentation=STYLE.augmentation) == STYLE


def test_crops_to_learn_are_the_plain_ones_but_at_the_beginning():
    part = wedge()
    plain, eased = crops_to_learn([part], STYLE, "cpu", 3), crops_to_learn([part], STYLE, "cpu", 3, easing=4)
    assert isinstance(plain, SyntheticCrops)
    first, same = (SyntheticCrops([part], STYLE.easy(), "cpu", 3).batch(0, 2), eased.batch(0, 2))
    assert torch.equal(first.image, same.image)
    assert not torch.equal(plain.batch(0, 2).image, same.image)
    assert torch.equal(plain.batch(4, 2).image, eased.batch(4, 2).image)


def test_the_curriculum_is_a_share_of_the_steps():
    assert TrainingConfig(samples=1000, batch_size=8, shards=2, curriculum=0.6).easing == 150
    assert TrainingConfig().easing == 0
    with pytest.raises(ValueError, match=r"curriculum is 1\.5; it must lie between 0 and 1"):
        TrainingConfig(curriculum=1.5)


def test_the_command_trains_with_one_and_without_is_another_run(tmp_path, capsys):
    call = [
        "train", "bracket", "--samples", "16", "--batch-size", "4", "--calibration-crops", "0", "--validations", "0",
        "--model.crop-size", "32", "--model.width", "8", "--model.head-width", "8", "--model.head-hidden", "16", "16",
        "--model.charts", "1", "--model.key-width", "8", "--device", "cpu", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    assert main([*call, "--curriculum", "0.5"]) == 0
    capsys.readouterr()
    assert main(call) == 2
    assert "training.curriculum (there: 0.5, now: None)" in " ".join(capsys.readouterr().err.split())


def test_runs_of_before_there_was_a_curriculum_go_on(tmp_path):
    run = Run((wedge(),), SMALL, TrainingConfig(), torch.device("cpu"))
    RunFolder(tmp_path).claim(run)
    assert "curriculum" not in json.loads((tmp_path / "config.json").read_text())["training"]
    assert RunFolder(tmp_path).check(run)


def test_labelled_images_alone_have_no_curriculum(tmp_path):
    (tmp_path / "mine" / "000001").mkdir(parents=True)
    sources = CropSources([wedge()], STYLE, torch.device("cpu"), tmp_path / "mine", 1.0)
    with pytest.raises(ValueError, match="--mix 1 takes none"):
        sources.training(0, easing=5)

"""Crops kept on disk: the same as those made, once made, and made again where a file is broken."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from safetensors.torch import save

from cad2pose.data.recorded import RecordedCrops
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.geometry import VirtualCamera
from cad2pose.structures import CropTruth
from small_models import wedge


class Counting:
    """Crops, and how often some were made."""

    def __init__(self) -> None:
        self.crops = SyntheticCrops([wedge()], SyntheticConfig(crop_size=32, pictures=4))
        self.made: list[int] = []

    def batch(self, index: int, size: int):
        self.made.append(index)
        return self.crops.batch(index, size)


def test_what_is_kept_is_what_was_made_but_for_rounding(tmp_path):
    source = Counting()
    made, kept = source.crops.batch(3, 4), RecordedCrops(source, tmp_path).batch(3, 4)
    assert torch.allclose(kept.image, made.image, atol=0.5 / 255 + 1e-6)
    assert torch.allclose(kept.valid, made.valid, atol=0.5 / 255 + 1e-6)
    assert made.truth is not None
    assert kept.truth is not None
    assert (kept.truth.coordinates - made.truth.coordinates).abs().max() < 5e-4
    for name in (f.name for f in fields(CropTruth) if f.name != "coordinates"):
        assert torch.equal(getattr(kept.truth, name), getattr(made.truth, name)), name
    for name in (f.name for f in fields(VirtualCamera)):
        one, other = getattr(kept.camera, name), getattr(made.camera, name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, name
    assert torch.equal(kept.part_index, made.part_index)


def test_batches_are_made_once_and_are_the_same_ever_after(tmp_path):
    source = Counting()
    first = RecordedCrops(source, tmp_path).batch(0, 4)
    second = RecordedCrops(source, tmp_path).batch(0, 4)
    assert source.made == [0]
    assert torch.equal(first.image, second.image)
    RecordedCrops(source, tmp_path).batch(0, 2)  # another size: other crops
    assert source.made == [0, 0]


@pytest.mark.parametrize("broken", [b"", b"\x08\x00\x00\x00", save({"image": torch.zeros(1)})])
def test_a_broken_file_is_made_again(tmp_path, broken):
    source = Counting()
    first = RecordedCrops(source, tmp_path).batch(0, 2)
    next(tmp_path.rglob("*.safetensors")).write_bytes(broken)
    assert torch.equal(RecordedCrops(source, tmp_path).batch(0, 2).image, first.image)
    assert source.made == [0, 0]


def test_batches_can_be_made_before_they_are_asked_for(tmp_path):
    source = Counting()
    crops = RecordedCrops(source, tmp_path)
    crops.batch(1, 2)
    crops.record(3, 2)
    assert source.made == [1, 0, 2]
    assert [len(crops.batch(index, 2)) for index in range(3)] == [2, 2, 2]
    crops.record(3, 2)
    assert source.made == [1, 0, 2]

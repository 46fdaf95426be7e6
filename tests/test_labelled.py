"""Crops of labelled images: the same geometry as rendered crops, deterministic, and honest about broken files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bop_world import make_bop, small_parts
from cad2pose.cli import main
from cad2pose.data.augmentation import AugmentationConfig
from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_writer import SPLIT, RenderPlan, write_dataset
from cad2pose.data.boxes import BoxConfig
from cad2pose.data.labelled import LabelledCrops, MixedCrops
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.data.tabletop import TabletopConfig
from cad2pose.geometry import Camera, project_points, transform_points
from cad2pose.structures import CropBatch, CropTruth

CONFIG = SyntheticConfig(crop_size=48, pictures=4)
PHOTOS = TabletopConfig(parts=(2, 3), others=1, effects=AugmentationConfig.off(), apparent_size=(150.0, 250.0))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labelled") / "set"
    camera = Camera.from_values(150.0, 150.0, 79.5, 59.5, 160, 120)
    write_dataset(small_parts(), camera, RenderPlan(1, 4, 1, PHOTOS), out)
    return out


def source(world: Path, config: SyntheticConfig = CONFIG, seed: int = 0) -> LabelledCrops:
    dataset = BopDataset(world, SPLIT)
    return LabelledCrops(dataset, dataset.parts(), config, seed=seed)


def truth_of(batch: CropBatch) -> CropTruth:
    assert batch.truth is not None
    return batch.truth


def test_a_batch_is_a_function_of_seed_and_index(world):
    first, again = source(world).batch(3, 4), source(world).batch(3, 4)
    assert torch.equal(first.image, again.image)
    assert torch.equal(truth_of(first).coordinates, truth_of(again).coordinates)
    assert not torch.equal(first.image, source(world).batch(4, 4).image)
    assert not torch.equal(first.image, source(world, seed=1).batch(3, 4).image)
    assert first.part_index.tolist() == [0, 1, 0, 1]


def test_truth_and_picture_are_of_one_pose(world):
    """Coordinates project to where they are, and what is seen is where the annotated mask says."""
    batch = source(world, replace(CONFIG, roll=40.0)).batch(0, 12)
    truth = truth_of(batch)
    parts = small_parts()
    seen = 0
    for row, index in enumerate(batch.part_index.tolist()):
        inside = truth.mask_full[row]
        points = truth.coordinates[row, :, inside].T * parts[index].radius + parts[index].center.float()
        pixels = project_points(batch.camera.K_virt[row], transform_points(truth.T_virt_obj[row], points))
        v, u = inside.nonzero().unbind(1)
        assert (pixels - torch.stack((u, v), -1)).abs().max() < 0.05
        assert not bool((truth.mask_visible[row] & ~inside).any())
        seen += int(truth.mask_visible[row].sum())
    assert seen > 12 * 100


def test_the_picture_shows_the_part_where_the_truth_says(world):
    """A part painted white against its black surroundings: the crop is white where the mask is."""
    dataset = BopDataset(world, SPLIT)
    config = replace(CONFIG, augmentation=AugmentationConfig.off(), box=BoxConfig(0.0, 0.0), roll=90.0)
    crops = LabelledCrops(dataset, dataset.parts(), config)
    for image in dataset:
        for instance in image.instances:
            mask = image.read_mask(instance)
            key = image.scene_id, image.image_id
            crops._images[key] = image, mask.float().expand(3, -1, -1)
            camera = crops._cameras([type(crops._places[0][0])(*key, instance)], [crops._images[key]], _draws())[0]
            crop, valid, seen = crops._crop(crops._images[key][1], mask, camera)
            inside = valid[0, 0] == 1
            assert torch.allclose(crop[0, 0][inside], seen[0][inside], atol=1e-5)


def _draws():
    from cad2pose.data.draws import Draws

    return Draws(1)


def test_images_that_cannot_be_read_are_left_out_and_named(world, tmp_path):
    copy = tmp_path / "set"
    shutil.copytree(world, copy)
    broken = copy / SPLIT / "000000" / "rgb" / "000002.jpg"
    broken.write_bytes(b"not a picture")
    crops = source(copy)
    with pytest.warns(UserWarning, match=r"left out: .*000002\.jpg"):
        crops.batch(0, 40)
    assert list(crops.broken) == [(0, 2)]
    for file in broken.parent.glob("*.jpg"):
        file.write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="cannot be read"):
        source(copy).batch(0, 4)


def test_test_images_are_not_trained_on(tmp_path):
    world = make_bop(tmp_path / "world")
    dataset = BopDataset(world, "test")
    with pytest.raises(ValueError, match="meant for testing"):
        LabelledCrops(dataset, dataset.parts(), CONFIG)
    assert len(LabelledCrops(dataset, dataset.parts(), CONFIG, allow_test=True)) == 12


def test_a_part_without_instances_is_named(world):
    dataset = BopDataset(world, SPLIT)
    lonely = replace(small_parts()[0], object_id=9)
    with pytest.raises(ValueError, match="no instance of object 9"):
        LabelledCrops(dataset, [lonely], CONFIG)


def test_mixed_batches_hold_their_share(world):
    parts = BopDataset(world, SPLIT).parts()
    rendered, labelled = SyntheticCrops(parts, CONFIG), source(world)
    batch = MixedCrops(rendered, labelled, 0.25).batch(2, 8)
    assert torch.equal(batch.image[:6], rendered.batch(2, 6).image)
    assert torch.equal(batch.image[6:], labelled.batch(2, 2).image)
    assert torch.equal(truth_of(batch).mask_visible[6:], truth_of(labelled.batch(2, 2)).mask_visible)
    assert batch.camera.K_virt.shape == (8, 3, 3)
    assert torch.equal(MixedCrops(rendered, labelled, 0.0).batch(0, 4).image, rendered.batch(0, 4).image)
    assert torch.equal(MixedCrops(rendered, labelled, 1.0).batch(0, 4).image, labelled.batch(0, 4).image)
    with pytest.raises(ValueError, match="share"):
        MixedCrops(rendered, labelled, 1.5)


def test_training_from_a_folder(world, tmp_path, capsys):
    size = ["--model.crop-size", "32", "--model.width", "8", "--model.head-width", "8", "--model.key-width", "8"]
    arguments = ["train", str(world), "--out", str(tmp_path / "run"), "--samples", "16", "--batch-size", "8", *size]
    images = ["--images", str(world / SPLIT), "--mix", "0.5", "--validations", "1", "--validation-crops", "4"]
    assert main([*arguments, *images, "--device", "cpu"]) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()
    capsys.readouterr()
    assert main([*arguments, *images[:2], "--mix", "0.25"]) == 2
    assert "mix" in capsys.readouterr().err
    assert main([*arguments, "--images", str(world / "train")]) == 2
    assert SPLIT in capsys.readouterr().err

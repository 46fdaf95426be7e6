"""Crops of labelled images: the same geometry as rendered crops, deterministic, and honest about broken files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bop_world import edit_json, make_bop, small_parts
from cad2pose.cli import main
from cad2pose.data.augmentation import AugmentationConfig
from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_writer import SPLIT, RenderPlan, write_dataset
from cad2pose.data.boxes import BoxConfig
from cad2pose.data.clutter import thinned
from cad2pose.data.labelled import LabelledCrops, MixedCrops, _Seen
from cad2pose.data.labelled_images import is_for_testing, open_images, seen_mask
from cad2pose.data.shard_writer import write_shards
from cad2pose.data.shards import ShardDataset
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.data.tabletop import Tabletop, TabletopConfig
from cad2pose.geometry import Camera, project_points, transform_points, warp_to_crops
from cad2pose.model_file import load_model
from cad2pose.parts import builtin_part
from cad2pose.rendering import MeshSet
from cad2pose.structures import CropBatch, CropTruth
from cad2pose.training import Run, TrainingConfig

CONFIG = SyntheticConfig(crop_size=48, pictures=4)
PHOTOS = TabletopConfig(
    parts=(2, 3), others=1, pictures=2, effects=AugmentationConfig.off(), apparent_size=(150.0, 250.0)
)


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
            one = _Seen(instance, image, mask.float().expand(3, -1, -1), mask, False)
            crop, valid, seen = crops._crop(one, crops._cameras([one], _draws())[0])
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


def test_few_good_images_among_broken_ones_are_enough(world, tmp_path, monkeypatch):
    """What a batch holds does not depend on what earlier ones found broken; it ends only where nothing is left."""
    monkeypatch.setattr("cad2pose.data.labelled._TRIES", 2)
    copy = tmp_path / "set"
    shutil.copytree(world, copy)
    scene, part = copy / SPLIT / "000000", small_parts()[1]  # it is seen in images 0 and 2
    good, broken = (scene / "rgb" / f"00000{image}.jpg" for image in (0, 2))
    broken.write_bytes(b"")
    dataset = BopDataset(copy, SPLIT)
    crops, fresh = (LabelledCrops(dataset, [part], CONFIG) for _ in range(2))
    assert len(crops) == 2
    with pytest.warns(UserWarning, match=r"left out: .*000002\.jpg") as caught:
        batches = [crops.batch(index, 8) for index in range(4)]
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="left out"):
        assert torch.equal(fresh.batch(3, 8).image, batches[3].image)
    good.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=r"none of the 2 .*cannot be read"),
    ):
        LabelledCrops(dataset, [part], CONFIG).batch(0, 1)
    shutil.copy(world / SPLIT / "000000" / "rgb" / good.name, good)
    Image.new("L", (160, 120)).save(scene / "mask_visib" / "000000_000001.png")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match=r"do not show it.*000002\.jpg"):
        LabelledCrops(dataset, [part], CONFIG).batch(0, 1)


def test_fine_meshes_are_thinned_out_where_images_are_rendered_or_read_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("cad2pose.data.clutter.thinned", lambda mesh: thinned(mesh, 1500))
    part, out = builtin_part("bushing"), tmp_path / "set"
    camera, photos = Camera.from_values(75.0, 75.0, 39.5, 29.5, 80, 60), replace(PHOTOS, parts=(1, 1), others=0)
    finer = r"bushing has 2,560 triangles; it is rendered with [1-9]"
    with pytest.warns(UserWarning, match=finer):
        write_dataset([part], camera, RenderPlan(1, 1, 1, photos), out)
    with pytest.warns(UserWarning, match=finer):
        table = Tabletop([part], camera, photos, 1)
    assert table._meshes.face_start[1] <= 1500
    dataset = BopDataset(out, SPLIT)
    own = dataset.parts()[0]
    assert len(own.mesh.faces) == 2560, "the model's file is the user's mesh"
    with pytest.warns(UserWarning, match=r"has 2,560 triangles; it is rendered with [1-9]"):
        crops = LabelledCrops(dataset, [own], CONFIG)
    assert truth_of(crops.batch(0, 1)).mask_full.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_crops_are_made_on_the_device_and_have_the_same_truth(world):
    dataset = BopDataset(world, SPLIT)
    config = replace(CONFIG, augmentation=AugmentationConfig.off())
    here, there = (LabelledCrops(dataset, dataset.parts(), config, device).batch(0, 8) for device in ("cpu", "cuda"))
    assert all(t.is_cuda for t in (there.image, there.valid, there.part_index, there.camera.K_virt))
    assert all(t.is_cuda for t in (truth_of(there).coordinates, truth_of(there).mask_visible))
    torch.testing.assert_close(there.image.cpu(), here.image, rtol=0, atol=1e-3)
    torch.testing.assert_close(there.valid.cpu(), here.valid, rtol=0, atol=1e-4)
    assert torch.equal(truth_of(there).T_virt_obj.cpu(), truth_of(here).T_virt_obj)
    for name in ("mask_full", "mask_visible"):
        assert (getattr(truth_of(there), name).cpu() == getattr(truth_of(here), name)).float().mean() > 0.999
    effects = LabelledCrops(dataset, dataset.parts(), CONFIG, "cuda").batch(0, 8)
    assert torch.isfinite(effects.image).all()


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
    singles = MixedCrops(rendered, labelled, 0.4)
    picks = [torch.equal(singles.batch(index, 1).image, labelled.batch(index, 1).image) for index in range(30)]
    for part in range(2):  # a crop of part n % 2 has number n
        assert 0 < sum(picks[part::2]) < 15
    assert 7 < sum(picks) < 18


def test_training_from_a_folder(world, tmp_path, capsys, monkeypatch):
    def few_pictures(parts, config, device, seed):
        return SyntheticCrops(parts, replace(config, pictures=4), device, seed)

    monkeypatch.setattr("cad2pose.cli.crop_style.SyntheticCrops", few_pictures)
    size = ["--model.crop-size", "32", "--model.width", "8", "--model.head-width", "8", "--model.key-width", "8"]
    arguments = ["train", str(world), "--out", str(tmp_path / "run"), "--samples", "16", "--batch-size", "8", *size]
    images = ["--images", str(world / SPLIT), "--mix", "0.5", "--validations", "1", "--validation-crops", "4"]
    monkeypatch.setattr("cad2pose.experiments.calibration_crops.SyntheticCrops", few_pictures)
    assert main([*arguments, *images, "--device", "cpu", "--calibration-crops", "2"]) == 0
    assert "calibration" in capsys.readouterr().out
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert set(model.calibrations) == {"regression", "refined"}
    assert model.info["images"] == f"{world.name}/{SPLIT}"
    later = Run(model.parts, model.method.config, TrainingConfig(), torch.device("cpu"), model)
    assert later.images_seen() == f"{world.name}/{SPLIT}"
    assert replace(later, others={"images": "/data/mine/train_real"}).images_seen() == (
        f"{world.name}/{SPLIT}, mine/train_real"
    )
    assert replace(later, start=None).images_seen() == ""
    capsys.readouterr()
    assert main([*arguments, *images[:2], "--mix", "0.25"]) == 2
    assert "mix" in capsys.readouterr().err
    assert main([*arguments, "--images", str(world / "train")]) == 2
    assert SPLIT in capsys.readouterr().err


def test_shards_give_the_same_crops_as_the_folder(world, tmp_path):
    write_shards(BopDataset(world, SPLIT), tmp_path / "train_web", images_per_shard=3)
    shards = open_images(tmp_path / "train_web")
    assert isinstance(shards, ShardDataset)
    there, here = source(world), LabelledCrops(shards, BopDataset(world, SPLIT).parts(), CONFIG)
    assert len(there) == len(here)
    one, other = there.batch(2, 5), here.batch(2, 5)
    assert torch.equal(one.image, other.image)
    assert torch.equal(truth_of(one).mask_visible, truth_of(other).mask_visible)


@pytest.mark.parametrize("depth", [True, False])
def test_without_masks_and_boxes_depth_and_pose_say_what_is_seen(world, tmp_path, depth):
    """A user's photographs may have no more than poses."""
    copy = tmp_path / "set"
    shutil.copytree(world, copy)
    scene = copy / SPLIT / "000000"
    for name in ("mask", "mask_visib", *(() if depth else ("depth",))):
        shutil.rmtree(scene / name)
    (scene / "scene_gt_info.json").unlink()
    bare, whole = BopDataset(copy, SPLIT), BopDataset(world, SPLIT)
    meshes = MeshSet.from_meshes([part.mesh for part in whole.parts()])
    for image in whole:
        for instance in image.instances:
            there = bare.image(image.scene_id, image.image_id)
            found, bent = seen_mask(there, there.instances[instance.index], meshes, instance.object_id - 1)
            assert not bent
            assert torch.equal(found, image.read_mask(instance, visible=depth)) or depth
            assert not bool((image.read_mask(instance) & ~found).any())
    batch = source(copy, replace(CONFIG, box=BoxConfig(0.0, 0.0))).batch(0, 6)
    assert truth_of(batch).mask_visible.flatten(1).any(1).all()


def test_a_bent_picture_is_straightened(world, tmp_path):
    """With distortion in the camera's entry crops are as estimates see them, and say what the lens did not see."""
    copy = tmp_path / "set"
    shutil.copytree(world, copy)
    bend = (0.3, 0.0, 0.0, 0.0)
    file = copy / SPLIT / "000000" / "scene_camera.json"
    edit_json(file, lambda content: [entry.update(distortion=bend) for entry in content.values()])
    dataset = BopDataset(copy, SPLIT)
    plain = replace(CONFIG, augmentation=AugmentationConfig.off(), roll=0.0, box=BoxConfig(0.0, 0.0))
    crops = LabelledCrops(dataset, dataset.parts(), plain)
    unseen = 0
    for image in dataset:
        straight, whole = image.camera.undistort_image(image.read()), torch.ones(1, 120, 160)
        covered = image.camera.undistort_image(whole)
        for instance in image.instances:
            mask = image.read_mask(instance)
            if not mask.any():
                continue
            one = _Seen(instance, image, image.read(), mask, True)
            camera = crops._cameras([one], _draws())[0]
            crop, valid, seen = crops._crop(one, camera)
            expected, _ = warp_to_crops(straight[None], camera)
            share = warp_to_crops(covered[None], camera, fill=0.0)[0][0, 0]
            whole = (share == 1) & (valid[0, 0] == 1)
            assert float((crop - expected)[0, :, whole].abs().mean()) < 0.02
            assert bool((valid[0, 0][share == 0] < 0.6).all())
            unseen += int((valid[0, 0] == 0).sum())
            shown = warp_to_crops(image.camera.undistort_image(mask[None].float())[None], camera, fill=0.0)[0][0, 0]
            both, either = ((seen[0] > 0.5) & (shown > 0.5)).sum(), ((seen[0] > 0.5) | (shown > 0.5)).sum()
            assert both > 0.8 * either
            rows, columns = (seen[0] > 0.5).nonzero().unbind(1)
            middle = torch.stack((columns, rows)).double().mean(1)
            assert float((middle - 23.5).abs().max()) < 10, "the box is around it"
    assert unseen > 0, "corners that the lens does not reach"
    assert crops.batch(0, 4).image.shape == (4, 3, 48, 48)


def test_images_kept_in_memory_are_bounded(world, monkeypatch):
    monkeypatch.setattr("cad2pose.data.labelled._KEPT_NUMBERS", 2 * 3 * 160 * 120)
    crops = source(world)
    for image in range(4):
        crops._image((0, image))
    assert list(crops._images) == [(0, 2), (0, 3)]


def test_folders_that_are_no_images_are_named(world, tmp_path):
    with pytest.raises(ValueError, match="is one scene"):
        open_images(world / SPLIT / "000000")
    with pytest.raises(FileNotFoundError, match=SPLIT):
        open_images(world / "train_real")
    for name in ("test_web", "Val", "val_primesense", "validation"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shard-000000.tar").touch()
        assert is_for_testing(open_images(tmp_path / name))
    (tmp_path / "train").symlink_to(tmp_path / "test_web")
    assert is_for_testing(open_images(tmp_path / "train"))
    assert not is_for_testing(open_images(world / SPLIT))
    (tmp_path / "valves").mkdir()
    (tmp_path / "valves" / "shard-000000.tar").touch()
    assert not is_for_testing(open_images(tmp_path / "valves"))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "000000").symlink_to(world / SPLIT / "000000")
    assert not is_for_testing(open_images(mixed))
    (mixed / "000002").symlink_to(make_bop(tmp_path / "other") / "test" / "000002")
    assert is_for_testing(open_images(mixed))
    for root, split, kept_back in ((tmp_path / "other", "test", True), (world, SPLIT, False)):
        write_shards(BopDataset(root, split), tmp_path / f"web_{split}")
        (tmp_path / f"web_{split}").rename(tmp_path / "web")
        assert is_for_testing(open_images(tmp_path / "web")) == kept_back, "shards know what they were made of"
        shutil.rmtree(tmp_path / "web")


def test_a_small_share_is_at_least_one_crop(world):
    parts = BopDataset(world, SPLIT).parts()
    batch = MixedCrops(SyntheticCrops(parts, CONFIG), source(world), 0.02).batch(0, 4)
    assert torch.equal(batch.image[3:], source(world).batch(0, 1).image)


def test_the_command_does_not_train_on_test_images(tmp_path, capsys):
    world = make_bop(tmp_path / "world")
    arguments = ["train", str(world), "--out", str(tmp_path / "run"), "--images", str(world / "test")]
    assert main([*arguments, "--device", "cpu"]) == 2
    assert "--allow-test-images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

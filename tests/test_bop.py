from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bop_world import HEIGHT, WIDTH, K, edit_json, make_bop, pose, write_json
from cad2pose.data.bop import BopDataset, find_dataset, find_splits
from cad2pose.data.bop_files import BopTarget, read_json, read_targets


def test_everything_of_an_image_is_found(tmp_path):
    dataset = BopDataset(make_bop(tmp_path))
    assert dataset.keys() == [(1, 3), (1, 5), (2, 3), (2, 5)]
    assert [(i.scene_id, i.image_id) for i in dataset] == dataset.keys()
    image = dataset.image(2, 5)
    assert image.camera.K.flatten().tolist() == K
    assert (image.camera.width, image.camera.height) == (WIDTH, HEIGHT)
    torch.testing.assert_close(image.read(), torch.full((3, HEIGHT, WIDTH), 25 / 255))
    assert float(image.read_depth()[0, 0]) == 600
    entry = json.loads((tmp_path / "test/000002/scene_gt.json").read_text())["5"][2]
    instance = image.instances[2]
    assert (instance.index, instance.object_id, instance.box_visible) == (2, 2, (40, 10, 12, 14))
    assert torch.equal(instance.T_cam_obj, pose(entry["cam_R_m2c"], entry["cam_t_m2c"]))
    assert instance.visible_fraction == pytest.approx(0.7)
    mask = image.read_mask(instance)
    assert int(mask.sum()) == 12 * 14
    assert bool(mask[10, 40])
    assert [p.object_id for p in dataset.parts()] == [1, 2]
    assert len(dataset.parts([2], evaluation=True)[0].symmetries) > 0


@pytest.mark.parametrize(("folder", "suffix"), [("gray", ".tif"), ("rgb", ".jpg"), ("gray", ".png")])
def test_other_folders_and_formats(tmp_path, folder, suffix):
    image = BopDataset(make_bop(tmp_path, folder=folder, suffix=suffix)).image(1, 3)
    torch.testing.assert_close(image.read(), torch.full((3, HEIGHT, WIDTH), 13 / 255), atol=1e-2, rtol=0)


def test_half_pixel_of_train_pbr_only(tmp_path):
    pbr = BopDataset(make_bop(tmp_path / "pbr", "train_pbr"), "train_pbr").image(1, 3)
    primesense = BopDataset(make_bop(tmp_path / "real", "train_real"), "train_real").image(1, 3)
    assert primesense.camera.K.flatten().tolist() == K
    shift = torch.zeros(3, 3, dtype=torch.float64)
    shift[:2, 2] = 0.5
    assert torch.equal(pbr.camera.K, primesense.camera.K - shift)
    (tmp_path / "pbr" / "mine").symlink_to("train_pbr")
    assert torch.equal(BopDataset(tmp_path / "pbr", "mine").image(1, 3).camera.K, pbr.camera.K)


def test_without_camera_json_the_image_tells_its_size(tmp_path):
    root = make_bop(tmp_path)
    (root / "camera.json").unlink()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(root / "test/000001/rgb/000003.png")
    dataset = BopDataset(root)
    assert (dataset.image(1, 3).camera.width, dataset.image(1, 5).camera.width) == (30, WIDTH)
    assert dataset.image(1, 3).read().shape == (3, 20, 30)


def test_an_image_of_another_size_than_its_camera(tmp_path):
    root = make_bop(tmp_path)
    Image.fromarray(np.zeros((HEIGHT, 2 * WIDTH), np.uint8)).save(root / "test/000001/rgb/000003.png")
    with pytest.raises(ValueError, match=r"000003\.png is 128 x 48 pixels, but its camera has 64 x 48"):
        BopDataset(root).image(1, 3).read()


def test_a_split_may_have_images_of_a_size_of_its_own(tmp_path):
    root = make_bop(tmp_path)
    for number in (3, 5):
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(root / f"test/000001/rgb/{number:06d}.png")
    own = [14.0, 0, 14.5, 0, 14.0, 9.0, 0, 0, 1]
    edit_json(root / "test/000001/scene_camera.json", lambda entries: entries["3"].update(cam_K=own))
    image = BopDataset(root).image(1, 3)
    assert (image.camera.width, image.camera.height) == (30, 20)
    assert image.read().shape == (3, 20, 30)
    with pytest.raises(ValueError, match="K belongs to one size"):  # its K is still that of the larger image
        BopDataset(root).image(1, 5).read()


def test_masks_of_one_sensor_among_several(tmp_path):
    root = make_bop(tmp_path)
    for scene in (root / "test").iterdir():
        for path in list(scene.iterdir()):
            path.rename(path.with_name(f"{path.stem}_left{path.suffix}"))
    image = BopDataset(root, "test", "left").image(2, 5)
    assert image.mask_path(image.instances[2]).parent.name == "mask_visib_left"
    assert int(image.read_mask(image.instances[2]).sum()) == 12 * 14


def test_instances_outside_their_image_are_flagged(tmp_path):
    root = make_bop(tmp_path)

    def push_out(infos):
        infos["3"][1] |= {"bbox_obj": [-1, -1, -1, -1], "bbox_visib": [-1, -1, -1, -1], "visib_fract": 0.0}
        infos["3"][2] |= {"bbox_visib": [-1, -1, -1, -1], "visib_fract": 0.0}

    edit_json(root / "test/000001/scene_gt_info.json", push_out)
    instances = BopDataset(root).image(1, 3).instances
    assert [i.in_image for i in instances] == [True, False, True]
    assert [i.visible for i in instances] == [True, False, False]


def test_ground_truth_may_be_kept_back(tmp_path):
    root = make_bop(tmp_path)
    for name in ("scene_gt.json", "scene_gt_info.json"):
        (root / "test/000001" / name).unlink()
    (root / "test/000002/scene_gt_info.json").unlink()
    dataset = BopDataset(root)
    assert dataset.image(1, 3).instances == ()
    assert [i.visible_fraction for i in dataset.image(2, 3).instances] == [None] * 3
    assert all(i.in_image for i in dataset.image(2, 3).instances)


def test_targets_from_file_and_from_ground_truth(tmp_path):
    root = make_bop(tmp_path)
    dataset = BopDataset(root)
    listed = dataset.targets()
    assert listed[1] == BopTarget(1, 3, 2, 2)
    (root / "test_targets_bop19.json").unlink()
    assert dataset.targets() == listed
    assert {t.instance_count for t in dataset.targets(min_visible=0.75)} == {1}
    write_json(root / "mine.json", [{"scene_id": 2, "im_id": 5, "obj_id": 1, "inst_count": 1}])
    assert dataset.targets(root / "mine.json") == (BopTarget(2, 5, 1, 1),)


def test_several_sensors(tmp_path):
    root = make_bop(tmp_path)
    for scene in (root / "test").iterdir():
        for path in list(scene.iterdir()):
            path.rename(path.with_name(f"{path.stem}_cam1{path.suffix}"))
    image = BopDataset(root, sensor="cam1").image(1, 3)
    assert image.read().shape == (3, HEIGHT, WIDTH)
    assert len(image.instances) == 3
    with pytest.raises(FileNotFoundError, match="several sensors: cam1"):
        BopDataset(root).image(1, 3)


def test_missing_things_are_named(tmp_path, monkeypatch):
    root = make_bop(tmp_path / "made")
    with pytest.raises(FileNotFoundError, match=r"no split 'val'; splits found: test"):
        BopDataset(root, "val")
    dataset = BopDataset(root)
    with pytest.raises(ValueError, match=r"no scene 7; it has \[1, 2\]"):
        dataset.image(7, 3)
    with pytest.raises(ValueError, match="image 4: is not listed"):
        dataset.image(1, 4)
    (root / "test/000001/rgb/000003.png").unlink()
    with pytest.raises(FileNotFoundError, match="no image 000003"):
        BopDataset(root).image(1, 3)
    assert find_splits(root) == ["test"]
    monkeypatch.setenv("BOP_PATH", str(tmp_path))
    assert find_dataset("made") == root
    assert find_dataset(root) == root
    with pytest.raises(FileNotFoundError, match="nor in BOP_PATH"):
        find_dataset("absent")
    monkeypatch.delenv("BOP_PATH")
    with pytest.raises(FileNotFoundError, match="is not set"):
        find_dataset("absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(cam_R_m2c=[1, 2]), "cam_R_m2c must be a list of 9 numbers, it is a list of 2"),
        (lambda e: e.update(cam_t_m2c=[1, 2, "x"]), "'x', which is not a finite number"),
        (lambda e: e.update(cam_R_m2c=[0] * 9), "determinant 0"),
        (lambda e: e.pop("obj_id"), "obj_id must be a whole number, it is missing"),
        (lambda e: e.update(obj_id="1"), "obj_id must be a whole number, it is '1'"),
    ],
)
def test_malformed_annotations_name_file_image_and_entry(tmp_path, change, message):
    root = make_bop(tmp_path)
    edit_json(root / "test/000001/scene_gt.json", lambda content: change(content["5"][1]))
    with pytest.raises(ValueError, match=r"scene_gt\.json, image 5, annotation 1.*" + message):
        BopDataset(root).image(1, 5)


def test_malformed_json(tmp_path):
    (tmp_path / "broken.json").write_text('{"a": [1,\n 2')
    with pytest.raises(ValueError, match=r"broken\.json is not valid json: line 2"):
        read_json(tmp_path / "broken.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        read_json(tmp_path / "binary.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must hold a list of targets"),
        ({"scene_id": 1}, "must hold a list of targets"),
        ([{"scene_id": 1, "im_id": 3}], "for detection"),
        ([{"scene_id": 1, "im_id": 3, "obj_id": 1, "inst_count": 0}], "inst_count is 0"),
        ([{"scene_id": 1, "im_id": 3, "obj_id": 1}] * 2, "asks twice"),
    ],
)
def test_malformed_targets(tmp_path, content, message):
    write_json(tmp_path / "targets.json", content)
    with pytest.raises(ValueError, match=message):
        read_targets(tmp_path / "targets.json")


def test_lmo(bop_path):
    dataset = BopDataset(bop_path / "lmo")
    images = list(dataset)
    assert (len(images), sum(len(i.instances) for i in images)) == (40, 304)
    assert len(dataset.targets()) == 292
    hidden = [(i.image_id, x.object_id) for i in images for x in i.instances if not x.in_image]
    assert hidden == [(1117, 10)]
    assert images[0].read().shape == (3, 480, 640)

"""Data sets in tar files: what goes in comes out, wherever it lies, and what is broken is named."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch

from bop_world import make_bop
from cad2pose.data.bop import BopDataset
from cad2pose.data.rle import decode_mask, encode_mask
from cad2pose.data.shard_writer import INDEX, SOURCE, write_shards
from cad2pose.data.shards import ShardDataset
from cad2pose.files import alone


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_bop(tmp_path_factory.mktemp("shards"), "train_real")
    write_shards(BopDataset(root, "train_real"), root / "train_web", images_per_shard=3)
    return root


def test_masks_come_back_from_their_runs(generator):
    masks = [torch.rand(5, 7, generator=generator) < share for share in (0.0, 0.3, 0.7, 1.0)]
    for mask in masks:
        entry = encode_mask(mask)
        assert sum(entry["counts"]) == 35
        assert torch.equal(decode_mask(entry, "here"), mask)
    first = torch.zeros(2, 3, dtype=torch.bool)
    first[1, 0] = first[0, 1] = True
    assert encode_mask(first) == {"counts": [1, 2, 3], "size": [2, 3]}, "column by column"


def test_compressed_runs_are_read():
    """The text is worked out by hand: 6, 1, 40, 4, 29 -> 6, 1, 40, 4 - 1, 29 - 40; 40 = 8 + 32 * 1."""
    text = "".join(chr(48 + bits) for bits in (6, 1, 8 | 32, 1, 3, (-11 & 31) | 0))
    entry = {"counts": text, "size": [8, 10]}
    assert torch.equal(decode_mask(entry, "here"), decode_mask({"counts": [6, 1, 40, 4, 29], "size": [8, 10]}, "here"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "json object"), ({"counts": [6]}, "size"), ({"counts": [5], "size": [2, 3]}, "add up to 5"),
        ({"counts": [-1, 7], "size": [2, 3]}, "not negative"), ({"counts": "ü", "size": [2, 3]}, "does not occur"),
        ({"counts": "X", "size": [2, 3]}, "cut off"), ({"counts": None, "size": [2, 3]}, "whole numbers"),
    ],
)  # fmt: skip
def test_broken_runs_are_named(entry, message):
    with pytest.raises(ValueError, match=f"here.*{message}"):
        decode_mask(entry, "here")


def test_shards_hold_what_the_folder_holds(world):
    folder, shards = BopDataset(world, "train_real"), ShardDataset(world, "train_web")
    assert shards.keys() == folder.keys()
    for key in reversed(folder.keys()):
        there, here = folder.image(*key), shards.image(*key)
        assert torch.equal(here.read(), there.read())
        assert torch.equal(here.read_depth(), there.read_depth())
        assert torch.equal(here.camera.K, there.camera.K)
        assert (here.camera.width, here.camera.height) == (there.camera.width, there.camera.height)
        for one, other in zip(here.instances, shards.instances(*key), strict=True):
            assert torch.equal(one.T_cam_obj, other.T_cam_obj)
        for one, other in zip(here.instances, there.instances, strict=True):
            assert (one.index, one.object_id, one.box_visible) == (other.index, other.object_id, other.box_visible)
            assert torch.equal(one.T_cam_obj, other.T_cam_obj)
            assert torch.equal(here.read_mask(one), there.read_mask(other))


def test_names_are_those_of_bop(world):
    shards = sorted((world / "train_web").glob("*.tar"))
    assert [path.name for path in shards] == ["shard-000000.tar", "shard-000001.tar"]
    index = json.loads((world / "train_web" / INDEX).read_text())
    names = []
    for number, path in enumerate(shards):
        with tarfile.open(path) as tar:
            names += tar.getnames()
            assert {index[name.split(".")[0]] for name in tar.getnames()} == {number}
    wanted = {"rgb.png", "depth.png", "camera.json", "gt.json", "gt_info.json", "mask_visib.json"}
    assert {name.split(".", 1)[1] for name in names if name.startswith("000001_000003.")} == wanted
    assert len(names) == 4 * len(wanted)


def test_packing_again_changes_nothing_and_goes_on(world, tmp_path):
    dataset = BopDataset(world, "train_real")
    before = {path.name: path.read_bytes() for path in (world / "train_web").iterdir()}
    (world / "train_web" / "shard-000001.tar").unlink()
    (world / "train_web" / ".cad2pose-shard-000001-abcdefgh.tar").touch()
    write_shards(dataset, world / "train_web", images_per_shard=3)
    assert {path.name: path.read_bytes() for path in (world / "train_web").iterdir()} == before
    with pytest.raises(ValueError, match="other images"):
        write_shards(dataset, world / "train_web", images_per_shard=2)
    (tmp_path / "mine").touch()
    with pytest.raises(ValueError, match="not empty"):
        write_shards(dataset, tmp_path)
    with pytest.raises(ValueError, match="images_per_shard is 0"):
        write_shards(dataset, tmp_path / "new", images_per_shard=0)


def test_blenderprocs_pixels_are_shifted_in_shards_too(world, tmp_path):
    gt = [{"obj_id": 1, "cam_R_m2c": [1, 0, 0, 0, 1, 0, 0, 0, 1], "cam_t_m2c": [0, 0, 500]}]
    camera = {"cam_K": [9, 0, 3, 0, 9, 2, 0, 0, 1]}
    members = {f"000004_000015.{name}": json.dumps(value).encode() for name, value in
               {"camera.json": camera, "gt.json": gt}.items()}  # fmt: skip
    for split in ("train_pbr_web", "train_real_web"):
        _write(tmp_path / split / "some.tar", members | {"000004_000015.rgb.png": _png(6, 4)})
    shifted, straight = (ShardDataset(tmp_path, f"train_{kind}_web").image(4, 15).camera.K for kind in ("pbr", "real"))
    assert torch.equal(shifted[:2, 2] + 0.5, straight[:2, 2])


@pytest.mark.parametrize(("split", "packed"), [("train_pbr", "mine"), ("train_real", "train_pbr_web")])
def test_pixels_stay_where_they_are_whatever_shards_are_called(tmp_path, split, packed):
    dataset = BopDataset(make_bop(tmp_path / "bop", split), split)
    write_shards(dataset, tmp_path / packed)
    assert torch.equal(ShardDataset(tmp_path, packed).image(1, 3).camera.K, dataset.image(1, 3).camera.K)


def test_pictures_of_another_size_than_their_camera_are_not_packed(tmp_path):
    root = make_bop(tmp_path / "bop")
    for file in (root / "test/000001/rgb").iterdir():
        file.write_bytes(_png(6, 4))
    with pytest.raises(ValueError, match=r"is 6 x 4 pixels, but its camera has .*K belongs to one size"):
        write_shards(BopDataset(root), tmp_path / "packed")


def test_a_picture_of_another_size_than_its_entry_says_is_named(tmp_path):
    camera = {"cam_K": [9, 0, 3, 0, 9, 2, 0, 0, 1], "width": 12, "height": 8}
    _write(tmp_path / "train" / "a.tar", {"1_2.camera.json": json.dumps(camera).encode(), "1_2.rgb.png": _png(6, 4)})
    with pytest.raises(ValueError, match=r"rgb.png is of 6 x 4 pixels, but the camera has 12 x 8"):
        ShardDataset(tmp_path, "train").image(1, 2).read()


def test_masks_in_a_list_and_members_in_folders(tmp_path):
    mask = torch.rand(4, 6) < 0.5
    gt = [{"obj_id": 1, "cam_R_m2c": [1, 0, 0, 0, 1, 0, 0, 0, 1], "cam_t_m2c": [0, 0, 500]}]
    camera = {"cam_K": [9, 0, 3, 0, 9, 2, 0, 0, 1]}
    contents = {"camera.json": camera, "gt.json": gt, "mask_visib.json": [encode_mask(mask)]}
    members = {f"./a/00004_15.{name}": json.dumps(content).encode() for name, content in contents.items()}
    members["./a/00004_15.rgb.png"] = _png(6, 4)
    _write(tmp_path / "train" / "some.tar", members | {"readme.txt": b"x"})
    image = ShardDataset(tmp_path, "train").image(4, 15)
    assert torch.equal(image.read_mask(image.instances[0]), mask)
    with pytest.raises(FileNotFoundError, match=r"no mask\.json"):
        image.read_mask(image.instances[0], visible=False)
    with pytest.raises(FileNotFoundError, match="no depth image"):
        image.read_depth()


def test_what_is_broken_is_named(world, tmp_path):
    shards = tmp_path / "train"
    shards.mkdir()
    with pytest.raises(FileNotFoundError, match="no shards"):
        ShardDataset(tmp_path, "train")
    whole = (world / "train_web" / "shard-000000.tar").read_bytes()
    (shards / "a.tar").write_bytes(whole[: len(whole) // 2 - 700])
    with pytest.raises(ValueError, match=r"a\.tar is damaged or cut off"):
        ShardDataset(tmp_path, "train").keys()
    (shards / "a.tar").write_bytes(whole)
    (shards / "b.tar").write_bytes(whole)
    with pytest.raises(ValueError, match=r"b\.tar: the members of .* do not lie side by side"):
        ShardDataset(tmp_path, "train").keys()
    _write(shards / "b.tar", {"readme.txt": b""})
    with pytest.raises(ValueError, match=r"b\.tar holds no images"):
        ShardDataset(tmp_path, "train").keys()
    _write(shards / "b.tar", {"7_1.rgb.png": b"", "7_2.camera.json": b"{", "7_2.rgb.png": _png(2, 2)})
    dataset = ShardDataset(tmp_path, "train")
    for key, message in (((7, 1), "no camera.json"), ((7, 2), "not valid json"), ((8, 1), "no image 000008_000001")):
        with pytest.raises(ValueError, match=message):
            dataset.image(*key)


def _png(width: int, height: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def _write(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def test_masks_that_are_there_are_packed_without_the_others(tmp_path):
    root = make_bop(tmp_path / "bop", "train_real")
    dataset = BopDataset(root, "train_real")
    image = next(i for i in (dataset.image(*key) for key in dataset.keys()) if len(i.instances) > 1)  # noqa: SIM118
    gone, there = image.instances[:2]
    wanted = image.read_mask(there)
    image.mask_path(gone, True).unlink()
    write_shards(dataset, root / "web")
    packed = ShardDataset(root, "web").image(image.scene_id, image.image_id)
    assert torch.equal(packed.read_mask(packed.instances[1]), wanted)
    with pytest.raises(FileNotFoundError, match="no mask of annotation 0"):
        packed.read_mask(packed.instances[0])


def test_shards_of_other_annotations_are_not_taken_for_these(tmp_path):
    root = make_bop(tmp_path / "bop", "train_real")
    write_shards(BopDataset(root, "train_real"), root / "web")
    path = next(root.glob("train_real/*/scene_gt.json"))
    content = json.loads(path.read_text())
    next(iter(content.values()))[0]["cam_t_m2c"][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="as they were annotated before"):
        write_shards(BopDataset(root, "train_real"), root / "web")
    with alone(root / "web"), pytest.raises(ValueError, match="another run is writing"):
        write_shards(BopDataset(root, "train_real"), root / "web")


@pytest.mark.parametrize("scale", [None, -1, "0.1", 0])
def test_depth_scales_that_cannot_be_are_named(tmp_path, scale):
    camera = {"cam_K": [9, 0, 3, 0, 9, 2, 0, 0, 1], "depth_scale": scale}
    members = {"7_2.camera.json": json.dumps(camera).encode(), "7_2.rgb.png": _png(6, 4)}
    _write(tmp_path / "train" / "a.tar", members | {"._7_2.rgb.png": b"what a Mac packs"})
    with pytest.raises(ValueError, match="depth_scale is"):
        ShardDataset(tmp_path, "train").image(7, 2)


def test_what_a_mac_packs_beside_files_is_passed_over(tmp_path):
    camera = json.dumps({"cam_K": [9, 0, 3, 0, 9, 2, 0, 0, 1]}).encode()
    members: dict[str, bytes] = {}
    for name in ("7_2", "7_3"):
        members |= {f"._{name}.camera.json": b"x", f"{name}.camera.json": camera}
        members |= {f"._{name}.rgb.png": b"x", f"{name}.rgb.png": _png(6, 4)}
    _write(tmp_path / "train" / "a.tar", members)
    dataset = ShardDataset(tmp_path, "train")
    assert list(dataset.keys()) == [(7, 2), (7, 3)]
    assert dataset.image(7, 3).read().shape == (3, 4, 6)


def test_packing_goes_on_in_a_folder_that_was_left_before_its_index(world, tmp_path):
    out = tmp_path / "train_web"
    out.mkdir()
    (out / f".cad2pose-{INDEX.split('.')[0]}-ab12_c3d.json").write_text("{")
    (out / SOURCE).write_text((world / "train_web" / SOURCE).read_text())
    write_shards(BopDataset(world, "train_real"), out, images_per_shard=3)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (world / "train_web").iterdir())
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").touch()
    with pytest.raises(ValueError, match="not empty and holds no shards"):
        write_shards(BopDataset(world, "train_real"), other)

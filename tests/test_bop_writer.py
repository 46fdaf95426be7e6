"""Rendered BOP data sets: right, the same bytes whoever writes them, and gone on with where they were stopped."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bop_world import small_parts
from cad2pose.cli import main
from cad2pose.cli.render import _sized
from cad2pose.data import bop_writer
from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_writer import RenderPlan, write_dataset
from cad2pose.data.check import check_bop
from cad2pose.data.shards import ShardDataset
from cad2pose.data.tabletop import Tabletop, TabletopConfig
from cad2pose.data.worker_pool import run_tasks
from cad2pose.files import alone
from cad2pose.geometry import Camera, project_points, random_rotations, transform_points
from cad2pose.parts import builtin_part
from cad2pose.rendering import MeshSet, rasterize

CAMERA = Camera.from_values(75.0, 76.0, 39.5, 29.5, 80, 60)
PLAN = RenderPlan(scenes=2, images=3, seed=5, photos=TabletopConfig(parts=(1, 3), others=2, pictures=2))


def fingerprints(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "set"
    write_dataset(small_parts(), CAMERA, PLAN, out)
    return out


def test_it_is_a_whole_bop_data_set(written):
    assert check_bop(written, [bop_writer.SPLIT]).problems == ()
    dataset = BopDataset(written, bop_writer.SPLIT)
    assert dataset.keys() == [(scene, image) for scene in (0, 1) for image in (0, 1, 2)]
    assert [part.object_id for part in dataset.parts()] == [1, 2]
    assert not (written / ".records").exists()
    entry = json.loads((written / bop_writer.SPLIT / "000001" / "scene_gt_info.json").read_text())["2"][0]
    names = ("bbox_obj", "bbox_visib", "px_count_all", "px_count_valid", "px_count_visib", "visib_fract")
    assert set(entry) == set(names)


def test_pictures_masks_depths_and_poses_agree(written):
    dataset = BopDataset(written, bop_writer.SPLIT)
    parts = {part.object_id: part for part in dataset.parts()}
    seen = 0
    for image in dataset:
        depth = image.read_depth()
        assert image.read().shape == (3, 60, 80)
        assert torch.equal(image.camera.K, CAMERA.K), "readers and writer agree where pixel centres are"
        for instance in image.instances:
            meshes = MeshSet.from_meshes([parts[instance.object_id].mesh])
            T = instance.T_cam_obj.float()[None, None]
            drawn = rasterize(meshes, torch.zeros(1, 1).int(), T, CAMERA.K[None].float(), 60, 80)
            silhouette, visible = (image.read_mask(instance, visible=flag) for flag in (False, True))
            assert torch.equal(drawn.slot[0] >= 0, silhouette)
            assert not bool((visible & ~silhouette).any())
            assert (depth - drawn.depth[0])[visible].abs().max() < 0.06 if bool(visible.any()) else True
            seen += int(visible.sum())
    assert seen > 100


def test_any_number_of_workers_writes_the_same_bytes(written, tmp_path):
    write_dataset(small_parts(), CAMERA, PLAN, tmp_path / "many", workers=3)  # two: of a run that is killed, below
    assert fingerprints(tmp_path / "many") == fingerprints(written)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are looked up in /proc")
def test_a_killed_run_goes_on_and_nothing_of_it_is_left(written, tmp_path):
    out = tmp_path / "set"
    (tmp_path / "arguments").write_bytes(pickle.dumps((small_parts(), CAMERA, PLAN, out)))
    program = (
        "import pickle, sys\n"
        "from cad2pose.data.bop_writer import write_dataset\n"
        "if __name__ == '__main__':\n"
        "    write_dataset(*pickle.load(open(sys.argv[1], 'rb')), workers=2)\n"
    )
    (tmp_path / "run.py").write_text(program)
    run = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), str(tmp_path / "arguments")])
    deadline = time.monotonic() + 90
    while len(list(out.rglob("*.jpg"))) < 2 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.kill()
    run.wait()
    assert 2 <= len(list(out.rglob("*.jpg"))) < 6, "it was killed in the midst"
    deadline = time.monotonic() + 20
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_runs, workers)), "workers end with the run that began them"
    (out / bop_writer.SPLIT / "000000" / "rgb" / ".cad2pose-000001-abcd_123.jpg").write_bytes(b"cut off")
    write_dataset(small_parts(), CAMERA, PLAN, out)
    assert fingerprints(out) == fingerprints(written)


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_two_runs_do_not_share_a_folder(written):
    with alone(written), pytest.raises(ValueError, match="another run is writing"):
        write_dataset(small_parts(), CAMERA, PLAN, written)


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_stopped_run_goes_on(written, tmp_path, monkeypatch, stop_after):
    out, write, count = tmp_path / "set", bop_writer.write_bytes, 0

    def failing(path: Path, data: bytes) -> None:
        nonlocal count
        count += path.suffix == ".jpg"
        if count > stop_after and path.parent.name == "mask":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(bop_writer, "write_bytes", failing)
    with pytest.raises(OSError, match="No space left"):
        write_dataset(small_parts(), CAMERA, PLAN, out)
    monkeypatch.undo()
    told: list[int] = []
    write_dataset(small_parts(), CAMERA, PLAN, out, report=lambda done, total: told.append(done))
    assert told[0] == stop_after
    assert told[-1] == 6
    assert fingerprints(out) == fingerprints(written)


def test_what_is_finished_is_not_rendered_again(written, monkeypatch):
    before = fingerprints(written)
    monkeypatch.setattr(Tabletop, "photo", lambda *_: pytest.fail("rendered again"))
    write_dataset(small_parts(), CAMERA, PLAN, written)
    assert fingerprints(written) == before


@pytest.mark.parametrize(
    "file",
    [
        "rgb/000002.jpg",
        "depth/000000.png",
        "mask/000001_000000.png",
        "mask_visib/000002_000000.png",
        "scene_camera.json",
    ],
)
def test_what_was_lost_is_made_again(written, tmp_path, file):
    out = tmp_path / "set"
    shutil.copytree(written, out)
    (out / bop_writer.SPLIT / "000001" / file).unlink()
    told: list[int] = []
    write_dataset(small_parts(), CAMERA, PLAN, out, report=lambda done, total: told.append(done))
    assert told[0] == (3 if file.endswith("json") else 5), "nothing else is made again"
    assert fingerprints(out) == fingerprints(written)


def test_another_data_set_is_left_alone(written, tmp_path):
    with pytest.raises(ValueError, match=r"another data set.*plan\.seed"):
        write_dataset(small_parts(), CAMERA, replace(PLAN, seed=6), written)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="not empty"):
        write_dataset(small_parts(), CAMERA, PLAN, tmp_path)


def test_bad_input_is_named(tmp_path):
    twice = [small_parts()[0], small_parts()[0]]
    with pytest.raises(ValueError, match="give each its own"):
        write_dataset(twice, CAMERA, PLAN, tmp_path / "a")
    bent = Camera(CAMERA.K, 80, 60, (0.1, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="without lens distortion"):
        write_dataset(small_parts(), bent, PLAN, tmp_path / "a")
    with pytest.raises(ValueError, match="workers is 0"):
        write_dataset(small_parts(), CAMERA, PLAN, tmp_path / "a", workers=0)
    for name, value in (("scenes", 0), ("images", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=name):
            replace(PLAN, **{name: value})
    assert not (tmp_path / "a").exists()


def test_depth_images_reach_as_far_as_the_scene():
    for farthest, scale in ((0.0, 0.1), (6553.5, 0.1), (6554.0, 1.0), (70_000.0, 10.0), (700_000.0, 100.0)):
        assert bop_writer._depth_scale(farthest) == scale


def test_a_dead_worker_is_told_of():
    with pytest.raises(ChildProcessError, match="killed, or memory ran out"):
        list(run_tasks(os.getpid, (), _die, [1, 2], workers=2))


def _die(_: int, task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_things_stand_on_the_table_and_touch_it():
    table = Tabletop(
        [builtin_part("nut")], CAMERA, TabletopConfig(parts=(4, 4), others=0, table_share=1.0, pictures=2), 1
    )
    photo = table.photo(0)
    part = builtin_part("nut")
    vertices = [part.mesh.used_vertices @ T[:3, :3].T + T[:3, 3] for T in photo.T_cam_obj]
    spreads = []  # of the parts' lowest points along each axis of each part, one of which is the table's normal
    for normal in (sign * T[:3, axis] for T in photo.T_cam_obj for axis in range(3) for sign in (1, -1)):
        lowest = torch.stack([(points @ normal).amin() for points in vertices])
        spreads.append(float(lowest.max() - lowest.min()))
    assert min(spreads) < 0.02 * part.radius, "the parts stand on one plane"


def test_pictures_of_another_size():
    camera = _sized(CAMERA, (160, 120))
    assert (camera.width, camera.height, float(camera.K[0, 0])) == (160, 120, 150.0)
    assert torch.equal(_sized(CAMERA, None).K, CAMERA.K)
    for size in ((160, 160), (0, 0)):
        with pytest.raises(ValueError, match="as wide for its height"):
            _sized(CAMERA, size)


def test_the_command(tmp_path, capsys):
    arguments = ["render", "nut", "--bop", str(tmp_path / "set"), "--scenes", "1", "--images-per-scene", "1"]
    few = ("--photos.pictures", "2", "--photos.others", "0")
    camera = tmp_path / "camera.json"
    camera.write_text(json.dumps(CAMERA.to_bop()))
    assert (
        main(
            [
                *arguments,
                "--camera",
                str(camera),
                "--photos.parts",
                "1",
                "1",
                "--photos.others",
                "0",
                *few,
                "--shards",
                "2",
            ]
        )
        == 0
    )
    assert "1 scenes of 1" in capsys.readouterr().out
    assert (tmp_path / "set" / "train_render" / "000000" / "rgb" / "000000.jpg").is_file()
    assert ShardDataset(tmp_path / "set", f"{bop_writer.SPLIT}_web").keys() == [(0, 0)]
    assert main([*arguments, "--photos.parts", "0", "1"]) == 2
    assert "parts is (0, 1)" in capsys.readouterr().err


def test_the_command_claims_no_folder_before_its_input_is_known_to_be_good(tmp_path, capfd):
    """Nothing of photographs that cannot be read stays behind; distortion is left out; a killed run's leftovers go."""
    out, photos, camera = tmp_path / "set", tmp_path / "photos", tmp_path / "camera.json"
    out.mkdir()
    photos.mkdir()
    leftover = out / ".cad2pose-render-ab12_c3d.json"
    leftover.write_text("{")
    camera.write_text(json.dumps(CAMERA.to_bop() | {"distortion": [0.1, 0.0, 0.0, 0.0]}))
    arguments = ["render", "nut", "--bop", str(out), "--images-per-scene", "1", "--workers", "2"]
    arguments += ["--camera", str(camera), "--photos.backgrounds", str(photos), "--photos.pictures", "2"]
    arguments += ["--photos.parts", "1", "1", "--photos.others", "0"]
    with pytest.warns(UserWarning, match="has lens distortion"):
        assert main(arguments) == 2
    error = capfd.readouterr().err
    assert "holds no picture that can be read" in error
    assert error.count("\n") == 1
    assert list(out.iterdir()) == [leftover]
    Image.new("RGB", (50, 40), (255, 0, 0)).save(photos / "red.png")
    with pytest.warns(UserWarning, match="has lens distortion"):
        assert main(arguments) == 0
    assert not leftover.exists()
    assert not any(Camera.from_bop(json.loads((out / "camera.json").read_text())).distortion)
    assert check_bop(out, [bop_writer.SPLIT]).problems == ()


def test_silhouettes_are_those_of_the_whole_canvas():
    """Drawn in a window of their own; also of parts that reach over the border, or lie beside the picture."""
    top = Tabletop(small_parts(), CAMERA, replace(PLAN.photos, others=0), 3)
    K = CAMERA.K.clone()
    K[0, 2] += 80
    K[1, 2] += 60
    index, poses = [], []
    places = ((0, 0, 300), (150, -90, 300), (-400, 0, 300), (0, 300, 200), (0, 0, 60), (2000, 0, 300), (60, 40, 80))
    places += ((10, 0, 12),)  # it reaches behind the camera
    for seed, (x, y, z) in enumerate(places):
        T = torch.eye(4, dtype=torch.float64)
        T[:3, :3] = random_rotations(1, torch.Generator().manual_seed(seed), torch.float64)[0]
        T[:3, 3] = torch.tensor([x, y, z])
        index.append(seed % 2)
        poses.append(T)
    masks, pixels, boxes = top._silhouettes(torch.tensor(index), torch.stack(poses))
    meshes = MeshSet.from_meshes([part.mesh for part in small_parts()])
    for row, T in enumerate(poses):
        which = torch.tensor([[index[row]]])
        whole = rasterize(meshes, which, T[None, None], K[None].float(), 180, 240).slot[0] >= 0
        assert torch.equal(masks[row], whole[60:120, 80:160])
        assert int(pixels[row]) == int(whole.sum())
        rows, columns = whole.nonzero().unbind(1)
        expected = [-1.0] * 4
        if len(rows):
            least, most = (columns.min(), rows.min()), (columns.max(), rows.max())
            expected = [least[0] - 80, least[1] - 60, most[0] - least[0] + 1, most[1] - least[1] + 1]
        assert boxes[row].tolist() == [float(value) for value in expected]


def test_nothing_stands_in_the_camera_and_no_copy_of_a_part_goes_without_a_label():
    parts = [builtin_part("nut"), builtin_part("bracket")]
    near = replace(
        PLAN.photos, parts=(8, 8), others=8, table_share=1.0, apparent_size=(300.0, 400.0), elevation=(15.0, 20.0)
    )
    top = Tabletop(parts, CAMERA, near, 3)
    faces = (top._meshes.face_start[1:] - top._meshes.face_start[:-1]).tolist()
    assert not set(faces[: len(parts)]) & set(faces[len(parts) :])
    for number in range(12):
        photo = top.photo(number)
        for index, T in zip(photo.part_index.tolist(), photo.T_cam_obj, strict=True):
            assert float(transform_points(T, parts[index].mesh.vertices)[:, 2].min()) > 1.0


def test_the_loser_of_a_race_leaves_the_folder_to_the_winner(tmp_path):
    out = tmp_path / "set"
    with alone(out):
        with pytest.raises(ValueError, match="another run is writing"):
            write_dataset(small_parts(), CAMERA, replace(PLAN, seed=6), out)
        assert list(out.iterdir()) == []
    write_dataset(small_parts(), CAMERA, replace(PLAN, scenes=1, images=1), out)
    assert json.loads((out / "render.json").read_text())["plan"]["seed"] == 5


@pytest.mark.parametrize("middle", [(79.5, 59.5), (0.0, 0.0), (-40.0, 80.0)])
def test_scenes_are_in_the_picture_wherever_the_principal_point_is(middle):
    camera = Camera.from_values(180.0, 180.0, middle[0], middle[1], 160, 120)
    parts = small_parts()
    centers = torch.stack([part.center for part in parts])
    top = Tabletop(parts, camera, replace(PLAN.photos, parts=(3, 3), table_share=1.0), 3)
    inside = []
    for number in range(12):
        photo = top.photo(number)
        center = transform_points(photo.T_cam_obj, centers[photo.part_index][:, None])
        u, v = project_points(camera.K.expand(3, 3, 3), center)[:, 0].unbind(-1)
        inside += ((u > 0) & (u < 160) & (v > 0) & (v < 120)).tolist()
    assert sum(inside) > 0.7 * len(inside)

"""A BOP data set of rendered photographs, written by any number of processes, and gone on with where it was stopped.

The layout is that of BOP's `train_pbr`, in a split of another name: camera.json and models/, and in each scene rgb,
depth, mask, mask_visib, scene_camera.json, scene_gt.json and scene_gt_info.json. A picture depends on (seed, scene,
image) alone. Every file is written whole or not at all; the record of a picture comes after its files, and the scene's
JSON files, made of the records, come last. So the bytes are the same whoever writes them, in whatever order, however
often they are stopped.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from cad2pose.data.tabletop import LabelledPhoto, Tabletop, TabletopConfig, check_input
from cad2pose.data.worker_pool import run_tasks
from cad2pose.files import alone, check_folder, remove_leftovers, write_bytes, write_text
from cad2pose.geometry import Camera, mask_box
from cad2pose.parts import Part, save_ply, write_models_info
from cad2pose.parts.fingerprint import describe_part
from cad2pose.settings import describe, folder_holds

SPLIT = "train_render"  # not train_pbr: BlenderProc, whose name that is, has pixel centres at half integers
DEPTH_SCALE = 0.1  # mm per unit of the depth images, of those that reach farther than 6.5 m ten or a hundred times that
_SETTINGS = "render.json"
_RECORDS = ".records"
_FOLDERS = ("rgb", "depth", "mask", "mask_visib")
_SCENE_FILES = ("scene_camera", "scene_gt_info", "scene_gt")
_JPEG_QUALITY = 95
_MOST_UNITS = 65535


@dataclass(frozen=True)
class RenderPlan:
    """What is to be written.

    Attributes:
        scenes: number of scenes.
        images: pictures in each.
        seed: of everything.
        photos: what the pictures are like.
    """

    scenes: int = 1
    images: int = 25
    seed: int = 0
    photos: TabletopConfig = TabletopConfig()  # noqa: RUF009

    def __post_init__(self) -> None:
        for name in ("scenes", "images"):
            if not 1 <= getattr(self, name) <= 999_999:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 to 999999")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")


def write_dataset(
    parts: Sequence[Part],
    camera: Camera,
    plan: RenderPlan,
    out: Path,
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the data set, or what is missing of it.

    Args:
        parts: the objects, with ids of their own.
        camera: of all pictures, without lens distortion.
        plan: what is to be written.
        out: the data set's folder; it may hold a part of this very data set.
        workers: processes that render.
        report: told how many pictures of how many are there, after each.

    Raises:
        ValueError: if `out` holds anything else, another run is writing there, two parts share an id, or as
            `check_input`.
        ChildProcessError: if a worker is killed; the same call goes on.
        OSError: if something cannot be written, with the file's name; what is there stays whole.
    """
    ids = [part.object_id for part in parts]
    if len(set(ids)) < len(ids):
        raise ValueError(f"the parts have the ids {ids}; give each its own")
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be 1 or more")
    check_input(parts, camera, plan.photos)
    check_folder(out)
    with alone(out):
        _claim(out, parts, camera, plan)
        remove_leftovers(out)
        _write_models(out, parts, camera)
        missing = [(scene, image) for scene in range(plan.scenes) for image in _missing(out, scene, plan.images)]
        total = plan.scenes * plan.images
        done = total - len(missing)
        report(done, total)
        left = Counter(scene for scene, _ in missing)
        for scene in range(plan.scenes):
            if not left[scene]:
                _finish_scene(out, scene, camera, plan.images)
        for scene, _ in run_tasks(_start, (list(parts), camera, plan, out), _work, missing, workers):
            done += 1
            report(done, total)
            left[scene] -= 1
            if not left[scene]:
                _finish_scene(out, scene, camera, plan.images)
        shutil.rmtree(out / _RECORDS, ignore_errors=True)


def _claim(out: Path, parts: Sequence[Part], camera: Camera, plan: RenderPlan) -> None:
    """Make the folder this data set's, or find that it is."""
    settings = describe({"parts": [describe_part(part) for part in parts], "camera": camera.to_bop(), "plan": plan})
    if not folder_holds(out, _SETTINGS, settings, "data set"):
        write_text(out / _SETTINGS, json.dumps(settings, indent=1))


def _write_models(out: Path, parts: Sequence[Part], camera: Camera) -> None:
    for part in parts:
        path = out / "models" / f"obj_{part.object_id:06d}.ply"
        if not path.is_file():
            save_ply(path, part.mesh)
    write_models_info(out / "models" / "models_info.json", parts)
    write_text(out / "camera.json", json.dumps(camera.to_bop() | {"depth_scale": DEPTH_SCALE}, indent=1))


def _scene_folder(out: Path, scene: int) -> Path:
    return out / SPLIT / f"{scene:06d}"


def _record(out: Path, scene: int, image: int) -> Path:
    return out / _RECORDS / f"{scene:06d}_{image:06d}.json"


def _missing(out: Path, scene: int, images: int) -> list[int]:
    """The pictures of a scene that are not there with all their files."""
    folder = _scene_folder(out, scene)
    there = {kind: {path.name for path in (folder / kind).glob("*")} for kind in _FOLDERS}
    counts = _finished(folder, images)
    if counts is None:
        records = {image: _record(out, scene, image) for image in range(images)}
        counts = {i: len(json.loads(record.read_text())["gt"]) for i, record in records.items() if record.is_file()}
    missing = []
    for image in range(images):
        name = f"{image:06d}"
        masks = {f"{name}_{index:06d}.png" for index in range(counts.get(image, 0))}
        pictures = f"{name}.jpg" in there["rgb"] and f"{name}.png" in there["depth"]
        if image not in counts or not (pictures and masks <= there["mask"] and masks <= there["mask_visib"]):
            missing.append(image)
    return missing


def _finished(folder: Path, images: int) -> dict[int, int] | None:
    """How many parts each picture of a finished scene shows; None where its JSON files are not all there and whole."""
    if not all((folder / f"{name}.json").is_file() for name in _SCENE_FILES):
        return None
    try:
        truth = json.loads((folder / "scene_gt.json").read_text())
    except ValueError:
        return None
    counts = {int(image): len(shown) for image, shown in truth.items()}
    return counts if counts.keys() == set(range(images)) else None


def _start(parts: Sequence[Part], camera: Camera, plan: RenderPlan, out: Path) -> tuple[Tabletop, Path]:
    return Tabletop(parts, camera, plan.photos, plan.seed), out


def _work(state: tuple[Tabletop, Path], key: tuple[int, int]) -> tuple[int, int]:
    """Render and write one picture; gives its numbers back once it is on disk."""
    table, out = state
    _write_photo(out, *key, table.photo(*key), table)
    return key


def _write_photo(out: Path, scene: int, image: int, photo: LabelledPhoto, table: Tabletop) -> None:
    folder, name = _scene_folder(out, scene), f"{image:06d}"
    pixels = (photo.image * 255).round().byte().permute(1, 2, 0).numpy()
    write_bytes(folder / "rgb" / f"{name}.jpg", _encoded(pixels, "JPEG", quality=_JPEG_QUALITY, subsampling=0))
    scale = _depth_scale(float(photo.depth.max()))
    units = (photo.depth / scale).round().clamp(0, _MOST_UNITS).numpy().astype(np.uint16)
    write_bytes(folder / "depth" / f"{name}.png", _encoded(units, "PNG"))
    truth, infos = [], []
    for index in range(len(photo.part_index)):
        part = table.parts[int(photo.part_index[index])]
        full, visible = photo.mask_full[index], photo.mask_visible[index]
        for kind, mask in (("mask", full), ("mask_visib", visible)):
            picture = mask.numpy().astype(np.uint8) * 255
            write_bytes(folder / kind / f"{name}_{index:06d}.png", _encoded(picture, "PNG"))
        T = photo.T_cam_obj[index]
        truth.append(
            {"cam_R_m2c": T[:3, :3].flatten().tolist(), "cam_t_m2c": T[:3, 3].tolist(), "obj_id": part.object_id}
        )
        whole, seen = int(photo.whole_pixels[index]), int(visible.sum())
        infos.append({
            "bbox_obj": [int(v) for v in photo.whole_box[index].tolist()], "bbox_visib": _box(visible),
            "px_count_all": whole, "px_count_valid": int((full & (photo.depth > 0)).sum()), "px_count_visib": seen,
            "visib_fract": seen / whole if whole else 0.0,
        })  # fmt: skip
    record = {"gt": truth, "info": infos, "depth_scale": scale}
    write_text(_record(out, scene, image), json.dumps(record))


def _depth_scale(farthest: float) -> float:
    """Millimetres per unit with which sixteen bits reach as far, as fine as may be."""
    return next((scale for scale in (DEPTH_SCALE, 1.0, 10.0) if farthest <= _MOST_UNITS * scale), 100.0)


def _encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def _box(mask: Bool[Tensor, "h w"]) -> list[int]:
    return [int(value) for value in mask_box(mask)] if bool(mask.any()) else [-1, -1, -1, -1]


def _finish_scene(out: Path, scene: int, camera: Camera, images: int) -> None:
    """The JSON files of a scene whose pictures are all there, where they are not; then its records go."""
    folder = _scene_folder(out, scene)
    if _finished(folder, images) is not None:
        return
    records = [_record(out, scene, image) for image in range(images)]
    known = [json.loads(record.read_text()) for record in records]
    K = camera.K.flatten().tolist()
    contents = (
        [{"cam_K": K, "depth_scale": entry["depth_scale"]} for entry in known],
        [entry["info"] for entry in known],
        [entry["gt"] for entry in known],
    )
    for name, values in zip(_SCENE_FILES, contents, strict=True):
        write_text(folder / f"{name}.json", json.dumps(dict(enumerate(values)), indent=1))
    for record in records:
        record.unlink()

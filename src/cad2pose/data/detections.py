"""2D detections on disk: BOP's list (`scene_id, image_id, category_id, bbox, score`) and the dictionary by image
(`{"2/17": [{obj_id, bbox_est, score, time}]}`) that GDR-Net and its relatives use.

Boxes are x y w h in pixels in both.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from cad2pose.data.bop_files import finite_numbers, read_json, whole_number
from cad2pose.files import write_text
from cad2pose.structures import Detections

ImageKey = tuple[int, int]
"""(scene_id, image_id)."""

_Row = tuple[int, list[float], float]


def read_detections(path: Path | str) -> dict[ImageKey, Detections]:
    """Detections by (scene, image) number, in the order of the file; the form is found out.

    Segmentations and times are not kept.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for anything malformed; names file and entry.

    Warns:
        UserWarning: of boxes without width or height, which are left out: detectors give some.
    """
    content = read_json(path)
    rows: dict[ImageKey, list[_Row]] = {}
    if isinstance(content, list):
        for index, entry in enumerate(content):
            here = f"{path}, detection {index}"
            entry = _object(entry, here)
            key = (whole_number(entry, "scene_id", here), whole_number(entry, "image_id", here))
            rows.setdefault(key, []).append(_row(entry, "category_id", "bbox", here))
    elif isinstance(content, dict):
        for name, entries in content.items():
            key = _image_key(name, path)
            if not isinstance(entries, list):
                raise ValueError(f"{path}, image {name}: must hold a list of detections")
            for index, entry in enumerate(entries):
                here = f"{path}, image {name}, detection {index}"
                rows.setdefault(key, []).append(_row(_object(entry, here), "obj_id", "bbox_est", here))
            rows.setdefault(key, [])
    else:
        raise ValueError(f"{path} must hold a list of detections (BOP's form) or an object by image")
    kept = {key: [row for row in found if min(row[1][2:]) > 0] for key, found in rows.items()}
    every, left = (sum(map(len, some.values())) for some in (rows, kept))
    if every and not left:
        raise ValueError(f"{path}: none of its {every} boxes has a width and a height; a box is x y w h")
    if left < every:
        text = f"{every - left} of {every} boxes of {path} have no width or no height; they are left out"
        warnings.warn(text, stacklevel=2)
    return {key: _assemble(found) for key, found in kept.items()}


def write_detections(
    path: Path | str,
    detections: Mapping[ImageKey, Detections],
    form: Literal["bop", "by_image"] = "bop",
    seconds: float = -1.0,
) -> None:
    """Write detections in either form, whole or not at all.

    Args:
        path: the json file.
        detections: by (scene, image) number.
        form: "bop" for BOP's list, "by_image" for the dictionary by image.
        seconds: time per image to state, -1 for unknown.
    """
    rows = {
        key: list(zip(found.object_id.tolist(), found.box.tolist(), found.score.tolist(), strict=True))
        for key, found in detections.items()
    }
    if form == "bop":
        content: object = [
            {"scene_id": scene, "image_id": image, "category_id": obj, "bbox": box, "score": score, "time": seconds}
            for (scene, image), found in rows.items()
            for obj, box, score in found
        ]
    else:
        content = {
            f"{scene}/{image}": [
                {"obj_id": obj, "bbox_est": box, "score": score, "time": seconds} for obj, box, score in found
            ]
            for (scene, image), found in rows.items()
        }
    write_text(path, json.dumps(content, allow_nan=False) + "\n")


def _object(entry: object, where: str) -> Mapping[str, object]:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: must be a json object, this is {repr(entry)[:40]}")
    return entry


def _image_key(name: str, path: Path | str) -> ImageKey:
    scene, _, image = name.partition("/")
    try:
        return int(scene), int(image)
    except ValueError:
        raise ValueError(f"{path} has the key {name[:40]!r}; keys must be SCENE/IMAGE, such as 2/17") from None


def _row(entry: Mapping[str, object], id_key: str, box_key: str, where: str) -> _Row:
    object_id = whole_number(entry, id_key, where)
    box = entry.get(box_key)
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"{where}: {box_key} must be a list of 4 numbers x y w h, it is {repr(box)[:60]}")
    numbers = finite_numbers(box, f"{where}: {box_key}")
    if min(numbers[2:]) < 0:
        raise ValueError(f"{where}: {box_key} is {numbers}; a box x y w h has w > 0 and h > 0")
    if "score" not in entry:
        raise ValueError(f"{where}: score is missing")
    return object_id, numbers, finite_numbers([entry["score"]], f"{where}: score")[0]


def _assemble(rows: list[_Row]) -> Detections:
    return Detections(
        torch.tensor([row[0] for row in rows], dtype=torch.int64),
        torch.tensor([row[1] for row in rows], dtype=torch.float64).reshape(-1, 4),
        torch.tensor([row[2] for row in rows], dtype=torch.float64),
    )

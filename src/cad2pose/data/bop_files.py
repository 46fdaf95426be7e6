"""The json files of a BOP dataset -> records, with errors that name file, image and entry."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry.transform import make_transform

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class BopInstance:
    """One annotated object in one image.

    Args:
        index: place among the image's annotations (BOP's gt_id; mask files go by it).
        object_id: as in the file names of the models.
        T_cam_obj: pose as annotated, float64, mm; the rotation part may be orthonormal to 1 % only.
        box_full: x, y, w, h of the whole silhouette; None where the dataset does not tell.
        box_visible: x, y, w, h of what is seen of it.
        visible_fraction: share of the silhouette that is seen.
    """

    index: int
    object_id: int
    T_cam_obj: Float[Tensor, "4 4"]
    box_full: Box | None = None
    box_visible: Box | None = None
    visible_fraction: float | None = None

    @property
    def in_image(self) -> bool:
        """False where the dataset says that nothing of the silhouette falls into the image (box -1 -1 -1 -1)."""
        return self.box_full is None or (self.box_full[2] > 0 and self.box_full[3] > 0)

    @property
    def visible(self) -> bool:
        """False where the dataset says that nothing of the object is seen."""
        seen = self.box_visible is None or (self.box_visible[2] > 0 and self.box_visible[3] > 0)
        return seen and self.in_image and self.visible_fraction != 0

    def shows(self, least: float) -> bool:
        """Whether at least this share of the silhouette is seen, as far as the dataset tells."""
        return self.visible_fraction is None or self.visible_fraction >= least


@dataclass(frozen=True)
class BopTarget:
    """What an estimator is asked for: so many instances of an object in an image."""

    scene_id: int
    image_id: int
    object_id: int
    instance_count: int = 1


def has_half_integers(split: Path) -> bool:
    """Whether the cameras of a split's folder, or of one it is a link to, have pixel centres at half integers.

    BOP's renderings by BlenderProc do.
    """
    return any(folder.name.startswith("train_pbr") for folder in (split, split.resolve()))


def read_json(path: Path | str) -> object:
    """Content of a json file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not json; names file, line and column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid json: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file (UTF-8), so it is not json") from error


def read_by_number(path: Path | str) -> dict[int, object]:
    """A json object whose keys are whole numbers: entries by image id or by object id.

    Raises:
        FileNotFoundError, ValueError: as `read_json`, and for other keys.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one json object {{...}} with numbers as keys, it holds {_kind(content)}")
    try:
        return {int(key): entry for key, entry in content.items()}
    except ValueError as error:
        raise ValueError(f"{path} has a key that is not a whole number: {error}") from error


def parse_instances(annotations: object, infos: object | None, where: str) -> tuple[BopInstance, ...]:
    """Instances of one image from its entries in `scene_gt.json` and, if there is one, `scene_gt_info.json`.

    Raises:
        ValueError: for malformed entries; the message begins with `where`.
    """
    if not isinstance(annotations, list):
        raise ValueError(f"{where}: the annotations must be a list, this is {_kind(annotations)}")
    if infos is not None and (not isinstance(infos, list) or len(infos) != len(annotations)):
        found = f"{len(infos)} entries" if isinstance(infos, list) else _kind(infos)
        raise ValueError(f"{where}: {len(annotations)} annotations, but scene_gt_info.json has {found}")
    instances = []
    for index, entry in enumerate(annotations):
        here = f"{where}, annotation {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{here}: must be a json object, this is {_kind(entry)}")
        rotation = _numbers(entry, "cam_R_m2c", 9, here)
        translation = _numbers(entry, "cam_t_m2c", 3, here)
        R = torch.tensor(rotation, dtype=torch.float64).reshape(3, 3)
        if not 0.5 < float(torch.linalg.det(R)) < 2:
            raise ValueError(f"{here}: cam_R_m2c has determinant {float(torch.linalg.det(R)):.3g}; a rotation has 1")
        T_cam_obj = make_transform(R, torch.tensor(translation, dtype=torch.float64))
        info = infos[index] if isinstance(infos, list) else {}
        instances.append(BopInstance(index, whole_number(entry, "obj_id", here), T_cam_obj, *_visibility(info, here)))
    return tuple(instances)


def read_targets(path: Path | str) -> tuple[BopTarget, ...]:
    """Targets of a BOP targets file, in its order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for malformed entries, an object asked for twice in an image, or an empty list. BOP'24's detection
            targets, which name images without objects, are told apart.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path} must hold a list of targets, it holds {_kind(content)}")
    targets = []
    for index, entry in enumerate(content):
        here = f"{path}, target {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{here}: must be a json object, this is {_kind(entry)}")
        if "obj_id" not in entry and "im_id" in entry:
            raise ValueError(f"{here}: has no obj_id: a list for detection; give one for localization (bop19)")
        scene, image, object_id = (whole_number(entry, key, here) for key in ("scene_id", "im_id", "obj_id"))
        count = whole_number(entry, "inst_count", here) if "inst_count" in entry else 1
        if count < 1:
            raise ValueError(f"{here}: inst_count is {count}; it must be at least 1")
        targets.append(BopTarget(scene, image, object_id, count))
    keys = [(t.scene_id, t.image_id, t.object_id) for t in targets]
    if len(set(keys)) != len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise ValueError(f"{path} asks twice for scene {twice[0]}, image {twice[1]}, object {twice[2]}; use inst_count")
    return tuple(targets)


def stated_depth_scale(entry: object, where: str) -> float:
    """Millimetres per unit of a depth image as its camera's entry has it, 1 where that says nothing.

    Raises:
        ValueError: if what it says is no positive number.
    """
    scale = entry.get("depth_scale", 1.0) if isinstance(entry, dict) else 1.0
    if not _is_finite(scale) or not scale > 0:
        raise ValueError(f"{where}: depth_scale is {scale!r}; it must be a positive number")
    return float(scale)


def whole_number(entry: Mapping[str, object], key: str, where: str) -> int:
    """An integer entry (3 and 3.0, not "3" or true) that 64 bits hold."""
    value = entry.get(key)
    if not _is_finite(value) or int(value) != value or abs(value) >= 2**63:  # type: ignore[arg-type, operator]
        raise ValueError(f"{where}: {key} must be a whole number, it is {_kind(value) if key in entry else 'missing'}")
    return int(value)  # type: ignore[arg-type]


def _numbers(entry: Mapping[str, object], key: str, count: int, where: str) -> list[float]:
    values = entry.get(key)
    if not isinstance(values, list) or len(values) != count:
        found = _kind(values) if key in entry else "missing"
        raise ValueError(f"{where}: {key} must be a list of {count} numbers, it is {found}")
    return finite_numbers(values, f"{where}: {key}")


def finite_numbers(values: list[object], where: str) -> list[float]:
    """The values as floats, if all of them are finite numbers."""
    bad = [v for v in values if not _is_finite(v)]
    if bad:
        raise ValueError(f"{where} holds {_kind(bad[0])}, which is not a finite number")
    return [float(v) for v in values]  # type: ignore[arg-type]


def _is_finite(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _visibility(info: object, where: str) -> tuple[Box | None, Box | None, float | None]:
    if not isinstance(info, dict):
        raise ValueError(f"{where}: its entry in scene_gt_info.json must be a json object, this is {_kind(info)}")
    boxes: list[Box | None] = []
    for key in ("bbox_obj", "bbox_visib"):
        x, y, w, h = _numbers(info, key, 4, where) if key in info else (0, 0, 0, 0)
        boxes.append((x, y, w, h) if key in info else None)
    fraction = finite_numbers([info["visib_fract"]], f"{where}: visib_fract")[0] if "visib_fract" in info else None
    return boxes[0], boxes[1], fraction


def _kind(value: object) -> str:
    """How a json value is spoken of in messages."""
    if isinstance(value, dict):
        return "a json object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:37]}..."

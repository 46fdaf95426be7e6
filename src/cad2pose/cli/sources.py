"""What a user names on the command line: meshes, built-in parts, BOP folders, cameras."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cad2pose.data.bop import find_dataset
from cad2pose.data.bop_files import read_json
from cad2pose.geometry import Camera
from cad2pose.model_file import Model, load_model, model_files, shipped_model_path
from cad2pose.parts.builtin import BUILTIN_PARTS, builtin_part
from cad2pose.parts.mesh import Units
from cad2pose.parts.part import Part, load_bop_parts, load_part

_BUILTIN_PREFIX = "builtin:"
_ALL_BUILTIN = "builtin"


def builtin_name(source: str) -> str | None:
    """The built-in part that `nut` or `builtin:nut` names, or None; a file of that name comes first."""
    name = source.removeprefix(_BUILTIN_PREFIX)
    if source.startswith(_BUILTIN_PREFIX) or (name in BUILTIN_PARTS and not Path(source).exists()):
        return name
    return None


def find_part(source: str, units: Units = "mm", object_id: int | None = None, models_info: Path | None = None) -> Part:
    """Part from a mesh file or the name of a built-in part.

    Args:
        source: mesh file, `nut` or `builtin:nut`.
        units: of a mesh file.
        object_id: to give it; a built-in part has its own by default, a mesh file 1.
        models_info: BOP models_info.json with the symmetries of a mesh file, under its object id.

    Raises:
        ValueError, FileNotFoundError: for anything that cannot be read, and units or symmetries of a built-in part.
    """
    name = builtin_name(source)
    if name is not None:
        if units != "mm" or models_info is not None:
            raise ValueError(_about_files(source))
        return _builtin(name, object_id)
    if not Path(source).suffix and not Path(source).exists():
        built_in = ", ".join(BUILTIN_PARTS)
        raise FileNotFoundError(f"{source} is neither a mesh file nor a built-in part ({built_in})")
    return load_part(source, units, 1 if object_id is None else object_id, models_info=models_info)


def find_parts(
    sources: Sequence[str], object_ids: Sequence[int], units: Units, models_info: Path | None = None
) -> list[Part]:
    """Parts from mesh files and names of built-in parts, or from one BOP folder.

    Args:
        sources: mesh files, `nut`, `builtin:nut`, `builtin` for all built-in parts; or one folder with `models/`
            (or the name of one in BOP_PATH).
        object_ids: which objects of the folder; for meshes, the ids to give them; by default built-in parts keep
            theirs, and mesh files get 1, 2, ... of the others. Files of one name (in several folders) have it with
            their ids.
        units: of mesh files.
        models_info: BOP models_info.json with the symmetries of mesh files, by their ids.

    Raises:
        ValueError, FileNotFoundError: for anything that cannot be read, and ids that are given twice.
    """
    if not sources:
        raise ValueError("no part was given; name mesh files, built-in parts, or a BOP folder")
    if wrong := [object_id for object_id in object_ids if object_id < 1]:
        raise ValueError(f"object id {wrong[0]} was given; ids are 1 or more")
    names = [n for source in sources for n in (BUILTIN_PARTS if source == _ALL_BUILTIN else (source,))]
    folder = _models_folder(names[0]) if len(names) == 1 else None
    if units != "mm" or models_info is not None:
        _check_files(names, folder)
    if folder is not None:
        parts = load_bop_parts(folder, list(object_ids) or None)
    elif object_ids and len(object_ids) != len(names):
        raise ValueError(f"{len(object_ids)} object ids were given for {len(names)} meshes; give one id for each")
    else:
        built_in = [builtin_name(name) for name in names]
        taken = {builtin_part(name).object_id for name in built_in if name}
        free = (number for number in itertools.count(1) if number not in taken)
        ids = object_ids or [None if name else next(free) for name in built_in]
        parts = [
            _builtin(own, i) if own else find_part(name, units, i, models_info)
            for name, own, i in zip(names, built_in, ids, strict=True)
        ]
    ids = [part.object_id for part in parts]
    if len(set(ids)) < len(ids):
        raise ValueError(f"the parts' object ids are {ids}; give every part its own with --objects")
    twice = [name for name, count in Counter(part.name for part in parts).items() if count > 1]
    return [replace(p, name=f"{p.name}_{p.object_id}") if p.name in twice else p for p in parts]


def _check_files(names: Sequence[str], folder: Path | None) -> None:
    """Raise ValueError where no mesh file is named that units or symmetries could be stated for."""
    if folder is not None:
        raise ValueError(
            f"{folder} is in mm and has a models_info.json; --units and --models-info are about mesh files"
        )
    if all(builtin_name(name) for name in names):
        raise ValueError(_about_files(", ".join(names)))


def _about_files(names: str) -> str:
    return (
        f"{names}: built-in parts are in mm and have symmetries of their own; --units and --models-info are about "
        "mesh files"
    )


def _builtin(name: str, object_id: int | None) -> Part:
    part = builtin_part(name)
    return part if object_id is None else replace(part, object_id=object_id)


def _models_folder(source: str) -> Path | None:
    """The folder of meshes of a BOP data set, where `source` names one."""
    if builtin_name(source) is not None or Path(source).is_file():
        return None
    if not Path(source).is_dir() and Path(source).suffix:
        return None
    try:
        root = find_dataset(source)
    except FileNotFoundError as error:
        built_in = ", ".join(BUILTIN_PARTS)
        raise FileNotFoundError(
            f"{source} is no mesh file, no built-in part ({built_in}), and no BOP folder: {error}"
        ) from error
    return root / "models" if (root / "models").is_dir() else root


def find_camera(path: Path, width: int | None = None, height: int | None = None) -> Camera:
    """Camera from a json file (BOP's camera.json, or an entry with cam_K).

    Raises:
        FileNotFoundError, ValueError: if it is not there, is not JSON, or does not describe a camera.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no camera file {path}; it is JSON with fx, fy, cx, cy, width and height")
    entry = read_json(path)
    if not isinstance(entry, dict):
        raise ValueError(f"{path} must hold one JSON object with fx, fy, cx, cy, width and height")
    try:
        camera = Camera.from_bop(entry, width, height)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    cx, cy = camera.K[:2, 2].tolist()
    if not (0 <= cx <= camera.width and 0 <= cy <= camera.height):
        warnings.warn(
            f"{path}: the principal point {cx:g}, {cy:g} lies outside the image of {camera.width} x {camera.height} "
            "pixels; is it of another image, or a digit off?",
            stacklevel=2,
        )
    return camera


def find_straight_camera(path: Path) -> Camera:
    """The camera that pictures are rendered for: as `find_camera`, without lens distortion; a warning tells of it.

    Its K stays, as that is the camera that poses, boxes and crops of distorted photographs refer to.
    """
    camera = find_camera(path)
    if not any(camera.distortion):
        return camera
    warnings.warn(
        f"{path} has lens distortion; pictures are rendered for the same camera without it, as crops of its "
        "photographs are straightened when poses are estimated",
        stacklevel=2,
    )
    return camera.without_distortion()


def find_start(start: Path) -> Model:
    """The model to start a training from: of a model file, of a run's folder, or `builtin`, which the package has.

    Raises:
        FileNotFoundError, ValueError: if there is none, there are several in the folder, or it cannot be read.
    """
    if str(start) == _ALL_BUILTIN and not start.exists():
        return load_model(shipped_model_path(), beside=False)
    if not start.is_dir():
        try:
            return load_model(start, beside=False)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; a model file is wanted, a run's folder, or {_ALL_BUILTIN}") from error
    files = model_files(start)
    if len(files) != 1:
        there = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{start} is a folder with {len(files)} model files ({there}); give the file to start from")
    return load_model(files[0], beside=False)

"""BOP datasets on disk: one lazy reader for all of them.

    ROOT/camera.json · models*/ · SPLIT_targets_*.json · SPLIT/SCENE/{scene_camera,scene_gt,scene_gt_info}.json,
    SPLIT/SCENE/{rgb,gray,depth,mask,mask_visib}/IMAGE.*

Format: docs/bop_datasets_format.md of the BOP toolkit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cad2pose.data.bop_files import BopInstance, BopTarget, has_half_integers, read_json, read_targets
from cad2pose.data.bop_scene import BopImage, BopScene
from cad2pose.geometry.camera import Camera
from cad2pose.parts.part import Part, load_bop_parts

_TARGET_FILES = ("bop19", "bop18")
_MODEL_FOLDERS = ("models", "models_fine", "models_cad", "models_reconst", "models_eval")
_EVALUATION_MODEL_FOLDERS = ("models_eval", "models_cad", "models")


@dataclass(frozen=True)
class BopDataset:
    """One split of a BOP dataset.

    Args:
        root: the dataset's folder (holds `models`, `test`, ...).
        split: name of the split's folder: "test", "val", "train_pbr", ...
        sensor: name of the camera in datasets with several per scene, "" otherwise.

    Raises:
        FileNotFoundError: if the folder or the split is not there; the splits that are there are named.
    """

    root: Path
    split: str = "test"
    sensor: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        if not self.root.is_dir():
            raise FileNotFoundError(f"BOP folder {self.root} does not exist")
        if not (self.root / self.split).is_dir():
            there = ", ".join(find_splits(self.root)) or "none"
            raise FileNotFoundError(f"{self.root} has no split {self.split!r}; splits found: {there}")

    @cached_property
    def size(self) -> tuple[int, int] | None:
        """Image size in `camera.json`, None where the dataset has none (or several cameras)."""
        path = self.root / "camera.json"
        if not path.exists():
            return None
        content = read_json(path)
        try:
            camera = Camera.from_bop(content if isinstance(content, dict) else {})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return camera.width, camera.height

    @cached_property
    def scenes(self) -> dict[int, BopScene]:
        """Scenes by number, in order."""
        folders = numbered_folders(self.root / self.split)
        shifted = has_half_integers(self.root / self.split)
        return {number: BopScene(path, self.size, self.sensor, shifted) for number, path in folders.items()}

    def scene(self, scene_id: int) -> BopScene:
        """One scene.

        Raises:
            ValueError: if the split has no such scene.
        """
        if scene_id not in self.scenes:
            raise ValueError(f"{self.root / self.split} has no scene {scene_id}; it has {list(self.scenes)}")
        return self.scenes[scene_id]

    def image(self, scene_id: int, image_id: int) -> BopImage:
        """One image; see `BopScene.image`."""
        return self.scene(scene_id).image(image_id)

    def instances(self, scene_id: int, image_id: int) -> tuple[BopInstance, ...]:
        """Annotations of one image; see `BopScene.instances`."""
        return self.scene(scene_id).instances(image_id)

    def keys(self) -> list[tuple[int, int]]:
        """Scene and image number of every image."""
        return [(number, image) for number, scene in self.scenes.items() for image in scene.camera_entries]

    def __iter__(self) -> Iterator[BopImage]:
        return (self.image(*key) for key in self.keys())

    def targets_file(self) -> Path | None:
        """The split's list of targets for localization, BOP'19's where there are several; None where there is none."""
        stem = self.split.split("_")[0]
        files = (self.root / f"{stem}_targets_{kind}.json" for kind in _TARGET_FILES)
        return next((path for path in files if path.exists()), None)

    def targets(self, path: Path | None = None, min_visible: float = 0.1) -> tuple[BopTarget, ...]:
        """What the split asks for.

        Args:
            path: a targets file in place of the split's own.
            min_visible: without any file, annotations are targets whose visible fraction is at least this
                (BOP's rule for making those files) or not told.

        Raises:
            FileNotFoundError, ValueError: if the file is missing or malformed, or there is nothing to ask for.
        """
        path = path or self.targets_file()
        if path is not None:
            return read_targets(path)
        counts: dict[tuple[int, int, int], int] = {}
        for scene_id, image_id in self.keys():
            for instance in self.scene(scene_id).instances(image_id):
                if instance.shows(min_visible):
                    key = (scene_id, image_id, instance.object_id)
                    counts[key] = counts.get(key, 0) + 1
        if not counts:
            raise ValueError(f"{self.root / self.split} has neither a targets file nor ground truth")
        return tuple(BopTarget(*key, count) for key, count in counts.items())

    def models_dir(self, evaluation: bool = False) -> Path:
        """Folder of the meshes to render, or of those to score with.

        Raises:
            FileNotFoundError: if there is none.
        """
        names = _EVALUATION_MODEL_FOLDERS if evaluation else _MODEL_FOLDERS
        for name in names:
            if (self.root / name).is_dir():
                return self.root / name
        raise FileNotFoundError(f"{self.root} has no folder of models ({', '.join(names)})")

    def parts(self, object_ids: Sequence[int] | None = None, evaluation: bool = False) -> list[Part]:
        """The objects, by default all of them; symmetries and diameters from `models_info.json`."""
        return load_bop_parts(self.models_dir(evaluation), object_ids)


def find_dataset(name: Path | str) -> Path:
    """Folder of a BOP dataset: the path itself, or the folder of that name in BOP_PATH.

    Raises:
        FileNotFoundError: if it is neither.
    """
    path = Path(name)
    if path.is_dir():
        return path
    base = os.environ.get("BOP_PATH")
    if base and (Path(base) / path).is_dir():
        return Path(base) / path
    tried = f", nor in BOP_PATH={base}" if base else "; BOP_PATH, the folder to look it up in, is not set"
    raise FileNotFoundError(f"BOP folder {path} does not exist{tried}")


def find_splits(root: Path) -> list[str]:
    """Names of the folders that hold scenes."""
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir() and numbered_folders(folder))


def numbered_folders(folder: Path) -> dict[int, Path]:
    """Sub-folders whose name is a number, in order of the number."""
    return dict(sorted((int(p.name), p) for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()))

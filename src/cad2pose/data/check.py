"""Look through a BOP folder and name everything that is missing or broken, in one go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cad2pose.data.bop import BopDataset, find_splits, numbered_folders
from cad2pose.data.bop_files import BopTarget, read_targets
from cad2pose.data.bop_scene import BopImage, BopScene, find_sensors
from cad2pose.parts.part import load_bop_parts, read_models_info

_T = TypeVar("_T")

_MASK_FOLDERS = ("mask", "mask_visib")


@dataclass(frozen=True)
class BopCheck:
    """What was found in a BOP folder.

    Args:
        problems: one sentence each, beginning with the file or folder; empty if all is well.
        summary: one line per thing that was looked at.
    """

    problems: tuple[str, ...]
    summary: tuple[str, ...]


@dataclass
class _Findings:
    """Gathers problems while the check goes on after each of them."""

    root: Path
    problems: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)

    def add(self, path: Path, what: str) -> None:
        self.problems.append(f"{self.short(path)}: {what}")

    def short(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def attempt(self, action: Callable[[], _T]) -> _T | None:
        """Do something; what a user could be told about is noted, once, and None returned."""
        try:
            return action()
        except (ValueError, OSError) as error:
            text = str(error).replace(f"{self.root}/", "")
            if text not in self.problems:
                self.problems.append(text)
            return None


@dataclass(frozen=True)
class _Content:
    """How much a scene holds."""

    images: int
    annotated: int
    objects: frozenset[int]


def check_bop(
    root: Path | str,
    splits: Sequence[str] | None = None,
    track: Callable[[Sequence[int], str], Iterable[int]] | None = None,
) -> BopCheck:
    """Check a BOP folder: json files, cameras, images (decoded, with their sizes), annotations, models, targets.

    Args:
        root: the dataset's folder.
        splits: folders of scenes to look at; all by default.
        track: called with a scene's image numbers and name, to show progress while going through them.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"BOP folder {root} does not exist")
    findings = _Findings(root)
    models = _check_models(findings)
    found = find_splits(root)
    splits = found if splits is None else splits
    if not splits:
        findings.add(root, "has no split: no folder (test, train_pbr, ...) with numbered scene folders in it")
    for split in splits:
        if split not in found:
            there = ", ".join(found) or "none"
            findings.add(root / split, f"is no folder of numbered scene folders; splits found: {there}")
            continue
        dataset = BopDataset(root, split)
        findings.attempt(lambda dataset=dataset: dataset.size)
        contents = [_check_scene(findings, scene, track) for scene in _scenes(dataset)]
        scenes = len(numbered_folders(root / split))
        images, annotated = sum(c.images for c in contents), sum(c.annotated for c in contents)
        findings.summary.append(f"{split}: {scenes} scenes, {images} images, {annotated} annotated objects")
        objects = set().union(*(c.objects for c in contents))
        for folder, listed in models.items():
            if unknown := sorted(objects - listed):
                findings.add(folder, f"lacks objects that are annotated in {split}: {', '.join(map(str, unknown))}")
    _check_targets(findings, splits)
    return BopCheck(tuple(findings.problems), tuple(findings.summary))


def _scenes(dataset: BopDataset) -> Iterator[BopScene]:
    """The scenes, once per sensor; where `camera.json` is broken, which is noted already, with the images' size."""
    try:
        size = dataset.size
    except (ValueError, OSError):
        size = None
    for path in numbered_folders(dataset.root / dataset.split).values():
        single = (path / "scene_camera.json").exists()
        for sensor in ("",) if single else find_sensors(path) or ("",):
            yield BopScene(path, size, sensor)


def _check_models(findings: _Findings) -> dict[Path, set[int]]:
    """Look at every folder of models; the object ids that each of them lists."""
    folders = sorted(p for p in findings.root.iterdir() if p.name.startswith("models") and p.is_dir())
    if not folders:
        findings.add(findings.root, "has no folder of models (models, models_eval, ...)")
    listed: dict[Path, set[int]] = {}
    for folder in folders:
        entries = findings.attempt(lambda folder=folder: read_models_info(folder / "models_info.json"))
        if entries is None:
            continue
        meshes = {int(p.stem[4:]) for p in folder.glob("obj_*.ply") if p.stem[4:].isdecimal()}
        for object_id in sorted(meshes - entries.keys()):
            findings.add(folder / "models_info.json", f"has no entry for object {object_id}, which has a mesh")
        for object_id, entry in sorted(entries.items()):
            if "diameter" not in entry:
                findings.add(folder / "models_info.json", f"object {object_id} has no diameter")
            if object_id not in meshes:
                findings.add(folder / f"obj_{object_id:06d}.ply", "does not exist, but models_info.json lists it")
            else:
                findings.attempt(lambda folder=folder, object_id=object_id: load_bop_parts(folder, [object_id]))
        listed[folder] = set(entries)
        findings.summary.append(f"{folder.name}: {len(entries)} objects")
    return listed


def _check_scene(
    findings: _Findings, scene: BopScene, track: Callable[[Sequence[int], str], Iterable[int]] | None
) -> _Content:
    cameras = findings.attempt(lambda: scene.camera_entries)
    annotations = findings.attempt(lambda: scene.annotations) or {}
    infos = findings.attempt(lambda: scene.infos)
    files = scene.image_files
    if not files:
        findings.add(scene.path, "has no images: no folder rgb or gray with numbered image files")
    for stem, images in (("scene_camera", set(cameras or {})), ("scene_gt", set(annotations))):
        _name_images(findings, scene.file(stem), "lists images that are not on disk", images - set(files))
    if cameras is not None:
        unlisted = set(annotations) - set(cameras)
        _name_images(findings, scene.file("scene_camera"), "has no camera for images of scene_gt.json", unlisted)
        known = set(cameras) | set(annotations)
        _name_images(findings, scene.file("scene_camera"), "has no camera for images on disk", set(files) - known)
    if infos is not None:
        lacking = set(annotations) - set(infos)
        _name_images(findings, scene.file("scene_gt_info"), "has no entry for images of scene_gt.json", lacking)
    _check_depth(findings, scene, set(cameras or {}) & set(files))
    numbers = sorted(set(cameras or {}) & set(files))
    annotated, objects = 0, set()
    for image_id in track(numbers, findings.short(scene.path)) if track else numbers:
        whole = infos is None or image_id in infos or image_id not in annotations
        image = findings.attempt(lambda image_id=image_id: scene.image(image_id)) if whole else None
        if image is None:
            continue
        annotated += len(image.instances)
        objects |= {instance.object_id for instance in image.instances}
        findings.attempt(image.read)
        if image.depth_path is not None:
            findings.attempt(image.read_depth)
        _check_masks(findings, scene, image)
    return _Content(len(files), annotated, frozenset(objects))


def _check_depth(findings: _Findings, scene: BopScene, images: set[int]) -> None:
    if scene.depth_files:
        _name_images(findings, scene.folder("depth"), "has no depth image for", images - set(scene.depth_files))


def _check_masks(findings: _Findings, scene: BopScene, image: BopImage) -> None:
    for kind in _MASK_FOLDERS:
        if not scene.folder(kind).is_dir():
            continue
        visible = kind == "mask_visib"
        for instance in image.instances:
            path = image.mask_path(instance, visible)
            if path.exists():
                findings.attempt(lambda instance=instance, visible=visible: image.read_mask(instance, visible))
            else:
                findings.add(path, "does not exist, though the object is annotated")


def _check_targets(findings: _Findings, splits: Sequence[str]) -> None:
    """Every localization targets file: is it readable, and is there ground truth for what it asks?"""
    for path in sorted(findings.root.glob("*_targets_*.json")):
        stem = path.name.split("_targets_")[0]
        if "bop24" in path.name and _lists_images_only(path):
            continue
        targets = findings.attempt(lambda path=path: read_targets(path))
        if targets is None:
            continue
        findings.summary.append(f"{path.name}: {sum(t.instance_count for t in targets)} targets")
        asked = {target.scene_id for target in targets}
        folders = {split: numbered_folders(findings.root / split) for split in _of_stem(splits, stem, findings.root)}
        if folders:  # of several, the one that it is about
            split = max(folders, key=lambda name: len(asked & set(folders[name])))
            _check_target_images(findings, path, BopDataset(findings.root, split), targets)


def _of_stem(splits: Sequence[str], stem: str, root: Path) -> list[str]:
    """Splits that a targets file may be about: test_targets_bop19.json about test, else about test_primesense."""
    there = [split for split in splits if (root / split).is_dir()]
    return [stem] if stem in there else [split for split in there if split.split("_")[0] == stem]


def _check_target_images(findings: _Findings, path: Path, dataset: BopDataset, targets: Sequence[BopTarget]) -> None:
    folders = numbered_folders(dataset.root / dataset.split)
    for number in sorted({t.scene_id for t in targets} - set(folders)):
        findings.add(path, f"asks for scene {number}, which {dataset.split} does not have")
    scenes: dict[int, list[BopScene]] = {}
    for scene in _scenes(dataset):  # of several sensors, each has its images
        scenes.setdefault(int(scene.path.name), []).append(scene)
    for number in sorted({t.scene_id for t in targets} & set(folders)):
        mine = [t for t in targets if t.scene_id == number]
        there = {image_id: scene for scene in reversed(scenes[number]) for image_id in scene.image_files}
        missing = {t.image_id for t in mine} - set(there)
        _name_images(findings, path, f"asks for images that {findings.short(folders[number])} does not have", missing)
        annotations: dict[int, Any] = {}
        for scene in scenes[number]:
            known = findings.attempt(lambda scene=scene: scene.annotations) or {}
            annotations |= {key: value for key, value in known.items() if there.get(key) is scene}
        for target in mine:
            entries = annotations.get(target.image_id)
            if target.image_id in missing or not isinstance(entries, list):
                continue
            count = sum(isinstance(e, dict) and e.get("obj_id") == target.object_id for e in entries)
            if count < target.instance_count:
                findings.add(
                    path,
                    f"asks for {target.instance_count} of object {target.object_id} in scene {number}, "
                    f"image {target.image_id}; scene_gt.json has {count}",
                )


def _lists_images_only(path: Path) -> bool:
    """BOP'24's lists for detection name images without objects; nothing here reads them."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, list) and all(isinstance(e, dict) and "obj_id" not in e for e in content)


def _name_images(findings: _Findings, path: Path, what: str, images: set[int]) -> None:
    """One problem that names all images it holds for."""
    if images:
        findings.add(path, f"{what} ({len(images)}): {', '.join(map(str, sorted(images)))}")

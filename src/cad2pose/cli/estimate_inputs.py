"""What `cad2pose estimate` is asked to look at in image files: a box, a mask, or detections."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from cad2pose.cli.sources import find_camera
from cad2pose.data.detections import read_detections
from cad2pose.data.image_tasks import ImageTask, no_detections, of_objects
from cad2pose.data.images import IMAGE_SUFFIXES, image_size, read_mask
from cad2pose.files import visible_files
from cad2pose.geometry import Camera, mask_box
from cad2pose.structures import Detections

_DIGITS = 18  # of image numbers; more do not fit 64 bits


def boxes_of_object(boxes: Sequence[Sequence[float]], object_id: int) -> Detections:
    """Boxes of one object; ValueError for one without area."""
    ids, scores = torch.full((len(boxes),), object_id), torch.ones(len(boxes), dtype=torch.float64)
    return Detections(ids, torch.tensor([list(box) for box in boxes], dtype=torch.float64).view(-1, 4), scores)


def box_of_mask(path: Path, image: Path) -> tuple[float, float, float, float]:
    """Box around the pixels of a mask that are not zero.

    Raises:
        FileNotFoundError, ValueError: for a missing or unreadable mask, one of another size than its image, or an
            empty one.
    """
    mask = read_mask(path)
    size = image_size(image)
    if (mask.shape[1], mask.shape[0]) != size:
        raise ValueError(f"mask {path} is {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[0]} x {size[1]}")
    if not bool(mask.any()):
        raise ValueError(f"mask {path} is empty; it must be non-zero where the part is seen")
    return mask_box(mask)


def image_files(path: Path) -> list[Path]:
    """The image itself, or all images of a folder by name.

    Raises:
        FileNotFoundError: if there is nothing.
    """
    if path.is_dir():
        files = [file for file in visible_files(path) if file.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise FileNotFoundError(f"the folder {path} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        return files
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}")
    return [path]


def tasks_of_images(
    images: Path,
    camera: Path,
    object_id: int | None,
    boxes: Sequence[Sequence[float]] = (),
    mask: Path | None = None,
    detections: Path | None = None,
    objects: Collection[int] = (),
    depth: Path | None = None,
    depth_scale: float = 1.0,
    instances: int | None = None,
) -> list[ImageTask]:
    """Tasks of image files, of which exactly one of `boxes`, `mask` and `detections` says where to look.

    Boxes hold for every image, and so does a mask's file; masks that differ are in a folder, named after their images,
    and so are depth images. Detections go by the images' numbers (000017.png is image 17); a single image whose name is
    no number takes those of a file about one image. An image that cannot be read, is of another size than its camera,
    or has no usable mask or depth image, is left to whoever reads it, as long as there are others. At most `instances`
    poses of an object are kept, else one per box. Detections of other than `objects` are passed over.

    Raises:
        FileNotFoundError, ValueError: for anything missing or malformed.
    """
    files = image_files(images)
    numbers = _numbers(files)
    stems = [file.stem for file in files]
    if depth is not None and len(files) > 1 and not depth.is_dir():
        raise ValueError(
            f"{depth} is one depth image, and {images} holds {len(files)} images; give a folder of depth images that "
            "are named as the images"
        )
    found = {} if detections is None else _detections_by_number(detections, files, numbers, objects)
    if len(files) == len(found) == 1:
        numbers = list(found)  # also where the image's name is none
    about = next((scene_id for scene_id, _ in found.values()), 0)
    cameras = _cameras(camera, files)
    tasks, errors = [], []
    for number, file, known in zip(numbers, files, cameras, strict=True):
        scene_id, known_boxes, measured, problem = about, no_detections(), None, None
        try:
            if detections is not None:
                scene_id, known_boxes = found.get(number, (about, no_detections()))
            else:
                assert object_id is not None, "a box is of an object"
                chosen = boxes or [box_of_mask(_named_after(mask, file, "mask"), file)]
                known_boxes = boxes_of_object(chosen, object_id)
            measured = None if depth is None else _named_after(depth, file, "depth image")
        except (OSError, ValueError) as error:
            errors.append(error)
            problem = str(error)
        name = file.stem if stems.count(file.stem) == 1 else file.name
        count = max(1, len(known_boxes)) if instances is None else instances
        tasks.append(ImageTask(scene_id, number, name, file, known, known_boxes, count, measured, depth_scale, problem))
    if len(errors) == len(tasks):
        raise errors[0]
    return tasks


def _cameras(path: Path, files: Sequence[Path]) -> list[Camera]:
    """Of every image; an image that has none (broken, or of another size) gets that of the others."""
    found: list[Camera | None] = []
    errors: list[ValueError] = []
    for file in files:
        try:
            found.append(find_camera(path, *image_size(file)))
        except ValueError as error:
            errors.append(error)
            found.append(None)
    first = next((camera for camera in found if camera is not None), None)
    if first is None:
        raise errors[0]
    return [camera or first for camera in found]


def _numbers(files: Sequence[Path]) -> list[int]:
    """Those that the names are, where all are different numbers (of 18 digits at most); else 0, 1, 2, ..."""
    if all(_is_number(file) for file in files):
        numbers = [int(file.stem) for file in files]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(files)))


def _is_number(file: Path) -> bool:
    """Whether a file's name is a number that results can hold."""
    return file.stem.isdecimal() and len(file.stem.lstrip("0")) <= _DIGITS


def _named_after(path: Path | None, image: Path, what: str) -> Path:
    """The file itself, or the one of a folder that is named after an image."""
    assert path is not None, "one of box and mask is given"
    if not path.is_dir():
        return path
    named = (file for file in visible_files(path) if file.stem == image.stem)
    found = next((file for file in named if file.suffix.lower() in IMAGE_SUFFIXES), None)
    if found is None:
        raise FileNotFoundError(f"the folder {path} has no {what} named {image.stem}, after the image {image}")
    return found


def _detections_by_number(
    path: Path, files: Sequence[Path], numbers: Sequence[int], objects: Collection[int]
) -> dict[int, tuple[int, Detections]]:
    """Scene number and detections by image number."""
    every = read_detections(path)
    found = {key: of_objects(boxes, objects) for key, boxes in every.items()}
    if any(map(len, every.values())) and not any(map(len, found.values())):
        there = sorted({object_id for boxes in every.values() for object_id in boxes.object_id.tolist()})
        raise ValueError(f"{path} has no box of the objects {sorted(objects)}; its boxes are of {there}")
    if len(files) == len(found) == 1 and not _is_number(files[0]):
        ((scene_id, image_id), boxes) = next(iter(found.items()))
        return {image_id: (scene_id, boxes)}
    scenes = sorted({scene_id for scene_id, _ in found})
    if len(scenes) > 1:
        raise ValueError(f"{path} is about several scenes ({scenes[0]}, {scenes[1]}, ...); use --bop for a dataset")
    if unnumbered := next((file for file in files if not _is_number(file)), None):
        raise ValueError(
            f"{path} goes by image number, so the images must be named by theirs, such as 000017.png "
            f"({_DIGITS} digits at most), and not {unnumbered.name}"
        )
    named: dict[int, Path] = {}
    for file in files:
        if (other := named.setdefault(int(file.stem), file)) is not file:
            raise ValueError(f"{other.name} and {file.name} have the same number; keep one, so that {path} is clear")
    by_number = {image_id: (scene_id, boxes) for (scene_id, image_id), boxes in found.items()}
    if not any(number in by_number for number in numbers):
        others = ", nor for any other of the images" if len(files) > 1 else f" ({files[0].name})"
        about = f"; it is about image {min(by_number)}" if len(by_number) == 1 else ""
        raise ValueError(f"{path} has no detections for image {numbers[0]}{others}{about}")
    return by_number

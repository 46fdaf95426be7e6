"""Images to look for objects in, with the boxes to look at: those that a BOP data set asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.bop_scene import BopScene
from cad2pose.data.detections import read_detections
from cad2pose.data.images import image_size, read_depth, read_image
from cad2pose.geometry import Camera
from cad2pose.structures import Detections


@dataclass(frozen=True)
class ImageTask:
    """One image to estimate poses in.

    Args:
        scene_id, image_id: as they go into results.csv.
        name: of its overlay picture, without suffix.
        path: image file.
        camera: of this image.
        detections: boxes and objects to look for.
        counts: how many instances to keep of each object (one number for every object).
        depth_path: depth image file, None where there is none.
        depth_scale: millimetres per unit of the depth image.
        problem: why nothing can be looked for in it, None where something can.
    """

    scene_id: int
    image_id: int
    name: str
    path: Path
    camera: Camera
    detections: Detections
    counts: Mapping[int, int] | int = 1
    depth_path: Path | None = None
    depth_scale: float = 1.0
    problem: str | None = None

    def read(self) -> Float[Tensor, "3 h w"]:
        """The image, RGB in [0, 1]; ValueError where it has a problem."""
        self._check_problem()
        return read_image(self.path)

    def read_depth(self) -> Float[Tensor, "h w"] | None:
        """The depth image in mm, where there is one."""
        return None if self.depth_path is None else read_depth(self.depth_path, self.depth_scale)

    def check_size(self) -> None:
        """Raise ValueError where the image has a problem, its header and its camera disagree, or the depth image cannot
        be read."""
        self._check_problem()
        if self.depth_path is not None:
            image_size(self.depth_path)
        size, camera = image_size(self.path), self.camera
        if size != (camera.width, camera.height):
            raise ValueError(
                f"{self.path} is {size[0]} x {size[1]} pixels, but its camera {camera.width} x {camera.height}; "
                "give the intrinsics of this very image size"
            )

    def _check_problem(self) -> None:
        if self.problem is not None:
            raise ValueError(self.problem)


def tasks_of_bop(
    bop: Path,
    split: str,
    detections: Path,
    objects: Collection[int],
    targets: Path | None,
    all_images: bool,
    depth: bool = False,
    instances: int | None = None,
) -> list[ImageTask]:
    """Tasks of a BOP split: what its targets file asks for, or every image that has detections.

    Args:
        bop, split: the data set.
        detections: file of detections.
        objects: whose.
        targets: targets file in place of the data set's own.
        all_images: every image that has detections.
        depth: take the data set's depth images as well.
        instances: at most so many poses of an object are kept; else as many as a targets file says, or one per box.

    An image that is not there, or has no usable camera or depth image, is left to whoever reads it, as long as there
    are others.

    Raises:
        FileNotFoundError, ValueError: for anything missing or malformed, or if nothing is left to do.
    """
    dataset = BopDataset(find_dataset(bop), split)
    found = read_detections(detections)
    wanted: dict[tuple[int, int], dict[int, int] | int] = {}
    if not all_images and (targets is not None or dataset.targets_file() is not None):
        for target in dataset.targets(targets):
            if target.object_id in objects:
                counts = wanted.setdefault((target.scene_id, target.image_id), {})
                assert isinstance(counts, dict)
                counts[target.object_id] = target.instance_count
    else:
        wanted = {key: max(1, len(found[key])) for key in dataset.keys() if key in found}  # noqa: SIM118 - images
    files = {key: _files(dataset.scene(key[0]), key[1], depth) for key in wanted}
    errors = [known for known in files.values() if isinstance(known, Exception)]
    cameras = [known[1] for known in files.values() if not isinstance(known, Exception)]
    if errors and not cameras:
        raise errors[0]
    tasks = []
    for (scene_id, image_id), counts in wanted.items():
        boxes = of_objects(
            found.get((scene_id, image_id), no_detections()), counts if isinstance(counts, dict) else objects
        )
        name, kept = f"{scene_id:06d}_{image_id:06d}", counts if instances is None else instances
        known, problem = files[scene_id, image_id], None
        if isinstance(known, Exception):
            known, problem = (dataset.scene(scene_id).path / f"{image_id:06d}", cameras[0], None, 1.0), str(known)
        path, camera, measured, scale = known
        tasks.append(ImageTask(scene_id, image_id, name, path, camera, boxes, kept, measured, scale, problem))
    if not any(len(task.detections) for task in tasks):
        raise ValueError(
            f"{detections} has no box of the objects {sorted(objects)} in the images asked for of {dataset.root}, "
            f"split {split}; see --objects, --targets and --all-images"
        )
    return tasks


def _files(scene: BopScene, image_id: int, depth: bool) -> tuple[Path, Camera, Path | None, float] | Exception:
    """Image file, camera, depth image and its scale; or why they cannot be had."""
    try:
        path, camera = scene.image_file(image_id), scene.camera(image_id)
        measured, scale = (scene.depth_file(image_id), scene.depth_scale(image_id)) if depth else (None, 1.0)
    except (OSError, ValueError) as error:
        return error
    return path, camera, measured, scale


def no_detections() -> Detections:
    """None at all."""
    nothing = torch.zeros(0, dtype=torch.float64)
    return Detections(torch.zeros(0, dtype=torch.int64), nothing.reshape(0, 4), nothing)


def of_objects(detections: Detections, objects: Collection[int]) -> Detections:
    """Those of some objects."""
    keep = torch.tensor([object_id in objects for object_id in detections.object_id.tolist()], dtype=torch.bool)
    return Detections(detections.object_id[keep], detections.box[keep], detections.score[keep])

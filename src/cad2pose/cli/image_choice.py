"""Which images a command looks at, and where in them: the options that `estimate` and `view` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cad2pose.cli.arguments import ObjectIds, OptionalPath
from cad2pose.cli.estimate_inputs import tasks_of_images
from cad2pose.data.image_tasks import ImageTask, tasks_of_bop
from cad2pose.estimator import PoseEstimator


@dataclass(frozen=True)
class ImageChoice:
    """Images.

    Attributes:
        image: image file, or a folder of images of one camera.
        camera: json file with fx, fy, cx, cy, width, height and, where the lens has one, distortion (OpenCV's order).
        box: where the object is, in pixels from the image's upper left corner; one for every instance.
        mask: image that is not zero where the object is seen, of all images, or a folder of them named as the images.
        detections: json file of detections, BOP's list or a dictionary by image.
        object_id: whose box or mask it is, where the model knows several objects.
        bop: folder of a BOP dataset, or the name of one in BOP_PATH.
        split: the split of the BOP dataset.
        objects: look for these objects only; all that the model knows by default.
        targets: targets file in place of the dataset's own (SPLIT_targets_bop19.json).
        all_images: every image that has detections, whatever the targets file asks for.
        instances: keep at most so many poses of an object in an image, those with the best scores; else one per box, or
            with a targets file as many as it says.
    """

    image: OptionalPath = None
    camera: OptionalPath = None
    box: Annotated[
        tuple[tuple[float, float, float, float], ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="X Y W H", help_behavior_hint="(repeatable)"),
    ] = ()
    mask: OptionalPath = None
    detections: OptionalPath = None
    object_id: Annotated[int | None, tyro.conf.arg(metavar="ID", help_behavior_hint="")] = None
    bop: OptionalPath = None
    split: str = "test"
    objects: ObjectIds = ()
    targets: OptionalPath = None
    all_images: bool = False
    instances: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None

    def check(self) -> None:
        """Raise ValueError for options that mean nothing together."""
        if (self.image is None) == (self.bop is None):
            raise ValueError("give either --image (with --camera) or --bop, and not both")
        if self.instances is not None and self.instances < 1:
            raise ValueError(f"--instances is {self.instances}; it must be 1 or more")
        if self.bop is not None:
            self._check_bop()
        else:
            self._check_image()
        if self.detections is not None and self.object_id is not None:
            raise ValueError("--object-id says whose --box or --mask it is; of detections, --objects chooses")
        if self.detections is None and self.objects:
            raise ValueError("--objects chooses among detections; --object-id says whose --box or --mask it is")

    def _check_bop(self) -> None:
        others = (self.box or None, self.mask, self.camera)
        if self.detections is None or any(given is not None for given in others):
            raise ValueError("--bop needs --detections, and takes no --camera, --box or --mask")

    def _check_image(self) -> None:
        if self.targets is not None or self.all_images or self.split != "test":
            raise ValueError("--targets, --all-images and --split are about a BOP dataset (--bop), not about --image")
        if self.camera is None:
            raise ValueError("--image needs --camera, a json file with fx, fy, cx, cy, width and height")
        where = {"--box": self.box or None, "--mask": self.mask, "--detections": self.detections}
        given = [name for name, value in where.items() if value is not None]
        if len(given) != 1:
            told = f"; {' and '.join(given)} are given" if given else ""
            wanted = "--box X Y W H, --mask FILE and --detections FILE"
            raise ValueError(f"--image needs one of {wanted}: where to look{told}")

    def tasks(
        self, estimator: PoseEstimator, depth: Path | None = None, depth_scale: float = 1.0, bop_depth: bool = False
    ) -> list[ImageTask]:
        """The images with their detections, of options that passed `check`.

        Args:
            estimator: what the objects are known by.
            depth: depth image of the image, or a folder of them named as the images.
            depth_scale: millimetres per unit of those.
            bop_depth: take the depth images of the BOP dataset.

        Raises:
            FileNotFoundError, ValueError: for anything missing or malformed, or objects that no model knows.
        """
        estimator.check_known(self.objects)
        objects = self.objects or tuple(estimator.parts)
        if self.bop is not None:
            assert self.detections is not None, "as `check` saw to"
            return tasks_of_bop(
                self.bop,
                self.split,
                self.detections,
                objects,
                self.targets,
                self.all_images,
                bop_depth,
                self.instances,
            )
        assert self.image is not None, "as `check` saw to"
        assert self.camera is not None, "as `check` saw to"
        named = None if self.detections is not None else self._object_of_box(estimator)
        return tasks_of_images(
            self.image,
            self.camera,
            named,
            self.box,
            self.mask,
            self.detections,
            objects,
            depth,
            depth_scale,
            self.instances,
        )

    def _object_of_box(self, estimator: PoseEstimator) -> int:
        """The object whose box is given: the one named, or the only one; ValueError where that is not clear."""
        if self.object_id is not None:
            estimator.check_known([self.object_id])
            return self.object_id
        if len(estimator.parts) > 1:
            known = ", ".join(f"{i} ({part.name})" for i, part in estimator.parts.items())
            raise ValueError(f"the model knows several objects, {known}; say whose box it is with --object-id")
        return next(iter(estimator.parts))


def check_tasks(estimator: PoseEstimator, tasks: Sequence[ImageTask]) -> None:
    """Find out before the first picture is written what is wrong with the last image."""
    errors: list[Exception] = []
    for task in tasks:
        try:
            task.check_size()
            estimator.check(task.camera, task.detections)
        except (OSError, ValueError) as error:
            errors.append(error if str(task.path) in str(error) else ValueError(f"{task.path}: {error}"))
    if len(errors) == len(tasks) and errors:  # else the others are done, and these left out and named
        raise errors[0]

"""Boxes in labelled images that a model is calibrated on: a detector's, or those of the annotations, disturbed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.data.bop_files import BopInstance
from cad2pose.data.boxes import BoxConfig, jitter_box
from cad2pose.data.detections import ImageKey
from cad2pose.data.draws import Draws
from cad2pose.data.labelled_images import LabelledImages, check_not_for_testing
from cad2pose.experiments.calibration_crops import ROUGH, USUAL, WITHOUT, BoxedPart
from cad2pose.geometry import Camera, box_overlap, clip_box, project_points, transform_points
from cad2pose.parts import Part
from cad2pose.structures import Detections

_MIN_VISIBLE = 0.1  # of an instance that counts, as in BOP's targets
_ON_PART, _BESIDE = 0.5, 0.1  # overlaps from which a box is an ordinary one of an instance, and of any at all
_NEAREST = 1.0  # mm before the camera that a mesh begins at
_FAR_OUTSIDE = 1e5  # pixels; where the lens does not reach

Shown = tuple[BopInstance, Tensor]
"""An instance with its two boxes."""
Match = tuple[int, Tensor, BopInstance | None]
"""Kind of a box, the box, and the instance that it shows."""


class LabelledBoxes:
    """What `calibrate_on_images` looks at, image by image.

    A detected box belongs to the instance of its object that it overlaps most, by the box of what is seen of it or of
    the whole silhouette; of each instance the surest box counts. Boxes of instances of which less than a tenth is seen
    are left out. Images that cannot be read are left out, too, and found in `broken`. They must be others than those
    that the model was trained on, which it may know by heart.

    Args:
        images: the data set.
        parts: what is looked for, by their object ids.
        detections: a detector's boxes by scene and image; None: the boxes of what is seen of the instances, disturbed
            as a detector would.
        allow_test: take a split called test, too.

    Raises:
        ValueError: for a split that is meant for testing, or if there is no box of the parts.

    Attributes:
        broken: images that could not be read so far, by (scene, image).
    """

    def __init__(
        self,
        images: LabelledImages,
        parts: Sequence[Part],
        detections: Mapping[ImageKey, Detections] | None = None,
        allow_test: bool = False,
    ) -> None:
        check_not_for_testing(images, allow_test, held_out=True)
        self._images, self._parts = images, {part.object_id: (index, part) for index, part in enumerate(parts)}
        self._detections = detections
        self.broken: dict[ImageKey, str] = {}
        keys = images.keys() if detections is None else [key for key in images.keys() if key in detections]  # noqa: SIM118
        self._keys = [key for key in keys if self._shows(key)]
        if not self._keys:
            known = ", ".join(map(str, self._parts))
            kind = "shows no instance" if detections is None else "has no detected box"
            raise ValueError(f"{images.root} ({images.split}) {kind} of the model's objects ({known})")

    def __len__(self) -> int:
        """Number of images."""
        return len(self._keys)

    def __iter__(self) -> Iterator[tuple[int, list[BoxedPart]]]:
        """The number of each image, and its boxes."""
        for number, key in enumerate(self._keys):
            try:
                yield number, self._boxes(number, key)
            except (OSError, ValueError) as error:
                self.broken[key] = str(error)

    def _shows(self, key: ImageKey) -> bool:
        instances = self._images.instances(*key)
        if self._detections is not None:  # where nothing is annotated, nobody knows what a box shows
            return bool(instances) and any(i in self._parts for i in self._detections[key].object_id.tolist())
        return any(_counts(instance) for instance in instances if instance.object_id in self._parts)

    def _boxes(self, number: int, key: ImageKey) -> list[BoxedPart]:
        image = self._images.image(*key)
        picture, camera, found = image.read(), image.camera, []
        if picture.shape[1:] != (camera.height, camera.width):
            raise ValueError(
                f"the picture is {picture.shape[2]} x {picture.shape[1]} pixels, its camera {camera.width} x "
                f"{camera.height}"
            )
        for object_id, (index, part) in self._parts.items():
            instances = [one for one in image.instances if one.object_id == object_id]
            shown = [(one, boxes) for one in instances if (boxes := _outlines(part, one, camera)) is not None]
            if self._detections is None:
                pairs = _disturbed(shown, camera, Draws(number, object_id))
            else:
                detections = self._detections[key]
                pairs = _matched(detections.box[_usable(detections, object_id, camera)].double(), shown)
            for kind, box, instance in pairs:
                T = torch.full((4, 4), torch.nan).double() if instance is None else instance.T_cam_obj.double()
                found.append(BoxedPart(index, kind, picture, camera, box[None].float(), T))
        return found


def _disturbed(shown: Sequence[Shown], camera: Camera, draws: Draws) -> list[Match]:
    """Boxes of what is seen of the instances that count, off as a detector's would be."""
    counted = [(instance, boxes[0]) for instance, boxes in shown if _counts(instance)]
    if not counted:
        return []
    size = torch.tensor([camera.width, camera.height]).expand(len(counted), 2).double()
    disturbed = clip_box(jitter_box(torch.stack([box for _, box in counted]), BoxConfig(), draws), size)
    return [(USUAL, box, instance) for box, (instance, _) in zip(disturbed, counted, strict=True)]


def _usable(detections: Detections, object_id: int, camera: Camera) -> Int[Tensor, "n"]:
    """Rows of an object's boxes that reach into the image and are a pixel wide at least, surest first."""
    box, size = detections.box, torch.tensor([camera.width, camera.height])
    good = ((box[:, 2:] >= 1) & (box[:, :2] < size) & (box[:, :2] + box[:, 2:] > 0)).all(1)
    rows = (good & (detections.object_id == object_id)).nonzero()[:, 0]
    return rows[detections.score[rows].argsort(descending=True, stable=True)]


def _matched(boxes: Float[Tensor, "n 4"], shown: Sequence[Shown]) -> list[Match]:
    """Every box with the instance that it overlaps most; of each instance the first box alone.

    Boxes of instances that do not count are left out, where they do not lie on one that does.
    """
    found: list[Match] = []
    taken: set[int] = set()
    counted = [_counts(instance) for instance, _ in shown]
    for box in boxes:
        overlaps = [float(box_overlap(box.expand(2, 4), outlines).max()) for _, outlines in shown]
        rank = [(counts and overlap >= _ON_PART, overlap) for counts, overlap in zip(counted, overlaps, strict=True)]
        best = max(range(len(shown)), key=rank.__getitem__, default=None)
        if best is None or overlaps[best] < _BESIDE:
            found.append((WITHOUT, box, None))
        elif counted[best] and best not in taken:
            found.append((USUAL if overlaps[best] >= _ON_PART else ROUGH, box, shown[best][0]))
            taken.add(best)
    return found


def _counts(instance: BopInstance) -> bool:
    return instance.visible and instance.shows(_MIN_VISIBLE)


def _outlines(part: Part, instance: BopInstance, camera: Camera) -> Float[Tensor, "2 4"] | None:
    """Boxes of what is seen of an instance and of its whole silhouette; where not told, as its mesh shows.

    None where nothing is told and the mesh is not before the camera, or shows nowhere in the image.
    """
    told = [box for box in (instance.box_visible, instance.box_full) if box is not None]
    if told:
        return torch.tensor([told[0], told[-1]], dtype=torch.float64)
    points = transform_points(instance.T_cam_obj.double(), part.mesh.used_vertices.double())
    if float(points[:, 2].min()) <= _NEAREST:
        return None
    pixels = camera.bent_pixels(project_points(camera.K, points))
    low, high = pixels.amin(0) + 0.5, pixels.amax(0) + 0.5
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    if not bool(((low < size) & (high > 0) & (low > -_FAR_OUTSIDE)).all()):
        return None
    return clip_box(torch.cat((low, high - low))[None], size[None]).expand(2, 4)

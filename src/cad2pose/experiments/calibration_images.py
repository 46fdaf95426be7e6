"""Boxes in labelled images that a model is calibrated on: a detector's, or those of the annotations, disturbed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.data.bop_files import BopInstance
from cad2pose.data.boxes import BoxConfig, jitter_box
from cad2pose.data.detections import ImageKey
from cad2pose.data.draws import Draws
from cad2pose.data.labelled_images import LabelledImages, check_not_for_testing
from cad2pose.experiments.calibration_crops import ROUGH, USUAL, WITHOUT, BoxedPart
from cad2pose.geometry import Camera, box_overlap, clip_box, projected_box
from cad2pose.parts import Part
from cad2pose.structures import Detections

_MIN_VISIBLE = 0.1  # of an instance that counts, as in BOP's targets
_ON_PART, _BESIDE = 0.5, 0.1  # overlaps from which a box is an ordinary one of an instance, and of any at all
_AS_DETECTORS = BoxConfig(shift=0.04, scale=0.06)


class LabelledBoxes:
    """What `calibrate_on_images` looks at, image by image.

    A box belongs to the instance of its object that it overlaps most, by the box of what is seen of it or of the whole
    silhouette. Boxes of instances of which less than a tenth is seen are left out. Images that cannot be read are left
    out, too, and found in `broken`.

    Args:
        images: the data set.
        parts: what is looked for, by their object ids.
        detections: a detector's boxes by scene and image; None: the boxes of what is seen of the instances, disturbed
            as a detector would.
        allow_test: take a split called test or val, too.

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
        check_not_for_testing(images, allow_test)
        self._images, self._parts = images, {part.object_id: (index, part) for index, part in enumerate(parts)}
        self._detections = detections
        self.broken: dict[tuple[int, int], str] = {}
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

    def _shows(self, key: tuple[int, int]) -> bool:
        instances = self._images.instances(*key)
        if self._detections is not None:  # where nothing is annotated, nobody knows what a box shows
            return bool(instances) and any(i in self._parts for i in self._detections[key].object_id.tolist())
        return any(_counts(instance) for instance in instances if instance.object_id in self._parts)

    def _boxes(self, number: int, key: tuple[int, int]) -> list[BoxedPart]:
        image = self._images.image(*key)
        picture, camera, found = image.read(), image.camera, []
        for object_id, (index, part) in self._parts.items():
            instances = [one for one in image.instances if one.object_id == object_id]
            boxes = self._boxes_of(object_id, part, instances, camera, number, key)
            for box in boxes:
                instance, overlap = _shown(box, part, instances, camera)
                if instance is not None and overlap >= _BESIDE:
                    if _counts(instance):
                        kind = USUAL if overlap >= _ON_PART else ROUGH
                        T = instance.T_cam_obj.double()
                        found.append(BoxedPart(index, kind, picture, camera, box[None], T))
                else:
                    nowhere = torch.full((4, 4), torch.nan, dtype=torch.float64)
                    found.append(BoxedPart(index, WITHOUT, picture, camera, box[None], nowhere))
        return found

    def _boxes_of(
        self,
        object_id: int,
        part: Part,
        instances: Sequence[BopInstance],
        camera: Camera,
        number: int,
        key: tuple[int, int],
    ) -> Float[Tensor, "n 4"]:
        if self._detections is not None:
            box = self._detections[key].box[self._detections[key].object_id == object_id].float()
            size = torch.tensor([camera.width, camera.height])
            return box[((box[:, 2:] > 0) & (box[:, :2] < size) & (box[:, :2] + box[:, 2:] > 0)).all(1)]
        truth = [_outlines(part, one, camera)[0] for one in instances if _counts(one)]
        if not truth:
            return torch.zeros(0, 4)
        size = torch.tensor([camera.width, camera.height]).expand(len(truth), 2).double()
        return clip_box(jitter_box(torch.stack(truth), _AS_DETECTORS, Draws(number, object_id)), size).float()


def _counts(instance: BopInstance) -> bool:
    share = 1.0 if instance.visible_fraction is None else instance.visible_fraction
    return instance.visible and share >= _MIN_VISIBLE


def _outlines(part: Part, instance: BopInstance, camera: Camera) -> Float[Tensor, "2 4"]:
    """Boxes of what is seen of an instance and of its whole silhouette; where not told, as its mesh projects."""
    told = [box for box in (instance.box_visible, instance.box_full) if box is not None]
    if not told:
        whole = projected_box(part.mesh.used_vertices[None], instance.T_cam_obj.double()[None], camera.K[None])
        size = torch.tensor([[camera.width, camera.height]], dtype=torch.float64)
        return clip_box(whole, size).expand(2, 4)
    return torch.tensor([told[0], told[-1]], dtype=torch.float64)


def _shown(
    box: Float[Tensor, "4"], part: Part, instances: Sequence[BopInstance], camera: Camera
) -> tuple[BopInstance | None, float]:
    """The instance that a box overlaps most, and how much."""
    best, most = None, 0.0
    for instance in instances:
        overlap = float(box_overlap(box.double().expand(2, 4), _outlines(part, instance, camera)).max())
        if overlap > most:
            best, most = instance, overlap
    return best, most

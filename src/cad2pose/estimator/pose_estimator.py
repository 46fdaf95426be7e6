"""(image, camera, detections) -> poses, with any number of models."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.confidence import Way
from cad2pose.devices import pick_device
from cad2pose.estimator.boxes import box_faults, check_boxes, posed_boxes, zoom_boxes
from cad2pose.estimator.fusion import fuse_copies
from cad2pose.estimator.images import View, check_size, depth_tensor, image_tensor
from cad2pose.estimator.known_parts import KnownParts
from cad2pose.estimator.looking import Look, poses_in_source
from cad2pose.estimator.missing_poses import among, no_poses, rows_without
from cad2pose.estimator.options import EstimatorOptions
from cad2pose.estimator.selection import no_calibration
from cad2pose.estimator.stages import Stages
from cad2pose.geometry import (
    Camera,
    undistort_boxes,
    undistorted_image_box,
    virtual_camera,
    warp_depth_to_crops,
    warp_to_crops,
)
from cad2pose.model_file import Model, load_model, model_files
from cad2pose.parts.part import Part
from cad2pose.structures import CropBatch, Detections, PoseEstimates, Poses


class PoseEstimator:
    """Estimates the poses of known objects in one image.

    Args:
        models: which objects are known; no object id may occur twice.
        device: `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, ...
        options: copies per crop and passes.

    Raises:
        ValueError: if an object id occurs twice, or for a model that has no poses of the kind that the options want.
    """

    def __init__(
        self, models: Sequence[Model], device: torch.device | str = "auto", options: EstimatorOptions | None = None
    ) -> None:
        self.device = pick_device(device)
        self.options = options or EstimatorOptions()
        self._look_at = Look(self.options)
        self._known = KnownParts(models, self._look_at, self.device)

    @classmethod
    def load(
        cls, path: Path | str, device: torch.device | str = "auto", options: EstimatorOptions | None = None
    ) -> PoseEstimator:
        """Estimator of a model file, or of all model files (`*.safetensors`) of a folder.

        Raises:
            FileNotFoundError: if there is no such file, or the folder holds no model.
            ValueError: for a broken model file, or two files that claim the same object id.
        """
        path = Path(path)
        files = model_files(path) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"the folder {path} holds no model file (*.safetensors)")
        models = [load_model(file) for file in files]
        claimed: dict[int, Path] = {}
        for file, model in zip(files, models, strict=True):
            for part in model.parts:
                if part.object_id in claimed:
                    raise ValueError(
                        f"both {claimed[part.object_id]} and {file} serve object id {part.object_id}; "
                        "keep one of them in the folder"
                    )
                claimed[part.object_id] = file
        return cls(models, device, options)

    @property
    def parts(self) -> dict[int, Part]:
        """The known parts by object id."""
        return self._known.parts

    def model_of(self, object_id: int) -> tuple[Model, int]:
        """The model that serves an object, and the index of its part there.

        Raises:
            ValueError: for an object id that no model knows.
        """
        known = self._known[object_id]
        return known.model, known.part_index

    def way_of(self, model: Model) -> Way:
        """How it comes to the poses of one of its models."""
        return self._look_at.way(model)

    def check_known(self, object_ids: Sequence[int]) -> None:
        """Raise ValueError for an object id that no model knows."""
        self._known.check(object_ids)

    def check(self, camera: Camera, detections: Detections) -> None:
        """Raise ValueError if all boxes are outside the image or smaller than a pixel, or for an unknown object id."""
        check_boxes(detections.box.to("cpu", torch.float64), camera)
        self.check_known(detections.object_id.tolist())

    def check_use(self, object_ids: Sequence[int], with_depth: bool = False, with_confidence: bool = False) -> None:
        """Raise ValueError for what cannot be had of some objects.

        Args:
            object_ids: which.
            with_depth: there is a depth image, to which their poses are to be moved.
            with_confidence: the chance that their poses are right is asked for.
        """
        for known in (self._known[i] for i in object_ids):
            if with_depth:
                self._look_at.check_depth(known.model)
            if with_confidence and self._known.calibration(known, with_depth) is None:
                raise no_calibration(known.part.object_id)

    def prepare(self, object_ids: Sequence[int] | None = None) -> float:
        """Do now what makes the first estimate of a part take seconds; returns how many it took.

        Surfaces are sampled and embedded, loops compiled, and a picture of nothing is looked at.

        Args:
            object_ids: of the parts that will be looked for; all known ones by default.

        Raises:
            ValueError: for an object id that no model knows.
        """
        begun, wanted = time.perf_counter(), sorted(self.parts if object_ids is None else set(object_ids))
        self.check_known(wanted)
        for known in (self._known[i] for i in wanted):
            self._look_at.prepare(known.model, known.part_index)
        box = torch.tensor([[8.0, 8.0, 48.0, 48.0]]).expand(len(wanted), 4)
        camera = Camera.from_values(fx=64.0, fy=64.0, cx=31.5, cy=31.5, width=64, height=64)
        boxes = Detections(torch.tensor(wanted, dtype=torch.int64), box, torch.ones(len(wanted)))
        self.estimate(torch.full((3, 64, 64), 0.5), camera, boxes)
        return time.perf_counter() - begun

    def estimate(
        self,
        image: Tensor | np.ndarray,
        camera: Camera,
        detections: Detections,
        min_score: float = 0.0,
        depth: Tensor | np.ndarray | None = None,
    ) -> PoseEstimates:
        """Poses of all detections of one image, in their order.

        Args:
            image: float tensor `(3, H, W)` in [0, 1], or a uint8 or uint16 array H x W, H x W x 3 (RGB) or
                H x W x 4; as the lens made it, where the camera has distortion.
            camera: of this very image size.
            detections: object ids and boxes (in the image as given).
            min_score: estimates with a lower pose score are left out.
            depth: H x W depths of the same pixels in mm, 0 or NaN where there is none; poses are moved along their
                rays to where it has them.

        Returns:
            Poses `(N, 4, 4)` float64, mm, in the mesh files' frames, orthonormal; scores in [0, 1]. A detection that
            no pose is found for keeps its row, whatever `min_score`, with a pose of NaN and the reason in the details:
            that of its crop, a box that lies outside the image or is narrower than a pixel, or a depth image of
            another size or unit.

        Raises:
            ValueError: for an image of another kind or size, an unknown object id, or if no box at all can be used.
        """
        start = time.perf_counter()
        pixels = image_tensor(image)
        check_size(pixels, camera)
        self.check(camera, detections)
        object_id = detections.object_id.to("cpu", torch.int64)
        stages = Stages(self.device)
        found = self._of_image(pixels, camera, object_id, detections, depth, stages)
        seconds = time.perf_counter() - start
        estimates = PoseEstimates(
            object_id, found.T_cam_obj, found.score, detections.box.cpu(), seconds, found.details, stages.seconds,
            self._known.confidence(object_id, found, depth is not None),
        )  # fmt: skip
        return estimates[((found.score >= min_score) | ~estimates.found).nonzero()[:, 0]]

    def _of_image(
        self,
        pixels: Float[Tensor, "3 h w"],
        camera: Camera,
        object_id: Int[Tensor, "n"],
        detections: Detections,
        depth: Tensor | np.ndarray | None,
        stages: Stages,
    ) -> Poses:
        measured = None if depth is None else depth_tensor(depth)
        if measured is not None and measured.shape != (camera.height, camera.width):
            height, width = measured.shape
            reason = f"the depth image is {width} x {height} pixels, the image {camera.width} x {camera.height}"
            return no_poses([reason] * len(object_id))
        box = detections.box.to("cpu", torch.float64)
        faults = box_faults(box, camera)
        view = View(
            pixels.to(self.device), None if measured is None else measured.to(self.device), camera, stages
        )  # fmt: skip
        usable = rows_without(faults)
        return among(self._of_boxes(view, object_id[usable], box[usable]), faults)

    def _of_boxes(self, view: View, object_id: Int[Tensor, "n"], box: Float[Tensor, "n 4"]) -> Poses:
        """Poses of boxes that have pixels of the image."""
        box, straight = undistort_boxes(box, view.camera)
        found = self._fused(view, object_id, box)
        if self.options.recrop:
            posed = self._posed(view, object_id, box, found.T_cam_obj)
            rows = (posed != box).any(1).nonzero()[:, 0]  # the same box would show the same again
            again = self._fused(view, object_id[rows], posed[rows])
            better = ~torch.isnan(again.T_cam_obj[:, 0, 0])  # the first look may have seen more
            chosen = torch.arange(len(box))
            chosen[rows[better]] = len(box) + better.nonzero()[:, 0]
            found = Poses.join([found, again])[chosen]
        reasons = list(found.details.reasons)
        for row, (i, T) in enumerate(zip(object_id.tolist(), found.T_cam_obj, strict=True)):
            if not bool(straight[row]):
                reasons[row] = (
                    f"the box lies where the lens model {view.camera.distortion} cannot be inverted; check it"
                )
            elif reasons[row] is None and not bool(self.parts[i].is_ahead(T)):
                reasons[row] = "the pose that was found lies behind the camera; check the box"
        return among(found[rows_without(reasons)], reasons)

    def _fused(self, view: View, object_id: Int[Tensor, "n"], box: Float[Tensor, "n 4"]) -> Poses:
        """One pose per box: all copies of its crop are looked at, model by model, then fused part by part."""
        ids = object_id.tolist()
        found, order = [no_poses([])], [torch.zeros(0, dtype=torch.int64)]
        for model in {id(self._known[i].model): self._known[i].model for i in ids}.values():
            rows = torch.tensor([row for row, i in enumerate(ids) if self._known[i].model is model])
            index = torch.tensor([self._known[ids[row]].part_index for row in rows.tolist()])
            copies = self._copies(view, model, index, box[rows])
            count = len(copies) // len(rows)
            for part_index in index.unique().tolist():
                known = self._known[model.parts[part_index].object_id]
                mine = (index == part_index).nonzero()[:, 0]
                of_part = copies[(mine[:, None] * count + torch.arange(count)).flatten()]
                found.append(fuse_copies(of_part, count, known.symmetry, known.part.center))
                order.append(rows[mine])
        return Poses.join(found)[torch.cat(order).argsort()]

    def _copies(self, view: View, model: Model, part_index: Int[Tensor, "n"], box: Float[Tensor, "n 4"]) -> Poses:
        """Poses from every zoomed and rolled copy of every box; the copies of a box follow each other."""
        zooms = zoom_boxes(box, torch.tensor(self.options.zooms, dtype=box.dtype))
        rolls = torch.tensor([math.radians(angle) for angle in self.options.rolls], dtype=box.dtype)
        copies = zooms.shape[1] * len(rolls)
        boxes = zooms.repeat_interleave(len(rolls), dim=1).flatten(0, 1)
        roll = rolls.repeat(len(box) * zooms.shape[1])
        index = part_index.repeat_interleave(copies)
        size = self.options.batch_size
        chunks = zip(index.split(size), boxes.split(size), roll.split(size), strict=True)
        return Poses.join([self._look(view, model, *chunk) for chunk in chunks])

    def _look(
        self, view: View, model: Model, part_index: Int[Tensor, "b"], box: Float[Tensor, "b 4"],
        roll: Float[Tensor, "b"],
    ) -> Poses:  # fmt: skip
        """One batch of crops through the network."""
        count, config = len(box), model.method.config
        seen_by = view.camera
        size = torch.tensor([[seen_by.width, seen_by.height]], dtype=torch.float64).expand(count, -1)
        camera = virtual_camera(seen_by.K.expand(count, -1, -1), box, size, config.crop_size, config.pad, roll)
        on_device = camera.to(self.device)
        with torch.inference_mode():
            with view.stages.timed("crops"):
                images = view.pixels[None].expand(count, -1, -1, -1)
                crops, valid = warp_to_crops(images, on_device, lens=seen_by.lens)
                depth = None if view.depth is None else warp_depth_to_crops(view.depth, on_device, seen_by.lens)
                batch = CropBatch(crops, valid, camera.to(self.device, torch.float32), part_index.to(self.device))
            return poses_in_source(self._look_at(model, batch, depth, view.stages), camera)

    def _posed(
        self, view: View, object_id: Int[Tensor, "n"], box: Float[Tensor, "n 4"], T_cam_obj: Float[Tensor, "n 4 4"]
    ) -> Float[Tensor, "n 4"]:
        """Boxes of the parts as first estimated, for the second pass."""
        box, image = box.clone(), undistorted_image_box(view.camera)
        for i in object_id.unique().tolist():
            rows = (object_id == i) & ~torch.isnan(T_cam_obj[:, 0, 0])
            box[rows] = posed_boxes(box[rows], T_cam_obj[rows], self._known[i].hull, view.camera.K, image)
        return box

"""What the network said about a detection, to be looked at: the crop, its query image and mask, and the pose in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.estimator.boxes import posed_boxes
from cad2pose.estimator.images import check_size, image_tensor
from cad2pose.estimator.pose_estimator import PoseEstimator
from cad2pose.geometry import Camera, undistort_boxes, undistorted_image_box, virtual_camera, warp_to_crops
from cad2pose.methods import QueryImageMethod
from cad2pose.parts.part import Part
from cad2pose.rendering import MeshSet, render
from cad2pose.solvers import QueryMaps, ScoreOptions
from cad2pose.solvers.score import LARGEST_RATIO, ratio_maps
from cad2pose.structures import CropBatch, PoseEstimates

_CONTRAST = 4096


@dataclass(frozen=True)
class Inspection:
    """One detection as the network saw it.

    Args:
        part: that was looked for.
        crop: `(3, r, r)` RGB in [0, 1].
        queries: `(E, h, w)`, not normalised.
        mask: `(h, w)` probability of the silhouette.
        T_virt_obj: `(4, 4)` the pose found, in the crop camera, mm; None where there is none.
        K_virt: `(3, 3)` of the crop camera.
        R_virt_cam: `(3, 3)` from the source camera's axes to the crop camera's.
        scores: `(h, w)` of the pose: inside its silhouette log p(the point it shows | query) - log p(any), outside the
            logarithm of the probability that nothing is there; None without a pose.
    """

    part: Part
    crop: Float[Tensor, "3 r r"]
    queries: Float[Tensor, "e h w"]
    mask: Float[Tensor, "h w"]
    T_virt_obj: Float[Tensor, "4 4"] | None
    K_virt: Float[Tensor, "3 3"]
    R_virt_cam: Float[Tensor, "3 3"]
    scores: Float[Tensor, "h w"] | None


def query_image_method(estimator: PoseEstimator, object_id: int) -> tuple[QueryImageMethod, Part, int]:
    """The method that sees an object, its part, and which of the method's parts that is.

    Raises:
        ValueError: if its model has no query image.
    """
    model, index = estimator.model_of(object_id)
    method, part = model.method, model.parts[index]
    if not isinstance(method, QueryImageMethod):
        raise ValueError(f"the model of {part.name} is a {type(method).__name__}, which has no query image")
    return method, part, index


def inspect_estimates(
    estimator: PoseEstimator, image: Tensor | np.ndarray, camera: Camera, estimates: PoseEstimates
) -> Sequence[Inspection]:
    """Look again at every detection, unrolled, from the box of the part in the pose found, or from the given box.

    Args:
        estimator: that made the estimates.
        image, camera: as it was given them.
        estimates: of that image.

    Raises:
        ValueError: for an object whose model has no query image.
    """
    pixels = image_tensor(image)
    check_size(pixels, camera)
    whole = undistorted_image_box(camera)
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    boxes, _ = undistort_boxes(estimates.box.to("cpu", torch.float64), camera)
    found: list[Inspection] = []
    for row, object_id in enumerate(estimates.object_id.tolist()):
        method, part, index = query_image_method(estimator, object_id)
        box, T_cam_obj = boxes[row : row + 1], estimates.T_cam_obj[row : row + 1].double()
        there = bool(estimates.found[row])
        if there:
            box = posed_boxes(box, T_cam_obj, part.mesh.used_vertices, camera.K, whole)
        config = method.config
        crops = virtual_camera(camera.K[None], box, size[None], config.crop_size, config.pad)
        with torch.inference_mode():
            picture, valid = warp_to_crops(
                pixels[None].to(estimator.device), crops.to(estimator.device), lens=camera.lens
            )
            which = torch.tensor([index], device=estimator.device)
            batch = CropBatch(picture, valid, crops.to(estimator.device, torch.float32), which)
            maps = method.query_maps(method(batch), batch)
            T_virt_obj = crops.to_virtual(T_cam_obj)[0] if there else None
            scores = _score_map(method, part, index, maps, T_virt_obj) if T_virt_obj is not None else None
        mask = torch.sigmoid(maps.mask_logits[0]).cpu()
        found.append(
            Inspection(
                part, picture[0].cpu(), maps.queries[0].cpu(), mask, T_virt_obj, crops.K_virt[0], crops.R_virt_cam[0],
                scores,
            )
        )  # fmt: skip
    return found


def surface_keys_of(
    estimator: PoseEstimator, object_id: int, count: int = _CONTRAST
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n e"]]:
    """Points of a part's surface, mm, in the mesh file's frame, and their keys; for pictures.

    Raises:
        ValueError: for an object whose model has no query image.
    """
    method, part, index = query_image_method(estimator, object_id)
    points = method.parts.surface[index, :count]
    return points.cpu().double() * part.radius + part.center, method.surface_keys(index, points).cpu()


def _score_map(
    method: QueryImageMethod, part: Part, index: int, maps: QueryMaps, T_virt_obj: Float[Tensor, "4 4"]
) -> Float[Tensor, "h w"]:
    options = ScoreOptions()
    height, width = maps.queries.shape[-2:]
    seen = render(
        MeshSet.from_meshes([part.mesh]), torch.zeros(1, 1, dtype=torch.int64), T_virt_obj[None, None],
        maps.K.cpu().double(), height, width, "auto",
    )  # fmt: skip
    points = part.normalize(seen.coordinates[0].permute(1, 2, 0).double()).reshape(-1, 3)
    keys = method.surface_keys(index, points.to(maps.queries)).view(height, width, -1)
    contrast = method.surface_keys(index, method.parts.surface[index, :_CONTRAST])
    queries, chance = ratio_maps(contrast, maps, options)
    ratio = (queries[0] * keys.movedim(-1, 0)).sum(0) + chance[0]
    match = torch.log((1 - options.outliers) * ratio.clamp(-LARGEST_RATIO, LARGEST_RATIO).exp() + options.outliers)
    logits = maps.mask_logits[0].clamp(-options.largest_logit, options.largest_logit)
    inside = seen.mask[0].to(match.device)
    return torch.where(inside, match, torch.nn.functional.logsigmoid(-logits)).cpu()

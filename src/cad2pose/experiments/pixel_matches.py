"""How well pixels of photographs find their surface points: a finer measure than recalls of a few dozen poses.

Crops lie around the annotated boxes of what is seen; queries and mask are held against the part rendered in its
annotated pose. What hides a part is not known everywhere, so its pixels count as wrong, for every model alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_scene import BopImage
from cad2pose.experiments.intervals import mean_interval
from cad2pose.geometry import (
    VirtualCamera,
    nearest_rotation,
    project_points,
    undistort_boxes,
    virtual_camera,
    warp_to_crops,
)
from cad2pose.methods.query_image import QueryImageMethod
from cad2pose.model_file import Model
from cad2pose.parts import Part
from cad2pose.rendering import MeshSet, render
from cad2pose.structures import CropBatch

PIXEL_FIGURES = ("pixels right", "log p near the truth", "mask overlap")
"""Of a crop: share of the silhouette's pixels whose likeliest surface point is within a tenth of the diameter of the
true one, or of a symmetric equivalent; logarithm of the probability that they give to points within a twentieth of it,
the median over pixels; intersection of mask and silhouette over their union."""

LEAST_VISIBLE = 0.3
"""Instances of which less is seen are left out."""

_POINTS = 4096
_RIGHT, _NEAR = 0.2, 0.1  # radii
_BATCH = 16


class NoInstanceError(ValueError):
    """No annotated instance of a part is seen well enough in its box."""


@dataclass(frozen=True)
class PixelScores:
    """What the pixels of photographs say of one contestant on one part under one seed.

    Attributes:
        part, contestant, seed: which.
        figures: of every crop, in the order of the images: `PIXEL_FIGURES`.
    """

    part: str
    contestant: str
    seed: int
    figures: tuple[tuple[float, ...], ...]


def crops_of(
    dataset: BopDataset, part: Part, size: int, pad: float, least_visible: float = LEAST_VISIBLE
) -> tuple[Float[Tensor, "n 3 r r"], Float[Tensor, "n 1 r r"], VirtualCamera, Float[Tensor, "n 4 4"]]:
    """Pictures, their valid pixels, cameras, and true poses in these, of every instance of a part.

    Left out are those whose annotated pose is nowhere near their box.

    Raises:
        NoInstanceError: if none is seen well enough.
    """
    pictures, cameras, poses = [], [], []
    for key in dataset.keys():  # noqa: SIM118
        for instance in dataset.instances(*key):
            if instance.object_id == part.object_id and instance.box_visible and instance.shows(least_visible):
                image = dataset.image(*key)
                camera = _camera(image, torch.tensor([instance.box_visible], dtype=torch.float64), size, pad)
                T = instance.T_cam_obj.double()[None].clone()
                T[:, :3, :3] = nearest_rotation(T[:, :3, :3])
                T = camera.to_virtual(T)
                middle = part.middle(T)
                place = project_points(camera.K_virt, middle[:, None])[0, 0]
                if (
                    bool(((place - (size - 1) / 2).abs() < size / 2).all()) and float(middle[0, 2]) > 0
                ):  # else box and pose are of two things
                    pictures.append(warp_to_crops(image.read()[None], camera, lens=image.camera.lens))
                    cameras.append(camera)
                    poses.append(T)
    if not pictures:
        raise NoInstanceError(
            f"{dataset.root} ({dataset.split}) has no annotated {part.name} of which {least_visible:.0%} is seen "
            "in its box"
        )
    crops, valid = (torch.cat(some) for some in zip(*pictures, strict=True))
    return crops, valid, VirtualCamera.join(cameras), torch.cat(poses)


def _camera(image: BopImage, box: Float[Tensor, "1 4"], size: int, pad: float) -> VirtualCamera:
    extent = torch.tensor([[image.camera.width, image.camera.height]], dtype=torch.float64)
    return virtual_camera(image.camera.K.double()[None], undistort_boxes(box, image.camera)[0], extent, size, pad)


def pixel_matches(
    model: Model, dataset: BopDataset, index: int = 0, least_visible: float = LEAST_VISIBLE
) -> Float[Tensor, "n 3"]:
    """`PIXEL_FIGURES` of every crop of a part.

    Args:
        model: with a query image.
        dataset: annotated images.
        index: of the part in the model.
        least_visible: share of an instance that is seen at least.

    Raises:
        TypeError: for a model without a query image.
        NoInstanceError: if no instance is seen well enough.
    """
    method, part = model.method, model.parts[index]
    if not isinstance(method, QueryImageMethod):
        raise TypeError(f"the model of {part.name} is a {type(method).__name__}, which has no query image")
    config = method.config
    crops, valid, camera, T = crops_of(dataset, part, config.crop_size, config.pad, least_visible)
    device = method.parts.surface.device
    with torch.inference_mode():
        return torch.cat([
            _figures(method, part, index, CropBatch(
                crops[rows].to(device), valid[rows].to(device), camera[rows].to(device, torch.float32),
                torch.full((len(rows),), index, device=device),
            ), T[rows].float().to(device)).cpu()
            for rows in torch.arange(len(crops)).split(_BATCH)
        ])  # fmt: skip


def _figures(
    method: QueryImageMethod, part: Part, index: int, batch: CropBatch, T_virt_obj: Float[Tensor, "n 4 4"]
) -> Float[Tensor, "n 3"]:
    maps = method.query_maps(method(batch), batch)
    points = method.parts.surface[index, :_POINTS]
    keys = method.surface_keys(index, points)
    side = maps.queries.shape[-1]
    which = torch.zeros(len(batch), 1, dtype=torch.long, device=points.device)
    drawn = render(
        MeshSet.from_meshes([part.mesh]).to(points.device), which, T_virt_obj[:, None], maps.K.float(), side, side
    )
    true = (drawn.coordinates - part.center.float().to(points.device)[:, None, None]) / part.radius
    rows = []
    for row, inside in enumerate(drawn.mask):
        if not inside.any():  # a ring seen through its hole
            rows.append(points.new_tensor([0.0, -math.log(len(points)), 0.0]))
            continue
        log_p = torch.log_softmax(maps.queries[row][:, inside].T @ keys.T, dim=1)
        off = torch.full_like(log_p, math.inf)
        for R in method.parts.symmetry[index]:  # one by one: there may be thousands
            torch.minimum(off, torch.cdist(true[row][:, inside].T @ R.T, points), out=off)
        right = (off.gather(1, log_p.argmax(1)[:, None]) < _RIGHT).float().mean()
        near = torch.logsumexp(log_p.masked_fill(off >= _NEAR, -1e9), dim=1).median()
        mask = maps.mask_logits[row] > 0
        rows.append(torch.stack((right, near, (mask & inside).sum() / (mask | inside).sum())))
    return torch.stack(rows)


def pixel_cells(figures: np.ndarray, first: np.ndarray | None) -> list[str]:
    """Means as text, and how far they are from those of another model: the mean, its interval, and every run's.

    Args:
        figures: `(runs, crops, 3)`.
        first: the same of another model on the same crops, under the same seeds.
    """
    cells = [f"{value:.3f}" for value in figures.mean((0, 1))]
    if first is None:
        return cells
    for place, apart in enumerate(np.moveaxis(figures - first, 2, 0)):
        low, high = mean_interval(apart)
        cells[place] += f", {apart.mean():+.3f} ({low:+.3f} to {high:+.3f})"
        if len(apart) > 1:
            cells[place] += ": " + ", ".join(f"{one:+.3f}" for one in apart.mean(1))
    return cells

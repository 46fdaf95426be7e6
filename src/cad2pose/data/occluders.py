"""What hides a part: where other things stand, before it, beside it and behind it, and how much they may hide."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from cad2pose.data.draws import Draws
from cad2pose.geometry import VirtualCamera, make_transform, random_rotations


@dataclass(frozen=True)
class ClutterConfig:
    """Other things around the part.

    Attributes:
        occluders: most meshes before the part.
        occluded_share: share of samples with a mesh before the part that hides some of it from one side.
        deepest: largest share of the part's width that this mesh is meant to hide.
        others: most meshes beside and behind the part.
        other_share: probability of each of them.
        blob_share: share of samples with a flat patch of texture over the picture.
        min_visibility: at least this share of the silhouette stays visible; what would hide more, stands behind.
    """

    occluders: int = 2
    occluded_share: float = 0.6
    deepest: float = 0.6
    others: int = 5
    other_share: float = 0.6
    blob_share: float = 0.15
    min_visibility: float = 0.25

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (isinstance(value, float) and value > 1):
                raise ValueError(f"{field.name} is {value}; counts must not be negative, shares lie between 0 and 1")

    def without_neighbours(self) -> ClutterConfig:
        """Nothing around the part and before it but flat patches."""
        return replace(self, occluders=0, occluded_share=0.0, deepest=0.0, others=0)


@dataclass(frozen=True)
class Hiding:
    """The side from which the first occluder comes.

    Args:
        direction: `(B, 2)` unit vector in the source image, from the part's centre to the occluder.
        share: `(B,)` share of the part's extent along it that is hidden, 0 for none.
    """

    direction: Float[Tensor, "batch 2"]
    share: Float[Tensor, "batch"]


def draw_hiding(config: ClutterConfig, draws: Draws, count: int) -> Hiding:
    """Directions all around, shares up to the deepest, in float64."""
    angle = draws.uniform(0.0, 2 * math.pi, count).double()
    share = draws.uniform(0.0, config.deepest, count).double()
    present = draws.chance(config.occluded_share if config.occluders else 0.0, count)
    return Hiding(torch.stack((angle.cos(), angle.sin()), dim=-1), share * present)


@dataclass(frozen=True)
class Placement:
    """Clutter of B scenes in the crop cameras.

    Args:
        mesh_index: `(B, m)` index into the clutter's meshes, -1 for none.
        T_virt_obj: `(B, m, 4, 4)`; a rotation times the size in mm, as the meshes have radius 1, and a translation.
    """

    mesh_index: Int[Tensor, "batch m"]
    T_virt_obj: Float[Tensor, "batch m 4 4"]


def place_clutter(
    config: ClutterConfig,
    draws: Draws,
    meshes: Int[Tensor, "batch m"],
    camera: VirtualCamera,
    center: Float[Tensor, "batch 3"],
    radius: Float[Tensor, "batch"],
    hiding: Hiding,
    rim: Float[Tensor, "batch n 2"],
    outlines: Float[Tensor, "shapes k 3"],
) -> Placement:
    """Put meshes around a part.

    Args:
        config: numbers and shares.
        draws: random numbers.
        meshes: `(B, occluders + others)` which mesh is to stand in each slot; occluders come first.
        camera: the crops' cameras.
        center: `(B, 3)` centre of the part in the crop camera, mm.
        radius: `(B,)` of the part's bounding sphere, mm.
        hiding: the side of the first occluder.
        rim: `(B, n, 2)` outermost points of the part in the crops, in pixels from its centre.
        outlines: `(shapes, k, 3)` outermost points of the meshes, by `meshes`.
    """
    count, slots = meshes.shape
    first, before = torch.arange(slots) == 0, torch.arange(slots) < config.occluders
    depth, focal = center[:, 2:], camera.K_virt[:, 0, 0, None]
    span = (radius[:, None] / depth) * focal  # of the part, in crop pixels
    size = span * draws.log_uniform(0.35, 1.4, count, slots)
    away = depth * torch.where(before, draws.uniform(0.6, 0.92, count, slots), draws.uniform(0.95, 1.6, count, slots))
    turned = normalize((camera.R_virt_cam[:, :2, :2] @ hiding.direction[..., None])[..., 0], dim=-1)
    angle = draws.uniform(0.0, 2 * math.pi, count, slots)
    around = (
        torch.stack((angle.cos(), angle.sin()), -1) * ((span + size) * draws.uniform(0.5, 1.1, count, slots))[..., None]
    )
    anywhere = draws.uniform(-0.5, 0.5, count, slots, 2) * camera.size
    offset = torch.where(before[:, None], around, anywhere)
    rotation = random_rotations(count * slots, draws.host, torch.float64).view(count, slots, 3, 3)
    if slots:
        along = (rim @ turned[..., None])[..., 0]
        edge = along.amax(1) - hiding.share * (along.amax(1) - along.amin(1))
        shape = outlines[meshes[:, 0]] @ rotation[:, 0, :2].transpose(1, 2) * size[:, :1, None]
        touch = edge - (shape @ turned[..., None])[..., 0].amin(1)
        offset = torch.where(first[:, None], (turned * touch[:, None])[:, None], offset)
    pixel = center[:, None, :2] / depth[..., None] * focal[..., None] + offset
    place = torch.cat((pixel / focal[..., None], torch.ones_like(pixel[..., :1])), dim=-1) * away[..., None]
    transform = make_transform(rotation * (size * away / focal)[..., None, None], place)
    present = draws.chance(0.35, count, slots) & before | draws.chance(config.other_share, count, slots) & ~before
    present = torch.where(first & before, hiding.share[:, None] > 0, present)
    return Placement(torch.where(present, meshes, -1), transform)


def allowed_cover(hidden: Int[Tensor, "batch m"], budget: Int[Tensor, "batch"]) -> Bool[Tensor, "batch m"]:
    """Which things may stay in front: in order, as long as the pixels they hide together keep to the budget."""
    return hidden.cumsum(dim=1) <= budget[:, None]


def random_blobs(draws: Draws, count: int, size: int) -> Bool[Tensor, "count size size"]:
    """Flat patches with wavy borders somewhere in the picture."""
    steps = (torch.arange(size, device=draws.device) * 2 + 1) / size - 1
    centre = draws.uniform(-0.8, 0.8, count, 2).to(draws.device, non_blocking=True)
    reach = draws.uniform(0.15, 0.5, count, 2).to(draws.device, non_blocking=True)
    x = (steps - centre[:, :1]) / reach[:, :1]
    y = (steps - centre[:, 1:]) / reach[:, 1:]
    wave = draws.smooth_noise(count, 1, 8, size)[:, 0] * draws.uniform(0.0, 0.6, count, 1, 1).to(
        draws.device, non_blocking=True
    )
    return x.square()[:, None] + y.square()[:, :, None] + wave < 1

"""Whole synthetic photographs: several parts lying in clutter, with everything known about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.augmentation import AugmentationConfig
from cad2pose.data.backgrounds import BackgroundPool
from cad2pose.data.boxes import BoxConfig, jitter_box
from cad2pose.data.clutter import random_shapes
from cad2pose.data.draws import Draws
from cad2pose.data.photograph import Placed, photograph
from cad2pose.geometry import Camera, clip_box, make_transform, mask_box, random_rotations, unproject_pixels
from cad2pose.parts import Part
from cad2pose.rendering import MeshSet, Rendering, rasterize, render
from cad2pose.structures import Detections

_BEHIND, _BEFORE = 16, 3
_LEAST_VISIBILITY = 0.6
_ATTEMPTS = 30


@dataclass(frozen=True)
class Photo:
    """A picture of N parts and its ground truth.

    Args:
        image: `(3, h, w)` RGB in [0, 1].
        T_cam_obj: `(N, 4, 4)` float64, mm, one per part in the order given.
        detections: boxes of the visible parts as a detector might give them, in the same order.
        visibility: `(N,)` visible share of each silhouette.
    """

    image: Float[Tensor, "3 h w"]
    T_cam_obj: Float[Tensor, "n 4 4"]
    detections: Detections
    visibility: Float[Tensor, "n"]


def synthetic_photo(parts: Sequence[Part], camera: Camera, seed: int) -> Photo:
    """One fresh picture of all the parts, each at least 60 % visible.

    Args:
        parts: what is to be seen, each once.
        camera: without lens distortion.
        seed: everything follows from it.

    Raises:
        ValueError: without parts, for a camera with distortion, or if so many parts cannot be placed visibly.
    """
    if not parts:
        raise ValueError("a photograph needs at least one part, and none were given")
    if any(camera.distortion):
        raise ValueError(
            "synthetic photographs need a camera without lens distortion: give camera.without_distortion()"
        )
    shapes = random_shapes(seed)
    center = torch.stack([part.center for part in parts])
    radius = torch.tensor([part.radius for part in parts], dtype=torch.float64)
    meshes = MeshSet.from_meshes([part.mesh for part in parts] + shapes)
    for attempt in range(_ATTEMPTS):
        draws = Draws(seed, 303, attempt)
        T_cam_obj = _place_parts(parts, camera, draws)
        depth = torch.stack([part.middle(T)[2] for part, T in zip(parts, T_cam_obj, strict=True)]).mean()
        clutter, T_clutter = _place_clutter(len(shapes), len(parts), camera, depth, draws)
        index, transforms = torch.cat((torch.arange(len(parts)), clutter)), torch.cat((T_cam_obj, T_clutter))
        side = max(camera.width, camera.height)
        scene = render(meshes, index[None], transforms[None], camera.K[None].float(), side, side)
        seen, visibility = _visibility(meshes, scene, T_cam_obj, camera)
        if float(visibility.min()) >= _LEAST_VISIBILITY:
            placed = Placed(meshes, index, transforms, center, radius, torch.zeros(3))
            image = _picture(scene, placed, parts, seed, draws)[:, : camera.height, : camera.width]
            return Photo(image.contiguous(), T_cam_obj, _detect(parts, seen, camera, draws), visibility)
    raise ValueError(
        f"{len(parts)} parts do not fit into one picture of {camera.width} x {camera.height} pixels without hiding "
        "each other; give fewer parts"
    )


def _place_parts(parts: Sequence[Part], camera: Camera, draws: Draws) -> Float[Tensor, "n 4 4"]:
    """Every part in a cell of its own of a grid over the image, turned anyhow, about as large as its cell."""
    count = len(parts)
    columns = max(1, round((count * camera.width / camera.height) ** 0.5))
    rows = -(-count // columns)
    cell = torch.tensor([camera.width / columns, camera.height / rows], dtype=torch.float64)
    order = torch.randperm(rows * columns, generator=draws.host)[:count]
    corner = torch.stack((order % columns, order // columns), dim=-1) * cell
    radius = torch.tensor([part.radius for part in parts], dtype=torch.float64)
    reach = draws.uniform(0.3, 0.48, count).double() * cell.min().clamp_max(0.45 * camera.height)
    slack = (cell - 2 * reach[:, None]).clamp_min(0)
    pixel = corner + cell / 2 + (draws.uniform(-0.5, 0.5, count, 2).double() * slack) - 0.5
    ray = unproject_pixels(camera.K[None], pixel[None])[0]
    rotation = random_rotations(count, draws.host, torch.float64)
    center = torch.stack([part.center for part in parts])
    middle = ray * (camera.K[0, 0] * radius / reach)[:, None]
    return make_transform(rotation, middle - (rotation @ center[..., None])[..., 0])


def _place_clutter(
    shapes: int, first: int, camera: Camera, depth: Float[Tensor, ""], draws: Draws
) -> tuple[Int[Tensor, "m"], Float[Tensor, "m 4 4"]]:
    """Shapes behind the parts all over the image, and a few small ones before them."""
    count = _BEHIND + _BEFORE
    before = torch.arange(count) < _BEFORE
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    pixel = draws.uniform(0.0, 1.0, count, 2).double() * size - 0.5
    ray = unproject_pixels(camera.K[None], pixel[None])[0]
    away = depth * torch.where(before, draws.uniform(0.6, 0.7, count), draws.uniform(1.5, 2.2, count)).double()
    reach = torch.where(before, draws.uniform(0.02, 0.06, count), draws.uniform(0.08, 0.25, count)) * camera.width
    rotation = random_rotations(count, draws.host, torch.float64)
    scaled = rotation * (reach.double() * away / camera.K[0, 0])[:, None, None]
    return first + draws.integers(shapes, count), make_transform(scaled, ray * away[:, None])


def _visibility(
    meshes: MeshSet, scene: Rendering, T_cam_obj: Float[Tensor, "n 4 4"], camera: Camera
) -> tuple[Bool[Tensor, "n h w"], Float[Tensor, "n"]]:
    """Visible masks of the parts, and their share of the silhouettes."""
    count = len(T_cam_obj)
    K = camera.K.float().expand(count, 3, 3)
    alone = rasterize(meshes, torch.arange(count)[:, None], T_cam_obj[:, None], K, camera.height, camera.width)
    slot = scene.slot[0, : camera.height, : camera.width]
    seen = slot == torch.arange(count)[:, None, None]
    return seen, seen.flatten(1).sum(1) / (alone.slot >= 0).flatten(1).sum(1).clamp_min(1)


def _picture(scene: Rendering, placed: Placed, parts: Sequence[Part], seed: int, draws: Draws) -> Tensor:
    recolored = draws.chance(0.9, len(placed.index))
    recolored[: len(parts)] = torch.tensor([part.mesh.colors is None for part in parts])
    looks = replace(AppearanceConfig.modest(), shadow_share=1.0, openness_share=1.0)
    pool = BackgroundPool(seed, count=4, side=scene.mask.shape[-1] // 2)
    return photograph(scene, placed, recolored, looks, AugmentationConfig.modest(), pool, draws)


def _detect(parts: Sequence[Part], seen: Bool[Tensor, "n h w"], camera: Camera, draws: Draws) -> Detections:
    """Boxes of the visible masks, a little off."""
    count = len(parts)
    boxes = [mask_box(mask) for mask in seen]
    size = torch.tensor([[camera.width, camera.height]], dtype=torch.float64).expand(count, 2)
    box = jitter_box(torch.tensor(boxes, dtype=torch.float64), BoxConfig(shift=0.02, scale=0.04), draws)
    return Detections(
        object_id=torch.tensor([part.object_id for part in parts]), box=clip_box(box, size), score=torch.ones(count)
    )

"""Whole labelled photographs for data sets on disk: parts and other things on a table or in the air."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.augmentation_config import AugmentationConfig
from cad2pose.data.backgrounds import BackgroundPool, check_photos
from cad2pose.data.clutter import coarse_copy, drawable_mesh, other_builtin_meshes, random_shapes, unit_sized
from cad2pose.data.draws import Draws
from cad2pose.data.photograph import Placed, photograph
from cad2pose.data.pose_prior import check_apparent_size
from cad2pose.data.support import Outlines, aligned, table_mesh, table_transform
from cad2pose.geometry import (
    Camera,
    make_transform,
    mask_box,
    pixel_window,
    random_rotations,
    rotation_to_ray,
    rotations_towards,
    transform_points,
    unproject_pixels,
)
from cad2pose.parts import Part
from cad2pose.parts.bounds import hull_indices
from cad2pose.rendering import MeshSet, rasterize, render

_LEAST_DISTANCE = 0.05  # of what the camera looks at
_MOST_ROLL = 25.0  # degrees by which a camera over a table is turned from upright


@dataclass(frozen=True)
class TabletopConfig:
    """What the photographs are like.

    Attributes:
        parts: fewest and most instances in a picture; they are drawn from all parts, some more than once.
        others: most other things.
        table_share: share of pictures with a table; in the rest everything floats, turned anyhow.
        elevation: lowest and highest of the camera over the table, degrees.
        apparent_size: smallest and largest projected diameter of a part of middling size, pixels of an image 640 wide.
        backgrounds: folder of photographs behind the table and on it.
        pictures: number of pictures of each kind of which backgrounds and textures are made.
        appearance: light and colours.
        effects: of the camera. What is cropped from these pictures in training gets effects of its own.
    """

    parts: tuple[int, int] = (3, 8)
    others: int = 8
    table_share: float = 0.8
    elevation: tuple[float, float] = (15.0, 85.0)
    apparent_size: tuple[float, float] = (60.0, 200.0)
    backgrounds: Path | None = None
    pictures: int = 64
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    effects: AugmentationConfig = field(default_factory=AugmentationConfig.modest)

    def __post_init__(self) -> None:
        if not 1 <= self.parts[0] <= self.parts[1]:
            raise ValueError(f"parts is {self.parts}; give fewest, most instances in a picture, at least 1")
        if self.others < 0 or not 0 <= self.table_share <= 1:
            raise ValueError(f"others is {self.others}, table_share {self.table_share:g}; give a count and a share")
        if not 5 <= self.elevation[0] <= self.elevation[1] <= 90:
            raise ValueError(f"elevation is {self.elevation}; give lowest, highest in degrees within [5, 90]")
        if not 0 < self.apparent_size[0] <= self.apparent_size[1] < math.inf:
            raise ValueError(
                f"apparent_size is {self.apparent_size}; give smallest, largest in pixels, both positive and finite"
            )
        if self.pictures < 1:
            raise ValueError(f"pictures is {self.pictures}; at least 1 is needed")


@dataclass(frozen=True)
class LabelledPhoto:
    """A picture of N parts and all that is known about it.

    Args:
        image: `(3, h, w)` RGB in [0, 1].
        depth: `(h, w)` mm, 0 where there is nothing.
        part_index: `(N,)` in the list of parts.
        T_cam_obj: `(N, 4, 4)` float64, mm.
        mask_full: `(N, h, w)` silhouettes as if nothing stood before them.
        mask_visible: `(N, h, w)` what is seen of them.
        whole_pixels: `(N,)` pixels of the silhouettes, those outside the image too.
        whole_box: `(N, 4)` x, y, w, h of the silhouettes, which may reach outside the image.
    """

    image: Float[Tensor, "3 h w"]
    depth: Float[Tensor, "h w"]
    part_index: Int[Tensor, "n"]
    T_cam_obj: Float[Tensor, "n 4 4"]
    mask_full: Bool[Tensor, "n h w"]
    mask_visible: Bool[Tensor, "n h w"]
    whole_pixels: Int[Tensor, "n"]
    whole_box: Float[Tensor, "n 4"]


def check_input(parts: Sequence[Part], camera: Camera, config: TabletopConfig) -> None:
    """Find out early what photographs cannot be made of.

    Raises:
        ValueError: without parts, for a camera with distortion or one that no part would be seen whole by, or if the
            folder of backgrounds holds no picture that can be read.
        FileNotFoundError: if that folder does not exist.
    """
    if not parts:
        raise ValueError("pictures need at least one part, and none were given")
    if any(camera.distortion):
        raise ValueError("rendered pictures need a camera without lens distortion: give camera.without_distortion()")
    check_apparent_size(config.apparent_size[0], camera.width, camera.height)
    if config.backgrounds is not None:
        check_photos(config.backgrounds)


class Tabletop:
    """Photographs without end, each a function of its numbers alone.

    Args:
        parts: what is to be seen.
        camera: without lens distortion.
        config: what the pictures are like.
        seed: of everything.

    Raises:
        ValueError, FileNotFoundError: as `check_input`.
    """

    def __init__(self, parts: Sequence[Part], camera: Camera, config: TabletopConfig, seed: int) -> None:
        check_input(parts, camera, config)
        self.parts, self.camera, self.config, self.seed = tuple(parts), camera, config, seed
        others = other_builtin_meshes(parts)  # copies of what is to be found would be there without a label
        shapes = [*random_shapes(seed), *(unit_sized(coarse_copy(mesh)) for mesh in others)]
        self._meshes = MeshSet.from_meshes([*map(drawable_mesh, parts), *shapes, table_mesh()])
        self._shapes = len(shapes)
        self._center = torch.stack([part.center for part in parts])
        self._radius = torch.tensor([part.radius for part in parts], dtype=torch.float64)
        self._part_outlines = Outlines([part.mesh for part in parts], self._center)
        self._outer_points = [part.mesh.used_vertices[hull_indices(part.mesh.used_vertices)].double() for part in parts]
        self._shape_outlines = Outlines(shapes, torch.zeros(len(shapes), 3, dtype=torch.float64))
        self._pool = BackgroundPool(seed, count=config.pictures, photos=config.backgrounds, side=256)

    def photo(self, *numbers: int) -> LabelledPhoto:
        """The picture of these numbers."""
        draws = Draws(self.seed, 404, *numbers)
        count = self.config.parts[0] + int(draws.integers(self.config.parts[1] - self.config.parts[0] + 1))
        part_index = draws.integers(len(self.parts), count)
        on_table = bool(draws.chance(self.config.table_share))
        index, transforms, up = (self._standing if on_table else self._floating)(part_index, draws)
        height, width = self.camera.height, self.camera.width
        side = max(height, width)
        scene = render(self._meshes, index[None], transforms[None], self.camera.K[None].float(), side, side)
        placed = Placed(self._meshes, index, transforms, self._center[part_index], self._radius[part_index], up)
        recolored = self._recolored(part_index, len(index), draws)
        looks, effects = self.config.appearance, self.config.effects
        image = photograph(scene, placed, recolored, looks, effects, self._pool, draws)[:, :height, :width]
        alone, pixels, box = self._silhouettes(part_index, transforms[:count])
        slot = scene.slot[0, :height, :width]
        return LabelledPhoto(
            image.contiguous(), scene.depth[0, :height, :width].contiguous(), part_index, transforms[:count], alone,
            slot == torch.arange(count)[:, None, None], pixels, box,
        )  # fmt: skip

    def _standing(self, part_index: Int[Tensor, "n"], draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Everything on a table across z of the world, whose origin the middle of the picture shows, nearly."""
        others = int(draws.integers(self.config.others + 1))
        shapes = draws.integers(self._shapes, others)
        middling = self._radius[part_index].mean()
        size = middling * draws.log_uniform(0.3, 1.3, others).double()
        radius = torch.cat((self._radius[part_index], size))
        place = self._spread(radius, draws)
        T_world_obj = torch.cat((
            self._stood(self._part_outlines, part_index, torch.ones(len(part_index)).double(), draws),
            self._stood(self._shape_outlines, shapes, size, draws),
        ))  # fmt: skip
        T_world_obj[:, :2, 3] += place
        center = torch.cat((self._center[part_index], torch.zeros(others, 3, dtype=torch.float64)))
        T_world_obj[:, :3, 3] -= (T_world_obj[:, :3, :3] @ center[..., None])[..., 0]
        apparent = float(draws.log_uniform(*self.config.apparent_size)) * self.camera.width / 640
        distance = float(2 * middling * self.camera.K[0, 0] / apparent)
        extent = torch.tensor([self.camera.width, self.camera.height], dtype=torch.float64)
        ray = unproject_pixels(self.camera.K[None], 0.5 * (extent - 1)[None, None])[0, 0]
        T_cam_world = self._look(ray * distance, 0.5 * place.std() if len(place) > 1 else 0.0, draws)
        middle = (T_world_obj[:, :3, :3] @ center[..., None])[..., 0] + T_world_obj[:, :3, 3]
        nearest = float((middle @ T_cam_world[2, :3] + T_cam_world[2, 3] - radius).min())
        T_cam_world[:3, 3] += ray * max(0.0, _LEAST_DISTANCE * distance - nearest)  # nothing is in the camera
        width = min(distance, float(middling * draws.log_uniform(4.0, 20.0)))
        steep = float((1 - T_cam_world[2, 2].square()).clamp_min(1e-6).sqrt())
        width = min(width, 0.8 * float(T_cam_world[2, 3]) / (math.sqrt(2) * steep))
        origin = torch.zeros(3, dtype=torch.float64)
        table = table_transform(torch.eye(3, dtype=torch.float64), origin, torch.tensor(width, dtype=torch.float64))
        T = torch.cat((T_cam_world @ T_world_obj, (T_cam_world @ table)[None]))
        index = torch.cat((part_index, len(self.parts) + shapes, torch.tensor([len(self._meshes) - 1])))
        return index, T, T_cam_world[:3, 2]

    def _stood(
        self, outlines: Outlines, index: Int[Tensor, "n"], size: Float[Tensor, "n"], draws: Draws
    ) -> Float[Tensor, "n 4 4"]:
        """Things of some size whose centres are above the origin, standing on z = 0, most of them stably."""
        count = len(index)
        up = torch.tensor([0.0, 0.0, 1.0]).double().expand(count, 3)
        rotation = random_rotations(count, draws.host, torch.float64)
        directions = outlines.resting[index]
        known = (directions.abs().sum(-1) > 0).sum(-1)
        which = draws.integers(1 << 20, count) % known.clamp_min(1)
        chosen = directions[torch.arange(count), which]
        stable = (known > 0) & draws.chance(0.85, count)
        rotation = torch.where(stable[:, None, None], aligned(rotation, chosen, up), rotation)
        drop = outlines.depth_below(index, (rotation.transpose(-1, -2) @ up[..., None])[..., 0]) * size
        return make_transform(rotation * size[:, None, None], up * drop[:, None])

    def _spread(self, radius: Float[Tensor, "n"], draws: Draws) -> Float[Tensor, "n 2"]:
        """Places on the table; a few tries each to keep clear of what is there, then wherever it falls."""
        reach = 0.9 * float(radius.mean()) * math.sqrt(len(radius)) + float(radius.max()) * 0.5
        placed: list[Tensor] = []
        for row in range(len(radius)):
            for _ in range(12):
                spot = reach * draws.normal(2).double().clamp(-2, 2)
                if all(
                    float((spot - other).norm()) > 0.75 * float(radius[row] + radius[i])
                    for i, other in enumerate(placed)
                ):
                    break
            placed.append(spot)
        return torch.stack(placed)

    def _look(self, target: Float[Tensor, "3"], wander: float | Tensor, draws: Draws) -> Float[Tensor, "4 4"]:
        """T_cam_world of a camera over the table that has its origin, or a place near it, at the target."""
        low, high = (math.sin(math.radians(bound)) for bound in self.config.elevation)
        sine = draws.uniform(low, high, 1).double()
        azimuth = draws.uniform(0.0, 2 * math.pi, 1).double()
        roll = draws.uniform(-math.radians(_MOST_ROLL), math.radians(_MOST_ROLL), 1).double()
        rotation = rotation_to_ray(target) @ rotations_towards(sine, azimuth, roll)[0]
        place = torch.cat((wander * draws.normal(2).double(), torch.zeros(1).double()))
        return make_transform(rotation, target - rotation @ place)

    def _floating(self, part_index: Int[Tensor, "n"], draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Everything in the air, turned anyhow."""
        others = int(draws.integers(self.config.others + 1))
        shapes = draws.integers(self._shapes, others)
        count, middling = len(part_index) + others, self._radius[part_index].mean()
        size = torch.cat((torch.ones(len(part_index)).double(), middling * draws.log_uniform(0.3, 1.3, others)))
        apparent = draws.log_uniform(*self.config.apparent_size, 1).double() * self.camera.width / 640
        away = 2 * middling * self.camera.K[0, 0] / apparent * draws.log_uniform(0.75, 1.5, count)
        extent = torch.tensor([self.camera.width, self.camera.height], dtype=torch.float64)
        ray = unproject_pixels(self.camera.K[None], draws.uniform(0.0, 1.0, 1, count, 2).double() * extent - 0.5)[0]
        rotation = random_rotations(count, draws.host, torch.float64)
        center = torch.cat((self._center[part_index], torch.zeros(others, 3, dtype=torch.float64)))
        place = ray * away[:, None] - (rotation @ center[..., None])[..., 0]
        T = make_transform(rotation * size[:, None, None], place)
        return torch.cat((part_index, len(self.parts) + shapes)), T, torch.zeros(3).double()

    def _recolored(self, part_index: Int[Tensor, "n"], things: int, draws: Draws) -> Bool[Tensor, "{things}"]:
        """What gets a random colour: most of what is no part, and of the parts those without colours and a few more."""
        recolored = draws.chance(0.9, things)
        colorless = torch.tensor([part.mesh.colors is None for part in self.parts])[part_index]
        recolored[: len(part_index)] = colorless | draws.chance(self.config.appearance.recolored_share, len(part_index))
        return recolored

    def _silhouettes(
        self, part_index: Int[Tensor, "n"], T_cam_obj: Float[Tensor, "n 4 4"]
    ) -> tuple[Bool[Tensor, "n h w"], Int[Tensor, "n"], Float[Tensor, "n 4"]]:
        """Masks within the image, and size and box of the whole silhouettes on a canvas three times as wide."""
        height, width = self.camera.height, self.camera.width
        masks = torch.zeros(len(part_index), height, width, dtype=torch.bool)
        pixels = torch.zeros(len(part_index), dtype=torch.int64)
        boxes = torch.full((len(part_index), 4), -1.0, dtype=torch.float64)
        for row, (part, T) in enumerate(zip(part_index.tolist(), T_cam_obj, strict=True)):
            points = transform_points(T, self._outer_points[part])
            window = pixel_window(points, self.camera.K, (-width, -height), (2 * width, 2 * height))
            if window is None:
                continue
            left, top, right, bottom = window
            K = self.camera.K.float().clone()
            K[:2, 2] -= torch.tensor([left, top])
            index = torch.tensor([[part]], dtype=torch.int32)
            drawn = rasterize(self._meshes, index, T[None, None], K[None], bottom - top, right - left).slot[0] >= 0
            if not drawn.any():
                continue
            pixels[row] = drawn.sum()
            x, y, w, h = mask_box(drawn)
            boxes[row] = torch.tensor([x + left, y + top, w, h])
            rows, columns = slice(max(0, top), min(bottom, height)), slice(max(0, left), min(right, width))
            if rows.start < rows.stop and columns.start < columns.stop:
                inside = drawn[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                masks[row, rows, columns] = inside
        return masks, pixels, boxes

"""Endless synthetic crops: a part in a random pose, light and company, seen by its own crop camera.

Everything is rendered in the crop camera itself. A source camera and a pose are drawn, the part's box in the source
image is found and disturbed as a detector would, the virtual camera looks at that box, and the scene is rendered
there, so that image and ground truth agree exactly, and nothing larger than the crop is ever drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.data.appearance import AppearanceConfig, paint, perturb_colors, random_lights, random_material
from cad2pose.data.augmentation import AugmentationConfig, augment
from cad2pose.data.backgrounds import BackgroundPool
from cad2pose.data.boxes import BoxConfig, clip_box, cut_box, extreme_points, jitter_box, projected_box
from cad2pose.data.clutter import coarse_copy, random_shapes, unit_sized
from cad2pose.data.compositing import compose, soft_shadow, soften_edges
from cad2pose.data.coverage import coverage, reaches_outside
from cad2pose.data.draws import Draws
from cad2pose.data.occluders import ClutterConfig, allowed_cover, draw_hiding, place_clutter, random_blobs
from cad2pose.data.pose_prior import PosePrior
from cad2pose.geometry import Camera, VirtualCamera, virtual_camera
from cad2pose.geometry.crop import DEFAULT_PAD, OUTSIDE_FILL
from cad2pose.parts import BUILTIN_PARTS, Part, builtin_part
from cad2pose.rendering import MeshSet, Rendering, render
from cad2pose.rendering.shading import shade
from cad2pose.structures import CropBatch, CropTruth


@dataclass(frozen=True)
class SyntheticConfig:
    """What synthetic crops are like.

    Attributes:
        crop_size: side of the crops in pixels.
        camera: the source camera; None: cameras of 640 x 480 pixels with focal lengths of `focal` image widths.
        focal: shortest and longest focal length in image widths, where no camera is given.
        prior: where parts are seen from.
        box: how boxes err.
        pad: as of `virtual_camera`.
        roll: the crop camera is turned by at most this many degrees about its axis.
        clutter: what stands around and before the part.
        backgrounds: folder of photographs to stand behind it (searched to any depth); None: procedural pictures only.
        photo_share: share of backgrounds and textures taken from the photographs, where there are any.
        pictures: number of pictures kept of each kind, of which all backgrounds are made.
        appearance: light and colours.
        augmentation: what the camera does to the picture.
    """

    crop_size: int = 128
    camera: Camera | None = None
    focal: tuple[float, float] = (0.8, 1.4)
    prior: PosePrior = field(default_factory=PosePrior)
    box: BoxConfig = field(default_factory=BoxConfig)
    pad: float = DEFAULT_PAD
    roll: float = 180.0
    clutter: ClutterConfig = field(default_factory=ClutterConfig)
    backgrounds: Path | None = None
    photo_share: float = 0.6
    pictures: int = 256
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        if self.camera is not None and any(self.camera.distortion):
            raise ValueError("synthetic crops need a camera without lens distortion: give camera.without_distortion()")
        if not 0 < self.focal[0] <= self.focal[1]:
            raise ValueError(f"focal is {self.focal}; give the shortest and the longest focal length in image widths")
        if self.crop_size < 16:
            raise ValueError(f"crop_size is {self.crop_size}; crops have at least 16 pixels a side")
        if not 0 <= self.photo_share <= 1:
            raise ValueError(f"photo_share is {self.photo_share:g}; it is a share between 0 and 1")
        if self.pictures < 1:
            raise ValueError(f"pictures is {self.pictures}; at least 1 is needed")
        if self.pad < 1:
            raise ValueError(f"pad is {self.pad:g}; below 1 the crop would cut the box")
        if not 0 <= self.roll <= 180:
            raise ValueError(f"roll is {self.roll:g}; give degrees within [0, 180]")

    @classmethod
    def evaluation(cls, **changes: object) -> SyntheticConfig:
        """Fresh pictures to judge a model by: upright crops, detector-like boxes, up to about 30 % hidden."""
        base = cls(
            box=BoxConfig(shift=0.04, scale=0.06),
            roll=0.0,
            clutter=ClutterConfig(occluders=1, occluded_share=0.5, deepest=0.3, blob_share=0.0, min_visibility=0.7),
            appearance=AppearanceConfig.modest(),
            augmentation=AugmentationConfig.modest(),
        )
        return replace(base, **changes)  # type: ignore[arg-type]


class SyntheticCrops:
    """Batches of crops, each a function of (seed, index, size) alone.

    Args:
        parts: the method's list of parts; `part_index` refers to it.
        config: what the crops are like.
        device: where they are made.
        seed: of the run.

    Raises:
        ValueError: without parts, or as `BackgroundPool`.
    """

    def __init__(
        self, parts: Sequence[Part], config: SyntheticConfig, device: torch.device | str = "cpu", seed: int = 0
    ) -> None:
        if not parts:
            raise ValueError("synthetic crops need at least one part")
        self.parts = tuple(parts)
        self.config = config
        self.device = torch.device(device)
        self.seed = seed
        self._meshes = MeshSet.from_meshes([part.mesh for part in parts]).to(self.device)
        shapes = random_shapes(seed)
        names = {part.name for part in parts}
        others = [part.mesh for part in parts] + [builtin_part(n).mesh for n in BUILTIN_PARTS if n not in names]
        self._clutter = MeshSet.from_meshes(shapes + [unit_sized(coarse_copy(m)) for m in others]).to(self.device)
        self._shapes = len(shapes)
        self._pool = BackgroundPool(seed, self.device, config.pictures, config.backgrounds, config.photo_share)
        self._center = torch.stack([part.center for part in parts])
        self._radius = torch.tensor([part.radius for part in parts], dtype=torch.float64)
        self._colorless = torch.tensor([part.mesh.colors is None for part in parts])
        outlines = [extreme_points(part.mesh.used_vertices) for part in parts]
        longest = max(map(len, outlines))
        self._outline = torch.stack([o[torch.arange(longest).clamp_max(len(o) - 1)] for o in outlines])

    def batch(self, index: int, size: int) -> CropBatch:
        """Batch number `index`, of `size` crops; parts take turns."""
        draws = Draws(self.seed, index, device=self.device)
        part_index = (index * size + torch.arange(size)) % len(self.parts)
        scene = self._scene(part_index, draws)
        return self._picture(scene, draws)

    def _scene(self, part_index: Int[Tensor, "batch"], draws: Draws) -> _Scene:
        """Cameras and poses, on the CPU in float64."""
        count = len(part_index)
        config = self.config
        center, radius = self._center[part_index], self._radius[part_index]
        K, image_size = self._source_cameras(draws, count)
        T_cam_obj = config.prior.sample(draws, center, radius, K, image_size)
        hiding = draw_hiding(config.clutter, draws, count)
        whole = projected_box(self._outline[part_index], T_cam_obj, K)
        visible = draws.chance(config.box.visible_share, count)
        box = torch.where(visible[:, None], cut_box(whole, hiding.box_cut()), whole)
        box = clip_box(jitter_box(clip_box(box, image_size), config.box, draws), image_size)
        roll = draws.uniform(-1.0, 1.0, count).double() * torch.pi * (config.roll / 180)
        camera = virtual_camera(K, box, image_size, config.crop_size, config.pad, roll)
        T_virt_obj = camera.to_virtual(T_cam_obj)
        middle = (T_virt_obj[:, :3, :3] @ center[..., None])[..., 0] + T_virt_obj[:, :3, 3]
        meshes = self._choose_clutter(draws, part_index, config.clutter.occluders + config.clutter.others)
        placement = place_clutter(config.clutter, draws, meshes, camera, middle, radius, hiding)
        return _Scene(part_index, camera, T_virt_obj, placement.mesh_index, placement.T_virt_obj)

    def _source_cameras(self, draws: Draws, count: int) -> tuple[Float[Tensor, "count 3 3"], Float[Tensor, "count 2"]]:
        """K and image size of each sample's source image."""
        camera = self.config.camera
        if camera is not None:
            size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
            return camera.K.expand(count, 3, 3), size.expand(count, 2)
        size = torch.tensor([640.0, 480.0], dtype=torch.float64).expand(count, 2)
        K = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
        K[:, 0, 0] = K[:, 1, 1] = draws.log_uniform(*self.config.focal, count).double() * 640
        K[:, :2, 2] = (size - 1) / 2 + 8 * draws.normal(count, 2).clamp(-2, 2)
        return K, size

    def _choose_clutter(self, draws: Draws, part_index: Int[Tensor, "batch"], slots: int) -> Int[Tensor, "batch slots"]:
        """Shapes, and now and then another part, but never a second copy of the part itself."""
        count = len(part_index)
        shapes = draws.integers(self._shapes, count, slots)
        others = len(self._clutter) - self._shapes
        if others < 2:
            return shapes
        other = (part_index[:, None] + 1 + draws.integers(others - 1, count, slots)) % others
        return torch.where(draws.chance(0.3, count, slots), self._shapes + other, shapes)

    def _picture(self, scene: _Scene, draws: Draws) -> CropBatch:
        """Render, decide what hides what, paint, light, compose, disturb."""
        camera = scene.camera.to(self.device, torch.float32)
        size = camera.size
        target, clutter = self._render(scene, camera.K_virt, size)
        partial = reaches_outside(scene.camera).nonzero()[:, 0]
        cut = partial.to(self.device, non_blocking=True)
        valid = torch.ones(len(camera.box), 1, size, size, device=self.device)
        valid[cut] = coverage(scene.camera[partial], self.device)
        inside = target.mask & (valid[:, 0] >= 0.5)
        unit = self._normalized(target, scene.part_index)
        in_front, budget = self._front(target, clutter, inside)
        visible = inside & in_front
        blobs = self._blobs(draws, visible, budget)
        visible[blobs[0]] &= ~blobs[1]
        seen = compose(target, clutter, in_front, perturb_colors(target.colors, self.config.appearance, draws))
        image = self._light(seen, torch.where(in_front[:, None], unit, clutter.coordinates), scene.part_index, draws)
        image = self._backdrop(image, seen, blobs, draws)
        scale = scene.camera.K_virt[:, 0, 0] / scene.camera.K_cam[:, 0, 0]
        image = augment(image, scale, self.config.augmentation, draws)
        image[cut] = torch.full_like(image[cut], OUTSIDE_FILL).lerp(image[cut], valid[cut])
        unit[cut] *= inside[cut, None]
        truth = CropTruth(
            T_virt_obj=scene.T_virt_obj.float().to(self.device, non_blocking=True),
            mask_full=inside,
            mask_visible=visible,
            coordinates=unit,
        )
        return CropBatch(image, valid, camera, scene.part_index.to(self.device, non_blocking=True), truth)

    def _normalized(self, target: Rendering, part_index: Int[Tensor, "batch"]) -> Float[Tensor, "batch 3 r r"]:
        """Object coordinates of the part in the unit ball; 0 where it is not."""
        center, radius = self._center[part_index].float(), self._radius[part_index].float()
        factor = target.mask[:, None] * (1 / radius).to(self.device, non_blocking=True)[:, None, None, None]
        return (target.coordinates - center.to(self.device, non_blocking=True)[:, :, None, None]).mul_(factor)

    def _render(self, scene: _Scene, K: Float[Tensor, "batch 3 3"], size: int) -> tuple[Rendering, Rendering]:
        """The part alone, and everything else."""
        target = render(
            self._meshes, scene.part_index[:, None].to(self.device, non_blocking=True),
            scene.T_virt_obj[:, None].float().to(self.device, non_blocking=True), K, size, size,
        )  # fmt: skip
        index = scene.clutter_index.to(self.device, non_blocking=True)
        return target, render(
            self._clutter, index, scene.T_virt_clutter.float().to(self.device, non_blocking=True), K, size, size
        )

    def _front(
        self, target: Rendering, clutter: Rendering, inside: Bool[Tensor, "batch r r"]
    ) -> tuple[Bool[Tensor, "batch r r"], Int[Tensor, "batch"]]:
        """Where the part stands before the clutter, and how many more of its pixels may be hidden.

        What would hide too much is put behind the part, by painting it there.
        """
        clutter_config = self.config.clutter
        silhouette = target.mask.flatten(1).sum(1)
        budget = inside.flatten(1).sum(1) - (clutter_config.min_visibility * silhouette).ceil().long()
        covered = inside & clutter.mask & (clutter.depth < target.depth)
        slots = clutter_config.occluders + clutter_config.others
        index = torch.where(covered, clutter.slot, slots).flatten(1).long()
        hidden = torch.zeros(len(index), slots + 1, device=self.device)
        hidden = hidden.scatter_add_(1, index, torch.ones_like(index, dtype=hidden.dtype))[:, :slots].long()
        allowed = allowed_cover(hidden, budget)
        hides = torch.cat((allowed, allowed.new_zeros(len(allowed), 1)), dim=1).gather(1, index).view_as(inside)
        return target.mask & ~hides, budget - (hidden * allowed).sum(1)

    def _blobs(
        self, draws: Draws, visible: Bool[Tensor, "batch r r"], budget: Int[Tensor, "batch"]
    ) -> tuple[Int[Tensor, "n"], Bool[Tensor, "n r r"]]:
        """Rows that get a flat patch over the picture, and those patches (none that would hide too much)."""
        rows = draws.rows(self.config.clutter.blob_share, len(visible))
        patch = random_blobs(draws, len(rows), visible.shape[-1])
        hidden = (patch & visible[rows]).flatten(1).sum(1)
        return rows, patch & (hidden <= budget[rows])[:, None, None]

    def _light(
        self,
        seen: Rendering,
        coordinates: Float[Tensor, "batch 3 r r"],
        part_index: Int[Tensor, "batch"],
        draws: Draws,
    ) -> Float[Tensor, "batch 3 r r"]:
        """Paint and light a scene whose slot 0 is the part."""
        config = self.config.appearance
        count, slots = len(part_index), 1 + self.config.clutter.occluders + self.config.clutter.others
        recolored = draws.chance(0.9, count, slots)
        recolored[:, 0] = self._colorless[part_index] | draws.chance(config.recolored_share, count)
        albedo = paint(seen.colors, seen.slot, coordinates, recolored, self._pool, draws)
        return shade(seen, random_lights(config, draws, count), random_material(config, draws, count, slots), albedo)

    def _backdrop(
        self,
        image: Float[Tensor, "batch 3 r r"],
        seen: Rendering,
        blobs: tuple[Int[Tensor, "n"], Bool[Tensor, "n r r"]],
        draws: Draws,
    ) -> Float[Tensor, "batch 3 r r"]:
        """Put things before a background on which they cast soft shadows, patches over all, and soften the edges."""
        count, size = len(image), image.shape[-1]
        ground = self._pool.sample(draws, count, size)
        rows = draws.rows(0.4, count)
        if len(rows):
            strength = draws.uniform(0.2, 0.8, len(rows)).to(self.device, non_blocking=True)[:, None, None, None]
            ground[rows] *= 1 - strength * soft_shadow(seen.mask[rows], draws)
        image = torch.where(seen.mask[:, None], image, ground)
        rows, patch = blobs
        owner = seen.slot
        if len(rows):
            image[rows] = torch.where(patch[:, None], self._pool.sample(draws, len(rows), size), image[rows])
            owner[rows] = torch.where(patch, -2, owner[rows])
        return soften_edges(image, owner)


@dataclass(frozen=True)
class _Scene:
    """Cameras and poses of a batch, on the CPU in float64."""

    part_index: Int[Tensor, "batch"]
    camera: VirtualCamera
    T_virt_obj: Float[Tensor, "batch 4 4"]
    clutter_index: Int[Tensor, "batch m"]
    T_virt_clutter: Float[Tensor, "batch m 4 4"]

"""Endless synthetic crops: a part in a random pose, light and company, seen by its own crop camera.

Everything is rendered in the crop camera itself. A source camera and a pose are drawn, the part's box in the source
image is found and disturbed as a detector would, the virtual camera looks at that box, and the scene is rendered
there, so that image and ground truth agree exactly, and nothing larger than the crop is ever drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.data.appearance import paint, perturb_colors
from cad2pose.data.augmentation import augment
from cad2pose.data.backgrounds import BackgroundPool
from cad2pose.data.clutter import drawable_mesh
from cad2pose.data.compositing import compose, soft_shadow, soften_edges
from cad2pose.data.coverage import coverage, reaches_outside
from cad2pose.data.draws import Draws
from cad2pose.data.layout import Scene, SceneLayout
from cad2pose.data.lighting import light
from cad2pose.data.occluders import allowed_cover, random_blobs
from cad2pose.data.synthetic_config import SyntheticConfig
from cad2pose.geometry import VirtualCamera
from cad2pose.geometry.crop import OUTSIDE_FILL
from cad2pose.parts import Part
from cad2pose.rendering import MeshSet, Rendering, render
from cad2pose.structures import CropBatch, CropTruth


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
        meshes = [drawable_mesh(part) for part in parts]
        self._meshes = MeshSet.from_meshes(meshes).to(self.device)
        self._layout = SceneLayout(parts, config, seed)
        self._clutter = MeshSet.from_meshes(self._layout.clutter).to(self.device)
        self._everything = MeshSet.from_meshes(meshes + self._layout.clutter).to(self.device)
        self._pool = BackgroundPool(seed, self.device, config.pictures, config.backgrounds, config.photo_share)
        self._center = torch.stack([part.center for part in parts])
        self._radius = torch.tensor([part.radius for part in parts], dtype=torch.float64)
        self._colorless = torch.tensor([part.mesh.colors is None for part in parts])

    def batch(self, index: int, size: int, shown: Bool[Tensor, "size"] | None = None) -> CropBatch:
        """Batch number `index`, of `size` crops; parts take turns.

        Args:
            index: its number.
            size: of the batch.
            shown: `(size,)` False for crops that the part is left out of, as a detector that is mistaken gives them:
                something else stands in its place, or nothing. Their masks are empty and their poses NaN.
        """
        draws = Draws(self.seed, index, device=self.device)
        part_index = (index * size + torch.arange(size)) % len(self.parts)
        scene = self._scene(part_index, draws)
        if shown is not None and not bool(shown.all()):
            scene = self._layout.without(scene, ~shown, Draws(self.seed, index, 2))
        return self._picture(scene, draws)

    def batch_of(
        self,
        part_index: Int[Tensor, "batch"],
        camera: VirtualCamera,
        T_virt_obj: Float[Tensor, "batch 4 4"],
        index: int,
    ) -> CropBatch:
        """Crops of given parts in given poses (float64, mm, crop camera), everything else drawn as ever.

        Args:
            part_index: `(B,)`.
            camera: of the crops.
            T_virt_obj: `(B, 4, 4)`.
            index: another one, another picture.
        """
        draws = Draws(self.seed, index, 1, device=self.device)
        return self._picture(self._layout.scene_of(part_index, camera, T_virt_obj, draws), draws)

    def _scene(self, part_index: Int[Tensor, "batch"], draws: Draws) -> Scene:
        return self._layout.scene(part_index, draws)

    def _picture(self, scene: Scene, draws: Draws) -> CropBatch:
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
        in_front, budget = self._front(target, clutter, inside, scene.clutter_index.shape[1])
        visible = inside & in_front
        blobs = self._blobs(draws, visible, budget)
        visible[blobs[0]] &= ~blobs[1]
        seen = compose(target, clutter, in_front, perturb_colors(target.colors, self.config.appearance, draws))
        image = self._light(seen, torch.where(in_front[:, None], unit, clutter.coordinates), scene, draws)
        image = self._backdrop(image, seen, blobs, draws)
        scale = scene.camera.K_virt[:, 0, 0] / scene.camera.K_cam[:, 0, 0]
        image = augment(image, scale, self.config.augmentation, draws)
        image[cut] = torch.full_like(image[cut], OUTSIDE_FILL).lerp(image[cut], valid[cut])
        unit[cut] *= inside[cut, None]
        T_virt_obj = torch.where(scene.shown[:, None, None], scene.T_virt_obj.float(), torch.nan)
        truth = CropTruth(
            T_virt_obj=T_virt_obj.to(self.device, non_blocking=True),
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

    def _render(self, scene: Scene, K: Float[Tensor, "batch 3 3"], size: int) -> tuple[Rendering, Rendering]:
        """The part alone, and everything else."""
        target = render(
            self._meshes, scene.drawn[:, None].to(self.device, non_blocking=True),
            scene.T_virt_obj[:, None].float().to(self.device, non_blocking=True), K, size, size,
        )  # fmt: skip
        index = scene.clutter_index.to(self.device, non_blocking=True)
        return target, render(
            self._clutter, index, scene.T_virt_clutter.float().to(self.device, non_blocking=True), K, size, size
        )

    def _front(
        self, target: Rendering, clutter: Rendering, inside: Bool[Tensor, "batch r r"], slots: int
    ) -> tuple[Bool[Tensor, "batch r r"], Int[Tensor, "batch"]]:
        """Where the part stands before the clutter, and how many more of its pixels may be hidden.

        What would hide too much is put behind the part, by painting it there.
        """
        clutter_config = self.config.clutter
        silhouette = target.mask.flatten(1).sum(1)
        budget = inside.flatten(1).sum(1) - (clutter_config.min_visibility * silhouette).ceil().long()
        covered = inside & clutter.mask & (clutter.depth < target.depth)
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
        self, seen: Rendering, coordinates: Float[Tensor, "batch 3 r r"], scene: Scene, draws: Draws
    ) -> Float[Tensor, "batch 3 r r"]:
        """Paint and light a scene whose slot 0 is the part."""
        config = self.config.appearance
        count, slots = len(scene.part_index), 1 + scene.clutter_index.shape[1]
        recolored = draws.chance(0.9, count, slots)
        recolored[:, 0] = self._colorless[scene.part_index] | draws.chance(config.recolored_share, count)
        on_table = self.config.support.share > 0
        albedo = paint(seen.colors, seen.slot, coordinates, recolored, self._pool, draws, on_table)
        clutter = torch.where(scene.clutter_index >= 0, scene.clutter_index + len(self.parts), -1)
        index = torch.cat((scene.drawn[:, None], clutter), dim=1)
        transforms = torch.cat((scene.T_virt_obj[:, None], scene.T_virt_clutter), dim=1)
        radius = self._radius[scene.part_index].float()
        return light(
            seen, albedo, self._everything, index.to(self.device, non_blocking=True),
            transforms.float().to(self.device, non_blocking=True),
            scene.middle.float().to(self.device, non_blocking=True), radius.to(self.device, non_blocking=True),
            scene.up.float(), config, self._pool, draws,
        )  # fmt: skip

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

"""Where everything is: cameras, the part, the table under it, and what stands around, on the host in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.data.boxes import clip_box, projected_box
from cad2pose.data.clutter import coarse_copy, other_builtin_meshes, random_shapes, unit_sized
from cad2pose.data.draws import Draws
from cad2pose.data.occluders import draw_hiding, place_clutter
from cad2pose.data.support import Outlines, Support, place_support, settle, table_mesh
from cad2pose.data.synthetic_config import SyntheticConfig
from cad2pose.data.visible_box import VisibleBoxes
from cad2pose.geometry import (
    VirtualCamera,
    make_transform,
    project_points,
    rotate_transform,
    transform_points,
    virtual_camera,
)
from cad2pose.parts import Part
from cad2pose.parts.bounds import extreme_points, padded

_STAND_IN = 0.7  # of parts that are left out, how many have something else in their place


@dataclass(frozen=True)
class Scene:
    """Cameras and poses of a batch of crops.

    Args:
        part_index: `(B,)`.
        camera: of the crops.
        T_virt_obj: `(B, 4, 4)` of the parts.
        middle: `(B, 3)` their centres in the crop cameras, mm.
        clutter_index: `(B, m)` index into `SceneLayout.clutter`, -1 for none; occluders come first, the table is last.
        T_virt_clutter: `(B, m, 4, 4)` of those; rotations times sizes.
        up: `(B, 3)` normals of the tables in the crop cameras, zeros where there is none.
        shown: `(B,)` False where the part is left out of the picture.
    """

    part_index: Int[Tensor, "batch"]
    camera: VirtualCamera
    T_virt_obj: Float[Tensor, "batch 4 4"]
    middle: Float[Tensor, "batch 3"]
    clutter_index: Int[Tensor, "batch m"]
    T_virt_clutter: Float[Tensor, "batch m 4 4"]
    up: Float[Tensor, "batch 3"]
    shown: Bool[Tensor, "batch"]

    @property
    def drawn(self) -> Int[Tensor, "batch"]:
        """`part_index`, -1 where the part is left out."""
        return torch.where(self.shown, self.part_index, -1)

    def seen_by(self, camera: VirtualCamera) -> Scene:
        """The same seen by other crop cameras of the same source cameras."""
        turn = camera.R_virt_cam @ self.camera.R_virt_cam.transpose(1, 2)
        turns = turn[:, None].expand(-1, self.clutter_index.shape[1], -1, -1)
        middle, up = ((turn @ vector[..., None])[..., 0] for vector in (self.middle, self.up))
        return Scene(
            self.part_index, camera, rotate_transform(turn, self.T_virt_obj), middle, self.clutter_index,
            rotate_transform(turns, self.T_virt_clutter), up, self.shown,
        )  # fmt: skip


class SceneLayout:
    """Draws scenes.

    Args:
        parts: the method's.
        config: what crops are like.
        seed: of the shapes that stand around.

    Attributes:
        clutter: meshes of radius 1: random shapes, other parts, and the table.

    Raises:
        ValueError: for a part that the camera cannot see whole from any of the distances asked for.
    """

    def __init__(self, parts: Sequence[Part], config: SyntheticConfig, seed: int) -> None:
        self.config = config
        _check_views(parts, config)
        shapes = random_shapes(seed)
        others = [part.mesh for part in parts] + other_builtin_meshes(parts)
        self.clutter = [*shapes, *(unit_sized(coarse_copy(mesh)) for mesh in others), table_mesh()]
        self._shapes, self._others = len(shapes), len(others)
        self._center = torch.stack([part.center for part in parts])
        self._radius = torch.tensor([part.radius for part in parts], dtype=torch.float64)
        self._outline = padded([extreme_points(part.mesh.used_vertices) for part in parts])
        self._visible_boxes = VisibleBoxes(parts, self.clutter, config.clutter.min_visibility)
        self._part_outlines = Outlines([part.mesh for part in parts], self._center, resting=config.support.share > 0)
        self._clutter_outlines = Outlines(
            self.clutter, torch.zeros(len(self.clutter), 3, dtype=torch.float64), resting=config.support.share > 0
        )

    def scene(self, part_index: Int[Tensor, "batch"], draws: Draws) -> Scene:
        """Cameras and poses, on the CPU in float64."""
        count = len(part_index)
        config = self.config
        center, radius = self._center[part_index], self._radius[part_index]
        K, image_size = self._source_cameras(draws, count)
        T_cam_obj = config.prior.sample(draws, center, radius, K, image_size)
        whole = projected_box(self._outline[part_index], T_cam_obj, K)
        rows = draws.chance(config.box.visible_share, count).nonzero()[:, 0]
        box_draws = draws.apart()  # boxes err alike, whatever stands around
        box = clip_box(whole, image_size)
        around = virtual_camera(K, box, image_size, config.crop_size, config.pad)
        scene = self.scene_of(part_index, around, around.to_virtual(T_cam_obj), draws)
        others = slice(config.clutter.occluders + config.clutter.others)  # the table is the last
        box[rows] = self._visible_boxes(
            box[rows], around[rows], part_index[rows], scene.T_virt_obj[rows], scene.clutter_index[rows, others],
            scene.T_virt_clutter[rows, others],
        )  # fmt: skip
        return scene.seen_by(config.crop_camera(K, box, image_size, box_draws))

    def scene_of(
        self,
        part_index: Int[Tensor, "batch"],
        camera: VirtualCamera,
        T_virt_obj: Float[Tensor, "batch 4 4"],
        draws: Draws,
    ) -> Scene:
        """Given cameras and poses, with anything around them."""
        config, radius = self.config, self._radius[part_index]
        middle = (T_virt_obj[:, :3, :3] @ self._center[part_index, :, None])[..., 0] + T_virt_obj[:, :3, 3]
        meshes = self._choose_clutter(draws, part_index, config.clutter.occluders + config.clutter.others)
        hiding = draw_hiding(config.clutter, draws, len(part_index))
        rim = project_points(camera.K_virt, _before_camera(transform_points(T_virt_obj, self._outline[part_index])))
        rim = rim - project_points(camera.K_virt, _before_camera(middle[:, None]))
        outlines = self._clutter_outlines.points
        placed = place_clutter(config.clutter, draws, meshes, camera, middle, radius, hiding, rim, outlines)
        index, transforms, up = placed.mesh_index, placed.T_virt_obj, torch.zeros_like(middle)
        if config.support.share:
            support = place_support(config.support, draws, self._part_outlines, part_index, T_virt_obj, middle, radius)
            index, transforms = self._with_table(support, draws, index, transforms, radius)
            up = support.up * support.present[:, None]
        return Scene(part_index, camera, T_virt_obj, middle, index, transforms, up, torch.ones_like(part_index).bool())

    def without(self, scene: Scene, gone: Bool[Tensor, "batch"], draws: Draws) -> Scene:
        """The same with some parts left out; another thing of their size stands in for most of them."""
        index = self._choose_clutter(draws, scene.part_index, 1)
        index = torch.where(gone[:, None] & draws.chance(_STAND_IN, len(gone), 1), index, -1)
        size = self._radius[scene.part_index, None, None]
        transforms = make_transform(scene.T_virt_obj[:, :3, :3] * size, scene.middle)[:, None]
        first = self.config.clutter.occluders
        return replace(
            scene, shown=scene.shown & ~gone,
            clutter_index=torch.cat((scene.clutter_index[:, :first], index, scene.clutter_index[:, first:]), dim=1),
            T_virt_clutter=torch.cat(
                (scene.T_virt_clutter[:, :first], transforms, scene.T_virt_clutter[:, first:]), dim=1
            ),
        )  # fmt: skip

    def _with_table(
        self,
        support: Support,
        draws: Draws,
        index: Int[Tensor, "batch m"],
        transforms: Float[Tensor, "batch m 4 4"],
        radius: Float[Tensor, "batch"],
    ) -> tuple[Int[Tensor, "batch m1"], Float[Tensor, "batch m1 4 4"]]:
        """Everything that does not stand before the part settled on the table, and the table itself."""
        first = self.config.clutter.occluders
        settled = settle(
            support, draws, self.config.support, self._clutter_outlines, index[:, first:], transforms[:, first:], radius
        )
        table = torch.where(support.present, len(self.clutter) - 1, -1)
        transforms = torch.cat((transforms[:, :first], settled, support.transform()[:, None]), dim=1)
        return torch.cat((index, table[:, None]), dim=1), transforms

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
        if self._others < 2:
            return shapes
        other = (part_index[:, None] + 1 + draws.integers(self._others - 1, count, slots)) % self._others
        return torch.where(draws.chance(0.3, count, slots), self._shapes + other, shapes)


def _before_camera(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Points that can be projected: those behind the camera plane are put before it."""
    return torch.cat((points[..., :2], points[..., 2:].clamp_min(1.0)), dim=-1)


def _check_views(parts: Sequence[Part], config: SyntheticConfig) -> None:
    distance = config.prior.distance
    if distance is None:
        return
    camera = config.camera
    # width of the image in focal lengths; without a camera that of the widest one drawn
    width = 1 / config.focal[0] if camera is None else max(camera.width, camera.height) / float(camera.K[0, 0])
    for part in parts:
        needed = part.diameter / width
        if distance[1] < needed:
            raise ValueError(
                f"{part.name} is {part.diameter:.4g} mm long, and the camera cannot see it whole from "
                f"{distance[1]:.4g} mm or nearer; let it see the part from {needed:.4g} mm or farther, or check the "
                "units of the mesh"
            )

"""Where everything is: cameras, the part, the table under it, and what stands around, on the host in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.data.boxes import cut_box, extreme_points, projected_box
from cad2pose.data.clutter import coarse_copy, random_shapes, unit_sized
from cad2pose.data.draws import Draws
from cad2pose.data.occluders import Hiding, draw_hiding, place_clutter
from cad2pose.data.support import Outlines, Support, place_support, settle, table_mesh
from cad2pose.data.synthetic_config import SyntheticConfig
from cad2pose.geometry import VirtualCamera
from cad2pose.parts import BUILTIN_PARTS, Part, builtin_part


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
    """

    part_index: Int[Tensor, "batch"]
    camera: VirtualCamera
    T_virt_obj: Float[Tensor, "batch 4 4"]
    middle: Float[Tensor, "batch 3"]
    clutter_index: Int[Tensor, "batch m"]
    T_virt_clutter: Float[Tensor, "batch m 4 4"]
    up: Float[Tensor, "batch 3"]


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
        names = {part.name for part in parts}
        others = [part.mesh for part in parts] + [builtin_part(n).mesh for n in BUILTIN_PARTS if n not in names]
        self.clutter = [*shapes, *(unit_sized(coarse_copy(mesh)) for mesh in others), table_mesh()]
        self._shapes, self._others = len(shapes), len(others)
        self._center = torch.stack([part.center for part in parts])
        self._radius = torch.tensor([part.radius for part in parts], dtype=torch.float64)
        outlines = [extreme_points(part.mesh.used_vertices) for part in parts]
        longest = max(map(len, outlines))
        self._outline = torch.stack([o[torch.arange(longest).clamp_max(len(o) - 1)] for o in outlines])
        self._part_outlines = Outlines([part.mesh for part in parts], self._center)
        self._clutter_outlines = Outlines(self.clutter, torch.zeros(len(self.clutter), 3, dtype=torch.float64))

    def scene(self, part_index: Int[Tensor, "batch"], draws: Draws) -> Scene:
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
        camera = config.crop_camera(K, box, image_size, draws)
        return self._furnished(part_index, camera, camera.to_virtual(T_cam_obj), hiding, draws)

    def scene_of(
        self,
        part_index: Int[Tensor, "batch"],
        camera: VirtualCamera,
        T_virt_obj: Float[Tensor, "batch 4 4"],
        draws: Draws,
    ) -> Scene:
        """Given cameras and poses, with anything around them."""
        hiding = draw_hiding(self.config.clutter, draws, len(part_index))
        return self._furnished(part_index, camera, T_virt_obj, hiding, draws)

    def _furnished(
        self,
        part_index: Int[Tensor, "batch"],
        camera: VirtualCamera,
        T_virt_obj: Float[Tensor, "batch 4 4"],
        hiding: Hiding,
        draws: Draws,
    ) -> Scene:
        config, radius = self.config, self._radius[part_index]
        middle = (T_virt_obj[:, :3, :3] @ self._center[part_index, :, None])[..., 0] + T_virt_obj[:, :3, 3]
        meshes = self._choose_clutter(draws, part_index, config.clutter.occluders + config.clutter.others)
        placed = place_clutter(config.clutter, draws, meshes, camera, middle, radius, hiding)
        index, transforms, up = placed.mesh_index, placed.T_virt_obj, torch.zeros_like(middle)
        if config.support.share:
            support = place_support(config.support, draws, self._part_outlines, part_index, T_virt_obj, middle, radius)
            index, transforms = self._with_table(support, draws, index, transforms, radius)
            up = support.up * support.present[:, None]
        return Scene(part_index, camera, T_virt_obj, middle, index, transforms, up)

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

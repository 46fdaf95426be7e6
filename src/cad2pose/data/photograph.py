"""From a rendered scene of several parts to a whole photograph of it: paint, light, ground, the camera's effects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.data.appearance import AppearanceConfig, paint, perturb_colors
from cad2pose.data.augmentation import augment
from cad2pose.data.augmentation_config import AugmentationConfig
from cad2pose.data.backgrounds import BackgroundPool
from cad2pose.data.compositing import soft_shadow, soften_edges
from cad2pose.data.draws import Draws
from cad2pose.data.lighting import light
from cad2pose.rendering import MeshSet, Rendering

_UNDER_THINGS = 0.6  # how much of the ground's light the things before it take


@dataclass(frozen=True)
class Placed:
    """What stands in a picture; the first N of m things are parts.

    Args:
        meshes: of everything.
        index: `(m,)` which of them.
        transforms: `(m, 4, 4)` where, from the mesh files' frames to the camera's, mm.
        center: `(N, 3)` of the parts, in their files' frames, mm.
        radius: `(N,)` of the parts, mm.
        up: `(3,)` normal of the table, the last thing, in the camera frame; zeros where there is none.
    """

    meshes: MeshSet
    index: Int[Tensor, "m"]
    transforms: Float[Tensor, "m 4 4"]
    center: Float[Tensor, "n 3"]
    radius: Float[Tensor, "n"]
    up: Float[Tensor, "3"]

    def sphere(self) -> tuple[Float[Tensor, "3"], Float[Tensor, ""]]:
        """Middle of the parts in the camera frame, and how far around it light is looked after, mm."""
        T = self.transforms[: len(self.center)]
        middle = (T[:, :3, :3] @ self.center[..., None])[..., 0] + T[:, :3, 3]
        return middle.mean(0), (middle - middle.mean(0)).norm(dim=-1).max() / 2 + self.radius.max()


def photograph(
    scene: Rendering,
    placed: Placed,
    recolored: Bool[Tensor, "m"],
    looks: AppearanceConfig,
    effects: AugmentationConfig,
    pool: BackgroundPool,
    draws: Draws,
) -> Float[Tensor, "3 h w"]:
    """The picture of a rendered scene, RGB in [0, 1].

    Args:
        scene: one scene, rendered of what is placed.
        placed: what that is.
        recolored: things that get a random colour in place of their own.
        looks: light and colours.
        effects: of the camera.
        pool: pictures for the ground, textures and reflections.
        draws: random numbers.
    """
    count, side = len(placed.center), scene.mask.shape[-1]
    is_part = (scene.slot >= 0) & (scene.slot < count)
    own = torch.where(is_part[:, None], perturb_colors(scene.colors, looks, draws), scene.colors)
    frames = torch.zeros(len(placed.index) + 1, 4)  # centre and 1 / radius; slot -1 finds the first row
    frames[:, 3] = 1
    frames[1 : count + 1, :3], frames[1 : count + 1, 3] = placed.center.float(), 1 / placed.radius.float()
    looked_up = frames[scene.slot.long() + 1].movedim(-1, 1)
    unit = (scene.coordinates - looked_up[:, :3]) * looked_up[:, 3:]
    albedo = paint(own, scene.slot, unit, recolored[None], pool, draws, bool(placed.up.any()))
    middle, reach = placed.sphere()
    image = light(
        scene, albedo, placed.meshes, placed.index[None], placed.transforms[None].float(), middle[None].float(),
        reach[None].float(), placed.up[None].float(), looks, pool, draws,
    )  # fmt: skip
    ground = pool.sample(draws, 1, side) * (1 - _UNDER_THINGS * soft_shadow(scene.mask, draws))
    image = soften_edges(torch.where(scene.mask[:, None], image, ground), scene.slot)
    return augment(image, torch.ones(1), effects, draws)[0]

"""Light on a composed scene: what shines, what stands in its way, what shiny surfaces show."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from cad2pose.data.appearance import AppearanceConfig, random_lights, random_material
from cad2pose.data.backgrounds import BackgroundPool
from cad2pose.data.draws import Draws
from cad2pose.rendering import MeshSet, Rendering, openness, shade, shadows, to_display, to_linear
from cad2pose.rendering.shading import mirror_directions

_SCENE = 2.6  # radii of the part around it in which shadows are cast
_NEAR = 0.8  # radii within which things shade each other
_COARSE = 16  # pixels over which what rough surfaces reflect is averaged


def light(
    seen: Rendering,
    albedo: Float[Tensor, "batch 3 r r"],
    meshes: MeshSet,
    mesh_index: Int[Tensor, "batch m"],
    T_virt_obj: Float[Tensor, "batch m 4 4"],
    middle: Float[Tensor, "batch 3"],
    radius: Float[Tensor, "batch"],
    up: Float[Tensor, "batch 3"],
    config: AppearanceConfig,
    pool: BackgroundPool,
    draws: Draws,
) -> Float[Tensor, "batch 3 r r"]:
    """The scene's display values in [0, 1], 0 where there is nothing.

    Args:
        seen: what is in front.
        albedo: its colours as display values.
        meshes: all meshes that cast shadows.
        mesh_index: `(B, m)` which of them stand in the scene, -1 for none; on the device, as all that follow but `up`.
        T_virt_obj: `(B, m, 4, 4)` where.
        middle: `(B, 3)` centres of the parts, mm.
        radius: `(B,)` of the parts, mm.
        up: `(B, 3)` normals of the tables on the host, zeros where there is none.
        config: how light strays.
        pool: pictures to be reflected.
        draws: random numbers.
    """
    count, slots = len(albedo), mesh_index.shape[1]
    lights = random_lights(config, draws, count, up)
    material = random_material(config, draws, count, slots)
    arriving = None
    rows = draws.rows(config.shadow_share, count)
    if len(rows):
        arriving = torch.ones(count, lights.sharpness.shape[1], *seen.depth.shape[1:], device=albedo.device)
        spread = (2 / lights.sharpness[rows, 0]).sqrt().clamp_max(0.6)
        arriving[rows, 0] = shadows(
            meshes, mesh_index[rows], T_virt_obj[rows], _rows(seen, rows), lights.directions[rows, 0], spread,
            middle[rows], _SCENE * radius[rows], seen.depth.shape[-1],
        )  # fmt: skip
    free = None
    rows = draws.rows(config.openness_share, count)
    if len(rows):
        free = torch.ones_like(seen.depth)
        free[rows] = openness(_rows(seen, rows), _NEAR * radius[rows])
    around = None
    rows = draws.rows(config.mirror_share, count)
    if len(rows):
        around = torch.ones_like(albedo)
        around[rows] = _mirrored(_rows(seen, rows), material.roughness[rows], pool, draws)
    return to_display(shade(seen, lights, material, to_linear(albedo), arriving, free, around))


def _rows(seen: Rendering, rows: Int[Tensor, "n"]) -> Rendering:
    return Rendering(*(getattr(seen, name)[rows] for name in Rendering.__dataclass_fields__))


def _mirrored(
    seen: Rendering, roughness: Float[Tensor, "n m"], pool: BackgroundPool, draws: Draws
) -> Float[Tensor, "n 3 r r"]:
    """Pictures wrapped around each scene, as the surfaces show them, with mean 1; rough surfaces blur them."""
    direction = mirror_directions(seen)
    place = (direction[:, :2] / (1 + direction[:, 2:].abs())).movedim(1, -1)
    picture = to_linear(pool.choose(draws, len(place)) / 255)
    picture = picture / picture.mean(dim=(1, 2, 3), keepdim=True).clamp_min(0.02)
    coarse = interpolate(avg_pool2d(picture, _COARSE), size=picture.shape[2:], mode="bilinear", align_corners=False)
    both = grid_sample(torch.cat((picture, coarse), dim=1), place, padding_mode="reflection", align_corners=False)
    sharp, blurred = both.split(3, dim=1)
    slot = seen.slot.flatten(1).long().clamp_min(0)
    rough = roughness.gather(1, slot).view_as(seen.slot)[:, None]
    return sharp.lerp(blurred.lerp(torch.ones_like(blurred), rough.square()), (2.5 * rough).clamp_max(1))

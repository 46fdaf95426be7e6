"""Light, material and colour of everything in a scene, around the CAD model's own where it has any."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from cad2pose.data.backgrounds import BackgroundPool
from cad2pose.data.color import hue_rotation, saturation_matrix, tone_curve, transform_colors
from cad2pose.data.draws import Draws
from cad2pose.rendering.shading import Lights, Material


@dataclass(frozen=True)
class AppearanceConfig:
    """How far light and colours stray. A share of 0 turns an ingredient off.

    Attributes:
        hue: standard deviation of the turn of a part's own hues, rad.
        saturation: largest change of its saturation.
        brightness: largest factor by which it is lighter or darker, minus 1.
        tint: largest change of each channel.
        tone: largest bend of its middle tones.
        recolored_share: share of samples whose part has random colours although the CAD model has some.
        lights: most lights beside that from everywhere.
        roughness: smoothest and roughest surface (see `Material`).
        metallic_share: share of things that are of metal.
        shadow_share: share of samples whose first light casts shadows.
        openness_share: share of samples in which near things keep the light from everywhere from each other.
        mirror_share: share of samples whose surfaces reflect a picture in place of an even sky.
    """

    hue: float = 0.06
    saturation: float = 0.25
    brightness: float = 0.3
    tint: float = 0.1
    tone: float = 0.25
    recolored_share: float = 0.025
    lights: int = 3
    roughness: tuple[float, float] = (0.15, 1.0)
    metallic_share: float = 0.2
    shadow_share: float = 0.8
    openness_share: float = 0.8
    mirror_share: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "roughness" and (value < 0 or (field.name.endswith("share") and value > 1)):
                raise ValueError(f"{field.name} is {value}; it must not be negative, and a share at most 1")
        if self.saturation > 1 or self.tint >= 1 or self.tone >= 1 or self.lights < 1:
            raise ValueError(f"{self}: saturation, tint and tone are at most 1; at least one light is needed")
        if not 0.05 <= self.roughness[0] <= self.roughness[1] <= 1:
            raise ValueError(f"roughness is {self.roughness}; give smoothest, roughest within [0.05, 1]")

    @classmethod
    def modest(cls) -> AppearanceConfig:
        """Colours near the model's own, plain light; for evaluation, in another style than training's."""
        plain = cls.plain()
        return replace(plain, hue=0.04, saturation=0.2, brightness=0.2, tint=0.08, tone=0.2, recolored_share=0.0)

    @classmethod
    def plain(cls) -> AppearanceConfig:
        """No metal, no shadow, nothing reflected: what simple renderers give."""
        return cls(roughness=(0.4, 1.0), metallic_share=0.0, shadow_share=0.0, openness_share=0.0, mirror_share=0.0)


def random_lights(
    config: AppearanceConfig, draws: Draws, count: int, up: Float[Tensor, "count 3"] | None = None
) -> Lights:
    """Light from everywhere and one to `lights` lobes, mostly from the camera's side; on the device.

    The first is the smallest, from the sun to a window; others are up to half the sky.

    Args:
        config: how many.
        draws: random numbers.
        count: of samples.
        up: `(count, 3)` normals of tables in the camera frame, below which no light is; zeros where there is none.
    """
    shape = (count, config.lights)
    direction = draws.normal(*shape, 3)
    front = draws.chance(0.85, *shape)
    z = torch.where(front, -direction[..., 2].abs(), direction[..., 2])
    direction = normalize(torch.cat((direction[..., :2], z[..., None]), dim=-1), dim=-1)
    if up is not None:
        height = (direction * up[:, None]).sum(-1, keepdim=True)
        raised = direction + up[:, None] * (draws.uniform(0.15, 0.9, *shape)[..., None] - height).clamp_min(0)
        direction = normalize(torch.where(height < 0.15, raised, direction), dim=-1)
    shown = draws.chance(0.5, *shape)
    shown[:, 0] = True
    strength = draws.log_uniform(0.15, 1.5, *shape) * shown / shown.sum(dim=1, keepdim=True).sqrt()
    color = 1 + 0.12 * draws.normal(*shape, 3).clamp(-2, 2)
    ambient = draws.log_uniform(0.1, 0.8, count, 1) * (1 + 0.08 * draws.normal(count, 3).clamp(-2, 2))
    sharpness = draws.log_uniform(1.0, 60.0, *shape)
    sharpness[:, 0] = draws.log_uniform(8.0, 3000.0, count)
    sharpness = torch.minimum(sharpness, sharpness[:, :1])
    parts = (ambient, direction, strength[..., None] * color, sharpness)
    return Lights(*(part.to(draws.device, non_blocking=True) for part in parts))


def random_material(config: AppearanceConfig, draws: Draws, count: int, slots: int) -> Material:
    """From mirror-like metal to matt plastic; on the device."""
    low, high = config.roughness
    roughness = low + (high - low) * draws.uniform(0.0, 1.0, count, slots).sqrt()
    metallic = draws.chance(config.metallic_share, count, slots).float() * draws.uniform(0.7, 1.0, count, slots)
    reflectance = draws.log_uniform(0.02, 0.08, count, slots)
    return Material(*(part.to(draws.device, non_blocking=True) for part in (roughness, metallic, reflectance)))


def perturb_colors(
    colors: Float[Tensor, "batch 3 h w"], config: AppearanceConfig, draws: Draws
) -> Float[Tensor, "batch 3 h w"]:
    """A part's own colours, each sample's changed as a whole."""
    count = len(colors)
    factor = 1 + draws.uniform(-config.saturation, config.saturation, count)
    matrix = hue_rotation(config.hue * draws.normal(count).clamp(-2.5, 2.5)) @ saturation_matrix(factor)
    gain = draws.log_uniform(1 / (1 + config.brightness), 1 + config.brightness, count)
    tint = 1 + draws.uniform(-config.tint, config.tint, count, 3)
    matrix = matrix * (gain[:, None] * tint)[:, :, None]
    offset = draws.uniform(-0.1, 0.1, count, 1).expand(-1, 3) * min(1.0, config.brightness)
    changed = transform_colors(
        colors, matrix.to(draws.device, non_blocking=True), offset.to(draws.device, non_blocking=True)
    ).clamp_(0, 1)
    return tone_curve(changed, draws.uniform(-config.tone, config.tone, count).to(draws.device, non_blocking=True))


def random_slot_colors(draws: Draws, count: int, slots: int) -> Float[Tensor, "count slots 3"]:
    """Colours of things without any: from gray to vivid, dark to light."""
    gray = draws.uniform(0.05, 1.0, count, slots, 1)
    vivid = draws.uniform(0.0, 1.0, count, slots, 3)
    return torch.lerp(gray.expand(-1, -1, 3), vivid, draws.uniform(0.0, 1.0, count, slots, 1).square())


def paint(
    own: Float[Tensor, "batch 3 h w"],
    slot: Int[Tensor, "batch h w"],
    coordinates: Float[Tensor, "batch 3 h w"],
    recolored: Bool[Tensor, "batch slots"],
    pool: BackgroundPool,
    draws: Draws,
    on_table: bool = False,
) -> Float[Tensor, "batch 3 h w"]:
    """Albedo of a scene: own colours, or for recoloured slots a random colour, partly with a picture's texture.

    Args:
        own: `(B, 3, h, w)` colours that the meshes bring.
        slot: `(B, h, w)` what is seen, -1 for nothing.
        coordinates: `(B, 3, h, w)` object coordinates in [-1, 1], which the texture is laid out by.
        recolored: `(B, slots)` on the CPU.
        pool: pictures for textures.
        draws: random numbers.
        on_table: the last slot is a table: mostly texture.
    """
    count, slots = recolored.shape
    share = draws.uniform(0.0, 1.2, count, slots).clamp_max(1) * draws.chance(0.75, count, slots)
    if on_table:
        recolored = torch.cat((recolored[:, :-1], torch.ones_like(recolored[:, -1:])), dim=1)
        share[:, -1] = draws.uniform(0.0, 1.6, count).clamp_max(1)
    table = torch.cat(
        (random_slot_colors(draws, count, slots), (share * recolored)[..., None], recolored.float()[..., None]), -1
    )
    table = torch.cat((torch.zeros(count, 1, 5), table), dim=1).to(
        draws.device, non_blocking=True
    )  # slot -1 finds the first row
    index = (slot.flatten(1) + 1).long()[:, None].expand(-1, 5, -1)
    looked_up = table.transpose(1, 2).gather(2, index).view(count, 5, *slot.shape[1:])
    plane = draws.normal(count, 2, 3) * draws.log_uniform(0.3, 3.0, count, 1, 1)
    place = (
        torch.bmm(plane.to(draws.device, non_blocking=True), coordinates.flatten(2))
        .transpose(1, 2)
        .view(*slot.shape, 2)
    )
    texture = grid_sample(pool.choose(draws, count), place, padding_mode="reflection", align_corners=False)
    return own.lerp(looked_up[:, :3].lerp(texture.div_(255), looked_up[:, 3:4]), looked_up[:, 4:])

"""Light on rendered surfaces: Lambert's diffuse term and Blinn-Phong highlights, as a few batched products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.rendering.render import Rendering


@dataclass(frozen=True)
class Lights:
    """Ambient light and L distant lights per image. Intensities are linear; 1 shows a surface facing it in its colour.

    Args:
        ambient: `(B, 3)` RGB.
        directions: `(B, L, 3)` unit vectors in the camera frame, pointing to the light.
        intensities: `(B, L, 3)` RGB.
    """

    ambient: Float[Tensor, "b 3"]
    directions: Float[Tensor, "b l 3"]
    intensities: Float[Tensor, "b l 3"]


@dataclass(frozen=True)
class Material:
    """How the surface in each slot shines.

    Args:
        specular: `(B, M)` weight of the highlight, which has the light's colour; 0 is matt.
        shininess: `(B, M)` exponent of the highlight, larger is smaller and sharper; must be positive.
    """

    specular: Float[Tensor, "b m"]
    shininess: Float[Tensor, "b m"]


def shade(
    rendering: Rendering, lights: Lights, material: Material, colors: Float[Tensor, "b 3 h w"] | None = None
) -> Float[Tensor, "b 3 h w"]:
    """RGB pictures in [0, 1] of rendered scenes, black where there is nothing; no shadows.

    With normal n, light l, its intensity I, and h halfway between l and the direction to the camera (Blinn 1977):
    color * ambient + sum I max(0, n.l) (color + specular * max(0, n.h)^shininess).

    Args:
        rendering: from `render`.
        lights: in the camera frame.
        material: per slot.
        colors: surface colours to use in place of the rendering's own.
    """
    surface = rendering.colors if colors is None else colors
    facing = _dot(lights.directions, rendering.normals).clamp_(min=0)
    highlight = _highlight(rendering, lights.directions, facing, material)
    intensities = lights.intensities.transpose(1, 2)
    diffuse = torch.baddbmm(lights.ambient[:, :, None], intensities, facing.flatten(2)).view_as(surface)
    specular = torch.bmm(intensities, highlight.flatten(2)).view_as(surface)
    image = torch.addcmul(specular, surface, diffuse).clamp_(0, 1)
    return image.masked_fill_(~rendering.mask[:, None], 0)


def _dot(directions: Float[Tensor, "b l 3"], maps: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l h w"]:
    return torch.bmm(directions, maps.flatten(2)).unflatten(2, maps.shape[2:])


def _highlight(
    rendering: Rendering, directions: Float[Tensor, "b l 3"], facing: Float[Tensor, "b l h w"], material: Material
) -> Float[Tensor, "b l h w"]:
    """specular * max(0, n.h)^shininess * max(0, n.l), where h = (l - ray) / |l - ray| and the ray is unit.

    (n.h)^2 is (n.l - n.ray)^2 / (2 - 2 l.ray), so no square root is needed. Exponents below -20 would cost exp its
    speed (denormal numbers) and show nothing.
    """
    ray = _view_rays(rendering.K, *rendering.depth.shape[1:])
    leaving = (rendering.normals * ray).sum(1, keepdim=True)
    square = (facing - leaving).square_() / (2 - 2 * _dot(directions, ray)).clamp_(min=1e-6)
    exponent = square.clamp_(min=1e-12, max=1).log_().mul_(0.5 * _per_pixel(material.shininess, rendering))
    return exponent.clamp_(min=-20).exp_().mul_(facing).mul_(_per_pixel(material.specular, rendering))


def _per_pixel(values: Float[Tensor, "b m"], rendering: Rendering) -> Float[Tensor, "b 1 _ _"]:
    """Each pixel's slot's value; what pixels without a slot get is never seen."""
    if values.shape[1] == 1:
        return values[:, :, None, None]
    slot = rendering.slot.flatten(1).long().clamp_(min=0)
    return values.gather(1, slot).view_as(rendering.slot)[:, None]


def _view_rays(K: Float[Tensor, "b 3 3"], height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """Unit vectors from the camera through the pixels."""
    u = torch.arange(width, dtype=K.dtype, device=K.device)
    v = torch.arange(height, dtype=K.dtype, device=K.device)[:, None]
    fx, skew, cx, fy, cy = (K[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
    y = (v - cy) / fy
    x = (u - cx - skew * y) / fx
    scale = torch.rsqrt(1 + x * x + y * y)
    return torch.stack((x * scale, y * scale, scale), dim=1)

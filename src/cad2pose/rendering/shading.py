"""Light on rendered surfaces: microfacet materials under spherical Gaussian lights, as a few batched products.

Everything here is linear light: colours given are linear, pictures returned are linear and may exceed 1. What cameras
write and screens show is close to the square root of it (`to_display`, `to_linear`).

A light is a lobe of radiance around a direction (a von Mises-Fisher density), from half the sky to the sun. Reflection
is Lambert's for the body of a material and GGX with Smith's shadowing and Schlick's Fresnel term for its surface
(Walter et al. 2007; Schlick 1994), widened by the light's own width; the diffuse light of a lobe is the cosine's
Legendre series (Ramamoorthi and Hanrahan 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.rendering.render import Rendering


@dataclass(frozen=True)
class Lights:
    """Light from everywhere and L lobes per image.

    Args:
        ambient: `(B, 3)` radiance from everywhere; 1 shows matt surfaces in their colour.
        directions: `(B, L, 3)` unit vectors in the camera frame, pointing to the middle of each lobe.
        intensities: `(B, L, 3)` RGB; 1 from a small light shows matt surfaces that face it in their colour.
        sharpness: `(B, L)` of the lobes, at least 0.5: radiance falls with exp(sharpness (cos - 1)). A disc of angular
            radius r has about 2 / r^2.
    """

    ambient: Float[Tensor, "b 3"]
    directions: Float[Tensor, "b l 3"]
    intensities: Float[Tensor, "b l 3"]
    sharpness: Float[Tensor, "b l"]


@dataclass(frozen=True)
class Material:
    """What the surface in each slot is like.

    Args:
        roughness: `(B, M)` from 0.05, a mirror nearly, to 1; the square root of GGX's width.
        metallic: `(B, M)` 0 for plastics and paint, 1 for metals, whose reflection has their colour.
        reflectance: `(B, M)` share that a surface that is not metallic reflects head on, 0.04 for most.
    """

    roughness: Float[Tensor, "b m"]
    metallic: Float[Tensor, "b m"]
    reflectance: Float[Tensor, "b m"]


def shade(
    rendering: Rendering,
    lights: Lights,
    material: Material,
    colors: Float[Tensor, "b 3 h w"] | None = None,
    arriving: Float[Tensor, "b l h w"] | None = None,
    openness: Float[Tensor, "b h w"] | None = None,
    surroundings: Float[Tensor, "b 3 h w"] | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """Linear radiance of rendered scenes, 0 where there is nothing.

    Args:
        rendering: from `render`.
        lights: in the camera frame.
        material: per slot.
        colors: linear surface colours to use in place of the rendering's own.
        arriving: share of each light that reaches the surface (`shadows`); all of it by default.
        openness: share of the light from everywhere that does (`openness`); all of it by default.
        surroundings: what the surface reflects where no light is, relative to the ambient light; 1 by default.
    """
    surface = rendering.colors if colors is None else colors
    stacked = torch.stack((material.roughness, material.metallic, material.reflectance), dim=1)
    roughness, metallic, dielectric = _per_pixel(stacked, rendering).split(1, dim=1)
    rays = view_rays(rendering.K, *rendering.depth.shape[1:])
    facing = -(rendering.normals * rays).sum(1, keepdim=True).clamp(max=-1e-3)
    width = roughness.square()
    unhidden = _shadowing(facing, width)
    ambient = lights.ambient[:, :, None, None]
    if openness is not None:
        ambient = ambient * openness[:, None]
    diffuse = ambient
    specular = ambient * unhidden
    if surroundings is not None:
        specular = specular * surroundings
    for index in range(lights.sharpness.shape[1]):
        direction = lights.directions[:, index, None]
        cosine = _dot(direction, rendering.normals)
        sharpness = lights.sharpness[:, index]
        received = _diffuse(cosine, sharpness)
        shine = _highlight(cosine, facing, -_dot(direction, rays), sharpness, width) * _shadowing(received, width)
        if arriving is not None:
            received, shine = received * arriving[:, index, None], shine * arriving[:, index, None]
        intensity = lights.intensities[:, index, :, None, None]
        diffuse = torch.addcmul(diffuse, intensity, received)
        specular = torch.addcmul(specular, intensity, shine)
    head_on = torch.lerp(dielectric.expand_as(surface), surface, metallic)
    fresnel = head_on + (1 - head_on) * (1 - facing).square().square() * (1 - facing)
    body = surface * ((1 - metallic) * (1 - dielectric))
    image = body * diffuse + fresnel * unhidden * specular
    return image.masked_fill_(~rendering.mask[:, None], 0)


def to_linear(shown: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Displayed values in [0, 1] as linear light: their square (sRGB's curve is within 0.03 of it)."""
    return shown.square()


def to_display(linear: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Linear light as displayed values in [0, 1]; what is brighter than white is white."""
    return linear.clamp(0, 1).sqrt()


def mirror_directions(rendering: Rendering) -> Float[Tensor, "b 3 h w"]:
    """Unit vectors in the camera frame to what a mirror in place of the surface would show."""
    rays = view_rays(rendering.K, *rendering.depth.shape[1:])
    return rays - 2 * (rendering.normals * rays).sum(1, keepdim=True) * rendering.normals


def view_rays(K: Float[Tensor, "b 3 3"], height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """Unit vectors from the camera through the pixels."""
    u = torch.arange(width, dtype=K.dtype, device=K.device)
    v = torch.arange(height, dtype=K.dtype, device=K.device)[:, None]
    fx, skew, cx, fy, cy = (K[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
    y = (v - cy) / fy
    x = (u - cx - skew * y) / fx
    scale = torch.rsqrt(1 + x * x + y * y)
    return torch.stack((x * scale, y * scale, scale), dim=1)


def _diffuse(cosine: Float[Tensor, "b 1 h w"], sharpness: Float[Tensor, "b"]) -> Float[Tensor, "b 1 h w"]:
    """Mean of max(0, n.d) over a lobe whose axis has this cosine with n, to the fourth degree.

    The terms of the clamped cosine are 1/4, 1/2, 5/16 and -3/32; each is smoothed by the lobe's mean Legendre
    polynomials, which come from a recursion beginning with coth(s) - 1/s.
    """
    s = sharpness.double()
    first = 1 / torch.tanh(s) - 1 / s
    second = 1 - 3 * first / s
    third = first - 5 * second / s
    fourth = second - 7 * third / s
    # P2 = (3 x^2 - 1) / 2 and P4 = (35 x^4 - 30 x^2 + 3) / 8, gathered by powers of x
    a, b, c = 0.5 * first, 5 / 16 * second, -3 / 32 * fourth
    powers = torch.stack((0.25 - b / 2 + 3 / 8 * c, a, 1.5 * b - 30 / 8 * c, 35 / 8 * c), dim=1)
    zeroth, linear, square, quartic = powers.to(cosine.dtype)[:, :, None, None, None].unbind(1)
    squared = cosine.square()
    return (zeroth + linear * cosine + squared * (square + quartic * squared)).clamp_(min=0)


def _highlight(
    cosine: Float[Tensor, "b 1 h w"],
    facing: Float[Tensor, "b 1 h w"],
    toward: Float[Tensor, "b 1 h w"],
    sharpness: Float[Tensor, "b"],
    width: Float[Tensor, "b 1 _ _"],
) -> Float[Tensor, "b 1 h w"]:
    """GGX's density of facets that mirror a light into the camera, over 4 n.v, for a light of intensity 1.

    With h halfway between light and view, (n.h)^2 is (n.l + n.v)^2 / (2 + 2 l.v). A wider light is a rougher surface:
    halfway directions move by half of the light's own, so its variance, 1 / (2 sharpness h.v), adds to GGX's.

    Args:
        cosine: n.l of the light's middle.
        facing: n.v.
        toward: l.v.
        sharpness: of the light.
        width: GGX's.
    """
    double = (2 + 2 * toward).clamp_(min=1e-4)
    square = (cosine + facing).clamp_(min=0).square_() / double
    wide = width.square() + 1 / (sharpness[:, None, None, None] * double.sqrt())
    return wide / ((square.clamp_(max=1) * (wide - 1) + 1).square_() * (4 * facing))


def _shadowing(cosine: Float[Tensor, "b 1 h w"], width: Float[Tensor, "b 1 _ _"]) -> Float[Tensor, "b 1 h w"]:
    """Smith's term in Schlick's form, with half of GGX's width: the share of facets that others do not hide."""
    k = 0.5 * width
    return cosine / (cosine * (1 - k) + k)


def _dot(directions: Float[Tensor, "b 1 3"], maps: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    return torch.bmm(directions, maps.flatten(2)).unflatten(2, maps.shape[2:])


def _per_pixel(values: Float[Tensor, "b k m"], rendering: Rendering) -> Float[Tensor, "b k _ _"]:
    """Each pixel's slot's values; what pixels without a slot get is never seen."""
    if values.shape[2] == 1:
        return values[..., None]
    slot = rendering.slot.flatten(1).long().clamp_(min=0)[:, None].expand(-1, values.shape[1], -1)
    return values.gather(2, slot).unflatten(2, rendering.slot.shape[1:])

"""Shading against its integral, worked out over the whole sphere of directions, pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cad2pose.rendering import Lights, Material, Rendering, shade, to_display, to_linear
from cad2pose.rendering.shading import mirror_directions


def planted(generator: torch.Generator, batch: int = 2, slots: int = 3, height: int = 9, width: int = 11) -> Rendering:
    """A rendering of nothing in particular: random normals towards the camera, colours, and slots."""
    slot = torch.randint(-1, slots, (batch, height, width), generator=generator).int()
    mask = slot >= 0
    normals = torch.randn(batch, 3, height, width, generator=generator)
    normals = normalize(normals - torch.tensor([0.0, 0.0, 3.0])[:, None, None], dim=1) * mask[:, None]
    colors = torch.rand(batch, 3, height, width, generator=generator) * mask[:, None]
    K = torch.tensor([[10.0, 0.5, 5.2], [0, 12, 3.9], [0, 0, 1]]).repeat(batch, 1, 1)
    return Rendering(mask * 100.0, slot, mask, torch.zeros_like(normals), normals, colors, K)


def lights_of(generator: torch.Generator, batch: int = 2, count: int = 2, sharpness: float = 20.0) -> Lights:
    directions = torch.randn(batch, count, 3, generator=generator) - torch.tensor([0.0, 0.0, 2.0])
    intensities = torch.rand(batch, count, 3, generator=generator)
    ambient = 0.3 * torch.rand(batch, 3, generator=generator)
    return Lights(ambient, normalize(directions, dim=-1), intensities, torch.full((batch, count), sharpness))


def material_of(roughness: float, metallic: float = 0.0, slots: int = 3, batch: int = 2) -> Material:
    values = (roughness, metallic, 0.04)
    return Material(*(torch.full((batch, slots), value) for value in values))


def sphere(count: int) -> Tensor:
    """Directions evenly over the sphere."""
    index = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * index + 1) / count
    angle = math.pi * (1 + 5**0.5) * index
    side = (1 - z * z).sqrt()
    return torch.stack((side * angle.cos(), side * angle.sin(), z), dim=-1)


def integral(rendering: Rendering, lights: Lights, material: Material, b: int, y: int, x: int) -> Tensor:
    """Light from everywhere times the reflectance (Lambert and GGX), summed over directions."""
    count = 60_000
    d = sphere(count)
    n = rendering.normals[b, :, y, x].double()
    view = -normalize(torch.linalg.solve(rendering.K[b], torch.tensor([x, y, 1.0])), dim=0).double()
    slot = int(rendering.slot[b, y, x])
    roughness, metallic, dielectric = (
        float(getattr(material, name)[b, slot]) for name in ("roughness", "metallic", "reflectance")
    )
    color = rendering.colors[b, :, y, x].double()
    radiance = lights.ambient[b].double().expand(count, 3).clone()
    for axis, intensity, sharp in zip(lights.directions[b], lights.intensities[b], lights.sharpness[b], strict=True):
        peak = float(sharp) / (2 * (1 - math.exp(-2 * float(sharp))))
        lobe = peak * torch.exp(float(sharp) * (d @ axis.double() - 1))
        radiance += lobe[:, None] * intensity.double()
    nl, nv = (d @ n).clamp(min=0), float(view @ n)
    halfway = normalize(d + view, dim=-1)
    nh, vh = (halfway @ n).clamp(min=0), (halfway @ view).clamp(min=0)
    width = roughness**2
    facets = width**2 / (math.pi * (nh.square() * (width**2 - 1) + 1).square())
    k = width / 2
    hidden = 1 / ((nl * (1 - k) + k) * (nv * (1 - k) + k))  # Smith's term over n.l n.v
    head_on = dielectric + (color - dielectric) * metallic
    fresnel = head_on + (1 - head_on) * ((1 - vh) ** 5)[:, None]
    reflected = fresnel * (facets * hidden / 4)[:, None]
    body = color * (1 - metallic) * (1 - dielectric) / math.pi
    return 4 * math.pi * ((body + reflected) * radiance * nl[:, None]).mean(0)


@pytest.mark.parametrize("sharpness", [2.0, 20.0, 300.0])
@pytest.mark.parametrize(("roughness", "metallic"), [(1.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.3, 1.0)])
def test_shading_is_near_its_integral(generator, sharpness, roughness, metallic):
    rendering, lights = planted(generator), lights_of(generator, sharpness=sharpness)
    material = material_of(roughness, metallic)
    image = shade(rendering, lights, material)
    wrong, size = [], []
    for b, y, x in rendering.mask.nonzero()[::15].tolist():
        expected = integral(rendering, lights, material, b, y, x)
        wrong.append(float((image[b, :, y, x].double() - expected).norm()))
        size.append(float(expected.norm()))
    assert sum(wrong) / sum(size) < (0.16 if metallic else 0.1)


def test_ambient_light_alone_shows_matt_colors(generator):
    rendering = planted(generator)
    lights = replace(lights_of(generator), ambient=torch.full((2, 3), 0.5), intensities=torch.zeros(2, 2, 3))
    matt = Material(torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3))
    image = shade(rendering, lights, matt)
    assert bool((image >= 0.5 * rendering.colors - 1e-6).all())
    straight = -rendering.normals[:, 2] > 0.95
    assert (image - 0.5 * rendering.colors).movedim(1, -1)[straight & rendering.mask].max() < 0.01


def test_a_light_behind_the_surface_adds_nothing(generator):
    rendering = planted(generator)
    rendering = replace(rendering, normals=torch.tensor([0.0, 0, -1])[:, None, None].expand(2, 3, 9, 11))
    lights = Lights(
        torch.zeros(2, 3), torch.tensor([0.0, 0.6, 0.8]).repeat(2, 1, 1), torch.ones(2, 1, 3), torch.full((2, 1), 500.0)
    )
    assert shade(rendering, lights, material_of(0.5)).max() < 0.02


def test_what_does_not_arrive_is_not_seen(generator):
    rendering, lights = planted(generator), lights_of(generator)
    material = material_of(0.4, 0.5)
    arriving, open_share = torch.rand(2, 2, 9, 11, generator=generator), torch.rand(2, 9, 11, generator=generator)
    dark = replace(lights, ambient=torch.zeros(2, 3))
    first = replace(dark, intensities=dark.intensities * torch.tensor([1.0, 0])[:, None])
    second = replace(dark, intensities=dark.intensities * torch.tensor([0.0, 1])[:, None])
    ambient = replace(lights, intensities=torch.zeros(2, 2, 3))
    pairs = ((arriving[:, 0], first), (arriving[:, 1], second), (open_share, ambient))
    expected = torch.stack([share[:, None] * shade(rendering, light, material) for share, light in pairs]).sum(0)
    image = shade(rendering, lights, material, arriving=arriving, openness=open_share)
    assert torch.allclose(image, expected, atol=1e-5)


def test_metals_reflect_their_surroundings_in_their_colour(generator):
    rendering = planted(generator)
    lights = replace(lights_of(generator), ambient=torch.ones(2, 3), intensities=torch.zeros(2, 2, 3))
    surroundings = torch.rand(2, 3, 9, 11, generator=generator)
    metal = material_of(0.2, 1.0)
    image = shade(rendering, lights, metal, surroundings=surroundings)
    assert torch.allclose(image, surroundings * shade(rendering, lights, metal), atol=1e-6)


def test_mirrors_obey_the_law_of_reflection(generator):
    rendering = planted(generator)
    mirrored = mirror_directions(rendering).movedim(1, -1)[rendering.mask]
    normals = rendering.normals.movedim(1, -1)[rendering.mask]
    v, u = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    pixels = torch.stack((u, v, torch.ones_like(u)), dim=-1)
    rays = normalize(torch.linalg.solve(rendering.K[0], pixels[..., None])[..., 0], dim=-1)
    rays = rays.expand(2, -1, -1, -1)[rendering.mask]
    assert torch.allclose((mirrored * normals).sum(-1), -(rays * normals).sum(-1), atol=1e-5)
    assert torch.allclose(mirrored.norm(dim=-1), torch.ones(len(mirrored)), atol=1e-5)


def test_other_colors_may_be_given_and_show_on_the_surface_only(generator):
    rendering, lights = planted(generator), lights_of(generator)
    white = torch.ones_like(rendering.colors)
    image = shade(rendering, lights, material_of(0.5), colors=white)
    again = shade(replace(rendering, colors=white), lights, material_of(0.5))
    assert torch.equal(image, again)
    assert not bool(image.movedim(1, -1)[~rendering.mask].any())


@pytest.mark.parametrize("roughness", [0.05, 1.0])
def test_shading_stays_finite(generator, roughness):
    rendering, lights = planted(generator), lights_of(generator, sharpness=5000.0)
    image = shade(rendering, lights, material_of(roughness, 1.0))
    assert bool(torch.isfinite(image).all())
    assert image.min() >= 0


def test_display_values_are_the_root_of_linear_light():
    values = torch.tensor([0.0, 0.25, 1.0, 4.0])
    assert to_display(values).tolist() == [0.0, 0.5, 1.0, 1.0]
    assert to_linear(to_display(values[:3])).tolist() == values[:3].tolist()

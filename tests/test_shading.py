from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cad2pose.rendering import Lights, Material, Rendering, shade


def planted(generator: torch.Generator, batch: int = 2, slots: int = 3, height: int = 9, width: int = 11) -> Rendering:
    """A rendering of nothing in particular: random normals towards the camera, colours, and slots."""
    slot = torch.randint(-1, slots, (batch, height, width), generator=generator).int()
    mask = slot >= 0
    normals = torch.randn(batch, 3, height, width, generator=generator)
    normals = normalize(normals - torch.tensor([0.0, 0.0, 2.0])[:, None, None], dim=1) * mask[:, None]
    colors = torch.rand(batch, 3, height, width, generator=generator) * mask[:, None]
    K = torch.tensor([[10.0, 0.5, 5.2], [0, 12, 3.9], [0, 0, 1]]).repeat(batch, 1, 1)
    return Rendering(mask * 100.0, slot, mask, torch.zeros_like(normals), normals, colors, K)


def lights_of(generator: torch.Generator, batch: int = 2, count: int = 2) -> Lights:
    directions = torch.randn(batch, count, 3, generator=generator) - torch.tensor([0.0, 0.0, 1.0])
    intensities = torch.rand(batch, count, 3, generator=generator)
    return Lights(0.3 * torch.rand(batch, 3, generator=generator), normalize(directions, dim=-1), intensities)


def matt(rendering: Rendering, slots: int = 3) -> Material:
    return Material(torch.zeros(len(rendering.slot), slots), torch.ones(len(rendering.slot), slots))


def shade_pixel(rendering: Rendering, lights: Lights, material: Material, b: int, y: int, x: int) -> Tensor:
    """The two formulas written out for one pixel."""
    if not rendering.mask[b, y, x]:
        return torch.zeros(3)
    slot, normal = int(rendering.slot[b, y, x]), rendering.normals[b, :, y, x]
    view = -normalize(torch.linalg.solve(rendering.K[b], torch.tensor([x, y, 1.0])), dim=0)
    color = rendering.colors[b, :, y, x]
    total = color * lights.ambient[b]
    for light, intensity in zip(lights.directions[b], lights.intensities[b], strict=True):
        halfway = normalize(light + view, dim=0)
        highlight = (normal @ halfway).clamp(min=0) ** material.shininess[b, slot]
        total = total + intensity * (normal @ light).clamp(min=0) * (color + material.specular[b, slot] * highlight)
    return total.clamp(0, 1)


@pytest.mark.parametrize("slots", [1, 3])
def test_shading_is_its_formula_at_every_pixel(generator, slots):
    rendering, lights = planted(generator, slots=slots), lights_of(generator)
    material = Material(torch.rand(2, slots, generator=generator), 1 + 40 * torch.rand(2, slots, generator=generator))
    image = shade(rendering, lights, material)
    for b in range(2):
        for y in range(9):
            for x in range(11):
                expected = shade_pixel(rendering, lights, material, b, y, x)
                assert torch.allclose(image[b, :, y, x], expected, atol=1e-5), (b, y, x)


def test_ambient_light_alone_shows_the_colors(generator):
    rendering = planted(generator)
    lights = Lights(torch.full((2, 3), 0.5), torch.tensor([0.0, 0, -1]).repeat(2, 1, 1), torch.zeros(2, 1, 3))
    assert torch.allclose(shade(rendering, lights, matt(rendering)), 0.5 * rendering.colors)


def test_a_light_behind_the_surface_adds_nothing(generator):
    rendering = planted(generator)
    rendering = replace(rendering, normals=torch.tensor([0.0, 0, -1])[:, None, None].expand(2, 3, 9, 11))
    lights = Lights(torch.zeros(2, 3), torch.tensor([0.0, 0.6, 0.8]).repeat(2, 1, 1), torch.ones(2, 1, 3))
    shiny = Material(torch.ones(2, 3), torch.ones(2, 3))
    assert not bool(shade(rendering, lights, shiny).any())


def test_other_colors_may_be_given_and_show_on_the_surface_only(generator):
    rendering, lights = planted(generator), lights_of(generator)
    white = torch.ones_like(rendering.colors)
    image = shade(rendering, lights, matt(rendering), colors=white)
    again = shade(replace(rendering, colors=white), lights, matt(rendering))
    assert torch.equal(image, again)
    assert not bool(image.movedim(1, -1)[~rendering.mask].any())
    assert image.min() >= 0
    assert image.max() <= 1


def test_sharp_highlights_stay_finite(generator):
    rendering, lights = planted(generator), lights_of(generator)
    image = shade(rendering, lights, Material(torch.ones(2, 3), torch.full((2, 3), 1e4)))
    assert bool(torch.isfinite(image).all())

"""Lens, colour filter and processing of a camera: what each keeps and what it changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from cad2pose.data.sensor import demosaic, disc_kernels, equalised, filtered, mosaic, vignette


@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_colour_filter_lets_one_colour_through_and_green_twice(phase):
    seen = mosaic(torch.ones(1, 3, 6, 8), torch.tensor([phase]))
    assert torch.equal(seen.sum(1), torch.ones(1, 6, 8))
    assert seen.mean((0, 2, 3)).tolist() == [0.25, 0.5, 0.25]
    assert seen[0, 0, phase[0], phase[1]] == 1


def test_even_pictures_and_slopes_survive_the_colour_filter(generator):
    colour = torch.rand(2, 3, 1, 1, generator=generator).expand(-1, -1, 9, 12)
    phase = torch.tensor([[0, 1], [1, 0]])
    assert torch.allclose(demosaic(mosaic(colour, phase)), colour, atol=1e-6)
    slope = torch.arange(12.0).expand(2, 3, 9, 12) / 12
    assert torch.allclose(demosaic(mosaic(slope, phase))[..., 1:-1], slope[..., 1:-1], atol=1e-6)


def test_filling_in_is_that_of_opencv_inside(generator):
    image = torch.rand(1, 3, 12, 14, generator=generator)
    raw = (mosaic(image, torch.tensor([[0, 0]])).sum(1)[0] * 255).round()
    theirs = cv2.cvtColor(raw.byte().numpy(), cv2.COLOR_BayerRGGB2RGB).astype(np.float32)
    ours = demosaic(mosaic((raw / 255).expand(1, 3, -1, -1), torch.tensor([[0, 0]])))[0] * 255
    difference = np.abs(ours.permute(1, 2, 0).numpy() - theirs)[2:-2, 2:-2]
    assert difference.max() <= 1.0


def test_discs_have_unit_sums_and_their_radius():
    kernels = disc_kernels(torch.tensor([0.0, 1.0, 3.0]), 9)
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(3))
    assert kernels[0, 4, 4] == 1
    inside = (kernels[2] > 0).sum()
    assert abs(float(inside) - np.pi * 3.5**2) < 6
    image = torch.zeros(3, 3, 21, 21)
    image[:, :, 10, 10] = 1
    assert torch.allclose(filtered(image, kernels)[:, 0, 6:15, 6:15], kernels)


def test_vignettes_darken_away_from_the_middle():
    dark = vignette(torch.ones(1, 3, 40, 40), torch.tensor([[0.5, 0.5]]), torch.tensor([1.0]))
    assert dark[0, 0, 20, 20] > 0.999
    assert abs(float(dark[0, 0, 0, 0]) - (1 - 0.125)) < 0.01
    assert torch.equal(vignette(dark, torch.zeros(1, 2), torch.zeros(1)), dark)


def test_equalisation_spreads_what_is_crowded(generator):
    image = 0.4 + 0.1 * torch.rand(1, 1, 64, 64, generator=generator).expand(-1, 3, -1, -1)
    strong = equalised(image, torch.tensor([40.0]))
    assert strong.std() > 4 * image.std()
    mild = equalised(image, torch.tensor([0.5]))
    assert mild.std() < strong.std() / 2
    order = image[0, 0, 8:16, 8:16].flatten().argsort()
    assert bool((strong[0, 0, 8:16, 8:16].flatten()[order].diff() > -0.12).all()), "brighter stays brighter, nearly"


def test_a_limit_of_zero_changes_nothing(generator):
    image = torch.rand(2, 3, 48, 48, generator=generator) * 0.7 + 0.15
    assert (equalised(image, torch.zeros(2)) - image).abs().max() < 0.03

from __future__ import annotations

import pytest
import torch

from cad2pose.pictures import score_map_picture
from cad2pose.pictures.colour_maps import diverging, heat

LUMA = torch.tensor([0.2126, 0.7152, 0.0722])


def map_of(picture, rows, columns):
    """Colours at the cells' centres, the bar left out."""
    height = picture.shape[1]
    width = height * columns // rows
    v = ((torch.arange(rows) + 0.5) * height / rows).long()
    u = ((torch.arange(columns) + 0.5) * width / columns).long()
    return picture[:, v][:, :, u]


def test_zero_is_neutral_and_the_signs_are_blue_and_vermilion():
    cells = map_of(score_map_picture(torch.tensor([[0.0, -1.0], [1.0, -4.0]]), limit=2.0, width=200), 2, 2)
    assert float(cells[:, 0, 0].std()) < 1e-3
    assert cells[2, 0, 1] > cells[0, 0, 1] + 0.3
    assert cells[0, 1, 0] > cells[2, 1, 0] + 0.3
    torch.testing.assert_close(cells[:, 1, 1], diverging(torch.tensor(-1.0)), atol=0.005, rtol=0)


def test_without_a_limit_the_largest_score_gets_the_full_colour():
    values = torch.tensor([[0.5, -3.0, 1.0]])
    cells = map_of(score_map_picture(values, width=300), 1, 3)
    torch.testing.assert_close(cells[:, 0, 1], diverging(torch.tensor(-1.0)), atol=0.005, rtol=0)
    torch.testing.assert_close(cells[:, 0, 2], diverging(torch.tensor(1 / 3)), atol=0.02, rtol=0)
    assert map_of(score_map_picture(torch.zeros(4, 4)), 4, 4).std() < 1e-3


@pytest.mark.parametrize(("rows", "columns", "width"), [(24, 24, 320), (3, 40, 200), (1, 1, 96)])
def test_the_picture_is_as_wide_as_asked_for_and_holds_a_bar(rows, columns, width):
    picture = score_map_picture(torch.ones(rows, columns), width=width)
    assert picture.shape[2] == width
    pixels = picture.flatten(1).T
    for end in diverging(torch.tensor([-0.98, 0.98])):
        assert float((pixels - end).abs().amax(1).min()) < 0.15


def test_the_heat_grows_lighter_all_the_way():
    lightness = heat(torch.linspace(0, 1, 200)) @ LUMA
    assert float(lightness.diff().min()) >= -0.002
    assert float(lightness[-1] - lightness[0]) > 0.6


def test_the_diverging_colours_darken_alike_and_differ_for_colour_blind_eyes():
    share = torch.linspace(0, 1, 100)
    above, below = diverging(share), diverging(-share)
    assert float((above @ LUMA - below @ LUMA).abs().max()) < 0.1
    assert float((above @ LUMA).diff().max()) <= 0.002
    assert float((below @ LUMA).diff().max()) <= 0.002
    yellow_blue = (above - below) @ torch.tensor([0.45, 0.55, -1.0])  # all that red-green blindness leaves of hue
    assert float(yellow_blue[30:].min()) > 0.2


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="1 of 4 numbers of the score map"):
        score_map_picture(torch.tensor([[0.0, torch.nan], [1.0, 2.0]]))
    with pytest.raises(ValueError, match="limit of the colours is -1"):
        score_map_picture(torch.zeros(2, 2), limit=-1.0)
    with pytest.raises(ValueError, match="at least one pixel"):
        score_map_picture(torch.zeros(0, 3))

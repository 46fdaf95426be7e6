from __future__ import annotations

import pytest
import torch

from cad2pose.geometry import make_transform
from cad2pose.parts import Part, sample_surface
from cad2pose.parts.mesh import Mesh
from cad2pose.pictures import distribution_picture, distribution_views, most_certain_pixel, pixel_distribution
from cad2pose.pictures.colour_maps import heat

SIZE = 48
K = torch.tensor([[100.0, 0, 23.5], [0, 100.0, 23.5], [0, 0, 1]])
AHEAD = make_transform(torch.eye(3).double(), torch.tensor([0.0, 0, 200]).double())
# Faces of a cube in front of the camera, by the direction that they look in.
SIDES = {"right": (0, 1), "left": (0, -1), "below": (1, 1), "above": (1, -1), "behind": (2, 1), "front": (2, -1)}


def cube(half=20.0):
    corners = torch.cartesian_prod(*3 * [torch.tensor([-half, half])]).double()
    squares = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([triangle for a, b, c, d in squares for triangle in ((a, b, c), (a, c, d))])
    return Part.from_mesh("cube", Mesh.from_arrays(corners, faces))


def keyed_cube():
    """A cube whose faces have one key each."""
    part = cube()
    points = sample_surface(part.mesh, 900).points
    keys = torch.stack([(side * points[:, axis] > 19.99).float() for axis, side in SIDES.values()], dim=1)
    return part, points, keys


def glow(picture):
    """Share of the pixels with heat, which has colour, where gray has none."""
    return float((picture.amax(0) - picture.amin(0) > 0.2).float().mean())


def test_probabilities_are_the_softmax_and_stand_any_length():
    keys, query = torch.randn(40, 5), torch.randn(5)
    p = pixel_distribution(query, keys)
    assert p.dtype == torch.float64
    torch.testing.assert_close(p, torch.exp(keys @ query).double() / torch.exp(keys @ query).double().sum())
    far = pixel_distribution(1e5 * query, keys)
    assert bool(torch.isfinite(far).all())
    torch.testing.assert_close(far.sum(), torch.tensor(1.0).double())
    torch.testing.assert_close(pixel_distribution(torch.zeros(5), keys), torch.full((40,), 1 / 40).double())


def test_the_most_certain_pixel_is_the_longest_query_in_the_mask():
    queries, mask = torch.zeros(3, 4, 5), torch.zeros(4, 5)
    queries[:, 1, 3], queries[:, 2, 4], queries[:, 0, 0] = 2.0, 1.0, 9.0
    mask[1:3, 3:] = 0.6
    assert most_certain_pixel(queries, mask) == (1, 3)
    with pytest.raises(ValueError, match="no pixel of at least one half, its largest is 0.3"):
        most_certain_pixel(queries, mask / 2)


@pytest.mark.parametrize(
    ("name", "view"),
    [("right", (90.0, 0.0)), ("left", (-90.0, 0.0)), ("above", (0.0, 89.0)), ("below", (0.0, -89.0)),
     ("behind", (180.0, 0.0)), ("front", (0.0, 0.0))],
)  # fmt: skip
def test_every_view_shows_the_side_that_it_names(name, view):
    part, points, keys = keyed_cube()
    query = 30 * torch.eye(6)[list(SIDES).index(name)]
    opposite = (view[0] + 180, -view[1])
    seen, hidden = distribution_views(part, points, keys, query, AHEAD, K, SIZE, [view, opposite])
    assert glow(seen) > 0.1
    assert glow(hidden) < 0.02


def test_equivalent_spots_glow_alike():
    part, points, keys = keyed_cube()
    query = torch.zeros(6)
    query[:2] = 30
    right, left = distribution_views(part, points, keys, query, AHEAD, K, SIZE, [(90.0, 0.0), (-90.0, 0.0)])
    assert glow(right) > 0.1
    assert glow(right) == pytest.approx(glow(left), abs=0.02)


def test_the_default_views_hide_no_side_and_cut_nothing_off():
    part, points, keys = keyed_cube()
    best = torch.zeros(6)
    for index in range(6):
        pictures = distribution_views(part, points, keys, 30 * torch.eye(6)[index], AHEAD, K, SIZE)
        best[index] = max(map(glow, pictures))
        ground = pictures[0][:, 0, 0]
        for picture in pictures:
            border = torch.cat((picture[:, 0], picture[:, -1], picture[..., 0], picture[..., -1]), dim=1)
            torch.testing.assert_close(border, ground[:, None].expand_as(border))
    assert float(best.min()) > 0.03


def test_a_logarithmic_scale_shows_what_a_linear_one_hides():
    part, points, keys = keyed_cube()
    query = torch.zeros(6)
    query[1], query[0] = 10.0, 10 - 3 * 2.302585  # the right side has a thousandth of the left side's density
    views = [(90.0, 0.0)]
    shown = [
        glow(distribution_views(part, points, keys, query, AHEAD, K, SIZE, views, decades)[0])
        for decades in (None, 2, 5)
    ]
    assert shown[:2] == pytest.approx([0, 0], abs=0.02)
    assert shown[2] > 0.1


def test_the_picture_holds_all_views_and_the_scale():
    part, points, keys = keyed_cube()
    for decades in (None, 3):
        picture = distribution_picture(part, points, keys, torch.zeros(6), AHEAD, K, SIZE, decades=decades)
        assert picture.shape[2] > 3 * SIZE + 20
        bar = picture[:, :, 3 * SIZE + 20 :].flatten(1).T
        for end in heat(torch.tensor([0.02, 0.98])):
            assert float((bar - end).abs().amax(1).min()) < 0.03


def test_bad_input_is_named():
    part, points, keys = keyed_cube()
    with pytest.raises(ValueError, match="have 5 dimensions and the keys 6"):
        pixel_distribution(torch.zeros(5), keys)
    with pytest.raises(ValueError, match="not finite"):
        pixel_distribution(torch.full((6,), torch.nan), keys)
    with pytest.raises(ValueError, match="900 points and 10 keys"):
        distribution_views(part, points, keys[:10], torch.zeros(6), AHEAD, K, SIZE)
    with pytest.raises(ValueError, match="decades is 0"):
        distribution_views(part, points, keys, torch.zeros(6), AHEAD, K, SIZE, decades=0)

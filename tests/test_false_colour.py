from __future__ import annotations

import pytest
import torch

from cad2pose.geometry import make_transform, random_rotations
from cad2pose.parts import sample_surface
from cad2pose.pictures import embedding_colours, key_picture, query_picture
from cad2pose.rendering import MeshSet, render
from small_models import wedge

K = torch.tensor([[80.0, 0, 31.5], [0, 80.0, 31.5], [0, 0, 1]])


def spread_points(count=600):
    return sample_surface(wedge().mesh, count).points


def clusters(count=4, dimension=6, each=150):
    """Points in clumps far apart, every clump with a key of its own."""
    keys = 2 * torch.eye(dimension)[:count].repeat_interleave(each, 0)
    points = 100.0 * torch.eye(dimension)[:count, :3].repeat_interleave(each, 0) + torch.randn(count * each, 3)
    return points, keys


def test_equal_keys_give_equal_colours_every_time():
    points = spread_points()
    keys = torch.randn(len(points), 12)
    first, second = embedding_colours(points, keys), embedding_colours(points, keys.clone())
    torch.testing.assert_close(first.of(keys), second.of(keys), atol=0, rtol=0)
    assert float(first.axes.gather(1, first.axes.abs().argmax(1, keepdim=True)).min()) > 0


def test_colours_spread_and_an_outlier_does_not_spoil_them():
    points = spread_points()
    keys = torch.randn(len(points), 12)
    keys[0] = 1000.0
    for palette in (embedding_colours(points, torch.randn(len(points), 12)), embedding_colours(points, keys)):
        colours = palette.of(palette.smooth_keys)
        assert float(colours.min()) >= 0
        assert float(colours.max()) <= 1
        assert (colours[1:].std(0) > 0.1).all()


@pytest.mark.parametrize("length", [15.0, 60.0])
def test_a_query_gets_the_colour_of_the_points_that_it_means(length):
    points, keys = clusters()
    palette = embedding_colours(points, keys)
    queries = length * torch.eye(6)[:4]
    torch.testing.assert_close(palette.of_queries(queries), palette.of(2 * torch.eye(6)[:4]), atol=1e-3, rtol=0)
    distance = torch.cdist(palette.of_queries(queries), palette.of_queries(queries)) + torch.eye(4)
    assert float(distance.min()) > 0.15


def test_a_query_that_fits_everywhere_gets_the_colour_of_the_mean():
    points, keys = clusters()
    palette = embedding_colours(points, keys)
    torch.testing.assert_close(palette.of_queries(torch.zeros(2, 6)), palette.of(keys.mean(0).expand(2, -1)))


@pytest.mark.parametrize("dimension", [1, 2, 12])
def test_keys_that_do_not_differ_are_neutral(dimension):
    points = spread_points(300)
    keys = (0.1 + torch.arange(dimension, dtype=torch.float32)).expand(300, -1)
    assert embedding_colours(points, keys).of(keys).unique().numel() == 1
    few = embedding_colours(points, torch.linspace(-1, 1, 300)[:, None])
    assert not few.axes[1:].any()
    assert float(few.of(torch.tensor([[-1.0], [1.0]])).mean(1).diff()) != 0


def test_the_mask_darkens_and_takes_the_colour_away():
    points, keys = clusters()
    palette = embedding_colours(points, keys)
    queries = 30 * torch.eye(6)[:4].T.reshape(6, 1, 4)
    picture = query_picture(queries, torch.tensor([[1.0, 0.5, 0.0, 1.0]]), palette)
    colours = palette.of_queries(queries.movedim(0, -1)).movedim(-1, 0)
    torch.testing.assert_close(picture[:, 0, [0, 3]], colours[:, 0, [0, 3]])
    assert float(picture[:, 0, 2].std()) < 1e-6
    assert float(picture[:, 0, 2].max()) < 0.25
    assert float(picture[:, 0, 1].mean()) < float(colours[:, 0, 1].mean())


def test_the_part_is_painted_with_its_keys_where_it_stands():
    part = wedge()
    points = sample_surface(part.mesh, 1500).points
    keys = part.normalize(points).float()  # keys that are coordinates: every pixel's is known
    palette = embedding_colours(points, keys)
    rotation = random_rotations(1, torch.Generator().manual_seed(3), torch.float64)[0]
    T_cam_obj = make_transform(rotation, torch.tensor([2.0, -3.0, 120.0]).double() - rotation @ part.center)
    picture = key_picture(part, palette, T_cam_obj, K, 64)
    seen = render(
        MeshSet.from_meshes([part.mesh]), torch.zeros(1, 1, dtype=torch.int64), T_cam_obj[None, None], K[None], 64, 64
    )
    mask = seen.mask[0]
    inner = torch.nn.functional.avg_pool2d(mask[None].float(), 5, 1, 2)[0] == 1
    outer = torch.nn.functional.max_pool2d(mask[None].float(), 5, 1, 2)[0] == 0
    assert int(inner.sum()) > 100
    assert picture[:, outer].unique().numel() == 1
    light = 0.8 + 0.2 * seen.normals[0, 2][inner].abs()
    expected = palette.of(part.normalize(seen.coordinates[0][:, inner].T)).T * light
    assert float((picture[:, inner] - expected).abs().quantile(0.9)) < 0.08


def test_bad_input_is_named():
    points = spread_points(50)
    keys = torch.randn(50, 12)
    palette = embedding_colours(points, keys)
    with pytest.raises(ValueError, match="queries have 10 dimensions and the keys 12"):
        palette.of_queries(torch.zeros(3, 10))
    with pytest.raises(ValueError, match="50 points and 49 keys"):
        embedding_colours(points, keys[:49])
    with pytest.raises(ValueError, match="at least one surface point"):
        embedding_colours(points[:0], keys[:0])
    with pytest.raises(ValueError, match="1 of 600 numbers of the keys"):
        embedding_colours(points, torch.where(torch.arange(600).view(50, 12) == 7, torch.nan, keys))
    with pytest.raises(ValueError, match="3 of 36 numbers of the queries"):
        palette.of_queries(torch.full((3, 12), 1.0).index_fill(1, torch.tensor([2]), torch.inf))
    with pytest.raises(ValueError, match="query image is 4 x 3 and the mask 3 x 4"):
        query_picture(torch.zeros(12, 3, 4), torch.zeros(4, 3), palette)
    with pytest.raises(ValueError, match="sigmoid"):
        query_picture(torch.zeros(12, 3, 4), torch.full((3, 4), -2.0), palette)
    with pytest.raises(ValueError, match="numbers of the pose"):
        key_picture(wedge(), palette, torch.full((4, 4), torch.nan), K, 64)

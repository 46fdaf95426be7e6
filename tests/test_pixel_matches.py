"""Pixels of photographs held against what they should say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bop_world import edit_json, make_bop
from cad2pose.data.bop import BopDataset
from cad2pose.experiments.pixel_matches import crops_of, pixel_cells, pixel_matches
from cad2pose.parts import Part
from cad2pose.rendering import MeshSet, render
from cad2pose.solvers import QueryMaps
from planted_queries import gaussian_keys
from small_models import SMALL, random_model


def told(dataset: BopDataset, part: Part, monkeypatch: pytest.MonkeyPatch, shift: float = 0.0, wide: int = 0):
    """A model whose pixels name the points that they show, moved by some radii; its mask is grown by some pixels."""
    model = random_model(part)
    method = model.method
    _, _, camera, T = crops_of(dataset, part, SMALL.crop_size, SMALL.pad)
    drawn = render(
        MeshSet.from_meshes([part.mesh]), torch.zeros(len(T), 1, dtype=torch.long), T.float()[:, None],
        camera.K_virt.float(), camera.size, camera.size,
    )  # fmt: skip
    points = (drawn.coordinates - part.center.float()[:, None, None]) / part.radius + shift
    queries = torch.cat((points, torch.full_like(points[:, :1], -0.5)), dim=1) / 0.02**2
    mask = torch.nn.functional.max_pool2d(drawn.mask[:, None].float(), 2 * wide + 1, 1, wide)[:, 0]
    maps = QueryMaps(queries, 12 * mask - 6, torch.ones_like(mask), camera.K_virt.float())
    monkeypatch.setattr(method, "query_maps", lambda output, batch: maps, raising=False)
    monkeypatch.setattr(method, "surface_keys", lambda index, points: gaussian_keys(points), raising=False)
    return model


@pytest.fixture
def dataset(tmp_path) -> BopDataset:
    root = make_bop(tmp_path)
    for scene in (root / "test").iterdir():  # the first part is about ten pixels wide, 27 from the left and 23 down
        edit_json(
            scene / "scene_gt_info.json",
            lambda infos: [i[0].update(bbox_visib=[20, 16, 15, 15]) for i in infos.values()],
        )
    return BopDataset(root)


def test_pixels_that_are_right_and_pixels_that_are_not(dataset, monkeypatch):
    part = dataset.parts([1])[0]
    right = pixel_matches(told(dataset, part, monkeypatch), dataset)
    assert right.shape == (4, 3)
    assert float(right[:, 0].min()) > 0.99
    assert float(right[:, 1].min()) > -0.05
    torch.testing.assert_close(right[:, 2], torch.ones(4))
    wrong = pixel_matches(told(dataset, part, monkeypatch, shift=0.6, wide=2), dataset)
    assert float(wrong[:, 0].max()) < 0.5
    assert float(wrong[:, 1].max()) < -5
    assert float(wrong[:, 2].max()) < 0.95
    cells = pixel_cells(wrong.numpy()[None], right.numpy()[None])
    assert cells[0].startswith(f"{float(wrong[:, 0].mean()):.3f}, -")
    assert pixel_cells(right.numpy()[None], None) == [f"{value:.3f}" for value in right.mean(0).tolist()]


def test_intervals_are_of_how_far_crops_differ_not_of_how_they_do():
    generator = np.random.default_rng(0)
    first = 5 * generator.random((1, 64, 3))  # some crops are easy, others hard, for all models
    second = first + 0.25 + 0.1 * generator.standard_normal((1, 64, 3))
    for cell, mean in zip(pixel_cells(second, first), (second - first).mean((0, 1)), strict=True):
        said, ends = cell.split(", ")[1].split(" (")
        low, high = (float(end) for end in ends.removesuffix(")").split(" to "))
        assert float(said) == pytest.approx(mean, abs=6e-4)
        assert low < mean < high
        assert high - low == pytest.approx(2 * 1.96 * 0.1 / 8, rel=0.35)


def test_parts_that_are_hardly_seen_are_left_out(dataset):
    part = dataset.parts([1])[0]
    with pytest.raises(ValueError, match="no annotated obj_000001 of which 200% is seen"):
        crops_of(dataset, part, 32, 1.5, least_visible=2.0)


def test_boxes_that_are_not_of_the_pose_are_left_out(tmp_path):
    dataset = BopDataset(make_bop(tmp_path))
    with pytest.raises(ValueError, match="no annotated obj_000001 of which 30% is seen in its box"):
        crops_of(dataset, dataset.parts([1])[0], 32, 1.5)

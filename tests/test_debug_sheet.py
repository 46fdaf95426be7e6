from __future__ import annotations

import pytest
import torch

from cad2pose.geometry import make_transform
from cad2pose.parts import sample_surface
from cad2pose.pictures import debug_sheet, embedding_colours
from small_models import wedge

TILE = 96
K = torch.tensor([[40.0, 0, 15.5], [0, 40.0, 15.5], [0, 0, 1]])


@pytest.fixture
def detection():
    """Crop, queries, mask, part, palette, pose and K; the longest query in the mask is in the cell (2, 5)."""
    part = wedge()
    points = sample_surface(part.mesh, 400).points
    palette = embedding_colours(points, part.normalize(points).float().repeat(1, 2))
    queries, mask = torch.randn(6, 8, 8), torch.zeros(8, 8)
    mask[2:6, 2:6] = 0.9
    queries[:, 2, 5] = 6.0
    T_virt_obj = make_transform(torch.eye(3).double(), torch.tensor([0.0, 0, 130]).double() - part.center)
    return torch.full((3, 32, 32), 0.5), queries, mask, part, palette, T_virt_obj, K


def panel(sheet, index):
    pitch = (sheet.shape[1] - 6) // 2, TILE + 6
    top, left = (6 + step * place for step, place in zip(pitch, divmod(index, 4), strict=True))
    return sheet[:, top : top + TILE, left : left + TILE]


def test_all_panels_are_there(detection):
    sheet = debug_sheet(*detection, scores=torch.linspace(-1, 1, 64).view(8, 8), tile_width=TILE)
    assert sheet.shape[2] == 4 * TILE + 5 * 6
    for index in range(8):
        assert float(panel(sheet, index).std()) > 0.02
    bare = debug_sheet(*detection, tile_width=TILE)
    assert bare.shape == sheet.shape
    torch.testing.assert_close(panel(bare, 6), panel(sheet, 6))
    assert panel(bare, 7).unique().numel() == 1


def test_the_ring_is_about_the_surest_pixel(detection):
    sheet = debug_sheet(*detection, tile_width=TILE)
    changed = (panel(sheet, 0) - 0.5).abs().amax(0) > 0.1  # the crop is plain gray
    rows, columns = changed.nonzero().float().T
    cell = TILE / 8
    assert float(rows.mean()) == pytest.approx(2.5 * cell, abs=1)
    assert float(columns.mean()) == pytest.approx(5.5 * cell, abs=1)
    assert not changed[int(2.5 * cell), int(5.5 * cell)]


def test_the_outline_is_where_the_mask_is_one_half(detection):
    sheet = debug_sheet(*detection, tile_width=TILE)
    yellow = (panel(sheet, 1)[0] - panel(sheet, 1)[2]) > 0.4
    rows, columns = yellow.nonzero().float().T
    cell = TILE / 8
    for values in (rows, columns):
        assert float(values.min()) == pytest.approx(2 * cell, abs=4)
        assert float(values.max()) == pytest.approx(6 * cell, abs=4)


def test_a_crop_without_mask_pixels_is_drawn_and_says_so(detection):
    crop, queries, mask, *rest = detection
    sheet = debug_sheet(crop, queries, mask / 2, *rest, tile_width=TILE)
    assert sheet.shape == debug_sheet(*detection, tile_width=TILE).shape
    torch.testing.assert_close(panel(sheet, 4), panel(sheet, 6))
    assert float(panel(sheet, 4).max()) > 0.6  # the words
    assert float(panel(sheet, 0).std()) < 1e-3  # no ring
    assert float(panel(sheet, 3).std()) > 0.02


def test_bad_input_is_named(detection):
    crop, queries, mask, *rest = detection
    with pytest.raises(ValueError, match="have 5 dimensions and the keys 6"):
        debug_sheet(crop, queries[:5], mask, *rest)
    with pytest.raises(ValueError, match="query image is 8 x 8 and the mask 8 x 7"):
        debug_sheet(crop, queries, mask[:7], *rest)
    with pytest.raises(ValueError, match="numbers of the queries are not finite"):
        debug_sheet(crop, queries.masked_fill(queries > 5, torch.nan), mask, *rest)


def test_a_detection_without_a_pose_is_drawn_and_says_so(detection):
    crop, queries, mask, part, palette, _, K_virt = detection
    sheet = debug_sheet(crop, queries, mask, part, palette, None, K_virt, tile_width=TILE)
    assert sheet.shape == debug_sheet(*detection, tile_width=TILE).shape
    torch.testing.assert_close(panel(sheet, 3), panel(sheet, 4))
    assert float(panel(sheet, 3).max()) > 0.6  # the words
    assert float(panel(sheet, 2).std()) > 0.02  # the query image is there

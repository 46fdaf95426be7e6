"""Losses: values that can be worked out by hand, independence of the batch size, gradients."""

import math

import torch

from cad2pose.geometry import random_rotations, rotation_about_z
from cad2pose.methods.losses import cell_coordinates, cell_share, draw_pixels, info_nce, mask_loss, point_matching


def test_drawn_pixels_lie_in_the_mask_without_repetition(generator):
    mask = torch.rand(5, 300, generator=generator) < 0.4
    pixels, rows = draw_pixels(mask, 50, generator)
    assert rows.all()
    for row in range(5):
        assert mask[row, pixels[row]].all()
        assert len(set(pixels[row].tolist())) == 50


def test_few_pixels_are_repeated_evenly_and_none_is_reported(generator):
    mask = torch.zeros(2, 300, dtype=torch.bool)
    mask[0, [3, 77, 200]] = True
    pixels, rows = draw_pixels(mask, 60, generator)
    assert rows.tolist() == [True, False]
    assert torch.bincount(pixels[0], minlength=300)[[3, 77, 200]].tolist() == [20, 20, 20]


def test_drawn_pixels_cover_the_mask_evenly(generator):
    mask = torch.zeros(1, 100, dtype=torch.bool)
    mask[0, 10:60] = True
    counts = torch.zeros(100)
    for _ in range(400):
        pixels, _ = draw_pixels(mask, 10, generator)
        counts += torch.bincount(pixels[0], minlength=100)
    assert counts[10:60].min() > 40
    assert counts[10:60].max() < 130
    assert counts.sum() == counts[10:60].sum()


def test_info_nce_of_indistinct_keys_is_that_of_chance():
    queries, key = torch.randn(3, 7, 4), torch.randn(4)
    loss = info_nce(queries, key.expand(3, 7, 4), key.expand(3, 15, 4), torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(loss, torch.tensor(math.log(16)))


def test_info_nce_is_the_cross_entropy_of_the_own_key_however_far_the_keys_are_apart():
    queries, positives, negatives = (torch.randn(2, n, 4, dtype=torch.float64) for n in (7, 7, 15))
    rows = torch.ones(2, dtype=torch.bool)
    for scale in (1.0, 30.0):
        scaled = scale * queries
        own, others = (scaled * positives).sum(-1, keepdim=True), scaled @ negatives.transpose(1, 2)
        logits = torch.cat((own, others), dim=-1).flatten(0, 1)
        expected = torch.nn.functional.cross_entropy(logits, torch.zeros(14, dtype=torch.long))
        torch.testing.assert_close(info_nce(scaled, positives, negatives, rows), expected)
    inputs = tuple(some.requires_grad_() for some in (queries, positives, negatives))
    assert torch.autograd.gradcheck(lambda q, own, others: info_nce(q, own, others, rows), inputs)


def test_info_nce_leaves_out_crops_without_pixels():
    queries, positives, negatives = torch.randn(2, 7, 4), torch.randn(2, 7, 4), torch.randn(2, 15, 4)
    first = info_nce(queries[:1], positives[:1], negatives[:1], torch.tensor([True]))
    queries[1] = 1e6
    torch.testing.assert_close(info_nce(queries, positives, negatives, torch.tensor([True, False])), first)
    assert info_nce(queries, positives, negatives, torch.tensor([False, False])) == 0


def test_losses_do_not_depend_on_the_batch_size():
    queries, positives, negatives = torch.randn(1, 7, 4), torch.randn(1, 7, 4), torch.randn(1, 15, 4)
    one = info_nce(queries, positives, negatives, torch.tensor([True]))
    repeated = [t.expand(4, -1, -1) for t in (queries, positives, negatives)]
    four = info_nce(repeated[0], repeated[1], repeated[2], torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(one, four)
    a, b, points = random_rotations(1)[None], random_rotations(1)[None], torch.randn(1, 9, 3)
    four = point_matching(a.expand(4, -1, -1, -1), b.expand(4, -1, -1, -1), points.expand(4, -1, -1))
    torch.testing.assert_close(point_matching(a, b, points).mean(), four.mean())


def test_point_matching_of_a_quarter_turn():
    points = torch.tensor([[[1.0, 0, 0], [0, 0, 1.0]]])  # (1,0,0) goes to (0,1,0): |dx| + |dy| = 2; the other stays
    quarter = rotation_about_z(torch.tensor([math.pi / 2]))
    both = torch.stack((quarter, torch.eye(3)[None]), dim=1)
    cost = point_matching(both, torch.eye(3).expand(1, 2, 3, 3), points)
    torch.testing.assert_close(cost, torch.tensor([[0.5, 0.0]]))


def test_mask_loss_is_finite_for_certain_logits():
    logits = torch.tensor([[[200.0, -200.0]]], requires_grad=True)
    loss = mask_loss(logits, torch.tensor([[[0.0, 1.0]]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert (logits.grad.abs() > 0.1).all()


def test_cells_average_masks_and_coordinates():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2, :3] = True
    torch.testing.assert_close(cell_share(mask, 2), torch.tensor([[[1.0, 0.5], [0.0, 0.0]]]))
    u = torch.arange(4.0).expand(1, 3, 4, 4)
    torch.testing.assert_close(cell_coordinates(u, 2)[0, 0], torch.tensor([[0.5, 2.5], [0.5, 2.5]]))
    for stride in (1, 2, 4):
        maps, masks = torch.randn(2, 3, 8, 8), torch.rand(2, 8, 8) < 0.7
        pooled = torch.nn.functional.avg_pool2d(masks[:, None].float(), stride)[:, 0]
        torch.testing.assert_close(cell_share(masks, stride), pooled, rtol=0, atol=0)
        torch.testing.assert_close(cell_coordinates(maps, stride), torch.nn.functional.avg_pool2d(maps, stride))


def test_gradients_of_masks_and_matched_points_are_those_of_finite_differences(generator):
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    share = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda some: mask_loss(some, share), (logits,))
    truth = random_rotations(6, generator, torch.float64).view(2, 3, 3, 3)
    predicted = random_rotations(6, generator, torch.float64).view(2, 3, 3, 3).requires_grad_()
    points = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda some: point_matching(some, truth, points), (predicted,))

"""The records that travel: what they refuse, how they are moved and cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cad2pose.geometry import virtual_camera
from cad2pose.structures import CropBatch, CropTruth, Detections, PoseEstimates


def detections(box: list[list[float]]) -> Detections:
    count = len(box)
    return Detections(torch.arange(count), torch.tensor(box, dtype=torch.float32).reshape(count, 4), torch.rand(count))


def crop_batch(count: int, with_truth: bool = True) -> CropBatch:
    size = 8
    K = torch.tensor([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]).expand(count, 3, 3)
    box = torch.tensor([50.0, 40, 60, 30]).expand(count, 4) + torch.arange(count)[:, None]
    camera = virtual_camera(K, box, torch.tensor([320.0, 240]).expand(count, 2), size)
    truth = CropTruth(
        torch.randn(count, 4, 4), torch.rand(count, size, size) > 0.3, torch.rand(count, size, size) > 0.5,
        torch.randn(count, 3, size, size),
    )  # fmt: skip
    image, valid = torch.rand(count, 3, size, size), torch.ones(count, 1, size, size)
    return CropBatch(image, valid, camera, torch.arange(count) % 3, truth if with_truth else None)


def leaves(batch: CropBatch) -> list[torch.Tensor]:
    found = [batch.image, batch.valid, batch.part_index, batch.camera.K_virt, batch.camera.R_virt_cam]
    found += [batch.camera.K_cam, batch.camera.box, batch.camera.image_size]
    if batch.truth is not None:
        truth = batch.truth
        found += [truth.T_virt_obj, truth.mask_full, truth.mask_visible, truth.coordinates]
    return found


@pytest.mark.parametrize(
    "bad", [[5, 5, 0, 10], [5, 5, 10, 0], [5, 5, -3, 10], [math.nan, 5, 10, 10], [5, 5, math.inf, 10]]
)
def test_a_box_without_area_is_refused_and_named(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"box 1 is \[.*w > 0 and h > 0"):
        detections([[1, 2, 3, 4], bad])


def test_no_detections_are_fine_and_lengths_must_agree() -> None:
    assert len(detections([])) == 0
    assert len(detections([[1, 2, 3, 4], [-5, 0.5, 0.1, 900]])) == 2
    with pytest.raises(Exception, match="score"):
        Detections(torch.arange(2), torch.rand(2, 4) + 1, torch.rand(3))


@pytest.mark.parametrize("with_truth", [True, False])
@pytest.mark.parametrize("index", [slice(1, 4), slice(None), slice(0, 0), torch.tensor([4, 0, 0]), torch.arange(5) > 2])
def test_a_cut_batch_holds_the_same_rows_of_everything(index: slice | torch.Tensor, with_truth: bool) -> None:
    batch = crop_batch(5, with_truth)
    cut = batch[index]
    assert len(cut) == len(torch.arange(5)[index])
    assert cut.camera.size == batch.camera.size
    for whole, part in zip(leaves(batch), leaves(cut), strict=True):
        assert torch.equal(whole[index], part)


def test_a_batch_moves_as_a_whole() -> None:
    moved = crop_batch(3).to("meta")
    assert {leaf.device.type for leaf in leaves(moved)} == {"meta"}
    assert moved.truth is not None
    assert crop_batch(2, with_truth=False).to("cpu").truth is None


def test_pose_estimates_count_their_rows() -> None:
    estimates = PoseEstimates(torch.tensor([1, 5]), torch.eye(4).expand(2, 4, 4), torch.rand(2), torch.rand(2, 4))
    assert len(estimates) == 2
    assert estimates.seconds == -1


def unchecked_detections(object_id: object, box: object, score: object) -> Detections:
    """Made as without the tests' run-time check of annotations, which comes before the record's own checks."""
    found = object.__new__(Detections)
    for name, value in (("object_id", object_id), ("box", box), ("score", score)):
        object.__setattr__(found, name, value)
    found.__post_init__()
    return found


def test_detections_take_lists_and_arrays():
    found = unchecked_detections([1], [[10, 20, 30, 40]], [1.0])
    assert found.object_id.tolist() == [1]
    assert found.box.is_floating_point()
    found = unchecked_detections(np.array([3]), np.array([[1.5, 2, 3, 4]]), np.array([0.5]))
    assert found.box.tolist() == [[1.5, 2, 3, 4]]


@pytest.mark.parametrize(
    ("object_id", "box", "score", "words"),
    [
        ([1], [1.0, 2, 3, 4], [1.0], r"\(N, 4\)"),
        ([1], [[1.0, 2, 3]], [1.0], r"\(1, 3\)"),
        ([1, 2], [[1.0, 2, 3, 4]], [1.0, 1.0], r"\(2,\), \(1, 4\), \(2,\)"),
        (1, [[1.0, 2, 3, 4]], [1.0], r"\(\), \(1, 4\)"),
        ([1.5], [[1.0, 2, 3, 4]], [1.0], "whole numbers"),
        ([1], [[1.0, 2, 3, 4]], [math.nan], "finite numbers"),
    ],
)
def test_detections_that_cannot_be(object_id, box, score, words):
    with pytest.raises(ValueError, match=words):
        unchecked_detections(object_id, box, score)


def test_a_detector_that_finds_nothing_may_say_so_with_empty_lists():
    found = unchecked_detections([], [], [])
    assert (len(found), found.box.shape, found.object_id.dtype) == (0, (0, 4), torch.int64)
    with pytest.raises(ValueError, match="shapes"):
        unchecked_detections([], [], [0.5])

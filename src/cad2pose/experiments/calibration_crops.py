"""Crops that a model is calibrated on, as photographs: of parts, of parts in rough boxes, and of other things.

Every crop is rendered wider than the network takes it and given to the estimator as a photograph of its own, cut to
what the source image holds, with the disturbed box as a detector's, so that both passes of the estimator are what they
are on photographs. For every four of these there is one whose box is far off, and one that does not show the part: what
a score is worth in such a box, no crop of the part in its place can tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.data.boxes import clip_box
from cad2pose.data.draws import Draws
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.geometry import Camera
from cad2pose.model_file import Model
from cad2pose.structures import CropBatch

USUAL, ROUGH, WITHOUT = range(3)
"""Kinds of boxes: as detectors give, far off, and without the part."""

_TURN = (USUAL, USUAL, USUAL, USUAL, ROUGH, WITHOUT)
_WIDER = 2.0  # than the network's crops
_BATCH = 16
_ROUGH_SHIFT, _ROUGH_SCALE = 0.3, 0.5  # deviations of a rough box, in its sides, and of the logarithm of its sides
_LEAST_BOX = 8  # pixels a side


@dataclass(frozen=True)
class BoxedPart:
    """A photograph of a part, or of something else, and a box in it.

    Args:
        part_index: of the part that the box is said to show.
        kind: of the box.
        image: `(3, H, W)` RGB in [0, 1].
        camera: of the image.
        box: `(1, 4)` x, y, w, h.
        T_cam_obj: `(4, 4)` float64, mm; NaN where the part is not there.
    """

    part_index: int
    kind: int
    image: Float[Tensor, "3 h w"]
    camera: Camera
    box: Float[Tensor, "1 4"]
    T_cam_obj: Float[Tensor, "4 4"]


def crops_in_all(usual: int) -> int:
    """Crops that are made of a part to have so many of usual boxes."""
    each = _TURN.count(USUAL)
    return usual + (len(_TURN) - each) * (usual // each)


def calibration_crops(
    model: Model, style: SyntheticConfig, seed: int, usual: int, device: torch.device
) -> Iterator[BoxedPart]:
    """`crops_in_all(usual)` of every part; parts take turns.

    Args:
        model: whose parts.
        style: of the crops; size and padding are the model's.
        seed: of the crops.
        usual: crops of each part with boxes as detectors give.
        device: where they are made.
    """
    config = model.method.config
    size = 2 * round(_WIDER * config.crop_size / 2)
    wide = replace(style, crop_size=size, pad=config.pad * size / config.crop_size)
    source = SyntheticCrops(model.parts, wide, device, seed)
    parts = len(model.parts)
    total = crops_in_all(usual) * parts
    for index, begun in enumerate(range(0, total, _BATCH)):
        kinds = torch.tensor(_TURN)[torch.arange(begun, begun + _BATCH) // parts % len(_TURN)]
        batch = source.batch(index, _BATCH, shown=kinds != WITHOUT)
        factors = _rough_factors(Draws(seed, index, 3), _BATCH)
        for row, kind in enumerate(kinds[: total - begun].tolist()):
            yield photograph(batch, row, wide.pad, kind, factors[row] if kind == ROUGH else None)


def _rough_factors(draws: Draws, count: int) -> Float[Tensor, "b 2 2"]:
    """Shifts in box sides, and factors on the sides."""
    shift = draws.normal(count, 2).clamp(-2, 2) * _ROUGH_SHIFT
    scale = (draws.normal(count, 2).clamp(-2, 2) * _ROUGH_SCALE).exp()
    return torch.stack((shift, scale), dim=1)


def photograph(
    batch: CropBatch, row: int, pad: float, kind: int = USUAL, factors: Float[Tensor, "2 2"] | None = None
) -> BoxedPart:
    """One crop as a photograph: cut to what the source image holds.

    Args:
        batch: of crops, with their truth.
        row: which one.
        pad: they were made with.
        kind: of the box.
        factors: `(2, 2)` what the box is shifted by, in its sides, and its factors; a box that would leave the image
            stays as it was.
    """
    assert batch.truth is not None, "rendered crops know the truth"
    size = batch.image.shape[-1]
    side = torch.full((2,), size / pad)
    top, bottom, left, right = inside(batch.valid[row, 0] == 1)
    K = batch.camera.K_virt[row].double().cpu().clone()
    K[:2, 2] -= torch.tensor([left, top], dtype=K.dtype)
    camera = Camera(K, right - left, bottom - top)
    middle = torch.tensor([size / 2 - left, size / 2 - top])
    box = torch.cat((middle - side / 2, side))[None]
    if factors is not None:
        shift, scale = factors * side
        limits = torch.tensor([[camera.width, camera.height]]).float()
        rough = clip_box(torch.cat((middle + shift - scale / 2, scale))[None], limits)
        box = rough if float(rough[:, 2:].min()) >= _LEAST_BOX else box
    T_cam_obj = batch.truth.T_virt_obj[row].double().cpu()
    return BoxedPart(
        int(batch.part_index[row]), kind, batch.image[row, :, top:bottom, left:right], camera, box, T_cam_obj
    )


def inside(valid: Bool[Tensor, "h w"]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a rectangle without an invalid pixel, found by taking the worst edge off."""
    top, left = 0, 0
    bottom, right = valid.shape
    while not bool((within := valid[top:bottom, left:right]).all()):
        edges = (within[0], within[-1], within[:, 0], within[:, -1])
        worst = min(range(4), key=lambda edge: float(edges[edge].float().mean()))
        top, left = top + (worst == 0), left + (worst == 2)
        bottom, right = bottom - (worst == 1), right - (worst == 3)
    return top, bottom, left, right

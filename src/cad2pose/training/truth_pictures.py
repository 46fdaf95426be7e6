"""Crops with the outlines of truth and prediction, and the worst of the batches that were learnt from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch

from cad2pose.files import write_text
from cad2pose.geometry.intrinsics import resized_intrinsics
from cad2pose.methods import Method, PoseMethod
from cad2pose.parts import Part
from cad2pose.pictures.contact_sheet import contact_sheet
from cad2pose.pictures.image_file import save_png, to_bytes
from cad2pose.pictures.outlines import draw_outlines, truth_and_estimate
from cad2pose.structures import CropBatch
from cad2pose.training.validation import pose_crop_errors

AGAINST_TRUTH = "against_truth.png"
WORST = "worst_batch.png"
WORST_NUMBERS = "worst_batch.json"

_SIDE = 192
_COLUMNS = 6
_MOST = 24


@torch.no_grad()
def save_against_truth(path: Path, method: Method, batch: CropBatch, parts: Sequence[Part]) -> None:
    """Crops with the true outline in dashes and the predicted one as a line, errors beneath.

    Of methods that give no poses the true outline stands alone.

    Args:
        path: of the PNG file.
        method: in eval mode.
        batch: crops with truth, 24 of them at most are shown; where there are errors, the largest rotation comes first.
        parts: the method's, in its order.
    """
    batch = batch[:_MOST]
    truth = batch.truth
    assert truth is not None
    poses, labels, order = None, ["" for _ in range(len(batch))], list(range(len(batch)))
    if isinstance(method, PoseMethod):
        poses, score = method.poses(method(batch), batch)
        errors = pose_crop_errors(method, batch, poses, score)
        poses = poses.double().cpu()
        labels = [
            f"{turn:.1f} deg, {shift:.1f} %" for turn, shift in zip(errors.rotation, errors.translation, strict=True)
        ]
        order = errors.rotation.argsort(descending=True).tolist()
    tiles = []
    for row in order:
        tile = cv2.resize(to_bytes(batch.image[row]), (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
        K = resized_intrinsics(batch.camera.K_virt[row].double().cpu(), _SIDE / batch.image.shape[-1])
        T_true = truth.T_virt_obj[row].double().cpu()
        part = parts[int(batch.part_index[row])]
        draw_outlines(tile, K, part, truth_and_estimate(part, T_true, None if poses is None else poses[row]))
        tiles.append(tile)
    named = [labels[row] for row in order] if poses is not None else []
    save_png(path, contact_sheet(tiles, named, min(_COLUMNS, len(tiles)), _SIDE))


@dataclass
class WorstBatch:
    """The batch of the largest loss among those that it is told of, since it was last written down."""

    step: int = 0
    total: float = float("-inf")
    batch: CropBatch | None = None

    def see(self, step: int, total: float, batch: CropBatch) -> None:
        """One batch and its loss after the step."""
        if total > self.total:
            self.step, self.total, self.batch = step, total, batch

    def save(self, folder: Path, method: Method, parts: Sequence[Part]) -> None:
        """Write its picture and numbers into the run folder, and forget it; nothing where there was none."""
        if self.batch is None:
            return
        save_against_truth(folder / WORST, method, self.batch, parts)
        write_text(folder / WORST_NUMBERS, json.dumps({"step": self.step, "total": round(self.total, 6)}) + "\n")
        self.step, self.total, self.batch = 0, float("-inf"), None

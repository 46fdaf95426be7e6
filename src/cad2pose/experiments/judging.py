"""How contestants are judged: errors and times of every way to a pose, on crops that are the same for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.devices import device_name
from cad2pose.estimator.looking import Look
from cad2pose.experiments.contestants import WAYS
from cad2pose.model_file import Model
from cad2pose.parts import Part
from cad2pose.structures import CropBatch
from cad2pose.training import CropErrors, pose_crop_errors

JUDGE = 4
"""To be raised when poses or their errors come out otherwise: finished runs are then judged again."""
NO_POSE = (180.0, 100.0)
"""Errors where there is no pose: degrees, % of the distance."""
_JUDGE_SEED = 2_000_000  # of crops that no training and no validation has seen
_BATCH = 16


def judge(
    model: Model, part: Part, style: SyntheticConfig, count: int, ways: Sequence[str], device: torch.device
) -> list[dict[str, Any]]:
    """Errors and times of every way to a pose on fresh crops.

    Args:
        model: of one part.
        part: the same.
        style: of the crops.
        count: how many crops; the same ones for all models of the part.
        ways: names of `WAYS`.
        device: where.

    Returns:
        For each way its name, `rotation` (degrees modulo symmetry) and `translation` (% of the distance) of every crop,
        `network_ms` and `pose_ms` a crop, `parameters` and `minutes` of training, and the devices of both times.

    Raises:
        ValueError: for a way that the model has not learnt.
    """
    source = SyntheticCrops([part], style, device, _JUDGE_SEED)
    batches = [source.batch(i, min(_BATCH, count - i * _BATCH)) for i in range(-(-count // _BATCH))]
    parameters = sum(p.numel() for p in model.method.parameters())
    minutes = float(model.info["seconds"]) / 60
    rows = []
    with torch.inference_mode():
        model.method(batches[0])  # what is made at first use is not timed
        network = _timed(model.method, batches, device)[1]
        for way in ways:
            look = Look(WAYS[way])
            look.check(model)
            look(model, batches[0][:1])
            errors, seconds = _timed(lambda batch, look=look: errors_of(model, look, batch), batches, device)
            joined = CropErrors.join(errors)
            rows.append({
                "way": way, "rotation": joined.rotation.tolist(), "translation": joined.translation.tolist(),
                "network_ms": 1e3 * network / count, "pose_ms": 1e3 * max(0.0, seconds - network) / count,
                "parameters": parameters, "minutes": minutes, "trained_on": model.info.get("device", ""),
                "judged_on": device_name(device),
            })  # fmt: skip
    return rows


def errors_of(model: Model, look: Look, batch: CropBatch) -> CropErrors:
    """Errors of the poses that a look gives; `NO_POSE` where it gives none."""
    poses = look(model, batch)
    T = poses.T_cam_obj.to(batch.image.device)
    there = torch.isfinite(T).flatten(1).all(1)
    eye = torch.eye(4, dtype=T.dtype, device=T.device)
    errors = pose_crop_errors(model.method, batch, torch.where(there[:, None, None], T, eye), poses.score)
    lost = ~there.cpu()
    turn, shift = errors.rotation.masked_fill(lost, NO_POSE[0]), errors.translation.masked_fill(lost, NO_POSE[1])
    return CropErrors(errors.part_index, turn, shift, errors.depth, errors.score)


def _timed(
    work: Callable[[CropBatch], Any], batches: Sequence[CropBatch], device: torch.device
) -> tuple[list[Any], float]:
    """What it gives for every batch, and the seconds: processor time on a CPU, where others may be at work."""
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize(device)
    begun = clock()
    results = [work(batch) for batch in batches]
    if cuda:
        torch.cuda.synchronize(device)
    return results, clock() - begun

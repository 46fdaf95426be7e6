"""Which of several estimates to keep."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cad2pose.structures import PoseEstimates


def best_per_object(estimates: PoseEstimates, counts: Mapping[int, int] | int = 1) -> PoseEstimates:
    """The best estimates of each object by pose score, input order kept.

    Args:
        estimates: of one image; several boxes may have claimed the same object.
        counts: how many instances of each object there are; objects that are not named are dropped. A single
            number holds for every object.

    Returns:
        At most `counts` estimates of every object, and the rows of boxes in which none was found, with their reasons.
    """
    nothing = ~estimates.found
    kept: list[int] = []
    for object_id in sorted(set(estimates.object_id.tolist())):
        of_object = estimates.object_id == object_id
        rows = (of_object & ~nothing).nonzero()[:, 0]
        count = counts if isinstance(counts, int) else counts.get(object_id, 0)
        order = estimates.score[rows].argsort(descending=True, stable=True)[:count]
        kept.extend(rows[order].tolist())
        if count:
            kept.extend((of_object & nothing).nonzero()[:, 0].tolist())
    return estimates[torch.tensor(sorted(kept), dtype=torch.long)]


def likely_right(estimates: PoseEstimates, least: float) -> PoseEstimates:
    """The estimates that are right with a chance of at least `least`, and the rows of boxes in which none was found.

    Raises:
        ValueError: if the chance of one is not known.
    """
    unknown = estimates.found & torch.isnan(estimates.confidence)
    if bool(unknown.any()):
        raise no_calibration(int(estimates.object_id[unknown][0]))
    return estimates[(~estimates.found | (estimates.confidence >= least)).nonzero()[:, 0]]


def no_calibration(object_id: int) -> ValueError:
    """What is wrong where the chance that poses of an object are right is asked for and not known."""
    return ValueError(
        f"how likely poses of object {object_id} are right is not known: its model was not calibrated for poses of "
        "this kind. `cad2pose calibrate MODEL --ways ...` does it; poses from a depth image, from several rolls or "
        "zooms, or from the first look alone have no calibration"
    )

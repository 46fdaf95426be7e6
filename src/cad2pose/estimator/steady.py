"""Poses of symmetric parts that do not jump from one image of a video to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.parts import Part, nearest_equivalent
from cad2pose.structures import PoseEstimates

_FORGOTTEN = 30  # images after which the last pose of something that is not seen is no longer remembered


@dataclass(frozen=True, eq=False)
class _Remembered:
    T_cam_obj: Float[Tensor, "4 4"]
    place: Float[Tensor, "3"]  # of the part's centre
    images: int = 0  # since then


class SteadyPoses:
    """Of all poses that look the same, the ones turned least against those of the images before.

    Instances of an object are told apart by where they are: every pose follows the nearest of the last ones. What the
    estimates say beside the pose is about the part as it is seen, and stays; the alternatives, whose first is the pose
    itself, are turned by the same symmetry.

    Args:
        parts: by object id.
    """

    def __init__(self, parts: Mapping[int, Part]) -> None:
        self._parts = parts
        self._last: dict[int, list[_Remembered]] = {}

    def __call__(self, estimates: PoseEstimates) -> PoseEstimates:
        """The estimates of the next image, turned by symmetries where that makes them steadier."""
        T, alternatives = estimates.T_cam_obj.clone(), estimates.details.alternatives.clone()
        self._last = {
            key: [replace(one, images=one.images + 1) for one in known if one.images < _FORGOTTEN]
            for key, known in self._last.items()
        }
        for object_id in sorted(set(estimates.object_id[estimates.found].tolist())):
            part = self._parts[object_id]
            rows = ((estimates.object_id == object_id) & estimates.found).nonzero()[:, 0].tolist()
            now = [_Remembered(T[row].clone(), part.middle(T[row])) for row in rows]
            before = self._last.get(object_id, [])
            pairs = _pairs(now, before)
            for index, earlier in pairs.items():
                row = rows[index]
                turned = nearest_equivalent(before[earlier].T_cam_obj, T[row], part.symmetries)
                if alternatives.shape[1] and bool(alternatives[row, 0].isfinite().all()):
                    alternatives[row] = alternatives[row] @ torch.linalg.solve(T[row], turned)
                    alternatives[row, 0] = turned
                T[row] = turned
                now[index] = replace(now[index], T_cam_obj=T[row].clone())
            left = [one for place, one in enumerate(before) if place not in pairs.values()]
            self._last[object_id] = now + left
        return replace(estimates, T_cam_obj=T, details=replace(estimates.details, alternatives=alternatives))


def _pairs(now: list[_Remembered], before: list[_Remembered]) -> dict[int, int]:
    """Which earlier one each of those of now follows: the nearest pairs first, each at most once."""
    if not now or not before:
        return {}
    apart = torch.cdist(torch.stack([one.place for one in now]), torch.stack([one.place for one in before]))
    found: dict[int, int] = {}
    for place in apart.flatten().argsort(stable=True).tolist():
        index, earlier = divmod(place, len(before))
        if index not in found and earlier not in found.values():
            found[index] = earlier
    return found

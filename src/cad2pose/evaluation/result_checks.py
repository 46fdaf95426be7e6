"""What is odd about a results file: rows that cannot count, poses that cannot be, units that are not mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_files import BopTarget
from cad2pose.data.results import Results
from cad2pose.geometry.rotation import nearest_rotation
from cad2pose.parts.part import Part, read_models_info

_METRES = 10.0  # mm; no camera sees a part from nearer
_ORTHONORMAL = 1e-4  # of R^T R - I; below it, rounding in a text file
_SHOWN = 5


def check_results(
    results: Results,
    dataset: BopDataset,
    targets: Sequence[BopTarget],
    parts: Sequence[Part],
    name: str,
    as_written: bool = False,
) -> list[str]:
    """Warnings about a results file, each one sentence; nothing is changed.

    Args:
        results: rows of the file.
        dataset: the split it should be for.
        targets: all of the split's targets.
        parts: those that are scored.
        name: of the file.
        as_written: rotations that are not quite orthonormal are scored as they are.

    Raises:
        ValueError: if there are rows, and none is for a target.
    """
    if not len(results):
        return [f"{name} holds no rows, so every target is missed"]
    keys = list(zip(results.scene_id.tolist(), results.image_id.tolist(), results.object_id.tolist(), strict=True))
    wanted = {(t.scene_id, t.image_id, t.object_id) for t in targets}
    if not _any_wanted(results, targets):
        raise ValueError(
            f"none of the {len(keys)} rows of {name} is for a target of {dataset.root.name}, split {dataset.split!r}: "
            f"its first is for scene {keys[0][0]}, image {keys[0][1]}, object {keys[0][2]}; targets are in scenes "
            f"{sorted({t.scene_id for t in targets})[:_SHOWN]}, of objects {sorted({t.object_id for t in targets})}; "
            "check the data set (--bop), the split (--split) and the numbers in the file"
        )
    images = {key[:2] for key in wanted}
    objects = set(read_models_info(dataset.models_dir(evaluation=True) / "models_info.json"))
    unknown_object = [row for row, key in enumerate(keys) if key[2] not in objects]
    unknown_image = [row for row, key in enumerate(keys) if not _has_image(dataset, *key[:2])]
    unknown = {*unknown_object, *unknown_image}
    other_image = [row for row, key in enumerate(keys) if key[:2] not in images and row not in unknown]
    other_object = [
        row for row, key in enumerate(keys) if key[:2] in images and key not in wanted and row not in unknown
    ]
    distance = results.T_cam_obj[:, :3, 3].norm(dim=1)
    found = {
        f"for objects that the data set does not have (it has {sorted(objects)}); they are left out": unknown_object,
        "for images that are not in the data set; they are left out": unknown_image,
        "for images that are not among the targets; they are left out": other_image,
        "for objects that are not asked for in their image; they are left out": other_object,
        "of poses whose part is not before the camera; they count as wrong projections": _behind(results, parts),
        "of rotations that are orthonormal only to 1 %; "
        + (
            "they are scored as they are"
            if as_written
            else "the nearest rotations are scored in their place (--as-written scores them as BOP does)"
        ): skewed_rows(results),
    }
    said = [f"{len(rows)} of {len(keys)} rows are {what}: {_named(rows)}" for what, rows in found.items() if rows]
    if uneven := _uneven_times(results):
        said.append(
            f"rows of the same image state different times, first those of scene {uneven[0][0]}, image {uneven[0][1]} "
            f"({len(uneven)} in all); a time is that of the whole image, and the last row's is taken"
        )
    if float(distance.median()) < _METRES:
        said.append(f"half of the translations are shorter than {_METRES:g} mm; BOP results are in mm, not in metres")
    return said


def _uneven_times(results: Results) -> list[tuple[int, int]]:
    """Images whose rows state times that differ by more than a millisecond."""
    return [key for key, stated in results.stated_seconds().items() if max(stated) - min(stated) > 1e-3]


def _behind(results: Results, parts: Sequence[Part]) -> list[int]:
    """Rows of parts whose centre is not before the camera."""
    behind = torch.zeros(len(results), dtype=torch.bool)
    for part in parts:
        behind |= (results.object_id == part.object_id) & ~part.is_ahead(results.T_cam_obj)
    return behind.nonzero()[:, 0].tolist()


def skewed_rows(results: Results) -> list[int]:
    """Rows whose rotation is further from orthonormal than rounding in a text file makes it."""
    R = results.T_cam_obj[:, :3, :3]
    skew = (R.transpose(1, 2) @ R - torch.eye(3, dtype=R.dtype)).abs().amax((1, 2))
    return (skew > _ORTHONORMAL).nonzero()[:, 0].tolist()


def orthonormalized(results: Results) -> Results:
    """The same results with the nearest rotations in the rows that `skewed_rows` names; all others stay as written."""
    rows = torch.tensor(skewed_rows(results), dtype=torch.int64)
    T_cam_obj = results.T_cam_obj.clone()
    T_cam_obj[rows, :3, :3] = nearest_rotation(T_cam_obj[rows, :3, :3])
    return replace(results, T_cam_obj=T_cam_obj)


def check_asked_for(results: Results, wanted: Sequence[BopTarget], name: str) -> None:
    """See to it that there is something to score where only some of the targets are wanted.

    Args:
        results: rows of the file.
        wanted: targets of the objects that were asked for.
        name: of the file.

    Raises:
        ValueError: if there are rows, and none is for one of them.
    """
    asked = sorted({t.object_id for t in wanted})
    if len(results) and not _any_wanted(results, wanted):
        raise ValueError(
            f"none of the {len(results)} rows of {name} is for a target of the objects {asked} (--objects); its rows "
            f"are for the objects {sorted(set(results.object_id.tolist()))[:_SHOWN]}; give other objects"
        )


def _any_wanted(results: Results, targets: Sequence[BopTarget]) -> bool:
    columns = (results.scene_id.tolist(), results.image_id.tolist(), results.object_id.tolist())
    wanted = {(t.scene_id, t.image_id, t.object_id) for t in targets}
    return any(key in wanted for key in zip(*columns, strict=True))


def _has_image(dataset: BopDataset, scene_id: int, image_id: int) -> bool:
    return scene_id in dataset.scenes and image_id in dataset.scene(scene_id).camera_entries


def _named(rows: Sequence[int]) -> str:
    """Which rows, the first below the header being row 0, as in the json file."""
    shown = ", ".join(map(str, rows[:_SHOWN]))
    return f"row{'s' if len(rows) > 1 else ''} {shown}" + (", ..." if len(rows) > _SHOWN else "")

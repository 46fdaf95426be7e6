"""Which estimates stand against which ground truths, and the errors of every such pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_files import BopInstance, BopTarget
from cad2pose.data.results import Results
from cad2pose.evaluation.pose_error import (
    add_error,
    adi_error,
    mspd_error,
    mssd_error,
    rotation_error,
    symmetric_errors,
    translation_error,
)
from cad2pose.evaluation.recall import best_scored
from cad2pose.geometry.camera import Camera
from cad2pose.parts.part import Part

_REFERENCE_WIDTH = 640  # px; BOP scales MSPD to the images of LM-O


@dataclass(frozen=True)
class Problem:
    """A target with its ground truths and the estimates that count.

    Args:
        target: what is asked for.
        truths: the `instance_count` most visible annotations of the object in the image.
        rows: `(E,)` rows of the results, at most `instance_count` of the highest scores, highest first.
        score: `(E,)` their scores.
        camera: of the image.
    """

    target: BopTarget
    truths: tuple[BopInstance, ...]
    rows: Int[Tensor, "e"]
    score: Float[Tensor, "e"]
    camera: Camera

    @property
    def shape(self) -> tuple[int, int]:
        """Number of estimates and of ground truths."""
        return len(self.rows), len(self.truths)


@dataclass(frozen=True)
class PairErrors:
    """Errors of P pairs of an estimate and a ground truth of one object.

    Args:
        mssd: share of the diameter.
        mspd: px, scaled to images of 640 px width.
        add_s: ADI where the object has symmetries, ADD elsewhere; share of the diameter.
        rotation: degrees, without symmetries.
        translation: mm, without symmetries.
        symmetric_5deg_5cm: the lowest over all symmetries of max(rotation / 5 deg, translation / 5 cm).
        symmetric_rotation: degrees, at the symmetry of the lowest rotation error.
        symmetric_frobenius: the same as norm of the matrices' difference.
        symmetric_translation: mm, at the same symmetry.
    """

    mssd: Float[Tensor, "p"]
    mspd: Float[Tensor, "p"]
    add_s: Float[Tensor, "p"]
    rotation: Float[Tensor, "p"]
    translation: Float[Tensor, "p"]
    symmetric_5deg_5cm: Float[Tensor, "p"]
    symmetric_rotation: Float[Tensor, "p"]
    symmetric_frobenius: Float[Tensor, "p"]
    symmetric_translation: Float[Tensor, "p"]


def pose_problems(results: Results, dataset: BopDataset, targets: Sequence[BopTarget]) -> list[Problem]:
    """One problem per target, in the targets' order.

    Raises:
        ValueError: if a target's image or ground truth is not in the dataset.
    """
    rows: dict[tuple[int, int, int], list[int]] = {}
    keys = zip(results.scene_id.tolist(), results.image_id.tolist(), results.object_id.tolist(), strict=True)
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    problems = []
    for target in targets:
        scene = dataset.scene(target.scene_id)
        found = torch.tensor(rows.get((target.scene_id, target.image_id, target.object_id), []), dtype=torch.int64)
        kept = found[best_scored(results.score[found], target.instance_count)]
        truths = _most_visible(scene.instances(target.image_id), target)
        problems.append(Problem(target, truths, kept, results.score[kept], scene.camera(target.image_id)))
    return problems


def pair_errors(results: Results, problems: Sequence[Problem], part: Part) -> PairErrors:
    """Errors of all pairs of one object: problem after problem, estimate by estimate, truth by truth."""
    truths = [truth.T_cam_obj for p in problems for _ in range(p.shape[0]) for truth in p.truths]
    cameras = [p.camera for p in problems for _ in range(p.shape[0] * p.shape[1])]
    rows = torch.cat([p.rows.repeat_interleave(p.shape[1]) for p in problems])
    T_est = results.T_cam_obj[rows].double()
    T_gt = torch.stack(truths) if truths else T_est
    K = torch.stack([c.K for c in cameras]) if cameras else T_est[:, :3, :3]
    width = torch.tensor([c.width for c in cameras], dtype=torch.float64)
    points, symmetries = part.mesh.vertices.double(), part.symmetries.transforms().double()
    rotation, frobenius, translation = symmetric_errors(T_est, T_gt, symmetries)
    nearest = rotation.argmin(1, keepdim=True)
    add_s = adi_error if len(symmetries) > 1 else add_error
    return PairErrors(
        mssd=mssd_error(T_est, T_gt, points, symmetries) / part.diameter,
        mspd=mspd_error(T_est, T_gt, K, points, symmetries) * _REFERENCE_WIDTH / width,
        add_s=add_s(T_est, T_gt, points) / part.diameter,
        rotation=rotation_error(T_est[:, :3, :3], T_gt[:, :3, :3]),
        translation=translation_error(T_est[:, :3, 3], T_gt[:, :3, 3]),
        symmetric_5deg_5cm=torch.maximum(rotation / 5, translation / 50).amin(1),
        symmetric_rotation=rotation.gather(1, nearest)[:, 0],
        symmetric_frobenius=frobenius.gather(1, nearest)[:, 0],
        symmetric_translation=translation.gather(1, nearest)[:, 0],
    )


def count_unused_rows(results: Results, targets: Sequence[BopTarget]) -> Counter[str]:
    """Rows of the results that are for no target, by why: another image, or another object in an image of theirs."""
    wanted = {(t.scene_id, t.image_id, t.object_id) for t in targets}
    images = {key[:2] for key in wanted}
    unused: Counter[str] = Counter()
    for key in zip(results.scene_id.tolist(), results.image_id.tolist(), results.object_id.tolist(), strict=True):
        if key not in wanted:
            unused["object" if key[:2] in images else "image"] += 1
    return unused


def _most_visible(instances: Sequence[BopInstance], target: BopTarget) -> tuple[BopInstance, ...]:
    """The instances that count for a target, in the order of the file."""
    candidates = [i for i in instances if i.object_id == target.object_id]
    if len(candidates) < target.instance_count:
        raise ValueError(
            f"scene {target.scene_id}, image {target.image_id}: the targets ask for {target.instance_count} of object "
            f"{target.object_id}, but the ground truth has {len(candidates)}; is it complete, or kept back?"
        )
    ranked = sorted(candidates, key=lambda i: -1.0 if i.visible_fraction is None else i.visible_fraction, reverse=True)
    return tuple(sorted(ranked[: target.instance_count], key=lambda i: i.index))

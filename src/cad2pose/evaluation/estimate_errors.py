"""Every estimate that counts, with its ground truth and its errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.evaluation.credits import cut
from cad2pose.evaluation.pair_errors import PairErrors
from cad2pose.evaluation.pairs import PairKey, Problem
from cad2pose.evaluation.recall import match_greedily


@dataclass(frozen=True)
class EstimateError:
    """One estimate that counts, paired with its ground truth (the nearest by MSSD where there are several).

    Args:
        row: row of the results, header not counted.
        ground_truth: place among the image's annotations.
        mssd: share of the diameter.
        mspd: px in an image of 640 px width; inf for an estimate that is not before the camera.
        add_s: ADD, or ADI for objects with symmetries; share of the diameter.
        rotation: degrees, of the symmetric version of the true pose with the lowest.
        frobenius: the same as norm of the matrices' difference.
        translation: mm.
        vsd: mean over BOP's tolerances; None without depth images.
    """

    scene_id: int
    image_id: int
    object_id: int
    row: int
    ground_truth: int
    score: float
    mssd: float
    mspd: float
    add_s: float
    rotation: float
    frobenius: float
    translation: float
    vsd: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As json values; null for what is infinite or not known."""
        return {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in vars(self).items()}


def paired_estimates(
    problems: Sequence[Problem], errors: PairErrors, vsd: Mapping[PairKey, Float[Tensor, "t"]] | None
) -> list[EstimateError]:
    """Pair every estimate of one object that counts with a ground truth, greedily by MSSD without a threshold."""
    names = ("mssd", "mspd", "add_s", "symmetric_rotation", "symmetric_frobenius", "symmetric_translation")
    table = torch.stack([getattr(errors, name) for name in names], dim=1)
    unlimited = torch.tensor([torch.inf], dtype=torch.float64)
    found = []
    for problem, block in zip(problems, cut(problems, table), strict=True):
        target = problem.target
        for match in match_greedily(problem.score, block.errors[..., :1], unlimited):
            values = block.errors[match.estimate, match.ground_truth].tolist()
            row, truth = int(problem.rows[match.estimate]), problem.truths[match.ground_truth].index
            mean_vsd = None if vsd is None else float(vsd[row, truth].mean())
            about = (*problem.image, target.object_id, row, truth, float(problem.score[match.estimate]))
            found.append(EstimateError(*about, *values, vsd=mean_vsd))
    return found

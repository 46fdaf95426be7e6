"""The errors of every pair of an estimate and a ground truth that somebody asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.data.results import Results
from cad2pose.evaluation.pairs import PairKey, Problem
from cad2pose.evaluation.pose_error import (
    add_error,
    adi_error,
    mspd_error,
    mssd_error,
    nearest_symmetric_errors,
    offsets,
    projection_error,
    rotation_error,
    symmetric_projection_error,
    translation_error,
)
from cad2pose.parts.part import Part

_REFERENCE_WIDTH = 640  # px; BOP scales MSPD to the images of LM-O
DEGREE_CENTIMETRES = (2, 5, 10)
"""n of the measures n degrees and n cm."""


@dataclass(frozen=True)
class PairErrors:
    """Errors of P pairs of an estimate and a ground truth of one object.

    Args:
        mssd: share of the diameter.
        mspd: px, scaled to images of 640 px width; inf for an estimate whose centre is not before the
            camera, where projections mean nothing.
        add: share of the diameter.
        add_s: ADI where the object has symmetries, ADD elsewhere; share of the diameter.
        adi: share of the diameter, nan where it was not asked for.
        projection: px, no scaling, without symmetries; inf for an estimate that is not before the camera.
        symmetric_projection: the same of the nearest symmetric version of the true pose.
        rotation: degrees, without symmetries.
        translation: mm, without symmetries.
        degrees_cm: the lowest over all symmetries of max(rotation / 1 deg, translation / 1 cm).
        symmetric_rotation: degrees, at the symmetry of the lowest rotation error.
        symmetric_frobenius: the same as norm of the matrices' difference.
        symmetric_translation: mm, at the same symmetry.
        right, down: px, no scaling: how far the estimate's centre of the part lies to the right of the true one in the
            image, and below it; inf for an estimate that is not before the camera.
        farther: how far it lies behind the true one, % of the latter's distance; likewise.
    """

    mssd: Float[Tensor, "p"]
    mspd: Float[Tensor, "p"]
    add: Float[Tensor, "p"]
    add_s: Float[Tensor, "p"]
    adi: Float[Tensor, "p"]
    projection: Float[Tensor, "p"]
    symmetric_projection: Float[Tensor, "p"]
    rotation: Float[Tensor, "p"]
    translation: Float[Tensor, "p"]
    degrees_cm: Float[Tensor, "p"]
    symmetric_rotation: Float[Tensor, "p"]
    symmetric_frobenius: Float[Tensor, "p"]
    symmetric_translation: Float[Tensor, "p"]
    right: Float[Tensor, "p"]
    down: Float[Tensor, "p"]
    farther: Float[Tensor, "p"]


SurfaceErrors = Mapping[PairKey, tuple[float, float]]
"""MSSD (share of the diameter) and MSPD (px at 640 px width) by pair."""


def surface_errors(results: Results, problems: Sequence[Problem], part: Part) -> SurfaceErrors:
    """MSSD and MSPD of all pairs of one object; a pair that stands in several problems is computed once."""
    unique: dict[PairKey, _Pair] = {}
    for problem in problems:
        unique |= dict(zip(problem.keys(), _pairs(problem), strict=True))
    T_est, T_gt, K, width = _stacked(results, list(unique.values()))
    points, symmetries = part.mesh.vertices.double(), part.symmetries.transforms().double()
    mssd = mssd_error(T_est, T_gt, points, symmetries) / part.diameter
    mspd = mspd_error(T_est, T_gt, K, points, symmetries) * _REFERENCE_WIDTH / width
    mspd = torch.where(part.is_ahead(T_est), mspd, math.inf)
    return dict(zip(unique, zip(mssd.tolist(), mspd.tolist(), strict=True), strict=True))


def pair_errors(
    results: Results, problems: Sequence[Problem], part: Part, surface: SurfaceErrors, adi_of_all: bool = False
) -> PairErrors:
    """Errors of all pairs of one object: problem after problem, estimate by estimate, truth by truth.

    Args:
        results: the estimates.
        problems: of the object.
        part: the object.
        surface: MSSD and MSPD, as `surface_errors` gives them.
        adi_of_all: ADI even for an object without symmetries (slow: nearest neighbours of all vertices).
    """
    T_est, T_gt, K, _ = _stacked(results, [pair for p in problems for pair in _pairs(p)])
    keys = [key for p in problems for key in p.keys()]  # noqa: SIM118
    known = torch.tensor([surface[key] for key in keys], dtype=torch.float64).reshape(-1, 2)
    points, symmetries = part.mesh.vertices.double(), part.symmetries.transforms().double()
    rotation, frobenius, translation, degrees_cm = nearest_symmetric_errors(T_est, T_gt, symmetries).unbind(1)
    ahead, symmetric = part.is_ahead(T_est), len(symmetries) > 1
    add = add_error(T_est, T_gt, points) / part.diameter
    adi = torch.full_like(add, math.nan)
    if symmetric or adi_of_all:
        adi = adi_error(T_est, T_gt, points) / part.diameter
    projection = projection_error(T_est, T_gt, K, points)
    symmetric_projection = projection
    if symmetric:
        symmetric_projection = symmetric_projection_error(T_est, T_gt, K, points, symmetries)
    right, down, farther = offsets(T_est, T_gt, K, part.center.double()).where(ahead[:, None], math.inf).unbind(1)
    return PairErrors(
        mssd=known[:, 0],
        mspd=known[:, 1],
        add=add,
        add_s=adi if symmetric else add,
        adi=adi,
        projection=torch.where(ahead, projection, math.inf),
        symmetric_projection=torch.where(ahead, symmetric_projection, math.inf),
        rotation=rotation_error(T_est[:, :3, :3], T_gt[:, :3, :3]),
        translation=translation_error(T_est[:, :3, 3], T_gt[:, :3, 3]),
        degrees_cm=degrees_cm,
        symmetric_rotation=rotation,
        symmetric_frobenius=frobenius,
        symmetric_translation=translation,
        right=right,
        down=down,
        farther=farther,
    )


@dataclass(frozen=True)
class _Pair:
    row: int
    T_gt: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]
    width: int


def _pairs(problem: Problem) -> list[_Pair]:
    camera = problem.camera
    return [
        _Pair(row, truth.T_cam_obj, camera.K, camera.width) for row in problem.rows.tolist() for truth in problem.truths
    ]


def _stacked(
    results: Results, pairs: Sequence[_Pair]
) -> tuple[Float[Tensor, "p 4 4"], Float[Tensor, "p 4 4"], Float[Tensor, "p 3 3"], Float[Tensor, "p"]]:
    """Estimated and true poses, cameras and image widths."""
    T_est = results.T_cam_obj[torch.tensor([p.row for p in pairs], dtype=torch.int64)].double()
    T_gt = torch.stack([p.T_gt for p in pairs]) if pairs else T_est
    K = torch.stack([p.K for p in pairs]) if pairs else T_est[:, :3, :3]
    return T_est, T_gt, K, torch.tensor([float(p.width) for p in pairs], dtype=torch.float64)

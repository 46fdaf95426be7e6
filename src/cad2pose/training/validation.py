"""Errors of a method's poses on crops whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.geometry.rotation import degrees, geodesic_distance
from cad2pose.methods import Method, PoseMethod, SurfEmbMethod
from cad2pose.parts import nearest_equivalent
from cad2pose.structures import CropBatch, CropSource
from cad2pose.training.config import TrainingConfig
from cad2pose.training.crop_figures import CropFigures
from cad2pose.training.matches import CropMatches, crop_matches
from cad2pose.training.optim import autocast

_BATCH = 32


@dataclass(frozen=True)
class CropErrors(CropFigures):
    """Errors per crop.

    Args:
        rotation: `(N,)` degrees, to the nearest of the equivalent true rotations.
        translation: `(N,)` distance of the bounding-sphere centres in % of the true distance.
        depth: `(N,)` signed depth error of that centre in % of the true depth.
        score: `(N,)` the method's own.
    """

    rotation: Float[Tensor, "n"]
    translation: Float[Tensor, "n"]
    depth: Float[Tensor, "n"]
    score: Float[Tensor, "n"]

    def _medians(self, rows: Bool[Tensor, "n"]) -> dict[str, float]:
        return {
            "rotation_deg": float(self.rotation[rows].median()),
            "translation_percent": float(self.translation[rows].median()),
            "depth_percent": float(self.depth[rows].abs().median()),
            "share_under_10_deg": float((self.rotation[rows] < 10).float().mean()),
        }


def validate(method: Method, crops: CropSource, count: int, config: TrainingConfig) -> CropErrors | CropMatches:
    """What can be said of a method on the first `count` crops of a source: errors of its poses, or its matches."""
    method.eval()
    errors: list[CropErrors] = []
    matches: list[CropMatches] = []
    for index in range(-(-count // _BATCH)):
        batch = crops.batch(index, min(_BATCH, count - index * _BATCH))
        with autocast(config, batch.image.device):
            if isinstance(method, PoseMethod):
                errors.append(crop_errors(method, batch))
            else:
                assert isinstance(method, SurfEmbMethod), "only poses and surface embeddings can be judged"
                matches.append(crop_matches(method, batch))
    return CropErrors.join(errors) if errors else CropMatches.join(matches)


@torch.no_grad()
def crop_errors(method: PoseMethod, batch: CropBatch) -> CropErrors:
    """Symmetry-aware errors of the method's poses on one batch with truth; the method must be in eval mode."""
    assert batch.truth is not None
    assert not method.training
    T_found, score = method.poses(method(batch), batch)
    return pose_crop_errors(method, batch, T_found, score)


def pose_crop_errors(
    method: Method, batch: CropBatch, T_found: Float[Tensor, "batch 4 4"], score: Float[Tensor, "batch"]
) -> CropErrors:
    """The same for poses T_virt_obj found in any way."""
    assert batch.truth is not None
    parts, index = method.parts, batch.part_index
    T_true = batch.truth.T_virt_obj.double()
    centre = parts.centre.double()[index, :, None]
    found = (T_found[:, :3, :3] @ centre)[..., 0] + T_found[:, :3, 3]
    true = (T_true[:, :3, :3] @ centre)[..., 0] + T_true[:, :3, 3]
    nearest = T_true.clone()
    for number in index.unique().tolist():  # exact: a training's steps about an axis would leave errors of their own
        mine = index == number
        nearest[mine] = nearest_equivalent(T_found[mine].double(), T_true[mine], parts.symmetries[number])
    angles = geodesic_distance(T_found[:, :3, :3].double(), nearest[:, :3, :3])
    return CropErrors(
        rotation=degrees(angles).float().cpu(),
        translation=(100 * (found - true).norm(dim=1) / true.norm(dim=1)).float().cpu(),
        depth=(100 * (found - true)[:, 2] / true[:, 2]).float().cpu(),
        score=score.float().cpu(),
        part_index=index.cpu(),
    )

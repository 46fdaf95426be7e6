"""One line per target: what it earned under every measure, so that any set of targets is scored by plain means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.data.bop_files import BopInstance
from cad2pose.evaluation.bootstrap import weighted_medians
from cad2pose.evaluation.pairs import Problem
from cad2pose.evaluation.pose_error import OFFSETS


@dataclass(frozen=True)
class TargetTable:
    """N targets (instances that are asked for) in I images.

    Args:
        images: scene and image number of each image.
        image: `(N,)` index of the target's image.
        object_id: `(N,)`.
        visible: `(N,)` visible share, nan where the dataset does not tell.
        distance: `(N,)` mm, of the object's origin from the camera.
        box_size: `(N,)` px, root of the area of the whole silhouette's box; nan where it is not told.
        credit: by measure, `(N,)` in [0, 1]; a measure is the mean of its credits.
        error: by measure, `(N,)` rotation (deg), Frobenius norm, translation and ADD(-S) (mm), and signed offsets
            (`OFFSETS`) of the estimate that stands against the target, inf where none does.
    """

    images: tuple[tuple[int, int], ...]
    image: Int[Tensor, "n"]
    object_id: Int[Tensor, "n"]
    visible: Float[Tensor, "n"]
    distance: Float[Tensor, "n"]
    box_size: Float[Tensor, "n"]
    credit: Mapping[str, Float[Tensor, "n"]]
    error: Mapping[str, Float[Tensor, "n"]]

    def __len__(self) -> int:
        return len(self.object_id)

    @property
    def estimated(self) -> Bool[Tensor, "n"]:
        """Targets that an estimate stands against."""
        return self.error["rotation"].isfinite()

    @classmethod
    def join(cls, tables: Sequence[TargetTable]) -> TargetTable:
        """Tables of the same images and measures, one behind the other."""
        names = ("image", "object_id", "visible", "distance", "box_size")
        columns = {name: torch.cat([getattr(table, name) for table in tables]) for name in names}
        credit = {name: torch.cat([table.credit[name] for table in tables]) for name in tables[0].credit}
        error = {name: torch.cat([table.error[name] for table in tables]) for name in tables[0].error}
        return cls(images=tables[0].images, credit=credit, error=error, **columns)

    def select(self, chosen: Bool[Tensor, "n"]) -> TargetTable:
        """Some of the targets; the images stay."""
        names = ("image", "object_id", "visible", "distance", "box_size")
        columns = {name: getattr(self, name)[chosen] for name in names}
        credit = {name: values[chosen] for name, values in self.credit.items()}
        error = {name: values[chosen] for name, values in self.error.items()}
        return TargetTable(images=self.images, credit=credit, error=error, **columns)

    def means(self, weights: Float[Tensor, "b i"]) -> dict[str, Float[Tensor, "b"]]:
        """Every measure for B weightings of the images; nan where they hold no target."""
        names = list(self.credit)
        earned = torch.stack([torch.ones_like(self.visible), *(self.credit[name] for name in names)], dim=1)
        per_image = torch.zeros(len(self.images), earned.shape[1], dtype=torch.float64)
        sums = weights @ per_image.index_add_(0, self.image, earned)
        return dict(zip(names, (sums[:, 1:] / sums[:, :1]).unbind(1), strict=True))

    def error_spreads(self, weights: Float[Tensor, "b i"]) -> dict[str, Float[Tensor, "b"]]:
        """Mean and median of rotation and translation errors over the targets with an estimate, for B weightings.

        And of offsets the medians.
        """
        each = weights[:, self.image[self.estimated]]
        found = {}
        for name, unit in (("rotation", "deg"), ("translation", "mm")):
            values = self.error[name][self.estimated]
            found[f"{name}_{unit}_mean"] = each @ values / each.sum(1)
            found[f"{name}_{unit}_median"] = weighted_medians(values, each)
        return found | self.offset_medians(weights)

    def offset_medians(self, weights: Float[Tensor, "b i"]) -> dict[str, Float[Tensor, "b"]]:
        """Medians of the offsets, which systematic errors move away from 0, for B weightings."""
        found = {}
        for name, unit in OFFSETS.items():
            finite = self.error[name].isfinite()
            shares = weights[:, self.image[finite]]
            found[f"offset_{name}_{unit}_median"] = weighted_medians(self.error[name][finite], shares)
        return found


def describe_targets(
    problems: Sequence[Problem],
    images: Sequence[tuple[int, int]],
    credit: Mapping[str, Tensor],
    error: Mapping[str, Tensor],
) -> TargetTable:
    """Table of the problems' ground truths, problem after problem, with what they earned."""
    index = {key: place for place, key in enumerate(images)}
    truths = [(p, truth) for p in problems for truth in p.truths]
    return TargetTable(
        images=tuple(images),
        image=torch.tensor([index[p.image] for p, _ in truths], dtype=torch.int64),
        object_id=torch.tensor([p.target.object_id for p, _ in truths], dtype=torch.int64),
        visible=_column([math.nan if t.visible_fraction is None else t.visible_fraction for _, t in truths]),
        distance=_column([float(t.T_cam_obj[:3, 3].norm()) for _, t in truths]),
        box_size=_column([_box_size(t) for _, t in truths]),
        credit=dict(credit),
        error=dict(error),
    )


def _column(values: list[float]) -> Float[Tensor, "n"]:
    return torch.tensor(values, dtype=torch.float64)


def _box_size(truth: BopInstance) -> float:
    if truth.box_full is None or not truth.in_image:
        return math.nan
    return math.sqrt(truth.box_full[2] * truth.box_full[3])

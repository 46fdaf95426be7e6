"""Rotation regression in charts: several regressed rotations, each near its own anchor, and which one to believe.

One continuous output cannot follow a symmetric part: the poses of a hexagonal nut form a space that has no continuous
section in SO(3), so a single regressed rotation must jump somewhere, and before it has learnt to, it averages. Charts
take the jump over: anchors are spread evenly over SO(3) (the rotations of an octahedron or an icosahedron), each has a
regressed rotation that only has to be right near its anchor, and a logit. A part with symmetries is right in several
charts at once. Mixed classification and regression of rotations: Mahendran et al., "A Mixed Classification-Regression
Framework for 3D Pose Estimation from 2D Images" (2018); here the anchors are a group, and the targets know symmetry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry.rotation import nearest_rotation, rotation_from_axis_angle
from cad2pose.geometry.transform import make_transform
from cad2pose.parts.symmetry import Symmetries
from cad2pose.parts.symmetry_choice import nearest_turn

CHART_COUNTS = (1, 24, 60)
_WIDTH = {24: math.radians(28.0), 60: math.radians(20.0)}
_SAME_MODE = math.cos(math.radians(30.0))


@dataclass(frozen=True)
class RotationCharts:
    """What a head says of the rotation.

    Args:
        rotation: `(B, C, 3, 3)` one regressed rotation per chart.
        logits: `(B, C)` of the charts.
    """

    rotation: Float[Tensor, "batch charts 3 3"]
    logits: Float[Tensor, "batch charts"]

    def best(self) -> Float[Tensor, "batch 3 3"]:
        """The rotation of the likeliest chart."""
        row = torch.arange(len(self.logits), device=self.logits.device)
        return self.rotation[row, self.logits.argmax(1)]

    def mode(self) -> Float[Tensor, "batch 3 3"]:
        """The likeliest mode: see `modes`."""
        return self.modes(1)[0][:, 0]

    @torch.no_grad()
    def modes(self, count: int) -> tuple[Float[Tensor, "batch {count} 3 3"], Float[Tensor, "batch {count}"]]:
        """The likeliest rotations that differ, and their probabilities.

        A mode is the mean of the charts that agree with the likeliest one left within 30 degrees, weighted by their
        probability. Where no chart is left, the first mode is repeated, with probability 0. Rows of numbers that are
        not finite stay so.
        """
        left = torch.softmax(self.logits, dim=1)
        row = torch.arange(len(left), device=left.device)
        rotations, shares = [], []
        for _ in range(count):
            best = self.rotation[row, left.argmax(1)]
            agrees = torch.einsum("bij,bcij->bc", best, self.rotation) >= 1 + 2 * _SAME_MODE
            weight = left * agrees
            share = weight.sum(1)
            mean = torch.einsum("bc,bcij->bij", weight, self.rotation)
            mean = torch.where((share > 0)[:, None, None], mean, rotations[0] if rotations else best)
            finite = torch.isfinite(mean).flatten(1).all(1)[:, None, None]
            nearest = nearest_rotation(torch.where(finite, mean, torch.eye(3, dtype=mean.dtype, device=mean.device)))
            rotations.append(torch.where(finite, nearest, torch.nan))
            shares.append(share)
            left = left * ~agrees
        return torch.stack(rotations, dim=1), torch.stack(shares, dim=1)


def anchor_rotations(count: int) -> Float[Tensor, "count 3 3"]:
    """Evenly spread rotations: the identity alone, or the rotation group of the octahedron (24) or icosahedron (60).

    No rotation is farther from the nearest anchor than 62.8 degrees (24) or 44.5 degrees (60).

    Raises:
        ValueError: for another count.
    """
    if count == 1:
        return torch.eye(3, dtype=torch.float64)[None]
    if count not in CHART_COUNTS:
        raise ValueError(f"charts is {count}; it must be one of {', '.join(map(str, CHART_COUNTS))}")
    golden = (1 + math.sqrt(5)) / 2
    fold, axis = (4, (0.0, 0.0, 1.0)) if count == 24 else (5, (0.0, 1.0, golden))
    turns = torch.tensor([[*axis], [1.0, 1.0, 1.0]], dtype=torch.float64)
    angles = torch.tensor([2 * math.pi / fold, 2 * math.pi / 3], dtype=torch.float64)
    generators = rotation_from_axis_angle(turns / turns.norm(dim=1, keepdim=True) * angles[:, None])
    group = Symmetries.generated_by(make_transform(generators, torch.zeros(2, 3, dtype=torch.float64)))
    return torch.cat((torch.eye(3, dtype=torch.float64)[None], group.discrete[:, :3, :3]))


def chart_targets(
    truth: Float[Tensor, "batch 3 3"],
    group: Float[Tensor, "batch k 3 3"],
    axis: Float[Tensor, "batch 3"],
    anchors: Float[Tensor, "charts 3 3"],
) -> tuple[Float[Tensor, "batch charts 3 3"], Float[Tensor, "batch charts"]]:
    """What every chart should say, and how far it is concerned.

    Args:
        truth: true rotations R.
        group: the rotations S of each part's symmetry group, padded with the identity; about an axis some of them.
        axis: about which any turn is one, 0 where there is none.
        anchors: of the charts; more than one.

    Returns:
        the equivalent truth R S nearest to each chart's anchor, and weights that sum to 1 per row and fall with the
        anchor's distance from it as a Gaussian does.
    """
    equivalent = truth[:, None] @ group
    closeness = torch.einsum("bkij,cij->bck", equivalent, anchors)
    row = torch.arange(len(truth), device=truth.device)[:, None]
    wanted = equivalent[row, closeness.argmax(dim=2)]
    wanted = wanted @ nearest_turn(anchors.mT @ wanted, axis[:, None].to(wanted).expand(wanted.shape[:-1]))
    closest = (wanted * anchors).sum((2, 3))
    angle = torch.acos(((closest - 1) / 2).clamp(-1, 1))
    weight = torch.softmax(-(angle / _WIDTH[len(anchors)]).square(), dim=1)
    return wanted, weight

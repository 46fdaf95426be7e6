"""What methods that regress a pose from dense maps share: the head, its loss, and the poses read off it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from cad2pose.geometry import make_transform, resized_intrinsics, rotation_to_ray
from cad2pose.methods.config_checks import check_named
from cad2pose.methods.contrastive import full_precision
from cad2pose.methods.losses import angle_between, chordal_distance, point_matching
from cad2pose.methods.method import PoseMethod
from cad2pose.methods.pose_head import HeadPose, decode_charts, decode_pose, encode_pose, initial_numbers, pose_numbers
from cad2pose.methods.rotation_charts import CHART_COUNTS, RotationCharts, anchor_rotations, chart_targets
from cad2pose.networks import PatchPnP, ThesisHead
from cad2pose.solvers import CoordinateMaps
from cad2pose.structures import CropBatch

HeadName = Literal["patch-pnp", "thesis", "thesis-plain", "thesis-group"]
RotationLoss = Literal["points", "surface-points", "geodesic", "frobenius"]

_CHARTS_MATCHED = 6
_HEAD_STRIDE = 4
_FULL_HIDDEN = 1024  # of Patch-PnP's first layer; the thesis' head shrinks with it


@runtime_checkable
class RegressionConfig(Protocol):
    """Settings of the head and of the pose's loss; `QueryConfig` says what each of them means."""

    @property
    def crop_size(self) -> int: ...
    @property
    def pad(self) -> float: ...
    @property
    def stride(self) -> int: ...
    @property
    def head(self) -> HeadName: ...
    @property
    def head_width(self) -> int: ...
    @property
    def head_hidden(self) -> tuple[int, int]: ...
    @property
    def charts(self) -> int: ...
    @property
    def pose_gradient(self) -> float: ...
    @property
    def rotation_loss(self) -> RotationLoss: ...
    @property
    def symmetric_loss(self) -> bool: ...
    @property
    def symmetry_steps(self) -> int: ...


@runtime_checkable
class RegressionOutput(Protocol):
    """What every output of these methods has: the pose, and the allocentric rotations it was chosen from."""

    @property
    def pose(self) -> HeadPose: ...
    @property
    def charts(self) -> RotationCharts: ...


def check_regression(config: RegressionConfig) -> None:
    """Raise ValueError for a setting that cannot be, by its name."""
    if config.head_width % 8 or config.head_width <= 0:
        raise ValueError(f"head_width is {config.head_width}; it must be a positive multiple of 8")
    if config.charts not in CHART_COUNTS:
        raise ValueError(f"charts is {config.charts}; it must be one of {', '.join(map(str, CHART_COUNTS))}")
    if not 0 <= config.pose_gradient <= 1:
        raise ValueError(f"pose_gradient is {config.pose_gradient}; it must lie between 0 and 1")
    if config.symmetry_steps <= 0:
        raise ValueError(f"symmetry_steps is {config.symmetry_steps}; it must be positive")
    check_named("head", config.head, HeadName)
    check_named("rotation_loss", config.rotation_loss, RotationLoss)


def _head_cells(config: RegressionConfig) -> int:
    """Cells a side of what the head sees."""
    least = _HEAD_STRIDE if config.head == "patch-pnp" else 1
    return config.crop_size // max(config.stride, least)


class RegressionMethod(PoseMethod):
    """Dense maps, and a pose regressed from them.

    A class of these calls `_add_head` when it is made, and `_regressed` with the maps that the head is to see. Maps
    that are finer than GDR-Net's are averaged to its stride of 4 before Patch-PnP: poses by regression gain nothing by
    more cells, and the head would have four times the weights. The thesis' head sees them as they are.

    Attributes:
        head: the regression head.
        anchors: `(C, 3, 3)` of the charts.
    """

    config: Any
    head: nn.Module
    anchors: Tensor

    def _add_head(self, channels: int) -> None:
        """A head for maps of so many channels."""
        config: RegressionConfig = self.config
        map_size, outputs, count = _head_cells(config), pose_numbers(config.charts), len(self.parts)
        anchors = anchor_rotations(config.charts)
        if config.head == "patch-pnp":
            head = PatchPnP(channels, map_size, outputs, count, config.head_width, config.head_hidden)
        elif count > 1:
            raise ValueError(f"the thesis' head serves one part, and {count} were given; use the head patch-pnp")
        else:
            scale = config.head_hidden[0] / _FULL_HIDDEN
            dropping, grouped = config.head == "thesis", config.head == "thesis-group"
            head = ThesisHead(channels, map_size, outputs, dropping, grouped, scale)
        head.output_bias.data[:] = initial_numbers(anchors)
        self.head = head
        self.register_buffer("anchors", anchors.float(), persistent=False)

    def _regressed(self, maps: Float[Tensor, "batch c m m"], batch: CropBatch) -> tuple[HeadPose, RotationCharts]:
        shrunk, share = maps.shape[-1] // _head_cells(self.config), self.config.pose_gradient
        maps = maps.contiguous(memory_format=torch.channels_last)
        if share < 1 and maps.requires_grad:
            maps = share * maps + (1 - share) * maps.detach()
        numbers = self.head(avg_pool2d(maps, shrunk) if shrunk > 1 else maps, batch.part_index)
        radius = self.parts.radius[batch.part_index]
        with full_precision(numbers):
            charts = decode_charts(numbers, self.config.charts)
            rotation = charts.best() if self.training or self.config.charts == 1 else charts.mode()
            return decode_pose(numbers, rotation, batch.camera, radius, self.config.pad), charts

    def _pose_terms(self, output: RegressionOutput, batch: CropBatch) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss that speak of the pose."""
        truth = batch.truth
        assert truth is not None, "a loss needs the truth of the crops"
        target = encode_pose(
            truth.T_virt_obj, batch.camera, self.parts.centre[batch.part_index],
            self.parts.radius[batch.part_index], self.config.pad,
        )  # fmt: skip
        return {
            **self._rotation_loss(output, target, batch.part_index),
            "centre": (output.pose.centre - target.centre).abs().sum(-1).mean(),
            "depth": (output.pose.log_depth - target.log_depth).abs().mean(),
        }

    def _rotation_loss(
        self, output: RegressionOutput, target: HeadPose, index: Int[Tensor, "batch"]
    ) -> dict[str, Float[Tensor, ""]]:
        """What rotations cost in the charts near the truth, and how far the logits are from choosing those.

        A single rotation whose surface points are matched is compared as the camera sees it, so that its cost also has
        a gradient into the centre (GDR-Net); all others are compared without the ray, which is another's business.
        """
        charts = output.charts
        truth = rotation_to_ray(target.position).transpose(1, 2) @ target.rotation
        if self.config.charts == 1:
            found = charts.rotation[:, 0]
            if self.config.rotation_loss == "surface-points":
                found, truth = output.pose.rotation, target.rotation.to(found)
            if self.config.symmetric_loss:
                truth = self.parts.nearest_symmetric(found, truth, index)
            return {"rotation": self._rotation_cost(found[:, None], truth[:, None], index).mean()}
        group, axis = self.parts.symmetry[index], self.parts.axis[index]
        if not self.config.symmetric_loss:
            group, axis = group[:, :1], torch.zeros_like(axis)
        wanted, weight = chart_targets(truth, group, axis, self.anchors)
        divergence = torch.nn.functional.kl_div(charts.logits.log_softmax(1), weight, reduction="batchmean")
        nearest = weight.topk(_CHARTS_MATCHED, dim=1)
        row = torch.arange(len(weight), device=weight.device)[:, None]
        cost = self._rotation_cost(charts.rotation[row, nearest.indices], wanted[row, nearest.indices], index)
        share = nearest.values / nearest.values.sum(1, keepdim=True)
        return {"rotation": (share * cost).sum(1).mean(), "chart": divergence}

    def _rotation_cost(
        self, predicted: Float[Tensor, "batch n 3 3"], truth: Float[Tensor, "batch n 3 3"], index: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch n"]:
        """Cost of every rotation: the angle, the Frobenius norm, or point matching.

        Matched are points of the surface (GDR-Net), or half of these and half the ends of the frame's axes: surface
        points alone hardly feel a thin part turned upside down where the turn about its axis is unsure (a disc with one
        notch).
        """
        if self.config.rotation_loss == "geodesic":
            return angle_between(predicted, truth)
        if self.config.rotation_loss == "frobenius":
            return chordal_distance(predicted, truth)
        surface = point_matching(predicted, truth, self.parts.sparse[index])
        if self.config.rotation_loss == "surface-points":
            return surface
        axes = torch.eye(3, dtype=predicted.dtype, device=predicted.device).expand(len(predicted), 3, 3)
        return (surface + point_matching(predicted, truth, axes)) / 2

    def starts(
        self, output: RegressionOutput, count: int
    ) -> tuple[Float[Tensor, "batch k 3 3"], Float[Tensor, "batch k"]]:
        """Rotations R_virt_obj that the pose may have, and their probabilities.

        First the `count` likeliest that differ (`RotationCharts.modes`), then that of every chart, however unlikely,
        so that one of them is near any rotation. Of a single chart, its rotation alone.
        """
        with full_precision(output.pose.position):
            rotation, logits = output.charts.rotation, output.charts.logits
            probability = torch.softmax(logits, dim=1)
            if logits.shape[1] > 1:
                modes, share = output.charts.modes(count)
                rotation, probability = torch.cat((modes, rotation), dim=1), torch.cat((share, probability), dim=1)
            return rotation_to_ray(output.pose.position)[:, None] @ rotation, probability

    def poses(
        self, output: RegressionOutput, batch: CropBatch
    ) -> tuple[Float[Tensor, "batch 4 4"], Float[Tensor, "batch"]]:
        """Regressed poses T_virt_obj (mm, mesh file's frame, float64) and their scores in [0, 1]."""
        rotation = output.pose.rotation.double()
        centre = self.parts.centre.double()[batch.part_index]
        translation = output.pose.position.double() - (rotation * centre[:, None]).sum(-1)
        with full_precision(output.pose.position):
            score = self._score(output, batch)
        return make_transform(rotation, translation), score

    @property
    def regresses_coordinates(self) -> bool:
        """Whether `coordinate_maps` has any."""
        return "coordinates" in self.config.intermediate and self.config.intermediate != "true coordinates"

    def coordinate_maps(self, output: Any, batch: CropBatch) -> CoordinateMaps | None:
        """Regressed coordinates in mm, mesh file's frame, for PnP; None for methods or settings without any."""
        found = self._coordinates(output)
        if found is None:
            return None
        coordinates, mask = found
        radius, centre = self.parts.radius[batch.part_index], self.parts.centre[batch.part_index]
        points = coordinates * radius[:, None, None, None] + centre[:, :, None, None]
        K = resized_intrinsics(batch.camera.K_virt, 1 / self.config.stride)
        return CoordinateMaps(points, mask, K.to(points))

    def _coordinates(self, output: Any) -> tuple[Float[Tensor, "batch 3 m m"], Float[Tensor, "batch m m"]] | None:
        """Normalised coordinates and the visible mask."""
        return None

    @abstractmethod
    def _score(self, output: Any, batch: CropBatch) -> Float[Tensor, "batch"]:
        """How well the regressed poses agree with the dense maps, in [0, 1]."""

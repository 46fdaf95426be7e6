"""Pose regression from SurfEmb's query image, end to end: the thesis' model with its faults set right.

A U-Net turns the crop into a mask and a 12-dimensional query per cell; SIREN keys embed the surface in the
same space (SurfEmb, Haugaard & Buch 2022); a Patch-PnP head (GDR-Net, Wang et al. 2021) regresses the pose
from the masked queries, the masks and the ray map. All parts are trained together on the sum of InfoNCE,
mask, rotation, centre and depth losses (equation 7.1 of the thesis).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.geometry import make_transform, rotation_to_ray
from cad2pose.geometry.crop import DEFAULT_PAD
from cad2pose.methods.contrastive import ImageInput, check_contrastive, contrastive_loss, full_precision
from cad2pose.methods.losses import LossTerms, cell_share, mask_loss, point_matching
from cad2pose.methods.method import PoseMethod
from cad2pose.methods.part_set import PartSet
from cad2pose.methods.pose_head import (
    HeadPose,
    decode_charts,
    decode_pose,
    encode_pose,
    initial_numbers,
    pose_numbers,
)
from cad2pose.methods.query_image import QueryImageMethod
from cad2pose.methods.rotation_charts import CHART_COUNTS, RotationCharts, anchor_rotations, chart_targets
from cad2pose.networks import KeyNetwork, PatchPnP, ResNetEncoder, UNetDecoder
from cad2pose.parts import Part
from cad2pose.solvers import QueryMaps
from cad2pose.structures import CropBatch

_MASKS = 2
_CHARTS_MATCHED = 6


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; each term is O(1) at the start and a mean over the batch."""

    nce: float = 1.0
    mask: float = 1.0
    rotation: float = 3.0
    chart: float = 0.5
    centre: float = 6.0
    depth: float = 3.0


@dataclass(frozen=True)
class QueryConfig:
    """Settings of `QueryMethod`; the defaults are the small model that trains on two CPU cores.

    Args:
        crop_size: side of the crop in pixels, a multiple of 32.
        pad: the detection box reaches 1 / pad of the way to the crop's border.
        stride: crop pixels per cell of the output map: 1, 2 or 4.
        width: channels of the encoder's stem (64 is ResNet-18).
        embedding: dimension of queries and keys.
        key_width: hidden width of the key networks.
        head_width: channels of the pose head's convolutions, a multiple of 8.
        head_hidden: the head's two fully connected layers.
        charts: rotations regressed side by side, 1, 24 or 60; one is GDR-Net's head (see `rotation_charts`).
        positives: pixels per crop in the contrastive loss.
        negatives: surface points per object in the contrastive loss.
        positives_from: pixels drawn from the `full` silhouette (as SurfEmb trains) or the `visible` mask.
        key_noise: standard deviation of the noise on coordinates, in sphere radii, that keeps keys smooth.
        symmetry_steps: rotations a continuous symmetry is discretised to in the rotation loss.
        symmetric_loss: compare with the nearest of all equivalent true rotations.
        weights: of the loss terms.
    """

    crop_size: int = 128
    pad: float = DEFAULT_PAD
    stride: int = 4
    width: int = 32
    embedding: int = 12
    key_width: int = 128
    head_width: int = 128
    head_hidden: tuple[int, int] = (512, 256)
    charts: int = 60
    positives: int = 128
    negatives: int = 1024
    positives_from: Literal["full", "visible"] = "full"
    key_noise: float = 1e-3
    symmetry_steps: int = 72
    symmetric_loss: bool = True
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        check_contrastive(self)
        if self.head_width % 8 or self.head_width <= 0:
            raise ValueError(f"head_width is {self.head_width}; it must be a positive multiple of 8")
        if self.charts not in CHART_COUNTS:
            raise ValueError(f"charts is {self.charts}; it must be one of {', '.join(map(str, CHART_COUNTS))}")
        if self.symmetry_steps <= 0:
            raise ValueError(f"symmetry_steps is {self.symmetry_steps}; it must be positive")

    @classmethod
    def full(cls) -> QueryConfig:
        """The full-size model, for a GPU: ResNet-18 at 256 px, 64 x 64 maps, SurfEmb's and GDR-Net's sizes."""
        return cls(
            crop_size=256, stride=4, width=64, key_width=256, head_width=128, head_hidden=(1024, 256), positives=1024
        )

    def build(self, parts: Sequence[Part]) -> QueryMethod:
        """The method with these settings, its weights random."""
        return QueryMethod(self, parts)


@dataclass(frozen=True)
class QueryOutput:
    """What the network says of a batch of crops.

    Args:
        queries: `(B, E, m, m)`, m = crop side / stride; not normalised.
        visible_logits: `(B, m, m)` of the visible mask.
        full_logits: `(B, m, m)` of the full silhouette.
        pose: the regressed pose in the crop camera.
        charts: allocentric rotations that the pose's was chosen from.
    """

    queries: Float[Tensor, "batch e m m"]
    visible_logits: Float[Tensor, "batch m m"]
    full_logits: Float[Tensor, "batch m m"]
    pose: HeadPose
    charts: RotationCharts


class QueryMethod(PoseMethod, QueryImageMethod):
    """Query image and direct pose regression for one or several parts."""

    config: QueryConfig
    anchors: Tensor

    def __init__(self, config: QueryConfig, parts: Sequence[Part]) -> None:
        super().__init__()
        self.config = config
        self.parts = PartSet(parts, config.symmetry_steps)
        count = len(parts)
        self.image_input = ImageInput()
        self.encoder = ResNetEncoder(config.width, ImageInput.channels)
        self.decoder = UNetDecoder(self.encoder.tap_channels, config.stride, _MASKS + config.embedding, count)
        self.keys = KeyNetwork(count, config.embedding, config.key_width)
        map_size = config.crop_size // config.stride
        channels = config.embedding + _MASKS + 2
        anchors = anchor_rotations(config.charts)
        outputs = pose_numbers(config.charts)
        self.head = PatchPnP(channels, map_size, outputs, count, config.head_width, config.head_hidden)
        self.head.output_bias.data[:] = initial_numbers(anchors)
        self.register_buffer("anchors", anchors.float(), persistent=False)

    def forward(self, batch: CropBatch) -> QueryOutput:
        """Masks, queries and pose of every crop."""
        assert batch.image.shape[-1] == self.config.crop_size, "crops must have the configured size"
        taps = self.encoder(self.image_input(batch.image, batch.valid))
        maps = self.decoder(taps, batch.part_index).float()
        logits, queries = maps[:, :_MASKS], maps[:, _MASKS:]
        probabilities = torch.sigmoid(logits)
        rays = batch.camera.ray_map(self.config.stride).to(queries.dtype)
        numbers = self.head(torch.cat((queries * probabilities[:, 1:], probabilities, rays), 1), batch.part_index)
        radius = self.parts.radius[batch.part_index]
        with full_precision(numbers):
            charts = decode_charts(numbers, self.config.charts)
            rotation = charts.best() if self.training or self.config.charts == 1 else charts.mode()
            pose = decode_pose(numbers, rotation, batch.camera, radius, self.config.pad)
        return QueryOutput(queries, logits[:, 0], logits[:, 1], pose, charts)

    def loss(self, output: QueryOutput, batch: CropBatch, generator: torch.Generator | None = None) -> LossTerms:
        """Equation 7.1 of the thesis; `generator` draws the contrastive samples."""
        with full_precision(output.queries):
            terms = self._loss_terms(output, batch, generator)
        total = sum(getattr(self.config.weights, name) * term for name, term in terms.items())
        return LossTerms(total, terms)  # type: ignore[arg-type]

    def _loss_terms(
        self, output: QueryOutput, batch: CropBatch, generator: torch.Generator | None
    ) -> dict[str, Float[Tensor, ""]]:
        truth = batch.truth
        assert truth is not None, "a loss needs the truth of the crops"
        stride = self.config.stride
        target = encode_pose(
            truth.T_virt_obj, batch.camera, self.parts.centre[batch.part_index],
            self.parts.radius[batch.part_index], self.config.pad,
        )  # fmt: skip
        visible = mask_loss(output.visible_logits, cell_share(truth.mask_visible, stride))
        full = mask_loss(output.full_logits, cell_share(truth.mask_full, stride))
        return {
            "nce": contrastive_loss(output.queries, batch, self.keys, self.parts, self.config, generator),
            "mask": visible + full,
            **self._rotation_loss(output.charts, target, batch.part_index),
            "centre": (output.pose.centre - target.centre).abs().sum(-1).mean(),
            "depth": (output.pose.log_depth - target.log_depth).abs().mean(),
        }

    def _rotation_loss(
        self, charts: RotationCharts, target: HeadPose, index: Int[Tensor, "batch"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Point matching in the charts near the truth, and how far the logits are from choosing those.

        Points are half on the surface, half on the ends of the frame's axes: surface points alone hardly feel a thin
        part turned upside down where the turn about its axis is unsure (a disc with one notch).
        """
        truth = rotation_to_ray(target.position).transpose(1, 2) @ target.rotation
        if self.config.charts == 1:
            if self.config.symmetric_loss:
                truth = self.parts.nearest_symmetric(charts.rotation[:, 0], truth, index)
            return {"rotation": self._point_matching(charts.rotation, truth[:, None], index).mean()}
        group = self.parts.symmetry[index] if self.config.symmetric_loss else self.parts.symmetry[index, :1]
        wanted, weight = chart_targets(truth, group, self.anchors)
        divergence = torch.nn.functional.kl_div(charts.logits.log_softmax(1), weight, reduction="batchmean")
        nearest = weight.topk(_CHARTS_MATCHED, dim=1)
        row = torch.arange(len(weight), device=weight.device)[:, None]
        cost = self._point_matching(charts.rotation[row, nearest.indices], wanted[row, nearest.indices], index)
        share = nearest.values / nearest.values.sum(1, keepdim=True)
        return {"rotation": (share * cost).sum(1).mean(), "chart": divergence}

    def _point_matching(
        self, predicted: Float[Tensor, "batch n 3 3"], truth: Float[Tensor, "batch n 3 3"], index: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch n"]:
        """Cost of every rotation: mean of that of surface points and that of the axes' ends."""
        axes = torch.eye(3, device=predicted.device).expand(len(predicted), 3, 3)
        return (point_matching(predicted, truth, self.parts.sparse[index]) + point_matching(predicted, truth, axes)) / 2

    def starts(
        self, output: QueryOutput, count: int
    ) -> tuple[Float[Tensor, "batch {count} 3 3"], Float[Tensor, "batch {count}"]]:
        """The likeliest rotations R_virt_obj that differ, and their probabilities (see `RotationCharts.modes`)."""
        with full_precision(output.queries):
            allocentric, probability = output.charts.modes(count)
            return rotation_to_ray(output.pose.position)[:, None] @ allocentric, probability

    def poses(self, output: QueryOutput, batch: CropBatch) -> tuple[Float[Tensor, "batch 4 4"], Float[Tensor, "batch"]]:
        """Regressed poses T_virt_obj (mm, mesh file's frame, float64) and their scores in [0, 1]."""
        rotation = output.pose.rotation.double()
        centre = self.parts.centre.double()[batch.part_index]
        translation = output.pose.position.double() - (rotation * centre[:, None]).sum(-1)
        with full_precision(output.queries):
            agreement = self.agreement(
                self.query_maps(output, batch), output.pose.rotation, output.pose.position, batch.part_index
            )
        return make_transform(rotation, translation), agreement

    def query_maps(self, output: QueryOutput, batch: CropBatch) -> QueryMaps:
        """The query images with the logits of the full silhouettes."""
        return QueryMaps.of_crops(output.queries, output.full_logits, batch.valid, batch.camera.K_virt)

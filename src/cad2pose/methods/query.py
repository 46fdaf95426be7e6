"""Pose regression from SurfEmb's query image: the thesis' model with its faults set right.

A U-Net turns the crop into a mask and a 12-dimensional query per cell; SIREN keys embed the surface in the
same space (SurfEmb, Haugaard & Buch 2022); a Patch-PnP head (GDR-Net, Wang et al. 2021) regresses the pose
from the masked queries, the masks and the ray map. All parts are trained together on the sum of InfoNCE,
mask, rotation, centre and depth losses (equation 7.1 of the thesis); the gradient of the last three reaches
the maps by a share only (`QueryConfig.pose_gradient`; the thesis' end-to-end training has all of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cad2pose.geometry.crop import DEFAULT_PAD
from cad2pose.methods.config_checks import check_named
from cad2pose.methods.contrastive import ImageInput, MaskName, check_contrastive, contrastive_loss, full_precision
from cad2pose.methods.losses import LossTerms, cell_coordinates, cell_share, coordinate_loss, mask_loss
from cad2pose.methods.part_set import PartSet
from cad2pose.methods.pose_head import HeadPose
from cad2pose.methods.query_image import QueryImageMethod
from cad2pose.methods.regression import HeadName, RegressionMethod, RotationLoss, check_regression
from cad2pose.methods.rotation_charts import RotationCharts
from cad2pose.networks import KeyNetwork, ResNetEncoder, UNetDecoder
from cad2pose.parts import Part
from cad2pose.solvers import QueryMaps
from cad2pose.structures import CropBatch

_MASKS = 2

Intermediate = Literal["queries", "queries+coordinates"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; each term is O(1) at the start and a mean over the batch."""

    nce: float = 1.0
    mask: float = 3.0
    rotation: float = 3.0
    chart: float = 0.5
    centre: float = 6.0
    depth: float = 3.0
    coordinates: float = 2.0


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
        pose_gradient: share of the pose losses' gradient that passes from the head into the maps. With 1 all is trained
            end to end (the thesis); with 0 queries are learnt as if there were no pose, and the head from them.
        positives: pixels per crop in the contrastive loss.
        negatives: surface points per object in the contrastive loss.
        positives_from: pixels drawn from the `full` silhouette (as SurfEmb trains) or the `visible` mask.
        key_noise: standard deviation of the noise on coordinates, in sphere radii, that keeps keys smooth.
        symmetry_steps: rotations about a continuous axis among which the nearest is looked for first (it is then turned
            on to the very nearest), and by which matches are judged.
        symmetric_loss: compare with the nearest of all equivalent true rotations.
        weights: of the loss terms; with nce at 0, embeddings are learnt through the pose alone (the thesis' e2e.pose).
        intermediate: what the head sees: queries, or coordinates regressed beside them as well.
        head: GDR-Net's Patch-PnP, or the thesis' (which serves one part), with its DropBlock, `thesis-plain` without,
            or `thesis-group` without and with group norm in place of batch norm.
        rotation_loss: `points` matched on the surface and on the axes' ends, GDR-Net's `surface-points`, the angle
            (`geodesic`), or the Frobenius norm of the thesis.
        frozen: only the head learns, from queries of a trained model that is started from (the thesis' pre.q).
    """

    crop_size: int = 128
    pad: float = DEFAULT_PAD
    stride: int = 2
    width: int = 32
    embedding: int = 12
    key_width: int = 128
    head_width: int = 128
    head_hidden: tuple[int, int] = (512, 256)
    charts: int = 60
    pose_gradient: float = 0.1
    positives: int = 128
    negatives: int = 1024
    positives_from: MaskName = "full"
    key_noise: float = 1e-3
    symmetry_steps: int = 72
    symmetric_loss: bool = True
    weights: LossWeights = field(default_factory=LossWeights)
    intermediate: Intermediate = "queries"
    head: HeadName = "patch-pnp"
    rotation_loss: RotationLoss = "points"
    frozen: bool = False

    def __post_init__(self) -> None:
        check_contrastive(self)
        check_regression(self)
        check_named("intermediate", self.intermediate, Intermediate)
        if not self.frozen and not self.weights.nce and not self.pose_gradient:
            raise ValueError("weights.nce and pose_gradient are both 0: nothing would teach the queries; raise one")

    @classmethod
    def tiny(cls) -> QueryConfig:
        """A quarter of the small model, for comparisons and trials on a few CPU cores."""
        return cls(width=16, key_width=64, head_width=64, head_hidden=(256, 128))

    @classmethod
    def full(cls) -> QueryConfig:
        """The full-size model, for a GPU: ResNet-18 at 256 px, SurfEmb's and GDR-Net's sizes; 64 x 64 maps as well."""
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
        coordinates: `(B, 3, m, m)` in sphere radii about its centre, where they are regressed.
    """

    queries: Float[Tensor, "batch e m m"]
    visible_logits: Float[Tensor, "batch m m"]
    full_logits: Float[Tensor, "batch m m"]
    pose: HeadPose
    charts: RotationCharts
    coordinates: Float[Tensor, "batch 3 m m"] | None = None


class QueryMethod(RegressionMethod, QueryImageMethod):
    """Query image and direct pose regression for one or several parts."""

    config: QueryConfig

    def __init__(self, config: QueryConfig, parts: Sequence[Part]) -> None:
        super().__init__()
        self.config = config
        self.parts = PartSet(parts, config.symmetry_steps)
        count = len(parts)
        self.image_input = ImageInput()
        self.encoder = ResNetEncoder(config.width, ImageInput.channels)
        outputs = _MASKS + config.embedding + (3 if config.intermediate == "queries+coordinates" else 0)
        self.decoder = UNetDecoder(self.encoder.tap_channels, config.stride, outputs, count, slim=True)
        self.keys = KeyNetwork(count, config.embedding, config.key_width)
        self._add_head(outputs + 2)
        if config.frozen:
            for part in self._frozen_parts():
                part.requires_grad_(False)

    def _frozen_parts(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.decoder, self.keys

    def train(self, mode: bool = True) -> QueryMethod:
        """As in torch; frozen networks stay in eval mode."""
        super().train(mode)
        if self.config.frozen:
            for part in self._frozen_parts():
                part.eval()
        return self

    def forward(self, batch: CropBatch) -> QueryOutput:
        """Masks, queries and pose of every crop."""
        assert batch.image.shape[-1] == self.config.crop_size, "crops must have the configured size"
        taps = self.encoder(self.image_input(batch.image, batch.valid))
        maps = self.decoder(taps, batch.part_index).float()
        logits, queries, coordinates = maps.split((_MASKS, self.config.embedding, maps.shape[1] - self._known), dim=1)
        probabilities = torch.sigmoid(logits)
        rays = batch.camera.ray_map(self.config.stride).to(queries.dtype, memory_format=torch.channels_last)
        dense = torch.cat((queries, coordinates), 1) * probabilities[:, 1:]
        pose, charts = self._regressed(torch.cat((dense, probabilities, rays), 1), batch)
        return QueryOutput(
            queries, logits[:, 0], logits[:, 1], pose, charts, coordinates if coordinates.shape[1] else None
        )

    @property
    def _known(self) -> int:
        """Channels of masks and queries."""
        return _MASKS + self.config.embedding

    def loss(self, output: QueryOutput, batch: CropBatch, generator: torch.Generator | None = None) -> LossTerms:
        """Equation 7.1 of the thesis; `generator` draws the contrastive samples."""
        with full_precision(output.queries):
            terms = self._loss_terms(output, batch, generator)
        total = sum(getattr(self.config.weights, name) * term for name, term in terms.items())
        return LossTerms(total, terms)  # type: ignore[arg-type]

    def _loss_terms(
        self, output: QueryOutput, batch: CropBatch, generator: torch.Generator | None
    ) -> dict[str, Float[Tensor, ""]]:
        poses = self._pose_terms(output, batch)
        if self.config.frozen:
            return poses
        truth = batch.truth
        assert truth is not None, "a loss needs the truth of the crops"
        stride = self.config.stride
        visible = mask_loss(output.visible_logits, cell_share(truth.mask_visible, stride))
        full = mask_loss(output.full_logits, cell_share(truth.mask_full, stride))
        terms = {"mask": visible + full, **poses}
        if self.config.weights.nce:
            nce = contrastive_loss(output.queries, batch, self.keys, self.parts, self.config, generator)
            terms = {"nce": nce, **terms}
        if output.coordinates is not None:
            seen = (cell_share(truth.mask_full & truth.mask_visible, stride) == 1).float()
            true = cell_coordinates(truth.coordinates, stride)
            terms["coordinates"] = coordinate_loss(output.coordinates, true, seen)
        return terms

    def _coordinates(self, output: QueryOutput) -> tuple[Tensor, Tensor] | None:
        return None if output.coordinates is None else (output.coordinates, torch.sigmoid(output.visible_logits))

    def _score(self, output: QueryOutput, batch: CropBatch) -> Float[Tensor, "batch"]:
        maps = self.query_maps(output, batch)
        return self.agreement(maps, output.pose.rotation, output.pose.position, batch.part_index)

    def query_maps(self, output: QueryOutput, batch: CropBatch) -> QueryMaps:
        """The query images with the logits of the full silhouettes."""
        return QueryMaps.of_crops(output.queries, output.full_logits, batch.valid, batch.camera.K_virt)

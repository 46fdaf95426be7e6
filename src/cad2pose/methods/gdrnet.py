"""GDR-Net (Wang et al. 2021) and GDRNPP (Liu et al. 2025): a pose regressed from coordinates and surface regions.

An encoder and a geometry head give every cell the mask, the object coordinates it shows and the region they lie in;
Patch-PnP regresses the pose from coordinates, region probabilities and a map of where in the image each cell is.
Rotations are 6D and allocentric, translations scale-invariant (`pose_head`, in its dimensionless form for all methods).
Of the published targets only the pose knows symmetry.

Two options stand for models of the thesis this project grew out of: `true coordinates` (pre.c: the head alone, on
rendered coordinates) and `image` (section 7.2.1: the head on the crop itself and its mask).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cad2pose.geometry import project_points
from cad2pose.geometry.crop import DEFAULT_PAD, sample_image
from cad2pose.methods.config_checks import check_named, check_pad
from cad2pose.methods.contrastive import ImageInput, full_precision
from cad2pose.methods.losses import (
    LossTerms,
    cell_coordinates,
    cell_share,
    coordinate_loss,
    mask_loss,
    region_loss,
)
from cad2pose.methods.part_set import PartSet
from cad2pose.methods.pose_head import HeadPose
from cad2pose.methods.regions import check_regions, region_centres, region_labels
from cad2pose.methods.regression import HeadName, RegressionMethod, RotationLoss, check_regression
from cad2pose.methods.rotation_charts import RotationCharts
from cad2pose.networks import ConvNeXtEncoder, GeometryHead, ResNetEncoder, UNetDecoder
from cad2pose.parts import Part
from cad2pose.structures import CropBatch

_CLOSE = 0.1  # sphere radii by which coordinates may be off at a score of exp(-1/2)

Intermediate = Literal["coordinates+regions", "coordinates", "true coordinates", "image"]
Encoder = Literal["resnet18", "resnet34", "convnext"]
Decoder = Literal["geometry", "unet"]
MaskLoss = Literal["l1", "bce"]
PixelMap = Literal["image", "rays"]


@dataclass(frozen=True)
class GdrNetWeights:
    """Weights of the terms: all 1 as published, but for those of this project's scale of centre and depth, and charts.

    The published factor 3 of point matching is in the term itself, which sums over x, y and z.
    """

    mask: float = 1.0
    coordinates: float = 1.0
    regions: float = 1.0
    rotation: float = 1.0
    chart: float = 0.5
    centre: float = 6.0
    depth: float = 3.0


@dataclass(frozen=True)
class GdrNetConfig:
    """Settings of `GdrNetMethod`; the defaults are a small model that trains on two CPU cores.

    Args:
        crop_size: side of the crop in pixels, a multiple of 32.
        pad: the detection box reaches 1 / pad of the way to the crop's border.
        stride: crop pixels per cell of the maps: 4, or with the U-Net 1, 2 or 4.
        width: channels of the encoder's stem (64 is ResNet's, 96 ConvNeXt-T's).
        encoder: of the image.
        decoder: the published `geometry` head, or the `unet` of the query method, to compare representations alone.
        decoder_width: channels of the geometry head.
        intermediate: what the pose head sees.
        regions: surface regions.
        class_aware: every part has maps of its own (GDRNPP), or all share them (GDR-Net).
        double_mask: the full silhouette is learnt beside the visible mask (GDRNPP).
        mask_loss: `l1` of the raw output, which is the mask then (published), or cross-entropy `bce` of logits.
        pixel_map: where a cell is: `image`, its place in the source image as a share of width and height (published),
            or `rays` of the crop camera.
        head_masks: the head sees the masks as well, and coordinates and regions inside the (full) mask only, as the
            query method's does; published without.
        head: GDR-Net's Patch-PnP, or the thesis' (which serves one part), with its DropBlock, `thesis-plain` without,
            or `thesis-group` without and with group norm in place of batch norm.
        head_width: channels of the pose head's convolutions, a multiple of 8.
        head_hidden: the head's two fully connected layers.
        charts: rotations regressed side by side, 1 (published), 24 or 60.
        pose_gradient: share of the pose losses' gradient that passes from the head into the maps; 1 as published.
        rotation_loss: `surface-points` matched (published), or those of `points`, which are also on the axes' ends, the
            angle (`geodesic`), or the Frobenius norm.
        symmetric_loss: compare with the nearest of all equivalent true rotations.
        symmetry_steps: as of `QueryConfig`.
        weights: of the loss terms.
    """

    crop_size: int = 128
    pad: float = DEFAULT_PAD
    stride: int = 4
    width: int = 32
    encoder: Encoder = "resnet34"
    decoder: Decoder = "geometry"
    decoder_width: int = 128
    intermediate: Intermediate = "coordinates+regions"
    regions: int = 64
    class_aware: bool = False
    double_mask: bool = False
    mask_loss: MaskLoss = "l1"
    pixel_map: PixelMap = "image"
    head_masks: bool = False
    head: HeadName = "patch-pnp"
    head_width: int = 128
    head_hidden: tuple[int, int] = (512, 256)
    charts: int = 1
    pose_gradient: float = 1.0
    rotation_loss: RotationLoss = "surface-points"
    symmetric_loss: bool = True
    symmetry_steps: int = 72
    weights: GdrNetWeights = field(default_factory=GdrNetWeights)

    def __post_init__(self) -> None:
        check_regression(self)
        check_regions(self.regions)
        if self.crop_size <= 0 or self.crop_size % 32:
            raise ValueError(f"crop_size is {self.crop_size}; it must be a positive multiple of 32")
        check_pad(self.pad)
        check_named("encoder", self.encoder, Encoder)
        check_named("decoder", self.decoder, Decoder)
        check_named("intermediate", self.intermediate, Intermediate)
        check_named("mask_loss", self.mask_loss, MaskLoss)
        check_named("pixel_map", self.pixel_map, PixelMap)
        if self.decoder_width % 8 or self.decoder_width <= 0:
            raise ValueError(f"decoder_width is {self.decoder_width}; it must be a positive multiple of 8")
        if self.decoder == "geometry" and self.stride != 4:
            raise ValueError(f"stride is {self.stride}; the geometry head gives maps at stride 4")
        if self.decoder == "unet" and self.encoder == "convnext":
            raise ValueError("the U-Net needs the encoder's map at stride 2, which ConvNeXt has not; use a resnet")
        if self.stride not in (1, 2, 4):
            raise ValueError(f"stride is {self.stride}; it must be 1, 2 or 4")

    @classmethod
    def tiny(cls) -> GdrNetConfig:
        """A quarter of the small model, for comparisons and trials on a few CPU cores."""
        return cls(width=16, decoder_width=64, head_width=64, head_hidden=(256, 128))

    @classmethod
    def full(cls) -> GdrNetConfig:
        """The published size, for a GPU: ResNet-34 at 256 px, 64 x 64 maps."""
        return cls(crop_size=256, width=64, decoder_width=256, head_hidden=(1024, 256))

    @classmethod
    def gdrnpp(cls, sizes: GdrNetConfig | None = None) -> GdrNetConfig:
        """GDRNPP: ConvNeXt, two masks, maps of every part's own. (Its crops have amodal boxes and stronger colours.)

        Args:
            sizes: settings whose sizes it has, the small model's by default (ConvNeXt-T is wider than ResNet).
        """
        sizes = sizes or cls()
        width = 96 if sizes.width == 64 else sizes.width
        return replace(sizes, width=width, encoder="convnext", class_aware=True, double_mask=True)

    def build(self, parts: Sequence[Part]) -> GdrNetMethod:
        """The method with these settings, its weights random."""
        return GdrNetMethod(self, parts)


@dataclass(frozen=True)
class GdrNetOutput:
    """What the network says of a batch of crops; maps that the settings leave out are None.

    Args:
        visible: `(B, m, m)` probability of the visible mask.
        masks: `(B, k, m, m)` raw outputs of the visible and, where it is learnt, the full mask.
        coordinates: `(B, 3, m, m)` in sphere radii about its centre.
        region_logits: `(B, 1 + R, m, m)`, the background first.
        pose: the regressed pose in the crop camera.
        charts: allocentric rotations that the pose's was chosen from.
    """

    visible: Float[Tensor, "batch m m"]
    masks: Float[Tensor, "batch k m m"]
    coordinates: Float[Tensor, "batch 3 m m"] | None
    region_logits: Float[Tensor, "batch r m m"] | None
    pose: HeadPose
    charts: RotationCharts


class GdrNetMethod(RegressionMethod):
    """Coordinates, regions and direct pose regression for one or several parts."""

    config: GdrNetConfig

    def __init__(self, config: GdrNetConfig, parts: Sequence[Part]) -> None:
        super().__init__()
        self.config = config
        self.parts = PartSet(parts, config.symmetry_steps)
        dense = config.intermediate in ("coordinates+regions", "coordinates")
        regions = 1 + config.regions if config.intermediate == "coordinates+regions" else 0
        self._channels = (2 if config.double_mask else 1, 3 if dense else 0, regions)
        if config.intermediate != "true coordinates":
            self.image_input = ImageInput()
            self.encoder = _encoder(config)
            objects, outputs = len(self.parts) if config.class_aware else 1, sum(self._channels)
            taps = self.encoder.tap_channels
            if config.decoder == "geometry":
                self.decoder = GeometryHead(
                    taps[-1],
                    outputs,
                    objects,
                    config.decoder_width,
                    "group" if config.encoder == "convnext" else "batch",
                )
            else:
                self.decoder = UNetDecoder(taps, config.stride, outputs, objects, slim=True)
        seen = {"coordinates+regions": 3 + config.regions, "coordinates": 3, "true coordinates": 4, "image": 4}
        masks = self._channels[0] if dense and config.head_masks else 0
        self._add_head(seen[config.intermediate] + masks + 2)

    def forward(self, batch: CropBatch) -> GdrNetOutput:
        """Masks, coordinates, regions and pose of every crop.

        Raises:
            ValueError: for crops without truth where the head sees true coordinates.
        """
        assert batch.image.shape[-1] == self.config.crop_size, "crops must have the configured size"
        with full_precision(batch.image):
            places = (
                batch.camera.pixel_map(self.config.stride)
                if self.config.pixel_map == "image"
                else batch.camera.ray_map(self.config.stride)
            )
        if self.config.intermediate == "true coordinates":
            return self._from_truth(batch, places.to(batch.image.dtype))
        index = batch.part_index if self.config.class_aware else torch.zeros_like(batch.part_index)
        maps = self.decoder(self.encoder(self.image_input(batch.image, batch.valid)), index).float()
        masks, coordinates, regions = maps.split(self._channels, dim=1)
        shares = torch.sigmoid(masks) if self.config.mask_loss == "bce" else masks.clamp(0, 1)
        visible = shares[:, 0]
        if self.config.intermediate == "image":
            small = nn.functional.avg_pool2d(batch.image, self.config.stride)
            shown = torch.cat((small, visible[:, None]), dim=1)
        else:
            shown = torch.cat((coordinates, regions[:, 1:].softmax(1)), dim=1)
            if self.config.head_masks:
                shown = torch.cat((shown * shares[:, -1:], shares), dim=1)
        pose, charts = self._regressed(torch.cat((shown, places.to(shown)), dim=1), batch)
        has_coordinates, has_regions = self._channels[1] > 0, self._channels[2] > 0
        return GdrNetOutput(
            visible, masks, coordinates if has_coordinates else None, regions if has_regions else None, pose, charts
        )

    def _from_truth(self, batch: CropBatch, places: Float[Tensor, "batch 2 m m"]) -> GdrNetOutput:
        if batch.truth is None:
            raise ValueError(
                "this model sees true coordinates, which only rendered crops have; for photographs, use one trained "
                "with another intermediate representation"
            )
        share = cell_share(batch.truth.mask_visible, self.config.stride)
        mask = (share == 1).float()
        coordinates = cell_coordinates(batch.truth.coordinates, self.config.stride) * mask[:, None]
        pose, charts = self._regressed(torch.cat((coordinates, mask[:, None], places), dim=1), batch)
        return GdrNetOutput(mask, mask[:, None], coordinates, None, pose, charts)

    def loss(self, output: GdrNetOutput, batch: CropBatch, generator: torch.Generator | None = None) -> LossTerms:
        """The published terms; nothing is drawn."""
        with full_precision(output.visible):
            terms = {**self._dense_terms(output, batch), **self._pose_terms(output, batch)}
        total = sum(getattr(self.config.weights, name) * term for name, term in terms.items())
        return LossTerms(total, terms)  # type: ignore[arg-type]

    def _dense_terms(self, output: GdrNetOutput, batch: CropBatch) -> dict[str, Float[Tensor, ""]]:
        truth, stride = batch.truth, self.config.stride
        assert truth is not None, "a loss needs the truth of the crops"
        if self.config.intermediate == "true coordinates":
            return {}
        shares = [cell_share(mask, stride) for mask in (truth.mask_visible, truth.mask_full)]
        pairs = zip(output.masks.unbind(1), shares, strict=False)
        if self.config.mask_loss == "bce":
            terms = {"mask": torch.stack([mask_loss(mask, share) for mask, share in pairs]).sum()}
        else:
            terms = {"mask": torch.stack([(mask - share).abs().mean() for mask, share in pairs]).sum()}
        seen = ((shares[0] == 1) & (shares[1] == 1)).float()
        true = cell_coordinates(truth.coordinates, stride)
        if output.coordinates is not None:
            terms["coordinates"] = coordinate_loss(output.coordinates, true, seen)
        if output.region_logits is not None:
            centres = region_centres(self.parts, self.config.regions)[batch.part_index]
            terms["regions"] = region_loss(output.region_logits, region_labels(true, centres), seen)
        return terms

    def _coordinates(self, output: GdrNetOutput) -> tuple[Tensor, Tensor] | None:
        return None if output.coordinates is None else (output.coordinates, output.visible)

    def _score(self, output: GdrNetOutput, batch: CropBatch) -> Float[Tensor, "batch"]:
        """Surface points that face the camera are projected with the pose; each counts as far as the visible mask is
        there, and the coordinates regressed there are its own."""
        index, pose = batch.part_index, output.pose
        points = self.parts.sparse[index]
        seen = (points * self.parts.radius[index][:, None, None]) @ pose.rotation.transpose(1, 2) + pose.position[
            :, None
        ]
        normals = self.parts.sparse_normals[index] @ pose.rotation.transpose(1, 2)
        front = ((normals * seen).sum(-1) < 0).float()
        stride = self.config.stride
        pixels = (project_points(batch.camera.K_virt.to(seen), seen) - (stride - 1) / 2) / stride
        maps = output.visible[:, None]
        if output.coordinates is not None:
            maps = torch.cat((maps, output.coordinates), dim=1)
        sampled, inside = sample_image(maps, pixels[:, :, None])
        sampled = sampled[..., 0].transpose(1, 2)
        agrees = sampled[..., 0] * inside[:, 0, :, 0]
        if output.coordinates is not None:
            off = (sampled[..., 1:] - points).square().sum(-1)
            agrees = agrees * torch.exp(-off / (2 * _CLOSE**2))
        return (front * agrees).sum(1) / front.sum(1).clamp_min(1)


def _encoder(config: GdrNetConfig) -> ResNetEncoder | ConvNeXtEncoder:
    if config.encoder == "convnext":
        return ConvNeXtEncoder(config.width, ImageInput.channels)
    return ResNetEncoder(config.width, ImageInput.channels, 34 if config.encoder == "resnet34" else 18)

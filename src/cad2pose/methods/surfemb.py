"""SurfEmb (Haugaard & Buch 2022): a query for every pixel and a key for every surface point, learnt together.

All objects share an encoder; every object has a U-Net decoder and a SIREN of its own. The decoder gives a mask and a
query per pixel, the SIREN embeds the surface in the same space. The softmax over queries times keys is how likely each
surface point is to be what the pixel shows: points that cannot be told apart share it, and the query's norm says how
sure it is. Making poses of that is a solver's task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cad2pose.geometry.crop import DEFAULT_PAD
from cad2pose.methods.config_checks import check_named
from cad2pose.methods.contrastive import (
    ImageInput,
    MaskName,
    check_contrastive,
    contrastive_loss,
    full_precision,
)
from cad2pose.methods.losses import LossTerms, cell_share, mask_loss
from cad2pose.methods.part_set import PartSet
from cad2pose.methods.query_image import QueryImageMethod
from cad2pose.networks import KeyNetwork, ResNetEncoder, UNetDecoder
from cad2pose.parts import Part
from cad2pose.solvers import QueryMaps
from cad2pose.structures import CropBatch

_SYMMETRY_STEPS = 72  # of a continuous symmetry, where what was learnt is judged; training needs to know of none


@dataclass(frozen=True)
class SurfEmbConfig:
    """Settings of `SurfEmbMethod`; the defaults are a small model that trains on two CPU cores.

    Args:
        crop_size: side of the crop in pixels, a multiple of 32.
        pad: the detection box reaches 1 / pad of the way to the crop's border.
        stride: crop pixels per cell of the output map: 1, 2 or 4.
        width: channels of the encoder's stem (64 is ResNet-18).
        embedding: dimension of queries and keys.
        key_width: hidden width of the key networks.
        positives: pixels per crop in the contrastive loss.
        negatives: surface points per object in the contrastive loss.
        positives_from: pixels drawn from the `full` silhouette (as published) or the `visible` mask.
        mask_from: the mask learnt is the `full` silhouette (as published) or the `visible` mask.
        key_noise: standard deviation of the noise on coordinates, in sphere radii, that keeps keys smooth.
    """

    crop_size: int = 128
    pad: float = DEFAULT_PAD
    stride: int = 2
    width: int = 32
    embedding: int = 12
    key_width: int = 128
    positives: int = 256
    negatives: int = 1024
    positives_from: MaskName = "full"
    mask_from: MaskName = "full"
    key_noise: float = 1e-3

    def __post_init__(self) -> None:
        check_contrastive(self)
        check_named("mask_from", self.mask_from, MaskName)

    @classmethod
    def tiny(cls) -> SurfEmbConfig:
        """A quarter of the small model, for comparisons and trials on a few CPU cores."""
        return cls(width=16, key_width=64, positives=128)

    @classmethod
    def full(cls) -> SurfEmbConfig:
        """The published size, for a GPU: ResNet-18 at 224 px, a query for every pixel."""
        return cls(crop_size=224, stride=1, width=64, key_width=256, positives=1024)

    def build(self, parts: Sequence[Part]) -> SurfEmbMethod:
        """The method with these settings, its weights random."""
        return SurfEmbMethod(self, parts)


@dataclass(frozen=True)
class SurfEmbOutput:
    """What the network says of a batch of crops.

    Args:
        queries: `(B, E, m, m)`, m = crop side / stride; not normalised.
        mask_logits: `(B, m, m)` of the mask that `mask_from` names.
    """

    queries: Float[Tensor, "batch e m m"]
    mask_logits: Float[Tensor, "batch m m"]


class SurfEmbMethod(QueryImageMethod):
    """Queries, mask and keys for one or several parts.

    A batch is sorted by object and each decoder runs once, on its own rows: dense convolutions as for a single object,
    and no copies of weights, which convolutions grouped by crop would need one of per crop.

    Args:
        config: settings.
        parts: what it serves, or the set made of them.
    """

    config: SurfEmbConfig

    def __init__(self, config: SurfEmbConfig, parts: Sequence[Part] | PartSet) -> None:
        super().__init__()
        self.config = config
        self.parts = parts if isinstance(parts, PartSet) else PartSet(parts, _SYMMETRY_STEPS)
        self.image_input = ImageInput()
        self.encoder = ResNetEncoder(config.width, ImageInput.channels)
        taps, outputs = self.encoder.tap_channels, 1 + config.embedding
        self.decoders = nn.ModuleList(UNetDecoder(taps, config.stride, outputs) for _ in range(len(self.parts)))
        self.keys = KeyNetwork(len(self.parts), config.embedding, config.key_width)

    def forward(self, batch: CropBatch) -> SurfEmbOutput:
        """Mask and queries of every crop."""
        return _output(self._maps(batch.image, batch.valid, batch.part_index))

    def _maps(
        self, image: Float[Tensor, "batch 3 r r"], valid: Float[Tensor, "batch 1 r r"], part_index: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch outputs m m"]:
        assert image.shape[-1] == self.config.crop_size, "crops must have the configured size"
        one_object = torch.zeros_like(part_index)
        if len(self.decoders) == 1:
            taps = self.encoder(self.image_input(image, valid))
            return self.decoders[0](taps, one_object).float()
        rows = part_index.tolist()  # first of all: later, the host would wait for the encoder
        counts = [rows.count(part) for part in range(len(self.decoders))]
        order = part_index.argsort(stable=True)
        taps = self.encoder(self.image_input(image, valid))
        sorted_taps = zip(*(tap[order].split(counts) for tap in taps), strict=True)
        maps = [
            decoder(mine, one_object[:count])
            for decoder, mine, count in zip(self.decoders, sorted_taps, counts, strict=True)
            if count
        ]
        return torch.cat(maps)[order.argsort()].float()

    @torch.no_grad()
    def ensemble(self, batch: CropBatch, turns: int = 4) -> SurfEmbOutput:
        """Mean mask logits and queries of copies of the crops turned evenly about their centre, turned back.

        What a pixel shows does not depend on how the camera is rolled, and a crop camera rolled by quarter turns sees
        the crop turned, so the copies differ in their mistakes alone.

        Raises:
            ValueError: unless `turns`, the number of copies, is 1, 2 or 4.
        """
        if turns not in (1, 2, 4):
            raise ValueError(f"turns is {turns}; it must be 1, 2 or 4: crops are turned by quarters")
        quarters = range(0, 4, 4 // turns)
        image, valid = (torch.cat([t.rot90(k, (2, 3)) for k in quarters]) for t in (batch.image, batch.valid))
        maps = self._maps(image, valid, batch.part_index.repeat(turns)).chunk(turns)
        return _output(torch.stack([m.rot90(-k, (2, 3)) for m, k in zip(maps, quarters, strict=True)]).mean(0))

    def loss(self, output: SurfEmbOutput, batch: CropBatch, generator: torch.Generator | None = None) -> LossTerms:
        """InfoNCE of the queries plus cross-entropy of the mask; `generator` draws the contrastive samples."""
        with full_precision(output.queries):
            nce = contrastive_loss(output.queries, batch, self.keys, self.parts, self.config, generator)
            mask = mask_loss(output.mask_logits, self.mask_target(batch))
        return LossTerms(nce + mask, {"nce": nce, "mask": mask})

    def mask_target(self, batch: CropBatch) -> Float[Tensor, "batch m m"]:
        """Share of every cell that the true mask covers."""
        truth = batch.truth
        assert truth is not None, "a loss needs the truth of the crops"
        mask = truth.mask_full if self.config.mask_from == "full" else truth.mask_visible
        return cell_share(mask, self.config.stride)

    def query_maps(self, output: SurfEmbOutput, batch: CropBatch) -> QueryMaps:
        """The query images with the mask that was learnt."""
        return QueryMaps.of_crops(output.queries, output.mask_logits, batch.valid, batch.camera.K_virt)

    def subset(self, part_indices: Sequence[int]) -> SurfEmbMethod:
        """A method for some of the parts alone, in the order given, with copies of their weights and of no others.

        Raises:
            ValueError: for an index that is not there, one given twice, or none at all.
        """
        rows, known = list(part_indices), len(self.parts)
        if not rows or len(set(rows)) < len(rows) or not all(0 <= row < known for row in rows):
            raise ValueError(f"part_indices is {rows}; give one or more of 0 to {known - 1}, none of them twice")
        chosen = SurfEmbMethod(self.config, self.parts.subset(rows))
        chosen.encoder.load_state_dict(self.encoder.state_dict())
        for decoder, row in zip(chosen.decoders, rows, strict=True):
            decoder.load_state_dict(self.decoders[row].state_dict())
        chosen.keys.load_state_dict({name: value[rows] for name, value in self.keys.state_dict().items()})
        chosen.to(self.parts.radius.device).train(self.training)
        return chosen


def _output(maps: Float[Tensor, "batch outputs m m"]) -> SurfEmbOutput:
    return SurfEmbOutput(maps[:, 1:], maps[:, 0])

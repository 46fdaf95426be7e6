"""What methods with a query image share: the network's input, and the contrastive loss of queries and keys.

Source: SurfEmb (Haugaard & Buch 2022). A decoder gives every pixel a query, a coordinate network gives every point of
the surface a key, and a pixel's query is to be nearest to the key of the point that it shows.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cad2pose.methods.config_checks import check_named, check_pad
from cad2pose.methods.losses import cell_coordinates, cell_share, draw_pixels, info_nce
from cad2pose.methods.part_set import PartSet
from cad2pose.networks import KeyNetwork
from cad2pose.structures import CropBatch

MaskName = Literal["full", "visible"]

_IMAGE_MEAN = (0.485, 0.456, 0.406)
_IMAGE_STD = (0.229, 0.224, 0.225)


@runtime_checkable
class ContrastiveConfig(Protocol):
    """Settings of the networks and of the contrastive loss; `QueryConfig` says what each of them means."""

    @property
    def crop_size(self) -> int: ...
    @property
    def pad(self) -> float: ...
    @property
    def stride(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def embedding(self) -> int: ...
    @property
    def key_width(self) -> int: ...
    @property
    def positives(self) -> int: ...
    @property
    def negatives(self) -> int: ...
    @property
    def positives_from(self) -> MaskName: ...
    @property
    def key_noise(self) -> float: ...


def check_contrastive(config: ContrastiveConfig) -> None:
    """Raise ValueError for a setting that cannot be, by its name."""
    if config.crop_size <= 0 or config.crop_size % 32:
        raise ValueError(f"crop_size is {config.crop_size}; it must be a positive multiple of 32")
    if config.stride not in (1, 2, 4):
        raise ValueError(f"stride is {config.stride}; it must be 1, 2 or 4")
    check_pad(config.pad)
    check_named("positives_from", config.positives_from, MaskName)
    for name in ("width", "embedding", "key_width", "positives", "negatives"):
        if getattr(config, name) <= 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be positive")


class ImageInput(nn.Module):
    """Crops as the encoder takes them: RGB with ImageNet's mean and spread taken off, and the share of valid pixels."""

    channels = 4
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_IMAGE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGE_STD)[:, None, None], persistent=False)

    def forward(
        self, image: Float[Tensor, "batch 3 r r"], valid: Float[Tensor, "batch 1 r r"]
    ) -> Float[Tensor, "batch 4 r r"]:
        maps = torch.cat(((image - self.mean) / self.std, valid), dim=1)
        return maps.contiguous(memory_format=torch.channels_last)


def contrastive_loss(
    queries: Float[Tensor, "batch e m m"],
    batch: CropBatch,
    keys: KeyNetwork,
    parts: PartSet,
    config: ContrastiveConfig,
    generator: torch.Generator | None,
) -> Float[Tensor, ""]:
    """InfoNCE of queries drawn inside the mask against surface points drawn anywhere.

    Cells count where the mask covers them wholly. The surface points are drawn once per part and shared by all of its
    crops in the batch (SurfEmb draws them per crop). Noise on the coordinates keeps the keys smooth.
    """
    truth = batch.truth
    assert truth is not None, "a loss needs the truth of the crops"
    eligible = cell_share(truth.mask_full, config.stride) == 1
    if config.positives_from == "visible":
        eligible = eligible & (cell_share(truth.mask_visible, config.stride) == 1)
    pixels, rows = draw_pixels(eligible.flatten(1), config.positives, generator)
    points = at_pixels(cell_coordinates(truth.coordinates, config.stride), pixels)
    others = parts.random_surface(config.negatives, generator)
    every_part = torch.arange(len(parts), device=others.device)
    positives = keys(points + config.key_noise * _normal_like(points, generator), batch.part_index)
    negatives = keys(others + config.key_noise * _normal_like(others, generator), every_part)
    return info_nce(at_pixels(queries, pixels), positives, negatives[batch.part_index], rows)


def _normal_like(points: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(points.shape, generator=generator, device=points.device)


def at_pixels(maps: Float[Tensor, "batch c h w"], pixels: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n c"]:
    """Values of maps at flat pixel indices."""
    flat = maps.flatten(2)
    return flat.gather(2, pixels[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def full_precision(tensor: Tensor) -> torch.autocast:
    """Poses and losses are worked out in float32 also where the networks run in half precision."""
    return torch.autocast(tensor.device.type, enabled=False)

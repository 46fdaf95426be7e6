"""The contrastive loss: every query against its own pixel's point, its own part's keys, and new surface points."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.methods.contrastive import contrastive_loss
from cad2pose.methods.losses import cell_coordinates
from cad2pose.methods.part_set import PartSet
from cad2pose.networks import KeyNetwork
from cad2pose.structures import CropBatch
from planted_queries import gaussian_keys
from small_models import SMALL, wedge

WIDTH = 0.1
CONFIG = replace(SMALL, positives=64, negatives=256, stride=1, key_noise=0.0)


class PlantedKeys(KeyNetwork):
    """Keys by formula: those of the second part are of a space turned upside down. What it was asked for is kept."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.asked: list[Tensor] = []

    def forward(self, points: Tensor, part_index: Tensor) -> Tensor:
        self.asked.append(points)
        sign = torch.where(part_index == 0, 1.0, -1.0)[:, None, None]
        return gaussian_keys(points * sign)


@pytest.fixture(scope="module")
def batch() -> CropBatch:
    parts = [wedge(1, "a"), wedge(2, "b", shift=0.0)]
    return SyntheticCrops(parts, SyntheticConfig.evaluation(crop_size=32, pictures=4), "cpu", 4).batch(0, 6)


def parts() -> PartSet:
    return PartSet([wedge(1, "a"), wedge(2, "b", shift=0.0)], 8)


def queries(batch: CropBatch) -> Tensor:
    """What a perfect network says: the softmax over keys is a Gaussian about the pixel's own point."""
    assert batch.truth is not None
    sign = torch.where(batch.part_index == 0, 1.0, -1.0)[:, None, None, None]
    points = cell_coordinates(batch.truth.coordinates, 1) * sign
    return torch.cat((points, torch.full_like(points[:, :1], -0.5)), dim=1) / WIDTH**2


def loss(batch: CropBatch, maps: Tensor, keys: KeyNetwork | None = None, seed: int = 0, config=CONFIG) -> float:
    generator = torch.Generator().manual_seed(seed)
    return float(contrastive_loss(maps, batch, keys or PlantedKeys(), parts(), config, generator))


def test_perfect_queries_have_the_loss_of_a_gaussian_among_the_negatives(batch):
    """-log of own / (own + others): by formula for one crop's own points; a query of another pixel costs far more."""
    right = loss(batch, queries(batch))
    assert 0 < right < 2.5
    assert loss(batch, queries(batch).roll(1, 3)) > right + 0.1, "one pixel beside"
    assert loss(batch, queries(batch).roll(3, 0)) > right + 2, "another crop's"
    swapped = replace(batch, part_index=1 - batch.part_index)
    assert loss(swapped, queries(batch)) > right + 2, "the other part's keys"


def test_positives_and_negatives_are_of_the_crops_own_part(batch):
    keys = PlantedKeys()
    right = loss(batch, queries(batch), keys)
    positives, negatives = keys.asked
    assert positives.shape == (6, 64, 3)
    assert negatives.shape == (2, 256, 3)
    # far fewer negatives are near a point where they are of the other part's keys: a loss that took those would be less
    own = -torch.log_softmax(torch.cat((torch.zeros(1), torch.full((256,), -1.0))), 0)[0]
    assert right < float(own)

    class OthersFar(PlantedKeys):
        def forward(self, points: Tensor, part_index: Tensor) -> Tensor:
            found = super().forward(points, part_index)
            if len(points) == 2:  # negatives: one of the two parts' are nowhere near anything
                found = found.clone()
                found[1, :, 3] += 1e4
            return found

    first, second = (replace(batch, part_index=torch.full((6,), part)) for part in (0, 1))
    assert loss(second, queries(second), OthersFar()) == pytest.approx(0, abs=1e-3)
    assert loss(first, queries(first), OthersFar()) == pytest.approx(loss(first, queries(first)))


def test_negatives_are_new_at_every_call_and_keys_see_noise(batch):
    keys = PlantedKeys()
    for seed in (0, 1):
        loss(batch, queries(batch), keys, seed)
    assert float((keys.asked[1] - keys.asked[3]).norm(dim=-1).median()) > 0.1
    noisy, plain = PlantedKeys(), PlantedKeys()
    loss(batch, queries(batch), noisy, config=replace(CONFIG, key_noise=0.01))
    loss(batch, queries(batch), plain)
    assert float((noisy.asked[0] - plain.asked[0]).std()) == pytest.approx(0.01, rel=0.2)
    assert float((noisy.asked[1] - plain.asked[1]).std()) == pytest.approx(0.01, rel=0.2)

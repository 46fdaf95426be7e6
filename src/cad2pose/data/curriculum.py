"""Rendered crops to learn from that are easy at first, where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cad2pose.data.draws import Draws
from cad2pose.data.synthetic import SyntheticCrops
from cad2pose.data.synthetic_config import SyntheticConfig
from cad2pose.parts import Part
from cad2pose.structures import CropBatch, CropSource


class Curriculum:
    """Whole batches of easy crops, and among them more and more of those that are meant (Bengio et al. 2009).

    A batch is easy by a chance that falls evenly from 1 to 0; which one is, follows from (seed, index) alone.

    Args:
        easy: at first.
        meant: at last.
        batches: from this one on all are of the latter.
        seed: of the run.
    """

    def __init__(self, easy: CropSource, meant: CropSource, batches: int, seed: int) -> None:
        if batches < 1:
            raise ValueError(f"a curriculum needs a batch at least, got {batches}")
        self.easy, self.meant, self.batches, self.seed = easy, meant, batches, seed

    def batch(self, index: int, size: int) -> CropBatch:
        """Batch number `index`, of `size` crops."""
        chance = max(0.0, 1 - index / self.batches)
        source = self.easy if bool(Draws(self.seed, index, 5).chance(chance)) else self.meant
        return source.batch(index, size)


def crops_to_learn(
    parts: Sequence[Part], config: SyntheticConfig, device: torch.device | str, seed: int, easing: int = 0
) -> CropSource:
    """Crops of these parts, the first of them easy (`SyntheticConfig.easy`) where `easing` batches are to be so."""
    meant = SyntheticCrops(parts, config, device, seed)
    return Curriculum(SyntheticCrops(parts, config.easy(), device, seed), meant, easing, seed) if easing else meant

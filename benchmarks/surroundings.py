"""How busy pictures are around a part, and on it: photographs next to rendered crops.

    python benchmarks/surroundings.py lmo --object 6 --backgrounds photos

Of crops around the boxes of what is seen: the root mean square of brightness between Gaussian blurs of 1 and 4 pixels
("mid") and of what is finer than 1 pixel ("fine"), outside the part and on it, four pixels from its edge at least.
Quantiles over crops. Rendered crops are as training makes them with this camera, seen from 346 to 1500 mm.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro
from torch import Tensor
from torch.nn.functional import max_pool2d

from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.pose_prior import PosePrior
from cad2pose.data.resampling import apply_separable, gaussian_matrix
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.experiments.pixel_matches import crops_of
from cad2pose.experiments.report import markdown_table
from cad2pose.rendering import MeshSet, render

_BATCH, _EDGE, _LEAST = 16, 4, 50
_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Config:
    """Where."""

    bop: tyro.conf.Positional[Path]
    """Folder of a BOP data set, or its name in BOP_PATH."""

    object: int = 6
    backgrounds: Path | None = None
    """Folder of photographs to stand behind rendered parts."""

    split: str = "test"
    crops: int = 128
    """Rendered ones."""


def busyness(image: Tensor, mask: Tensor, valid: Tensor) -> list[list[float]]:
    """Rows of quantiles: mid and fine outside the part, mid and fine on it."""
    bright = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    blurs = [gaussian_matrix(torch.full((len(image),), sigma), image.shape[-1]) for sigma in (1.0, 4.0)]
    soft, softer = (apply_separable(bright, blur, blur)[:, 0] for blur in blurs)
    window = 2 * _EDGE + 1
    outside, on = (-max_pool2d(-(share[:, None]), window, 1, _EDGE)[:, 0] > 0 for share in (1 - mask, mask))
    whole = -max_pool2d(-valid, window, 1, _EDGE)[:, 0] > 0
    rows = []
    for place in (outside & whole, on & whole):
        pixels = place.flatten(1).sum(1)
        for band in (soft - softer, bright[:, 0] - soft):
            rms = ((band.square() * place).flatten(1).sum(1) / pixels.clamp_min(1)).sqrt()[pixels > _LEAST]
            rows.append(rms.quantile(torch.tensor(_QUANTILES)).tolist())
    return rows


def main(config: Config) -> None:
    dataset = BopDataset(find_dataset(config.bop), config.split)
    (part,) = dataset.parts((config.object,))
    style = SyntheticConfig(
        camera=next(iter(dataset)).camera.without_distortion(), roll=30.0, prior=PosePrior(distance=(346.0, 1500.0)),
        backgrounds=config.backgrounds,
    )  # fmt: skip
    image, valid, camera, T = crops_of(dataset, part, style.crop_size, style.pad, 0.0)
    drawn = render(MeshSet.from_meshes([part.mesh]), torch.zeros(len(T), 1, dtype=torch.long), T.float()[:, None],
                   camera.K_virt.float(), camera.size, camera.size)  # fmt: skip
    found = {"photographs": busyness(image, drawn.mask.float(), (valid > 0.99).float())}
    source = SyntheticCrops([part], style)
    batches = [source.batch(index, _BATCH) for index in range(-(-config.crops // _BATCH))]
    masks = torch.cat([batch.truth.mask_full for batch in batches if batch.truth is not None]).float()
    found["rendered"] = busyness(
        torch.cat([batch.image for batch in batches]),
        masks,
        torch.cat([batch.valid > 0.99 for batch in batches]).float(),
    )
    names = ("outside, mid", "outside, fine", "on the part, mid", "on the part, fine")
    rows = [[kind, name, *(f"{value:.4f}" for value in row)] for kind, table in found.items()
            for name, row in zip(names, table, strict=True)]  # fmt: skip
    print(markdown_table(["crops", "where", *(f"{quantile:.0%} quantile" for quantile in _QUANTILES)], rows))


if __name__ == "__main__":
    main(tyro.cli(Config))

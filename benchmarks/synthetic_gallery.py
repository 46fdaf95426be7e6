"""A look at the synthetic crops, next to real ones where there are any, and the time they take.

    python benchmarks/synthetic_gallery.py OUT.png [--parts bracket nut mesh.ply] [--style training|evaluation|truth]
    python benchmarks/synthetic_gallery.py OUT.png --bop lmo --object-id 6 --style real

`truth` shows image, object coordinates and masks (visible white, hidden magenta, outside the image black) of each crop;
`real` shows crops of a BOP dataset's test images, made from their ground-truth boxes, for comparison.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro
from torch import Tensor

from cad2pose.cli.sources import find_parts
from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.pose_prior import PosePrior
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.geometry import virtual_camera, warp_to_crops
from cad2pose.pictures import contact_sheet, save_png
from cad2pose.structures import CropBatch


@dataclass(frozen=True)
class Gallery:
    """What to show.

    Attributes:
        out: the PNG to write.
        parts: built-in parts or mesh files.
        bop: a BOP dataset to take the part (and, with style real, the pictures) from.
        object_id: which of its objects.
        style: what to show.
        views: where parts are seen from.
        backgrounds: folder of photographs.
        count: number of crops.
        crop_size: their side in pixels.
        seed: of everything.
    """

    out: tyro.conf.Positional[Path]
    parts: tuple[str, ...] = ("builtin",)
    bop: str | None = None
    object_id: int = 1
    style: Literal["training", "evaluation", "truth", "real"] = "training"
    views: Annotated[PosePrior, tyro.conf.arg(name="views")] = PosePrior()  # noqa: RUF009
    backgrounds: Path | None = None
    count: int = 40
    crop_size: int = 128
    seed: int = 0


def main(gallery: Gallery) -> None:
    torch.set_num_threads(1)
    if gallery.style == "real":
        pictures = real_crops(gallery)
    else:
        parts = find_parts((gallery.bop,), (gallery.object_id,), "mm") if gallery.bop else None
        parts = parts or find_parts(gallery.parts, (), "mm")
        settings = {"crop_size": gallery.crop_size, "prior": gallery.views, "backgrounds": gallery.backgrounds}
        evaluation = gallery.style == "evaluation"
        config = SyntheticConfig.evaluation(**settings) if evaluation else SyntheticConfig(**settings)
        crops = SyntheticCrops(parts, config, "cpu", gallery.seed)
        batch = crops.batch(0, gallery.count)
        print(f"{1e3 * seconds_per_crop(crops):.2f} ms of one core per crop of {gallery.crop_size} px, batches of 32")
        pictures = truth_pictures(batch) if gallery.style == "truth" else list(batch.image)
    save_png(gallery.out, contact_sheet(pictures, columns=8, tile_width=gallery.crop_size))
    print(gallery.out)


def seconds_per_crop(crops: SyntheticCrops, batches: int = 6, size: int = 32) -> float:
    """Processor time; the median of some batches after a first one."""
    times = []
    for index in range(batches + 1):
        start = time.process_time()
        crops.batch(index, size)
        times.append((time.process_time() - start) / size)
    return sorted(times[1:])[batches // 2]


def truth_pictures(batch: CropBatch) -> list[Tensor]:
    """Image, coordinates and masks side by side."""
    assert batch.truth is not None
    truth = batch.truth
    masks = torch.stack((truth.mask_full, truth.mask_visible, truth.mask_full), dim=1).float()
    masks = masks + 0.25 * batch.valid * (1 - masks)
    coordinates = (truth.coordinates + 1) / 2 * truth.mask_full[:, None]
    return list(torch.cat((batch.image, coordinates, masks), dim=-1))


def real_crops(gallery: Gallery) -> list[Tensor]:
    """Crops of test images about the boxes of an object's visible part."""
    if gallery.bop is None:
        raise SystemExit("style real needs --bop")
    pictures = []
    for image in BopDataset(find_dataset(gallery.bop), "test"):
        camera = image.camera
        size = torch.tensor([[camera.width, camera.height]], dtype=torch.float64)
        for instance in image.instances:
            if instance.object_id == gallery.object_id and instance.box_visible and instance.visible:
                box = torch.tensor([instance.box_visible], dtype=torch.float64)
                virtual = virtual_camera(camera.K[None], box, size, gallery.crop_size)
                pictures.append(warp_to_crops(image.read().double()[None], virtual)[0][0].float())
        if len(pictures) >= gallery.count:
            break
    return pictures[: gallery.count]


if __name__ == "__main__":
    main(tyro.cli(Gallery))

"""How well pixels of photographs find their surface points: what training on rendered crops is worth there.

    python benchmarks/photograph_matches.py lmo --models A/model.safetensors B/model.safetensors

Recalls of poses on a few dozen photographs move by 0.06 from chance alone. Here every photograph gives some hundred
pixels: crops lie around the annotated boxes of what is seen, and queries and mask are held against the part rendered
in its annotated pose. Three figures per crop: the share of the silhouette's pixels whose likeliest surface point is
within a tenth of the diameter of the true one (or of a symmetric equivalent); the logarithm of the probability that a
pixel gives to surface points within a twentieth of it, the median over pixels; and the mask's overlap with the
silhouette (intersection over union). What hides a part is not known everywhere, so its pixels count as wrong, for every
model alike. Models after the first are compared with it crop by crop, with 95 % bootstrap intervals over crops.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro
from torch import Tensor

from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.bop_scene import BopImage
from cad2pose.experiments.report import markdown_table
from cad2pose.geometry import VirtualCamera, undistort_boxes, virtual_camera, warp_to_crops
from cad2pose.geometry.rotation import nearest_rotation
from cad2pose.methods.query_image import QueryImageMethod
from cad2pose.model_file import Model, load_model
from cad2pose.parts import Part
from cad2pose.rendering import MeshSet, render
from cad2pose.structures import CropBatch

FIGURES = ("pixels right", "log p near the truth", "mask overlap")
_POINTS = 4096
_RIGHT, _NEAR = 0.2, 0.1  # radii
_RESAMPLES = 2000


@dataclass(frozen=True)
class Config:
    """What is compared."""

    bop: tyro.conf.Positional[Path]
    """Folder of a BOP data set with annotations, or its name in BOP_PATH."""

    models: tuple[Path, ...] = ()
    """Model files that have a query image; the first is what the others are compared with."""

    split: str = "test"
    least_visible: float = 0.3
    """Instances of which less is seen are left out."""


def crops_of(
    dataset: BopDataset, part: Part, size: int, pad: float, least: float
) -> tuple[Tensor, Tensor, VirtualCamera, Tensor]:
    """Pictures, their valid pixels, cameras and true poses of every instance of a part."""
    pictures, cameras, poses = [], [], []
    for image in dataset:
        for instance in image.instances:
            if (
                instance.object_id == part.object_id
                and instance.box_visible
                and (instance.visible_fraction or 1) >= least
            ):
                camera = crop_camera(image, torch.tensor([instance.box_visible], dtype=torch.float64), size, pad)
                pictures.append(warp_to_crops(image.read()[None], camera, lens=image.camera.lens))
                T = instance.T_cam_obj.double()[None].clone()
                T[:, :3, :3] = nearest_rotation(T[:, :3, :3])
                cameras.append(camera)
                poses.append(camera.to_virtual(T))
    if not pictures:
        raise SystemExit(f"{dataset.root} ({dataset.split}) shows no {part.name} of which {least:.0%} is seen")
    crops, valid = (torch.cat(some) for some in zip(*pictures, strict=True))
    return crops, valid, VirtualCamera.join(cameras), torch.cat(poses)


def crop_camera(image: BopImage, box: Tensor, size: int, pad: float) -> VirtualCamera:
    extent = torch.tensor([[image.camera.width, image.camera.height]], dtype=torch.float64)
    return virtual_camera(image.camera.K.double()[None], undistort_boxes(box, image.camera), extent, size, pad)


@torch.inference_mode()
def figures_of(model: Model, index: int, dataset: BopDataset, least: float) -> Tensor:
    """`(crops, 3)`: the three figures."""
    method, part = model.method, model.parts[index]
    assert isinstance(method, QueryImageMethod), f"{type(method).__name__} has no query image"
    config = method.config
    crops, valid, camera, T = crops_of(dataset, part, config.crop_size, config.pad, least)
    which = torch.full((len(crops),), index)
    batch = CropBatch(crops, valid, camera.to("cpu", torch.float32), which)
    maps = method.query_maps(method(batch), batch)
    points = method.parts.surface[index, :_POINTS]
    keys = method.surface_keys(index, points)
    side = maps.queries.shape[-1]
    drawn = render(MeshSet.from_meshes([part.mesh]), torch.zeros(len(T), 1, dtype=torch.long), T.float()[:, None],
                   maps.K.float(), side, side)  # fmt: skip
    true = (drawn.coordinates - part.center.float()[:, None, None]) / part.radius
    symmetry = method.parts.symmetry[index]
    rows = []
    for row, inside in enumerate(drawn.mask):
        equivalent = torch.einsum("kij,nj->kni", symmetry, true[row][:, inside].T)
        log_p = torch.log_softmax(maps.queries[row][:, inside].T @ keys.T, dim=1)
        off = torch.cdist(equivalent, points[None]).amin(0)
        right = (off.gather(1, log_p.argmax(1)[:, None]) < _RIGHT).float().mean()
        near = torch.logsumexp(log_p.masked_fill(off >= _NEAR, -1e9), dim=1).median()
        mask = maps.mask_logits[row] > 0
        rows.append(torch.stack((right, near, (mask & inside).sum() / (mask | inside).sum())))
    return torch.stack(rows)


def interval(differences: Tensor) -> tuple[float, float]:
    """Of the mean, by bootstrap over crops."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(differences), (_RESAMPLES, len(differences)), generator=generator)
    low, high = differences[chosen].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def main(config: Config) -> None:
    dataset = BopDataset(find_dataset(config.bop), config.split)
    seen = {instance.object_id for image in dataset for instance in image.instances}
    first: dict[int, Tensor] = {}
    rows, record = [], []
    for path in config.models:
        model = load_model(path)
        for index, part in enumerate(model.parts):
            if part.object_id not in seen:
                continue
            found = figures_of(model, index, dataset, config.least_visible)
            base = first.setdefault(part.object_id, found)
            cells = [f"{value:.3f}" for value in found.mean(0).tolist()]
            if base is not found:
                apart = [interval(column) for column in (found - base).T]
                cells = [f"{cell} ({low:+.3f} to {high:+.3f})" for cell, (low, high) in zip(cells, apart, strict=True)]
            rows.append([str(path), part.name, str(len(found)), *cells])
            record.append({"model": str(path), "part": part.name, "crops": len(found),
                           **dict(zip(FIGURES, found.mean(0).tolist(), strict=True))})  # fmt: skip
    print(markdown_table(["model", "part", "crops", *FIGURES], rows))
    print(json.dumps(record))


if __name__ == "__main__":
    main(tyro.cli(Config))

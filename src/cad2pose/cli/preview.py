"""`cad2pose preview`: what a network in training sees, beside photographs where there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from cad2pose.cli.arguments import ObjectIds, OptionalPath, Sources
from cad2pose.cli.console import plain_console
from cad2pose.cli.crop_style import CropStyle
from cad2pose.cli.sources import find_parts
from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.synthetic import SyntheticCrops
from cad2pose.data.twins import real_crops
from cad2pose.files import check_file
from cad2pose.geometry.crop import DEFAULT_PAD
from cad2pose.parts.mesh import Units
from cad2pose.pictures import contact_sheet, save_png
from cad2pose.structures import CropBatch

_STYLE = CropStyle()


def preview_command(
    source: Sources,
    /,
    out: Path,
    objects: ObjectIds = (),
    units: Units = "mm",
    models_info: OptionalPath = None,
    style: Annotated[CropStyle, tyro.conf.arg(name="")] = _STYLE,
    real: bool = False,
    split: str = "test",
    truth: bool = False,
    count: int = 24,
    columns: int = 8,
    crop_size: int = 128,
    seed: int = 0,
) -> None:
    """Write a picture of rendered crops as training makes them, to see what the network will see.

    Args:
        source: mesh files, built-in parts (bracket, nut, bushing, disc; builtin for all four), or one BOP folder.
        out: the PNG to write.
        objects: ids of the BOP folder's objects; all of them by default. For mesh files: their ids, in order.
        units: units of the mesh files.
        models_info: BOP models_info.json with the symmetries of the mesh files, by their ids.
        style: what the crops are like, as of training.
        real: beneath crops of the BOP folder's images, rendered ones of the same parts in the same poses.
        split: of the BOP folder, with --real.
        truth: beside each crop its object coordinates, and its masks (visible white, hidden magenta).
        count: number of crops.
        columns: crops in a row.
        crop_size: their side in pixels.
        seed: of everything.
    """
    for name, value in (("count", count), ("columns", columns)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    if real and truth:
        raise ValueError("--truth is about rendered crops alone, whose truth is drawn; leave it out with --real")
    if real and len(source) != 1:
        raise ValueError("--real needs one BOP folder, whose images are to be shown")
    if split != "test" and not real:
        raise ValueError(f"--split {split} is about photographs, and none are to be shown; add --real, or leave it out")
    torch.set_num_threads(1)
    check_file(out)
    columns = min(columns, count)
    parts = find_parts(source, objects, units, models_info)
    crops = SyntheticCrops(parts, style.config(crop_size, DEFAULT_PAD), "cpu", seed)
    if real:
        photographs = real_crops(BopDataset(find_dataset(source[0]), split), parts, crop_size, count)
        rendered = crops.batch_of(photographs.part_index, photographs.camera, photographs.T_virt_obj, seed)
        shown, pictures = len(photographs.image), _in_turns(list(photographs.image), list(rendered.image), columns)
    else:
        shown, pictures = count, _pictures(crops.batch(0, count), truth)
    save_png(out, contact_sheet(pictures, columns=columns, tile_width=pictures[0].shape[-1]))
    plain_console().print(f"{out}: {shown} crops", soft_wrap=True, highlight=False)


def _pictures(batch: CropBatch, truth: bool) -> list[Tensor]:
    if not truth:
        return list(batch.image)
    assert batch.truth is not None
    masks = torch.stack((batch.truth.mask_full, batch.truth.mask_visible, batch.truth.mask_full), dim=1).float()
    masks = masks + 0.25 * batch.valid * (1 - masks)
    coordinates = (batch.truth.coordinates + 1) / 2 * batch.truth.mask_full[:, None]
    return list(torch.cat((batch.image, coordinates, masks), dim=-1))


def _in_turns(first: list[Tensor], second: list[Tensor], columns: int) -> list[Tensor]:
    """A row of the first, a row of the second, and so on; a last short row is filled up with gray."""
    rows: list[Tensor] = []
    for start in range(0, len(first), columns):
        for pictures in (first, second):
            row = pictures[start : start + columns]
            rows += row + [torch.full_like(first[0], 0.5)] * (columns - len(row))
    return rows

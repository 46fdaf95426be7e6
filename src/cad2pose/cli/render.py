"""`cad2pose render`: a BOP data set of rendered photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cad2pose.cli.arguments import ObjectIds, OptionalPath, Sources
from cad2pose.cli.console import plain_console
from cad2pose.cli.sources import find_parts, find_straight_camera
from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_writer import SPLIT, RenderPlan, write_dataset
from cad2pose.data.shard_writer import write_shards
from cad2pose.data.tabletop import TabletopConfig
from cad2pose.files import alone
from cad2pose.geometry import Camera
from cad2pose.parts.mesh import Units

_PHOTOS = TabletopConfig()


def render_command(
    source: Sources,
    /,
    bop: Path,
    scenes: int = 1,
    images_per_scene: int = 25,
    objects: ObjectIds = (),
    units: Units = "mm",
    models_info: OptionalPath = None,
    camera: OptionalPath = None,
    size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="W H", help_behavior_hint="")] = None,
    photos: Annotated[TabletopConfig, tyro.conf.arg(name="photos")] = _PHOTOS,
    seed: int = 0,
    workers: int = 1,
    shards: int = 0,
) -> None:
    """Write a BOP data set of rendered, labelled photographs in the layout of train_pbr (split: train_render).

    Parts and other things stand on tables or float, seen by one camera. The same command goes on where it was stopped;
    the bytes are the same with any number of workers.

    Args:
        source: mesh files, built-in parts (bracket, nut, bushing, disc; builtin for all four), or one BOP folder.
        bop: the data set's folder, new or begun by the same command.
        scenes: number of scenes.
        images_per_scene: pictures in each.
        objects: ids of the BOP folder's objects; all of them by default. For mesh files: their ids, in order.
        units: units of the mesh files.
        models_info: BOP models_info.json with the symmetries of the mesh files, by their ids.
        camera: camera.json; 640 x 480 pixels with a focal length of 600 pixels by default.
        size: width and height of the pictures in pixels; those of the camera by default; it is scaled with them.
        photos: what the pictures are like.
        seed: of everything.
        workers: processes, of one thread each.
        shards: images in each tar file (WebDataset) that the data set is packed into when it is whole; 0 for none.
    """
    if shards < 0:
        raise ValueError(f"shards is {shards}; give the number of images in each, or 0 for none")
    torch.set_num_threads(1)
    parts = find_parts(source, objects, units, models_info)
    lens = find_straight_camera(camera) if camera else Camera.from_values(600.0, 600.0, 319.5, 239.5, 640, 480)
    lens = _sized(lens, size)
    plan = RenderPlan(scenes, images_per_scene, seed, photos)
    console = plain_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("rendering", total=scenes * images_per_scene)
        write_dataset(parts, lens, plan, bop, workers, lambda done, _: bar.update(task, completed=done))
        if shards:
            task = bar.add_task("packing", total=scenes * images_per_scene)
            packed = bop / f"{SPLIT}_web"
            with alone(bop):  # another run would take the shards in the making for leftovers
                dataset = BopDataset(bop, SPLIT)
                write_shards(dataset, packed, shards, seed, lambda done, _: bar.update(task, completed=done))
    console.print(f"{bop / SPLIT}: {scenes} scenes of {images_per_scene}", soft_wrap=True, highlight=False)


def _sized(camera: Camera, size: tuple[int, int] | None) -> Camera:
    """The camera with pictures of another size and the same field of view."""
    if size is None:
        return camera
    width, height = size
    resized = camera.resized(width / camera.width) if width > 0 else None
    if resized is None or (resized.width, resized.height) != size:
        raise ValueError(
            f"pictures of {width} x {height} pixels were asked of a camera of {camera.width} x {camera.height}; "
            "give a size that is as wide for its height, or another camera"
        )
    return resized

"""Where labelled images come from: the split of a BOP folder, or a folder of shards; and what is seen in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_files import BopInstance
from cad2pose.data.shards import ShardDataset, has_shards
from cad2pose.geometry import Camera
from cad2pose.rendering import MeshSet, rasterize

_FOR_TESTING = re.compile(r"test|val(idation)?(?![a-z])")
_TEST = re.compile(r"test")
_BEHIND = 15.0  # mm that a measured depth may lie before the surface, as in BOP's own visibility masks


@runtime_checkable
class LabelledImage(Protocol):
    """One image with its camera and annotations; see `BopImage`, `ShardImage`."""

    @property
    def camera(self) -> Camera: ...
    @property
    def instances(self) -> tuple[BopInstance, ...]: ...
    def read(self) -> Float[Tensor, "3 h w"]: ...
    def read_depth(self) -> Float[Tensor, "h w"]: ...
    def read_mask(self, instance: BopInstance, visible: bool = True) -> Bool[Tensor, "h w"]: ...


@runtime_checkable
class LabelledImages(Protocol):
    """Images by scene and image number; see `BopDataset`, `ShardDataset`."""

    @property
    def root(self) -> Path: ...
    @property
    def split(self) -> str: ...
    def keys(self) -> list[tuple[int, int]]: ...
    def instances(self, scene_id: int, image_id: int) -> tuple[BopInstance, ...]: ...
    def image(self, scene_id: int, image_id: int) -> LabelledImage: ...


def open_images(folder: Path) -> LabelledImages:
    """The images in a folder of scenes (000000, 000001, ...) or of shards (shard-000000.tar, ...).

    Raises:
        FileNotFoundError: if it is neither; the splits that are there are named.
        ValueError: for the folder of a single scene.
    """
    folder = folder.absolute()
    if folder.is_dir() and has_shards(folder):
        return ShardDataset(folder.parent, folder.name)
    if (folder / "scene_camera.json").is_file():
        raise ValueError(f"{folder} is one scene; give the folder that it is in: {folder.parent}")
    return BopDataset(folder.parent, folder.name)


def is_for_testing(images: LabelledImages, held_out: bool = False) -> bool:
    """Whether any images are of a split called test or val, also by way of a link to it, or as shards made of it.

    With `held_out`, images that no model has learnt from are wanted: only those called test are for testing.
    """
    folder = images.root / images.split
    names = {folder.name, folder.resolve().name, *(one.resolve().parent.name for one in folder.iterdir())}
    if isinstance(images, ShardDataset) and (split := images.made_of()):
        names.add(split)
    pattern = _TEST if held_out else _FOR_TESTING
    return any(pattern.match(name.lower()) for name in names)


def check_not_for_testing(images: LabelledImages, allowed: bool = False, held_out: bool = False) -> None:
    """Raise ValueError for images that are meant for testing, unless that is allowed; see `is_for_testing`."""
    if not allowed and is_for_testing(images, held_out):
        wanted = "others that the model was not trained on" if held_out else "images for training"
        raise ValueError(
            f"{images.root} ({images.split}) is meant for testing: scores of a model that has seen its images say "
            f"nothing. Give {wanted}; --allow-test-images takes these all the same"
        )


def seen_mask(
    image: LabelledImage, instance: BopInstance, meshes: MeshSet, index: int
) -> tuple[Bool[Tensor, "h w"], bool]:
    """What is seen of an instance, and whether the image's lens bends it.

    The annotated mask; or where there is none, the silhouette of the mesh, without what the depth image has before it;
    or where there is none either, all of the silhouette.

    Args:
        image: the image.
        instance: one of its annotations.
        meshes: meshes of the parts.
        index: of the instance's part among them.

    Raises:
        ValueError: if a file is damaged.
    """
    bent = any(image.camera.distortion)
    try:
        return image.read_mask(instance), bent
    except FileNotFoundError:
        camera = image.camera
    pose = instance.T_cam_obj[None, None]
    drawn = rasterize(meshes, torch.tensor([[index]]), pose, camera.K[None].float(), camera.height, camera.width)
    silhouette = drawn.slot[0] >= 0
    try:
        depth = camera.undistort_depth(image.read_depth())
    except FileNotFoundError:
        return silhouette, False
    return silhouette & ((depth == 0) | (depth > drawn.depth[0] - _BEHIND)), False

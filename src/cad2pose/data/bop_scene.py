"""One scene of a BOP dataset: its json files, its images, and what is annotated in them.

Json files are read when they are first needed and kept; images are read when asked for and not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.data.bop_files import BopInstance, parse_instances, read_by_number, stated_depth_scale
from cad2pose.data.images import IMAGE_SUFFIXES, image_size, read_depth, read_image, read_mask
from cad2pose.geometry.camera import Camera

_CENTRED = 0.1  # shares of the image that a principal point may be off its middle
_COLOUR_FOLDERS = ("rgb", "gray")


@dataclass(frozen=True)
class BopImage:
    """One image of a BOP dataset: where its files are, its camera, what is annotated in it.

    Args:
        scene_id: number of the scene's folder.
        image_id: number of the image.
        path: colour (or gray) image file.
        camera: its camera, pixel centres at integers whatever the split.
        instances: annotated objects, empty where the ground truth is kept back.
        depth_path: depth image file, None where there is none.
        depth_scale: millimetres per unit of the depth image.
        sensor: name of the camera where the scene has several, "" for one.
    """

    scene_id: int
    image_id: int
    path: Path
    camera: Camera
    instances: tuple[BopInstance, ...] = ()
    depth_path: Path | None = None
    depth_scale: float = 1.0
    sensor: str = ""

    def read(self) -> Float[Tensor, "3 h w"]:
        """RGB image in [0, 1].

        Raises:
            FileNotFoundError, ValueError: if it is missing, no image, or of another size than its camera.
        """
        image = read_image(self.path)
        self.check_size(self.path, image.shape[2], image.shape[1])
        return image

    def read_depth(self) -> Float[Tensor, "h w"]:
        """Depth (z) in mm, 0 where nothing was measured.

        Raises:
            FileNotFoundError, ValueError: if there is none, or it is broken or of another size than its camera.
        """
        if self.depth_path is None:
            raise FileNotFoundError(f"scene {self.scene_id}, image {self.image_id} has no depth image")
        depth = read_depth(self.depth_path, self.depth_scale)
        self.check_size(self.depth_path, depth.shape[1], depth.shape[0])
        return depth

    def mask_path(self, instance: BopInstance, visible: bool = True) -> Path:
        """File of an instance's mask: the visible part of its silhouette, or all of it."""
        folder = _of_sensor("mask_visib" if visible else "mask", self.sensor)
        return self.path.parent.parent / folder / f"{self.image_id:06d}_{instance.index:06d}.png"

    def read_mask(self, instance: BopInstance, visible: bool = True) -> Bool[Tensor, "h w"]:
        """Mask of an instance: the visible part of its silhouette, or all of it."""
        path = self.mask_path(instance, visible)
        mask = read_mask(path)
        self.check_size(path, mask.shape[1], mask.shape[0])
        return mask

    def check_size(self, path: Path, width: int, height: int) -> None:
        """Raise ValueError if a file of the image has another size than its camera."""
        camera = self.camera
        if (width, height) != (camera.width, camera.height):
            raise ValueError(
                f"{path} is {width} x {height} pixels, but its camera has {camera.width} x {camera.height}; "
                "resize neither: K belongs to one size"
            )


@dataclass(frozen=True)
class BopScene:
    """One scene folder.

    Args:
        path: the folder; its name is the scene's number.
        size: width and height of its images where the dataset states them, None to ask the images.
        sensor: name of the camera where a scene has several (files `scene_gt_SENSOR.json`, `rgb_SENSOR/`); "" for one.
        half_pixel: whether K has its pixel centres at half integers, as BlenderProc's renderings have.
    """

    path: Path
    size: tuple[int, int] | None = None
    sensor: str = ""
    half_pixel: bool = False

    @property
    def scene_id(self) -> int:
        """Number of the scene."""
        return int(self.path.name)

    @cached_property
    def camera_entries(self) -> dict[int, object]:
        """`scene_camera.json` by image id."""
        path = self.file("scene_camera")
        if not path.exists() and (sensors := find_sensors(self.path)) and self.sensor not in sensors:
            raise FileNotFoundError(f"{path} does not exist; the scene has several sensors: {', '.join(sensors)}")
        return read_by_number(path)

    @cached_property
    def annotations(self) -> dict[int, object]:
        """`scene_gt.json` by image id, empty where the ground truth is kept back."""
        path = self.file("scene_gt")
        return read_by_number(path) if path.exists() else {}

    @cached_property
    def infos(self) -> dict[int, object] | None:
        """`scene_gt_info.json` by image id, None where there is none."""
        path = self.file("scene_gt_info")
        return read_by_number(path) if path.exists() else None

    @cached_property
    def image_files(self) -> dict[int, Path]:
        """Colour or gray image files by image id."""
        folder = next((f for f in map(self.folder, _COLOUR_FOLDERS) if f.is_dir()), None)
        return numbered_images(folder) if folder else {}

    @cached_property
    def depth_files(self) -> dict[int, Path]:
        """Depth image files by image id."""
        folder = self.folder("depth")
        return numbered_images(folder) if folder.is_dir() else {}

    def file(self, stem: str) -> Path:
        """Path of one of the scene's json files."""
        return self.path / f"{_of_sensor(stem, self.sensor)}.json"

    def folder(self, kind: str) -> Path:
        """Path of one of the scene's image folders."""
        return self.path / _of_sensor(kind, self.sensor)

    def instances(self, image_id: int) -> tuple[BopInstance, ...]:
        """Annotations of one image.

        Raises:
            ValueError: for malformed annotations.
        """
        where = f"{self.file('scene_gt')}, image {image_id}"
        info = None
        if self.infos is not None and image_id in self.annotations:
            info = self.infos.get(image_id, [])
        return parse_instances(self.annotations.get(image_id, []), info, where)

    def camera(self, image_id: int) -> Camera:
        """Camera of one image, of the size that its entry or else the data set tells.

        A split may have images of another size than the data set states (T-LESS has): they are believed where the
        principal point lies near their middle; where it does not, K was not changed with the size, and `read` fails.

        Raises:
            ValueError: if the image is not listed, or its entry or the image is broken.
        """
        where = f"{self.file('scene_camera')}, image {image_id}"
        entry = self.camera_entries.get(image_id)
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: {'is not listed' if entry is None else 'must be a json object'}")
        stated = "width" in entry and "height" in entry
        try:
            camera = Camera.from_bop(entry, *((None, None) if stated else self._size(image_id, entry)))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return camera.from_half_integers() if self.half_pixel else camera

    def _size(self, image_id: int, entry: dict[str, object]) -> tuple[int, int]:
        """What the data set states, unless the image says otherwise and the entry's K agrees: splits may differ."""
        if self.size is None:
            return image_size(self.image_file(image_id))
        file = self.image_files.get(image_id)
        if file is None:
            return self.size
        try:
            size = image_size(file)
        except ValueError:  # whoever reads its pixels is told
            return self.size
        K = Camera.from_bop(entry, *size).K
        centred = all(abs(float(K[i, 2]) + 0.5 - size[i] / 2) < _CENTRED * size[i] for i in range(2))
        return size if centred else self.size

    def image_file(self, image_id: int) -> Path:
        """Path of one colour or gray image.

        Raises:
            FileNotFoundError: if there is none.
        """
        if image_id not in self.image_files:
            folders = " or ".join(self.folder(kind).name for kind in _COLOUR_FOLDERS)
            raise FileNotFoundError(f"{self.path} has no image {image_id:06d} in its folder {folders}")
        return self.image_files[image_id]

    def image(self, image_id: int) -> BopImage:
        """One image with its camera and annotations; pixels are read later.

        Raises:
            FileNotFoundError, ValueError: as `camera`, `image_file` and `instances`.
        """
        camera = self.camera(image_id)
        return BopImage(
            self.scene_id, image_id, self.image_file(image_id), camera, self.instances(image_id),
            self.depth_files.get(image_id), self.depth_scale(image_id), self.sensor,
        )  # fmt: skip

    def depth_file(self, image_id: int) -> Path:
        """Path of one depth image.

        Raises:
            FileNotFoundError: if there is none.
        """
        if image_id not in self.depth_files:
            raise FileNotFoundError(f"{self.path} has no depth image {image_id:06d} in its folder depth")
        return self.depth_files[image_id]

    def depth_scale(self, image_id: int) -> float:
        """Millimetres per unit of the depth image, 1 unless the camera's entry says otherwise.

        Raises:
            ValueError: if what it says is no positive number.
        """
        return stated_depth_scale(self.camera_entries.get(image_id), f"{self.file('scene_camera')}, image {image_id}")


def _of_sensor(name: str, sensor: str) -> str:
    return f"{name}_{sensor}" if sensor else name


def find_sensors(scene: Path) -> list[str]:
    """Names of the cameras of a scene that has several (HOT3D, BOP-Industrial), else none."""
    prefix = "scene_camera_"
    return sorted(path.stem.removeprefix(prefix) for path in scene.glob(f"{prefix}*.json"))


def numbered_images(folder: Path) -> dict[int, Path]:
    """Image files whose name is a number, in order of the number."""
    files = (p for p in folder.iterdir() if p.stem.isdecimal() and p.suffix.lower() in IMAGE_SUFFIXES)
    return dict(sorted((int(p.stem), p) for p in files))

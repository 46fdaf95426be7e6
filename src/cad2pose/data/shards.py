"""BOP data sets packed into tar files (WebDataset), any image of which can be read at any time.

    FOLDER/shard-000000.tar, shard-000001.tar, ... with members KEY.rgb.jpg (or .png; or gray), KEY.depth.png,
    KEY.camera.json, KEY.gt.json, KEY.gt_info.json, KEY.mask.json, KEY.mask_visib.json; KEY is SCENE_IMAGE

The members of an image lie side by side. Format: BOP-webdataset of the BOP toolkit; masks are run lengths (`rle`).
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.data.bop_files import BopInstance, has_half_integers, parse_instances, stated_depth_scale
from cad2pose.data.images import Encoded, image_size, read_depth, read_image
from cad2pose.data.rle import decode_mask
from cad2pose.files import visible_files
from cad2pose.geometry.camera import Camera

_KEY = re.compile(r"(?:.*/)?((\d+)_(\d+))\.(\w.*)")
SOURCE = "made_from.sha256"  # what the shards were made of, and the name of that split
HALF_INTEGERS = "half_integer_centres"  # entry of camera.json: whether K has pixel centres at half integers
_JSON = ("camera.json", "gt.json", "gt_info.json")


def has_shards(folder: Path) -> bool:
    """Whether there are tar files in a folder."""
    return bool(visible_files(folder, "*.tar"))


@dataclass(frozen=True)
class _Place:
    """Where the members of an image lie: in a shard, from the first one's header to behind the last one."""

    shard: Path
    begin: int
    end: int


@dataclass(frozen=True)
class ShardDataset:
    """A folder of shards, read like a split of a `BopDataset`.

    Args:
        root: the folder that the shards' folder is in.
        split: name of the shards' folder. In those called train_pbr..., pixel centres are at half integers, as in
            BlenderProc's renderings.

    Raises:
        FileNotFoundError: if there are no shards.
    """

    root: Path
    split: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        if not has_shards(self.root / self.split):
            raise FileNotFoundError(f"{self.root / self.split} has no shards (shard-000000.tar, ...)")

    @cached_property
    def _places(self) -> dict[tuple[int, int], _Place]:
        """Where every image is: the headers of all members are gone through, once.

        Raises:
            ValueError: if a shard is damaged or cut off, holds no image, or an image lies in two places.
        """
        found: dict[tuple[int, int], _Place] = {}
        for path in visible_files(self.root / self.split, "*.tar"):
            try:
                runs = list(_runs(path))
            except (tarfile.TarError, EOFError) as error:
                raise ValueError(f"{path} is damaged or cut off ({error}); get it anew") from error
            if not runs:
                raise ValueError(f"{path} holds no images: no members such as 000000_000000.rgb.jpg")
            for key, place in runs:
                if key in found:
                    raise ValueError(f"{path}: the members of {_name(key)} do not lie side by side in one shard")
                found[key] = place
        return dict(sorted(found.items()))

    def made_of(self) -> str:
        """Name of the split that the shards were made of; "" where that is not known."""
        file = self.root / self.split / SOURCE
        lines = file.read_text().splitlines() if file.is_file() else []
        return lines[1] if len(lines) > 1 else ""

    def keys(self) -> list[tuple[int, int]]:
        """Scene and image number of every image."""
        return list(self._places)

    def instances(self, scene_id: int, image_id: int) -> tuple[BopInstance, ...]:
        """Annotations of one image, empty where the ground truth is kept back.

        Raises:
            ValueError: if the image is not there, or its entries are malformed.
        """
        return self._instances((scene_id, image_id), self._members((scene_id, image_id), ("gt.json", "gt_info.json")))

    def _instances(self, key: tuple[int, int], members: dict[str, bytes]) -> tuple[BopInstance, ...]:
        if "gt.json" not in members:
            return ()
        info = self._json(key, "gt_info.json", members) if "gt_info.json" in members else None
        return parse_instances(self._json(key, "gt.json", members), info, self._where(key, "gt.json"))

    def image(self, scene_id: int, image_id: int) -> ShardImage:
        """One image, its files in memory; pixels are decoded later.

        Raises:
            ValueError: if it is not there, or its camera, its annotations or the header of the picture are broken.
        """
        key = (scene_id, image_id)
        members = self._members(key)
        suffix = next((name for name in members if name.startswith(("rgb.", "gray."))), None)
        if suffix is None or "camera.json" not in members:
            raise ValueError(f"{self._where(key)}: has no {'picture' if suffix is None else 'camera.json'}")
        picture = Encoded(self._where(key, suffix), members[suffix])
        entry = self._json(key, "camera.json", members)
        if not isinstance(entry, dict):
            raise ValueError(f"{self._where(key, 'camera.json')}: must be a json object")
        try:
            camera = Camera.from_bop(entry, *image_size(picture))
        except ValueError as error:
            raise ValueError(f"{self._where(key, 'camera.json')}: {error}") from error
        if entry.get(HALF_INTEGERS, has_half_integers(self.root / self.split)):
            camera = camera.from_half_integers()
        files = {name: Encoded(self._where(key, name), data) for name, data in members.items() if name not in _JSON}
        scale = stated_depth_scale(entry, self._where(key, "camera.json"))
        return ShardImage(scene_id, image_id, picture, camera, self._instances(key, members), files, scale)

    def _members(self, key: tuple[int, int], wanted: tuple[str, ...] = ()) -> dict[str, bytes]:
        """Content of the members of an image by what follows its key; by default of all."""
        if key not in self._places:
            raise ValueError(f"{self.root / self.split} has no image {_name(key)}")
        place = self._places[key]
        found: dict[str, bytes] = {}
        with place.shard.open("rb") as file:
            file.seek(place.begin)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.offset >= place.end:
                        break
                    match = _KEY.fullmatch(member.name)
                    content = tar.extractfile(member)
                    if match and content and (not wanted or match[4] in wanted):
                        found[match[4]] = content.read()
        return found

    def _json(self, key: tuple[int, int], name: str, members: dict[str, bytes]) -> object:
        return _parsed(Encoded(self._where(key, name), members[name]))

    def _where(self, key: tuple[int, int], name: str = "") -> str:
        return f"{self._places[key].shard}, {_name(key)}{'.' if name else ''}{name}"


@dataclass(frozen=True)
class ShardImage:
    """One image of a shard; as `BopImage`, but its files are in memory.

    Args:
        scene_id: number of the scene.
        image_id: number of the image.
        path: the colour (or gray) picture.
        camera: its camera, pixel centres at integers whatever the split.
        instances: annotated objects.
        files: depth image and masks, by their names without the key.
        depth_scale: millimetres per unit of the depth image.
    """

    scene_id: int
    image_id: int
    path: Encoded
    camera: Camera
    instances: tuple[BopInstance, ...]
    files: dict[str, Encoded]
    depth_scale: float = 1.0

    def read(self) -> Float[Tensor, "3 h w"]:
        """RGB image in [0, 1].

        Raises:
            ValueError: if it is damaged, or of another size than its camera.
        """
        image = read_image(self.path)
        self._check_size(self.path, image[0])
        return image

    def read_depth(self) -> Float[Tensor, "h w"]:
        """Depth (z) in mm, 0 where nothing was measured.

        Raises:
            FileNotFoundError, ValueError: if there is none, or it is damaged or of another size than its camera.
        """
        file = next((file for name, file in self.files.items() if name.startswith("depth.")), None)
        if file is None:
            raise FileNotFoundError(f"{self.path} has no depth image beside it")
        depth = read_depth(file, self.depth_scale)
        self._check_size(file, depth)
        return depth

    def read_mask(self, instance: BopInstance, visible: bool = True) -> Bool[Tensor, "h w"]:
        """Mask of an instance: the visible part of its silhouette, or all of it.

        Raises:
            FileNotFoundError, ValueError: if there is none, or it is malformed or of another size than its camera.
        """
        name = "mask_visib.json" if visible else "mask.json"
        if name not in self.files:
            raise FileNotFoundError(f"{self.path} has no {name} beside it")
        content = _parsed(self.files[name])
        entries: dict[str, object] = {}
        if isinstance(content, list):
            entries = {str(row): entry for row, entry in enumerate(content)}
        elif isinstance(content, dict):
            entries = content
        entry = entries.get(str(instance.index))
        if entry is None:
            raise FileNotFoundError(f"{self.files[name]} has no mask of annotation {instance.index}")
        mask = decode_mask(entry, f"{self.files[name]}, annotation {instance.index}")
        self._check_size(self.files[name], mask)
        return mask

    def _check_size(self, file: Encoded, pixels: Tensor) -> None:
        if pixels.shape != (self.camera.height, self.camera.width):
            height, width = pixels.shape
            raise ValueError(
                f"{file} is of {width} x {height} pixels, but the camera has {self.camera.width} x {self.camera.height}"
            )


def _runs(shard: Path) -> Iterator[tuple[tuple[int, int], _Place]]:
    """The images of a shard, in its order."""
    current, begin, end = None, 0, 0
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            if Path(member.name).name.startswith("._"):  # what a Mac packs beside files
                end = tar.offset
                continue
            match = _KEY.fullmatch(member.name) if member.isfile() else None
            key = (int(match[2]), int(match[3])) if match else None
            if current is not None and key != current:
                yield current, _Place(shard, begin, end)
            if key is not None and key != current:
                begin = end if current is not None else member.offset
            current, end = key, tar.offset
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # which tarfile takes for an end, too
            raise tarfile.ReadError("it does not end with a block of zeros")
    if current is not None:
        yield current, _Place(shard, begin, end)


def _parsed(file: Encoded) -> object:
    try:
        return json.loads(file.data)
    except ValueError as error:
        raise ValueError(f"{file} is not valid json: {error}") from error


def _name(key: tuple[int, int]) -> str:
    return f"{key[0]:06d}_{key[1]:06d}"

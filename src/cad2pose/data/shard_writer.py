"""A split of a BOP folder packed into shards, the same bytes at every time (see `shards` for the layout)."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from cad2pose.data.bop import BopDataset
from cad2pose.data.draws import Draws
from cad2pose.data.images import image_size, read_mask
from cad2pose.data.rle import encode_mask
from cad2pose.data.shards import HALF_INTEGERS, SOURCE
from cad2pose.files import alone, is_leftover, remove_leftovers, replacing, write_text

INDEX = "key_to_shard.json"
_MASKS = ("mask", "mask_visib")


def write_shards(
    dataset: BopDataset,
    out: Path,
    images_per_shard: int = 1000,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Pack a split; shards that are there already stay.

    The images are shuffled, as readers that go through shards from front to back want it. Pictures and depth images are
    copied as they are.

    Args:
        dataset: the split.
        out: folder of the shards.
        images_per_shard: most images in one.
        seed: of the order.
        report: told how many images of how many are packed, after each shard.

    Raises:
        ValueError: if `out` holds other shards, another run is writing there, or the split is broken.
        OSError: if something cannot be written; no shard is ever half written.
    """
    if images_per_shard < 1:
        raise ValueError(f"images_per_shard is {images_per_shard}; it must be 1 or more")
    keys = dataset.keys()
    if not keys:
        raise ValueError(f"{dataset.root / dataset.split} holds no images")
    order = torch.randperm(len(keys), generator=Draws(seed, 505).host).tolist()
    shuffled = [keys[row] for row in order]
    shards = [shuffled[start : start + images_per_shard] for start in range(0, len(keys), images_per_shard)]
    index = {f"{scene:06d}_{image:06d}": number for number, shard in enumerate(shards) for scene, image in shard}
    with alone(out):
        _claim(out, index, _digest(dataset), (dataset.root / dataset.split).resolve().name)
        for number, shard in enumerate(shards):
            path = out / f"shard-{number:06d}.tar"
            if not path.is_file():
                _write_shard(dataset, shard, path)
            report(min(len(keys), (number + 1) * images_per_shard), len(keys))


def _write_shard(dataset: BopDataset, keys: Sequence[tuple[int, int]], path: Path) -> None:
    with replacing(path) as aside, tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key in keys:
            for name, data in _members(dataset, *key):
                entry = tarfile.TarInfo(f"{key[0]:06d}_{key[1]:06d}.{name}")  # no time, no owner
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def _digest(dataset: BopDataset) -> str:
    """Of all that the split's json files say."""
    digest = hashlib.sha256()
    for scene_id in dict.fromkeys(scene for scene, _ in dataset.keys()):  # noqa: SIM118 - it is no mapping
        scene = dataset.scene(scene_id)
        content = [scene_id, scene.camera_entries, scene.annotations, scene.infos]
        digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()


def _claim(out: Path, index: dict[str, int], digest: str, split: str) -> None:
    """Write which shard every image is in, and of what they are made, or find that it is just so."""
    file, source = out / INDEX, out / SOURCE
    if file.is_file():
        try:
            same = json.loads(file.read_text()) == index
        except ValueError:
            same = False
        if not same:
            raise ValueError(f"{out} holds shards of other images, or of another number of them; give another folder")
        if source.is_file() and source.read_text().split("\n")[0] != digest:
            raise ValueError(f"{out} holds shards of these images as they were annotated before; give another folder")
        remove_leftovers(out)
        return
    if not all(is_leftover(path) or path.name == SOURCE for path in out.iterdir()):  # a run stopped before the index
        raise ValueError(f"{out} is not empty and holds no shards; give another folder")
    remove_leftovers(out)
    write_text(source, f"{digest}\n{split}\n")
    write_text(file, json.dumps(index, indent=1))


def _members(dataset: BopDataset, scene_id: int, image_id: int) -> Iterator[tuple[str, bytes]]:
    """Names, without the key, and contents of all that belongs to an image."""
    scene = dataset.scene(scene_id)
    image = scene.image(image_id)
    image.check_size(image.path, *image_size(image.path))
    folder = image.path.parent.name.split("_")[0]
    yield f"{folder}{image.path.suffix.lower()}", image.path.read_bytes()
    if image.depth_path is not None:
        yield f"depth{image.depth_path.suffix.lower()}", image.depth_path.read_bytes()
    entry = scene.camera_entries[image_id]
    assert isinstance(entry, dict)  # `image` has read it
    yield "camera.json", _json({**entry, HALF_INTEGERS: scene.half_pixel})
    if image_id in scene.annotations:
        yield "gt.json", _json(scene.annotations[image_id])
    if scene.infos is not None and image_id in scene.infos:
        yield "gt_info.json", _json(scene.infos[image_id])
    for kind in _MASKS:
        paths = {i.index: image.mask_path(i, kind == "mask_visib") for i in image.instances}
        masks = {str(row): encode_mask(read_mask(path)) for row, path in paths.items() if path.is_file()}
        if masks:
            yield f"{kind}.json", _json(masks)


def _json(content: object) -> bytes:
    return json.dumps(content).encode()

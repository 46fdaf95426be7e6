"""Training crops of labelled images in a BOP folder: rendered data sets, BOP's own, or a user's photographs."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.data.augmentation import augment
from cad2pose.data.bop_files import BopInstance, Box
from cad2pose.data.boxes import extreme_points, projected_box
from cad2pose.data.clutter import drawable_mesh
from cad2pose.data.draws import Draws
from cad2pose.data.labelled_images import LabelledImage, LabelledImages, check_not_for_testing, seen_mask
from cad2pose.data.synthetic_config import SyntheticConfig
from cad2pose.geometry import VirtualCamera, mask_box, undistort_boxes, warp_to_crops
from cad2pose.geometry.crop import OUTSIDE_FILL
from cad2pose.parts import Part
from cad2pose.rendering import MeshSet, render
from cad2pose.structures import CropBatch, CropSource, CropTruth

_KEPT_NUMBERS = 60_000_000  # of the images kept in memory; sixty of 640 x 480 pixels
_TRIES = 20  # places drawn one by one, before all of them are gone through in an order drawn at random


@dataclass(frozen=True)
class _Seen:
    """An instance, its image, and what is seen of it.

    Attributes:
        instance, image: which.
        pixels: of the image as it was taken.
        mask: of what is seen.
        bent: whether the mask is as the lens made it, as the pixels are.
    """

    instance: BopInstance
    image: LabelledImage
    pixels: Float[Tensor, "3 h w"]
    mask: Bool[Tensor, "h w"]
    bent: bool


class LabelledCrops:
    """Batches of crops of labelled images, each a function of (seed, index, size) and the folder's content alone.

    Boxes are drawn around the annotated ones as for rendered crops, with the same roll, virtual camera and effects;
    what the picture shows (silhouette, object coordinates) is rendered from mesh and pose, and what is seen of it is
    the annotated mask (or see `seen_mask`). Lens distortion is taken out as in estimates. Images that cannot be read
    are left out, counted in `broken`, and named in a warning; which instances come in their place does not depend on
    when that was found out. Images are read on the host, and crops made of them on the device.

    Args:
        dataset: the images.
        parts: the method's list of parts; every one needs an instance.
        config: crop size, boxes, roll and effects (the rest is for rendered crops).
        device: where crops are made.
        seed: of the run.
        min_visible: least visible share of an instance.
        allow_test: take splits called test or val, too.

    Raises:
        ValueError: for a split that is meant for testing, or a part without instances.

    Attributes:
        broken: images that could not be read so far, by (scene, image).
    """

    def __init__(
        self,
        dataset: LabelledImages,
        parts: Sequence[Part],
        config: SyntheticConfig,
        device: torch.device | str = "cpu",
        seed: int = 0,
        min_visible: float = 0.1,
        allow_test: bool = False,
    ) -> None:
        check_not_for_testing(dataset, allow_test)
        self.dataset, self.parts, self.config, self.seed = dataset, tuple(parts), config, seed
        self.device = torch.device(device)
        self.broken: dict[tuple[int, int], str] = {}
        self._places = self._find(min_visible)
        self._useless: set[tuple[int, int, int]] = set()  # places that cannot be read or show nothing
        self._meshes = MeshSet.from_meshes([drawable_mesh(part) for part in parts])
        self._drawn = self._meshes.to(self.device)
        self._center = torch.stack([part.center for part in parts])
        self._radius = torch.tensor([part.radius for part in parts], dtype=torch.float64)
        self._outlines = [extreme_points(part.mesh.used_vertices) for part in parts]
        self._images: OrderedDict[tuple[int, int], tuple[LabelledImage, Tensor]] = OrderedDict()
        self._kept = 0

    def _find(self, min_visible: float) -> list[list[tuple[int, int, int]]]:
        """Scene, image and annotation of every instance, by part."""
        place = {part.object_id: index for index, part in enumerate(self.parts)}
        found: list[list[tuple[int, int, int]]] = [[] for _ in self.parts]
        keys = self.dataset.keys()
        for scene_id, image_id in keys:
            for instance in self.dataset.instances(scene_id, image_id):
                if instance.object_id in place and instance.visible and instance.shows(min_visible):
                    found[place[instance.object_id]].append((scene_id, image_id, instance.index))
        for part, places in zip(self.parts, found, strict=True):
            if not places:
                raise ValueError(
                    f"{self.dataset.root} ({self.dataset.split}) shows no instance of object {part.object_id} of which "
                    f"{min_visible:.0%} or more is visible; leave the object out with --objects"
                )
        return found

    def __len__(self) -> int:
        """Number of instances."""
        return sum(map(len, self._places))

    def batch(self, index: int, size: int) -> CropBatch:
        """Batch number `index`, of `size` crops; parts take turns."""
        draws = Draws(self.seed, index, 2, device=self.device)
        part_index = (index * size + torch.arange(size)) % len(self.parts)
        chosen = [self._choose(int(part), draws) for part in part_index]
        camera, T_virt_obj = self._cameras(chosen, draws)
        crops = [self._crop(one, camera[row : row + 1].to(self.device)) for row, one in enumerate(chosen)]
        image, valid, seen = (torch.cat([crop[k] for crop in crops]) for k in range(3))
        return self._assemble(image, valid, seen, camera, T_virt_obj, part_index, draws)

    def _choose(self, part: int, draws: Draws) -> _Seen:
        """An instance whose image can be read, and of which some is seen."""
        for place in self._drawn_places(part, draws):
            key = place[:2]
            if place in self._useless:
                continue
            try:
                image, pixels = self._image(key)
                instance = image.instances[place[2]]
                mask, bent = seen_mask(image, instance, self._meshes, part)
                if bool(mask.any()):
                    return _Seen(instance, image, pixels, mask, bent)
            except (OSError, ValueError) as error:
                if key not in self.broken:
                    self.broken[key] = str(error)
                    warnings.warn(f"left out: {error} ({len(self.broken)} so far)", stacklevel=2)
            self._useless.add(place)
        raise ValueError(
            f"none of the {len(self._places[part])} annotated instances of object {self.parts[part].object_id} in "
            f"{self.dataset.root} ({self.dataset.split}) can be used: their images cannot be read or do not show it; "
            f"the last that is broken: {next(reversed(self.broken.values()), 'none')}. Mend them, or leave the object "
            "out with --objects"
        )

    def _drawn_places(self, part: int, draws: Draws) -> Iterator[tuple[int, int, int]]:
        """Places at random, and in the end every one, so that a batch is the same whatever is known to be broken."""
        places = self._places[part]
        for _ in range(_TRIES):
            yield places[int(draws.integers(len(places)))]
        for row in torch.randperm(len(places), generator=draws.host).tolist():
            yield places[row]

    def _image(self, key: tuple[int, int]) -> tuple[LabelledImage, Float[Tensor, "3 h w"]]:
        if key in self._images:
            self._images.move_to_end(key)
            return self._images[key]
        image = self.dataset.image(*key)
        pixels = image.read()
        self._images[key] = image, pixels
        self._kept += pixels.numel()
        while self._kept > _KEPT_NUMBERS and len(self._images) > 1:
            self._kept -= self._images.popitem(last=False)[1][1].numel()
        return image, pixels

    def _box(self, seen: _Seen, as_seen: bool) -> Box:
        """Around what is seen of an instance or all of it, without distortion; worked out where nobody says it."""
        instance, camera = seen.instance, seen.image.camera
        straight = not any(camera.distortion)
        if as_seen:
            box = instance.box_visible if straight and instance.box_visible else mask_box(seen.mask)
            if seen.bent:
                straightened, there = undistort_boxes(torch.tensor([box], dtype=torch.float64), camera)
                if bool(there[0]):
                    x, y, w, h = straightened[0].tolist()
                    return x, y, w, h
            return box
        if straight and instance.box_full:
            return instance.box_full
        row = next(row for row, part in enumerate(self.parts) if part.object_id == instance.object_id)
        x, y, w, h = projected_box(self._outlines[row][None], instance.T_cam_obj[None], camera.K[None])[0].tolist()
        return x, y, w, h

    def _cameras(self, chosen: Sequence[_Seen], draws: Draws) -> tuple[VirtualCamera, Float[Tensor, "n 4 4"]]:
        """Crop cameras around disturbed boxes, and the poses in them."""
        visible = draws.chance(self.config.box.visible_share, len(chosen)).tolist()
        boxes = [self._box(one, as_seen) for one, as_seen in zip(chosen, visible, strict=True)]
        cameras = [one.image.camera for one in chosen]
        size = torch.tensor([[camera.width, camera.height] for camera in cameras], dtype=torch.float64)
        K = torch.stack([camera.K for camera in cameras])
        camera = self.config.crop_camera(K, torch.tensor(boxes, dtype=torch.float64), size, draws)
        return camera, camera.to_virtual(torch.stack([one.instance.T_cam_obj.double() for one in chosen]))

    def _crop(
        self, seen: _Seen, camera: VirtualCamera
    ) -> tuple[Float[Tensor, "1 3 r r"], Float[Tensor, "1 1 r r"], Float[Tensor, "1 r r"]]:
        """A crop, what of it the image covers, and the share of each pixel in which the instance is seen."""
        lens, mask = seen.image.camera.lens, seen.mask[None, None].float()
        crop, valid = warp_to_crops(seen.pixels[None].to(self.device), camera, lens=lens)
        share, _ = warp_to_crops(mask.to(self.device), camera, fill=0.0, lens=lens if seen.bent else None)
        return crop, valid, share[:, 0] * valid[:, 0]

    def _assemble(
        self,
        image: Float[Tensor, "n 3 r r"],
        valid: Float[Tensor, "n 1 r r"],
        seen: Float[Tensor, "n r r"],
        camera: VirtualCamera,
        T_virt_obj: Float[Tensor, "n 4 4"],
        part_index: Int[Tensor, "n"],
        draws: Draws,
    ) -> CropBatch:
        single = camera.to(self.device, torch.float32)
        T, index = T_virt_obj.float().to(self.device), part_index.to(self.device)
        drawn = render(self._drawn, index[:, None].int(), T[:, None], single.K_virt, camera.size, camera.size)
        inside = drawn.mask & (valid[:, 0] >= 0.5)
        center = self._center[part_index].float().to(self.device)
        radius = self._radius[part_index].float().to(self.device)
        unit = (drawn.coordinates - center[:, :, None, None]) / radius[:, None, None, None] * inside[:, None]
        scale = (camera.K_virt[:, 0, 0] / camera.K_cam[:, 0, 0]).float()
        image = augment(image, scale, self.config.augmentation, draws, photographs=True)
        image = torch.full_like(image, OUTSIDE_FILL).lerp(image, valid)
        truth = CropTruth(T, inside, inside & (seen >= 0.5), unit)
        return CropBatch(image, valid, single, index, truth)


class MixedCrops:
    """Batches of which a share comes from another source.

    Args:
        first: of most crops.
        second: of the share.
        share: of each batch, between 0 and 1; rounded to whole crops, of which each source has one at least where the
            share is neither 0 nor 1. Of batches of a single crop the second source has this share.
    """

    def __init__(self, first: CropSource, second: CropSource, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"the share of crops to be mixed in is {share:g}; give a number between 0 and 1")
        self.first, self.second, self.share = first, second, share

    def batch(self, index: int, size: int) -> CropBatch:
        """Batch number `index`, of `size` crops; the second source's come last."""
        mixed_in = round(size * self.share) if size > 1 else int(Random(index).random() < self.share)
        if 0 < self.share < 1 < size:
            mixed_in = min(max(mixed_in, 1), size - 1)
        if mixed_in == 0:
            return self.first.batch(index, size)
        if mixed_in == size:
            return self.second.batch(index, size)
        return CropBatch.join((self.first.batch(index, size - mixed_in), self.second.batch(index, mixed_in)))

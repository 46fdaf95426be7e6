"""Crops of a BOP data set's images, with all it takes to render the same parts in the same poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_files import BopInstance, Box
from cad2pose.data.bop_scene import BopImage
from cad2pose.geometry import VirtualCamera, mask_box, undistort_boxes, virtual_camera, warp_to_crops
from cad2pose.parts import Part


@dataclass(frozen=True)
class RealCrops:
    """Crops of photographs about the boxes of what is visible of the parts.

    Args:
        image: `(N, 3, r, r)` in [0, 1].
        camera: of the crops.
        part_index: `(N,)` in the list of parts given.
        T_virt_obj: `(N, 4, 4)` true poses in the crop cameras, float64, mm.
    """

    image: Float[Tensor, "n 3 r r"]
    camera: VirtualCamera
    part_index: Int[Tensor, "n"]
    T_virt_obj: Float[Tensor, "n 4 4"]


def real_crops(dataset: BopDataset, parts: Sequence[Part], crop_size: int, count: int) -> RealCrops:
    """The first `count` crops of these parts in a data set, image by image.

    Raises:
        ValueError: if none of the parts is visible in any image.
    """
    place = {part.object_id: index for index, part in enumerate(parts)}
    boxes, intrinsics, sizes, poses, indices, pictures = [], [], [], [], [], []
    for image in dataset:
        camera = image.camera
        found = [i for i in image.instances if i.object_id in place and i.visible and _seen_box(image, i)]
        if not found:
            continue
        pixels = image.read().double()[None]
        for instance in found[: count - len(boxes)]:
            box = torch.tensor([_seen_box(image, instance)], dtype=torch.float64)
            boxes.append(undistort_boxes(box, camera)[0][0])
            intrinsics.append(camera.K)
            sizes.append(torch.tensor([camera.width, camera.height], dtype=torch.float64))
            poses.append(instance.T_cam_obj)
            indices.append(place[instance.object_id])
            one = virtual_camera(camera.K[None], boxes[-1][None], sizes[-1][None], crop_size)
            pictures.append(warp_to_crops(pixels, one, lens=camera.lens)[0][0].float())
        if len(boxes) >= count:
            break
    if not boxes:
        raise ValueError(
            f"no image of {dataset.root} ({dataset.split}) is known to show any of the objects {sorted(place)}: "
            "none has a bbox_visib of theirs (scene_gt_info.json), nor a mask (mask_visib)"
        )
    camera = virtual_camera(torch.stack(intrinsics), torch.stack(boxes), torch.stack(sizes), crop_size)
    T_virt_obj = camera.to_virtual(torch.stack(poses).double())
    return RealCrops(torch.stack(pictures), camera, torch.tensor(indices), T_virt_obj)


def _seen_box(image: BopImage, instance: BopInstance) -> Box | None:
    """Box around what is seen of an instance, as it is annotated, or of its mask; None where there is neither."""
    if instance.box_visible is not None or not image.mask_path(instance).is_file():
        return instance.box_visible
    mask = image.read_mask(instance)
    return mask_box(mask) if bool(mask.any()) else None

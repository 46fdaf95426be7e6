"""Whatever a camera driver hands over becomes a float RGB image `(3, H, W)` in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.estimator.stages import Stages
from cad2pose.geometry import Camera


@dataclass(frozen=True)
class View:
    """An image on the device, as the lens made it, with its camera and, where there is one, its depth image."""

    pixels: Float[Tensor, "3 h w"]
    depth: Float[Tensor, "h w"] | None
    camera: Camera
    stages: Stages


_ALLOWED = "a float tensor [3, H, W] in [0, 1], or a uint8 or uint16 numpy array H x W, H x W x 3 (RGB) or H x W x 4"


def image_tensor(image: Tensor | np.ndarray) -> Float[Tensor, "3 h w"]:
    """Float32 RGB image in [0, 1] from a tensor or an array (gray is repeated, alpha is dropped).

    Raises:
        ValueError: for any other type, shape or range; the message says what is allowed.
    """
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or image.numel() == 0:
            raise ValueError(f"the image is a {image.dtype} tensor of shape {list(image.shape)}; give {_ALLOWED}")
        low, high = (float(value) for value in image.aminmax())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ValueError(f"the image's values lie in [{low:g}, {high:g}]; give {_ALLOWED}")
        return image.detach().to(torch.float32).clamp(0, 1)
    if not isinstance(image, np.ndarray):
        raise ValueError(f"the image is a {type(image).__name__}; give {_ALLOWED}")
    known_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    if not known_shape or image.dtype not in (np.uint8, np.uint16) or image.size == 0:
        raise ValueError(f"the image is a {image.dtype} array of shape {list(image.shape)}; give {_ALLOWED}")
    pixels = image[..., None] if image.ndim == 2 else image[..., :3]
    scaled = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(image.dtype).max)
    return scaled.movedim(-1, 0).expand(3, -1, -1).contiguous()


def check_size(image: Float[Tensor, "3 h w"], camera: Camera) -> None:
    """Raise ValueError where the image is not as large as its camera says."""
    height, width = image.shape[-2:]
    if (width, height) != (camera.width, camera.height):
        raise ValueError(
            f"the image is {width} x {height} pixels and its camera {camera.width} x {camera.height}; "
            "give the intrinsics of this very image size (Camera.resized makes them)"
        )


def depth_tensor(depth: Tensor | np.ndarray) -> Float[Tensor, "h w"]:
    """Float32 depth in mm, 0 where nothing was measured (not finite, or not positive).

    Raises:
        ValueError: for anything but an H x W tensor or array of numbers.
    """
    if isinstance(depth, np.ndarray):
        if depth.dtype.kind not in "uif":
            raise ValueError(f"the depth image is a {depth.dtype} array; give H x W numbers in mm")
        depth = torch.from_numpy(depth.astype(np.float32))
    if not isinstance(depth, Tensor) or depth.ndim != 2 or depth.is_complex():
        shape = list(depth.shape) if isinstance(depth, Tensor) else type(depth).__name__
        raise ValueError(f"the depth image is {shape}; give a tensor or an array H x W of depths in mm")
    depth = depth.detach().to(torch.float32)
    return torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0)

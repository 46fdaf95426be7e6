"""Pictures become PNG files, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cad2pose.files import write_bytes

Picture = Float[Tensor, "3 h w"] | Float[Tensor, "h w"] | UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w"]


def to_bytes(image: Picture) -> UInt8[np.ndarray, "..."]:
    """Eight bits per channel, channels last, of an image `(3, H, W)` or `(H, W)` in [0, 1] (values beyond are cut)."""
    if isinstance(image, np.ndarray):
        return image
    pixels = (image.detach().cpu().to(torch.float32).nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray((pixels.movedim(0, -1) if pixels.ndim == 3 else pixels).numpy())


def from_bytes(image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 h w"]:
    """Inverse of `to_bytes` for colour images."""
    return torch.from_numpy(image.astype(np.float32) / 255).movedim(-1, 0).contiguous()


def save_png(path: Path | str, image: Picture) -> None:
    """Write a picture (RGB or gray; float in [0, 1] channels first, or uint8 channels last).

    Raises:
        ValueError: if the path does not end in .png.
        OSError: if it cannot be written; a file that was there before stays as it was.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"pictures are written as PNG; {path} does not end in .png")
    pixels = to_bytes(image)
    done, data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    assert done, "encoding an eight-bit image cannot fail"
    write_bytes(path, data.tobytes())


def jpeg_bytes(image: Picture, quality: int = 85) -> bytes:
    """A picture as the content of a JPEG file: for photographs, where PNG would be ten times as large."""
    pixels = to_bytes(image)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(".jpg", pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)
    assert done, "encoding an eight-bit image cannot fail"
    return data.tobytes()

"""Pictures become image files, whole or not at all, or addresses that hold them."""

from __future__ import annotations

import base64
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
    pixels = (pixels.movedim(0, -1) if pixels.ndim == 3 else pixels).numpy()
    return np.array(pixels, order="C", copy=True)  # a picture of one pixel counts as contiguous with any strides


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
    write_bytes(path, png_bytes(image))


def png_bytes(image: Picture) -> bytes:
    """A picture as the content of a PNG file."""
    return _encoded(image, ".png", [])


def jpeg_bytes(image: Picture, quality: int = 85) -> bytes:
    """A picture as the content of a JPEG file: for photographs, where PNG would be ten times as large."""
    return _encoded(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def data_uri(kind: str, data: bytes) -> str:
    """The content of a file, as an address that holds it; `kind` is its media type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _encoded(image: Picture, suffix: str, options: list[int]) -> bytes:
    pixels = to_bytes(image)
    done, data = cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)
    assert done, "encoding an eight-bit image cannot fail"
    return data.tobytes()

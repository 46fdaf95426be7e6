"""Image files -> tensors: colour as RGB in [0, 1], depth in mm; gray, palette, alpha and 16 bit included.

Pillow reads them: its header-only open tells an image's size without decoding it, and what is not an image raises.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

_EXIF_ORIENTATION = 0x0112
_EXIF_QUARTER_TURNS = (5, 6, 7, 8)
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TOLD = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
_SIXTEEN_BIT_GRAY = ("I;16", "I;16B", "I;16L", "I")


@dataclass(frozen=True)
class Encoded:
    """The bytes of an image file that lies in no folder.

    Args:
        name: what to call it in messages.
        data: its content.
    """

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


def read_image(path: Path | str | Encoded) -> Float[Tensor, "3 h w"]:
    """RGB image in [0, 1], float32, turned upright as its EXIF orientation says.

    Gray is repeated three times, alpha is dropped, 16 bits are scaled by their full range.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an image, is cut off, or holds floating-point values outside [0, 1].
    """
    with _opened(path) as image:
        turn = _TURNS.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        if upright.mode in _SIXTEEN_BIT_GRAY:
            pixels = np.asarray(upright).astype(np.float32) / 65535
        elif upright.mode == "F":
            pixels = np.asarray(upright).astype(np.float32)
        else:
            pixels = np.asarray(upright.convert("RGB")).astype(np.float32) / 255
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"{path} holds values outside its range; save it as an 8 or 16 bit image")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_depth(path: Path | str | Encoded, scale: float = 1.0) -> Float[Tensor, "h w"]:
    """Depth image times `scale` (BOP's depth_scale gives mm), float32; 0 where nothing was measured.

    In files with fractions that may be NaN, infinite or negative.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an image of one channel.
    """
    with _opened(path) as image:
        pixels = np.asarray(image).astype(np.float32)
    if pixels.ndim != 2:
        raise ValueError(f"{path} has {pixels.shape[2]} channels; a depth image has one")
    measured = np.isfinite(pixels) & (pixels > 0)
    return torch.from_numpy(np.where(measured, pixels * np.float32(scale), np.float32(0)))


def read_mask(path: Path | str | Encoded) -> Bool[Tensor, "h w"]:
    """Mask image: true where it is not 0 (a colour image: in any of its channels; alpha does not count).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an image.
    """
    with _opened(path) as image:
        pixels = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "LA") else image)
    return torch.from_numpy((pixels.reshape(*pixels.shape[:2], -1) != 0).any(-1))


def image_size(path: Path | str | Encoded) -> tuple[int, int]:
    """Width and height as `read_image` would give them, from the file's header where its format allows.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an image.
    """
    with _opened(path, decode=False) as image:
        width, height = image.size
        turned = _orientation(image) in _EXIF_QUARTER_TURNS
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image) -> object:
    """How the EXIF data say that the pixels lie; nothing for TIFF files, whose pixels Pillow turns itself."""
    if image.format == "TIFF" or (isinstance(image, PngImageFile) and _says_nothing(image)):
        return None
    return image.getexif().get(_EXIF_ORIENTATION)


def _says_nothing(image: PngImageFile) -> bool:
    """Whether a PNG that is not decoded yet has no chunk that EXIF data may lie in.

    Pillow decodes the pixels to find out, as such a chunk may follow them; here it goes from chunk to chunk.
    """
    file = image.fp
    if file is None or "exif" in image.info:
        return False
    place, found = file.tell(), False
    file.seek(len(_PNG_SIGNATURE))
    while not found and len(head := file.read(8)) == 8:
        found = head[4:] in _PNG_TOLD
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    file.seek(place)
    return not found


@contextmanager
def _opened(path: Path | str | Encoded, decode: bool = True) -> Iterator[Image.Image]:
    """Open an image file; whatever the decoder stumbles over becomes a ValueError that names the file."""
    if not isinstance(path, Encoded):
        path = Path(path)
        if not path.is_file():
            reason = "is not a file" if path.exists() else "does not exist"
            raise FileNotFoundError(f"image {path} {reason}")
    with BytesIO(path.data) if isinstance(path, Encoded) else path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file)
            if decode:
                image.load()
            _orientation(image)
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, EOFError, ...
            text = "it is cut off or no image" if isinstance(error, UnidentifiedImageError) else str(error)
            raise ValueError(f"{path} cannot be read as an image: {text or type(error).__name__}") from error
        yield image

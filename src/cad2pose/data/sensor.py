"""What lens, colour filter and processing of a camera do to a picture, batched; `augmentation` decides how much."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import conv2d, pad

from cad2pose.devices import constant

_BINS = 128
_TILES = 4
_LUMA = (0.299, 0.587, 0.114)
_CROSS, _SQUARE = ((0.0, 1, 0), (1, 4, 1), (0, 1, 0)), ((1.0, 2, 1), (2, 4, 2), (1, 2, 1))  # quarters


def mosaic(image: Float[Tensor, "batch 3 h w"], phase: Int[Tensor, "batch 2"]) -> Float[Tensor, "batch 3 h w"]:
    """One colour per pixel, as under a Bayer filter (green twice in each block of four), and 0 for the others.

    Args:
        image: RGB.
        phase: `(B, 2)` row and column, 0 or 1, of the block's red pixel.
    """
    height, width = image.shape[2:]
    row = (torch.arange(height, device=image.device) + phase[:, :1]) % 2 == 0
    column = (torch.arange(width, device=image.device) + phase[:, 1:]) % 2 == 0
    red = row[:, :, None] & column[:, None]
    blue = ~row[:, :, None] & ~column[:, None]
    return image * torch.stack((red, ~red & ~blue, blue), dim=1)


def demosaic(raw: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
    """Missing colours as the mean of the nearest pixels that have them (bilinear; frayed edges are its mark)."""
    kernel = constant((_SQUARE, _CROSS, _SQUARE), raw.device).to(raw)[:, None] / 4
    return conv2d(pad(raw, (1, 1, 1, 1), mode="reflect"), kernel, groups=3)


def noisy(
    image: Float[Tensor, "batch 3 h w"],
    grain: Float[Tensor, "batch 3 h w"],
    strength: Float[Tensor, "batch"],
    tilt: Float[Tensor, "batch"],
    common: Float[Tensor, "batch"],
) -> Float[Tensor, "batch 3 h w"]:
    """Display values with a sensor's noise.

    The light's own noise grows with the root of it, which gamma evens out (a tilt near 0); that of reading out is the
    same everywhere, which gamma makes most of in the dark (below 0); cameras that smooth the dark leave less there
    (above 0).

    Args:
        image: in [0, 1].
        grain: standard normal.
        strength: `(B,)` standard deviation on middle gray.
        tilt: `(B,)` how much larger it is on white than on black, in shares of that, between -2 and 2.
        common: `(B,)` how far the red channel's grain is that of the others, 0 to 1.
    """
    tilt, common, strength = (t[:, None, None, None] for t in (tilt, common, strength))
    grain = torch.lerp(grain, grain[:, :1], common)
    return image + grain * strength * (1 + tilt * (image.clamp(0, 1) - 0.5))


def disc_kernels(radius: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch side side"]:
    """Filters of a lens out of focus: even discs with a soft edge of a pixel; each sums to 1."""
    steps = torch.arange(side, device=radius.device, dtype=radius.dtype) - side // 2
    distance = (steps.square() + steps.square()[:, None]).sqrt()
    weight = (radius[:, None, None] + 0.5 - distance).clamp(0, 1)
    return weight / weight.sum(dim=(1, 2), keepdim=True)


def line_kernels(
    length: Float[Tensor, "batch"], angle: Float[Tensor, "batch"], side: int
) -> Float[Tensor, "batch side side"]:
    """Filters that average along a straight line, shorter than a side, through the middle; each sums to 1."""
    along = torch.linspace(-0.5, 0.5, side, device=length.device)[:, None] * length
    steps = torch.arange(side, device=length.device, dtype=length.dtype) - side // 2
    x = (1 - (steps - (along * angle.cos())[..., None]).abs()).clamp_min(0)
    y = (1 - (steps - (along * angle.sin())[..., None]).abs()).clamp_min(0)
    kernel = torch.einsum("tby,tbx->byx", y, x)
    return kernel / kernel.sum(dim=(1, 2), keepdim=True)


def filtered(
    image: Float[Tensor, "batch 3 h w"], kernel: Float[Tensor, "batch side side"]
) -> Float[Tensor, "batch 3 h w"]:
    """Each picture filtered by its own kernel; the border is continued outwards."""
    reach = kernel.shape[-1] // 2
    wide = pad(image, (reach,) * 4, mode="replicate").flatten(0, 1)[None]
    kernel = kernel[:, None].repeat_interleave(3, dim=0)
    return conv2d(wide, kernel, groups=len(kernel)).view_as(image)


def vignette(
    image: Float[Tensor, "batch 3 h w"], middle: Float[Tensor, "batch 2"], strength: Float[Tensor, "batch"]
) -> Float[Tensor, "batch 3 h w"]:
    """Darker away from a middle, which may lie outside: by `strength` at a distance of twice the picture's side."""
    height, width = image.shape[2:]
    x = (torch.arange(width, device=image.device) + 0.5) / width - middle[:, :1]
    y = (torch.arange(height, device=image.device) + 0.5) / height - middle[:, 1:]
    square = (x.square()[:, None] + y.square()[:, :, None]) / 4
    return image * (1 - strength[:, None, None] * square).clamp_min(0)[:, None]


def equalised(image: Float[Tensor, "batch 3 h w"], limit: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3 h w"]:
    """Contrast-limited adaptive histogram equalisation of the brightness (CLAHE; Zuiderveld 1994).

    Brightness is mapped by the cumulative histogram of the tile around it, in which no bin counts for more than `limit`
    times an even share; what is cut off is spread over all bins. Between the middles of tiles maps are interpolated.

    Args:
        image: RGB in [0, 1].
        limit: `(B,)`; 0 leaves the picture as it is.
    """
    count, _, height, width = image.shape
    luma = (image * constant(_LUMA, image.device)[:, None, None]).sum(1)
    level = (luma * (_BINS - 1)).clamp(0, _BINS - 1)
    row = torch.arange(height, device=image.device) * _TILES // height
    column = torch.arange(width, device=image.device) * _TILES // width
    tile = (row[:, None] * _TILES + column).expand(count, -1, -1)
    index = (tile * _BINS + level.round().long()).flatten(1)
    histogram = torch.zeros(count, _TILES**2 * _BINS, device=image.device)
    histogram.scatter_add_(1, index, torch.ones_like(index, dtype=histogram.dtype))
    histogram = histogram.view(count, _TILES**2, _BINS)
    histogram = histogram / histogram.sum(-1, keepdim=True).clamp_min(1)
    kept = torch.minimum(histogram, limit[:, None, None] / _BINS)
    kept = kept + (1 - kept.sum(-1, keepdim=True)) / _BINS
    maps = (kept.cumsum(-1) - 0.5 * kept).view(count, _TILES, _TILES, _BINS)
    mapped = torch.zeros_like(luma)
    bins = level.round().long()
    below, right = _between_tiles(height, image.device), _between_tiles(width, image.device)
    for tile_row, row_weight in zip(below[:2], (1 - below[2], below[2]), strict=True):
        for tile_column, column_weight in zip(right[:2], (1 - right[2], right[2]), strict=True):
            place = (tile_row.long()[:, None] * _TILES + tile_column.long()).expand(count, -1, -1)
            found = maps.flatten(1).gather(1, (place * _BINS + bins).flatten(1)).view_as(luma)
            mapped = mapped + row_weight[:, None] * column_weight * found
    return (image * (mapped / luma.clamp_min(1e-2)).clamp(0, 4)[:, None]).clamp(0, 1)


def _between_tiles(
    side: int, device: torch.device
) -> tuple[Float[Tensor, "side"], Float[Tensor, "side"], Float[Tensor, "side"]]:
    """For every pixel of a row: the tiles whose middles it lies between, and how far it is on its way."""
    place = (torch.arange(side, device=device) + 0.5) * _TILES / side - 0.5
    first = place.floor().clamp(0, _TILES - 1)
    return first, (first + 1).clamp_max(_TILES - 1), (place - first).clamp(0, 1)

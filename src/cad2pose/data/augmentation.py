"""What a camera and its surroundings do to a picture, each sample by its own random amount, batched.

The chain follows the light: shadows, lens and motion blur, loss to the source image's own resolution, noise, colour
filter and compression there, enlargement, sharpening, equalisation, colour, holes. It is the union of what SurfEmb
(Haugaard and Buch 2022) and GDR-Net(PP) (Wang et al. 2021, Liu et al. 2025) train with, and adds the resolution loss.
Effects that few samples get are computed for those rows only.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.data.augmentation_config import AugmentationConfig
from cad2pose.data.color import hue_rotation, saturation_matrix, tone_curve, transform_colors
from cad2pose.data.compression import compress_blocks
from cad2pose.data.draws import Draws
from cad2pose.data.sensor import demosaic, disc_kernels, equalised, filtered, mosaic, vignette

_NOTICEABLE = 1.05  # crop pixels per source pixel from which the loss of resolution is computed


def augment(
    image: Float[Tensor, "batch 3 r r"],
    scale: Float[Tensor, "batch"],
    config: AugmentationConfig,
    draws: Draws,
    photographs: bool = False,
) -> Float[Tensor, "batch 3 r r"]:
    """Pictures as a camera might have taken them.

    Args:
        image: `(B, 3, r, r)` in [0, 1]; not changed.
        scale: `(B,)` crop pixels per source pixel, on the CPU. Lengths grow with it, but within limits: those of
            defocus and motion from 0.5 to 2, that of the Gaussian blur from 0.5 to 4, so that crops of few source
            pixels get less of them than the configuration states.
        config: strengths and shares.
        draws: random numbers.
        photographs: a camera has taken them already, so that they have no more detail than the source image: that is
            not taken from them once more. Noise, filter and compression are as coarse as its pixels all the same.

    Returns:
        `(B, 3, r, r)` in [0, 1].
    """
    image = image.clone()
    scale = scale.float()
    _shade(image, config, draws)
    _defocus(image, scale, config, draws)
    _motion_blur(image, scale, config, draws)
    _expose(image, scale, config, draws, photographs)
    _sharpen(image, scale, config, draws)
    _equalise(image, config, draws)
    image = _change_colors(image, config, draws)
    _cut_holes(image, config, draws)
    return image.clamp_(0, 1)


def _strengths(draws: Draws, strength: float, share: float, count: int) -> Float[Tensor, "count"]:
    """Evenly in [0, strength) for a share of the samples, else 0."""
    return draws.uniform(0.0, strength, count) * draws.chance(share, count)


def _touched(strength: Float[Tensor, "batch"], draws: Draws) -> tuple[Tensor, Tensor]:
    """Rows with a strength above zero, and their strengths, both on the device."""
    rows = strength.nonzero()[:, 0]
    return rows.to(draws.device, non_blocking=True), strength[rows].to(draws.device, non_blocking=True)


def _shade(image: Tensor, config: AugmentationConfig, draws: Draws) -> None:
    rows, strength = _touched(_strengths(draws, config.shade, config.shade_share, len(image)), draws)
    if len(rows):
        field = draws.smooth_noise(len(rows), 1, 4, image.shape[-1])
        image[rows] *= (1 + strength[:, None, None, None] * field).clamp_(0.3, 1.7)
    middle = draws.uniform(-2.0, 3.0, len(image), 2)
    rows, strength = _touched(_strengths(draws, config.vignette, config.vignette_share, len(image)), draws)
    if len(rows):
        image[rows] = vignette(image[rows], middle.to(draws.device, non_blocking=True)[rows], strength)


def _defocus(image: Tensor, scale: Tensor, config: AugmentationConfig, draws: Draws) -> None:
    radius = _strengths(draws, config.defocus, config.defocus_share, len(image)) * scale.clamp(0.5, 2)
    rows, radius = _touched(radius, draws)
    if len(rows):
        kernel = disc_kernels(radius, 2 * math.ceil(2 * config.defocus) + 3)
        image[rows] = filtered(image[rows], kernel)


def _equalise(image: Tensor, config: AugmentationConfig, draws: Draws) -> None:
    rows, limit = _touched(_strengths(draws, config.equalise, config.equalise_share, len(image)), draws)
    if len(rows):
        image[rows] = equalised(image[rows].clamp(0, 1), limit)


def _motion_blur(image: Tensor, scale: Tensor, config: AugmentationConfig, draws: Draws) -> None:
    """The mean along a straight line, as of a camera that moved."""
    count = len(image)
    length = _strengths(draws, config.motion, config.motion_share, count) * scale.clamp(0.5, 2)
    angle = draws.uniform(0.0, math.pi, count)
    rows, length = _touched(length, draws)
    if len(rows):
        kernel = line_kernels(length, angle.to(draws.device, non_blocking=True)[rows], 2 * math.ceil(config.motion) + 1)
        image[rows] = filtered(image[rows], kernel)


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


def _expose(image: Tensor, scale: Tensor, config: AugmentationConfig, draws: Draws, photographs: bool) -> None:
    """Lens blur, the sensor's resolution, noise and compression there, and enlargement to the crop's pixels."""
    count = len(image)
    loss = 1 + _strengths(draws, config.resolution, config.resolution_share, count)
    cell = loss * (scale.clamp_min(1) if config.native else torch.ones_like(scale))
    sigma = _strengths(draws, config.blur, config.blur_share, count) * scale.clamp(0.5, 4)
    stretch = draws.log_uniform(0.75, 1.33, count)
    phase = draws.uniform(0.0, 1.0, count, 2)
    noise = config.noise * _strengths(draws, 1.0, config.noise_share, count).square()
    filtering = _strengths(draws, config.bayer, config.bayer_share, count)
    step = config.compression * _strengths(draws, 1.0, config.compression_share, count).square()
    coarse = cell > _NOTICEABLE
    side = image.shape[-1]
    for chosen, reduced in ((coarse, True), (~coarse & (sigma > 0.2), False)):
        rows = chosen.nonzero()[:, 0]
        if not len(rows):
            continue
        target, cells = rows.to(draws.device, non_blocking=True), math.ceil(side / float(cell[rows].min())) + 1
        widths, stretched, phases = (t[rows].to(draws.device, non_blocking=True) for t in (cell, stretch, phase))
        sigmas = sigma[rows].to(draws.device, non_blocking=True)
        blur_x, blur_y = gaussian_matrix(sigmas * stretched, side), gaussian_matrix(sigmas / stretched, side)
        if not reduced:
            image[target] = apply_separable(image[target], blur_y, blur_x)
            continue
        (down_x, up_x), (down_y, up_y) = (resampling(widths, phases[:, i], side, cells) for i in (0, 1))
        small = apply_separable(image[target], down_y @ blur_y, down_x @ blur_x)
        detail = 0
        if photographs:
            kept = (loss[rows] <= _NOTICEABLE).to(draws.device, non_blocking=True)[:, None, None, None]
            detail = kept * (apply_separable(image[target], blur_y, blur_x) - apply_separable(small, up_y, up_x))
        small = _read_out(small, noise[rows], filtering[rows], step[rows], draws)
        image[target] = apply_separable(small, up_y, up_x) + detail
    rows = (~coarse).nonzero()[:, 0]
    if len(rows):
        target = rows.to(draws.device, non_blocking=True)
        image[target] = _read_out(image[target], noise[rows], filtering[rows], step[rows], draws)


def gaussian_matrix(sigma: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch side side"]:
    """Blur of a row of pixels as a matrix; rows sum to 1, also at the ends. The identity for sigma = 0."""
    steps = torch.arange(side, dtype=torch.float32, device=sigma.device)
    distance = (steps[:, None] - steps).square()
    exponent = distance / (2 * sigma.clamp_min(0.05).square())[:, None, None]
    weight = torch.exp(-exponent.clamp_max(16)) * (exponent < 16)  # denormal numbers would slow all products tenfold
    return weight / weight.sum(dim=-1, keepdim=True)


def resampling(
    cell: Float[Tensor, "batch"], phase: Float[Tensor, "batch"], side: int, cells: int
) -> tuple[Float[Tensor, "batch cells side"], Float[Tensor, "batch side cells"]]:
    """Matrices that average a row of pixels over coarser pixels, and that enlarge those bilinearly again.

    Args:
        cell: width of the coarse pixels, at least 1.
        phase: where the first one starts, in [0, 1) of a coarse pixel before the picture's edge.
        side: number of fine pixels.
        cells: number of coarse pixels, enough for the smallest of them.
    """
    steps = torch.arange(side, dtype=torch.float32, device=cell.device)
    centre = (torch.arange(cells, device=cell.device) + 0.5 - phase[:, None]) * cell[:, None] - 0.5
    distance = (centre[:, :, None] - steps).abs()
    width = cell[:, None, None]
    overlap = (0.5 * (width + 1) - distance).clamp(min=0).clamp(max=1)
    down = overlap / overlap.sum(dim=-1, keepdim=True).clamp_min(1e-6)
    seen = (overlap.sum(-1) > 1e-3)[:, :, None]
    tent = ((1 - distance / width).clamp_min(0) * seen).transpose(1, 2)
    return down, tent / tent.sum(dim=-1, keepdim=True).clamp_min(1e-6)


def apply_separable(
    image: Float[Tensor, "batch 3 h w"], vertical: Float[Tensor, "batch m h"], horizontal: Float[Tensor, "batch n w"]
) -> Float[Tensor, "batch 3 m n"]:
    """vertical @ image @ horizontal^T, a linear filter of its own for each picture."""
    count, channels, height, width = image.shape
    wide = torch.bmm(image.reshape(count, channels * height, width), horizontal.transpose(1, 2))
    return vertical[:, None] @ wide.view(count, channels, height, -1)


def _read_out(image: Tensor, noise: Tensor, filtering: Tensor, step: Tensor, draws: Draws) -> Tensor:
    """Noise that grows with brightness and is partly common to the channels; the colour filter; then compression."""
    floor, common = draws.uniform(0.2, 1.0, len(image)), draws.uniform(0.0, 1.0, len(image))
    rows, strength = _touched(noise, draws)
    if len(rows):
        floor, common = (t.to(draws.device, non_blocking=True)[rows][:, None, None, None] for t in (floor, common))
        grain = draws.noise(len(rows), *image.shape[1:])
        grain = torch.lerp(grain, grain[:, :1], common)
        chosen = image[rows]
        image[rows] = chosen + grain * ((floor + (1 - floor) * chosen) * strength[:, None, None, None])
    phase = draws.integers(2, len(image), 2)
    rows, strength = _touched(filtering, draws)
    if len(rows) and min(image.shape[2:]) > 1:
        chosen = image[rows]
        filled = demosaic(mosaic(chosen, phase.to(draws.device, non_blocking=True)[rows]))
        image[rows] = chosen.lerp(filled, strength[:, None, None, None])
    rows, strength = _touched(step, draws)
    if len(rows):
        image[rows] = compress_blocks(image[rows], strength)
    return image


def _sharpen(image: Tensor, scale: Tensor, config: AugmentationConfig, draws: Draws) -> None:
    amount = _strengths(draws, config.sharpen, config.sharpen_share, len(image))
    sigma = draws.uniform(0.6, 2.0, len(image)) * scale.clamp(0.7, 2)
    rows = amount.nonzero()[:, 0]
    if len(rows):
        target = rows.to(draws.device, non_blocking=True)
        blur = gaussian_matrix(sigma[rows].to(draws.device, non_blocking=True), image.shape[-1])
        chosen = image[target]
        smooth = apply_separable(chosen, blur, blur)
        image[target] = chosen + amount[rows].to(draws.device, non_blocking=True)[:, None, None, None] * (
            chosen - smooth
        )


def _change_colors(image: Tensor, config: AugmentationConfig, draws: Draws) -> Tensor:
    """Hue, saturation, channel gains, contrast about middle gray, offset and inversion in one; then middle tones."""
    count = len(image)
    changed = draws.chance(config.color_share, count).float()

    def spread(limit: float, *shape: int) -> Tensor:
        return draws.uniform(-limit, limit, *shape) * changed.view(-1, *(1 for _ in shape[1:]))

    colourful = (1 + spread(config.saturation, count)).clamp_min(0) * ~draws.chance(config.gray_share, count)
    hue = spread(1.0, count)
    matrix = hue_rotation(config.hue * hue * hue.abs()) @ saturation_matrix(colourful)
    slope = (1 + spread(config.gain, count, 3)) * (1 + spread(config.contrast, count))[:, None]
    offset = spread(config.brightness, count)[:, None] + 0.5 * (1 - slope)
    inverted = draws.chance(config.invert_share, count)[:, None]
    inverted = inverted & (draws.chance(0.5, count, 1) | draws.chance(0.4, count, 3))
    sign = 1 - 2 * inverted.float()
    matrix, offset = matrix * (slope * sign)[:, :, None], offset * sign + inverted.float()
    bend = spread(config.tone, count)
    level = draws.uniform(0.25, 0.55, count)
    eye = torch.eye(3).expand_as(matrix)
    if torch.equal(matrix, eye) and not bool(offset.any()) and not bool(bend.any()) and not config.auto_exposure:
        return image
    matrix = matrix.to(draws.device, non_blocking=True)
    if config.auto_exposure:
        gain = (level.to(draws.device, non_blocking=True) / image.mean(dim=(1, 2, 3)).clamp_min(1e-3)).clamp(0.5, 4)
        matrix = matrix * gain[:, None, None]
    image = transform_colors(image, matrix, offset.to(draws.device, non_blocking=True)).clamp_(0, 1)
    return tone_curve(image, bend.to(draws.device, non_blocking=True))


def _cut_holes(image: Tensor, config: AugmentationConfig, draws: Draws) -> None:
    """Coarse dropout: rectangles of one colour."""
    count, side = len(image), image.shape[-1]
    rows = draws.rows(config.holes_share if config.holes else 0.0, count)
    if not len(rows):
        return
    steps = torch.arange(side, device=draws.device)
    chosen = image[rows]
    for _ in range(config.holes):
        centre, reach = side * draws.uniform(0.0, 1.0, len(rows), 2), side * draws.uniform(0.02, 0.06, len(rows), 2)
        reach = reach * draws.chance(0.6, len(rows), 1)
        inside = (steps - centre[..., None].to(draws.device, non_blocking=True)).abs() < reach[..., None].to(
            draws.device, non_blocking=True
        )
        hole = inside[:, 1, :, None] & inside[:, 0, None]
        colour = draws.uniform(0.0, 1.0, len(rows), 3) * draws.chance(0.6, len(rows), 1)
        chosen = torch.where(hole[:, None], colour[:, :, None, None].to(draws.device, non_blocking=True), chosen)
    image[rows] = chosen

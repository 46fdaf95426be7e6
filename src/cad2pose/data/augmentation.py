"""What a camera and its surroundings do to a picture, each sample by its own random amount, batched.

The chain follows the light through lens, sensor and processing: shadows, lens and motion blur, loss to the source
image's own resolution, noise and colour filter there, enlargement, sharpening, equalisation, colour, compression of the
source image's pixels, holes. It is the union of what SurfEmb (Haugaard and Buch 2022) and GDR-Net(PP) (Wang et al.
2021, Liu et al. 2025) train with, and adds the resolution loss. Effects that few samples get are computed for those
rows only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.data.augmentation_config import AugmentationConfig
from cad2pose.data.color import hue_rotation, saturation_matrix, tone_curve, transform_colors
from cad2pose.data.compression import compress_blocks
from cad2pose.data.draws import Draws
from cad2pose.data.resampling import apply_separable, gaussian_matrix, reading, resampling
from cad2pose.data.sensor import demosaic, disc_kernels, equalised, filtered, line_kernels, mosaic, noisy, vignette

_NOTICEABLE = 1.05  # crop pixels per source pixel from which the loss of resolution is computed
_TILT = (-1.4, 0.8)  # by how much the noise grows from black to white, in shares of that on middle gray
_BLOCK = 8  # source pixels, sides of the blocks that are compressed


@dataclass(frozen=True)
class _SourcePixels:
    """Where the source image's pixels lie in the crops; on the host.

    Attributes:
        cell: `(B,)` their width in crop pixels, of which they are not told apart below 1.
        loss: `(B,)` by how much of that they are wider than the source image has them.
        phase: `(B, 2)` where the first one of a row and of a column starts, in [0, 1) of one before the crop's edge.
        kept: `(B,)` share of what differs between neighbours that is left where several are averaged to a crop pixel.
    """

    cell: Float[Tensor, "batch"]
    loss: Float[Tensor, "batch"]
    phase: Float[Tensor, "batch 2"]
    kept: Float[Tensor, "batch"]

    @property
    def coarse(self) -> Bool[Tensor, "batch"]:
        """Which are noticeably wider than the crop's."""
        return self.cell > _NOTICEABLE

    @classmethod
    def drawn(cls, scale: Float[Tensor, "batch"], config: AugmentationConfig, draws: Draws) -> _SourcePixels:
        loss = 1 + _strengths(draws, config.resolution, config.resolution_share, len(scale))
        cell = loss * (scale.clamp_min(1) if config.native else torch.ones_like(scale))
        kept = torch.where(cell > 1, 1.0, scale.clamp_max(1)) if config.native else torch.ones_like(scale)
        return cls(cell, loss, draws.uniform(0.0, 1.0, len(scale), 2), kept)


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
    pixels = _SourcePixels.drawn(scale, config, draws)
    _expose(image, scale, pixels, config, draws, photographs)
    _sharpen(image, scale, config, draws)
    _equalise(image, config, draws)
    image = _change_colors(image, config, draws)
    _compress(image, pixels, config, draws)
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


def _expose(
    image: Tensor, scale: Tensor, pixels: _SourcePixels, config: AugmentationConfig, draws: Draws, photographs: bool
) -> None:
    """Lens blur, the sensor's resolution, noise and colour filter there, and enlargement to the crop's pixels."""
    count, coarse = len(image), pixels.coarse
    sigma = _strengths(draws, config.blur, config.blur_share, count) * scale.clamp(0.5, 4)
    stretch = draws.log_uniform(0.75, 1.33, count)
    noise = pixels.kept * config.noise * _strengths(draws, 1.0, config.noise_share, count).square()
    filtering = (2 * pixels.kept - 1).clamp_min(0) * _strengths(draws, config.bayer, config.bayer_share, count)
    side = image.shape[-1]
    for chosen, reduced in ((coarse, True), (~coarse & (sigma > 0.2), False)):
        rows = chosen.nonzero()[:, 0]
        if not len(rows):
            continue
        target = rows.to(draws.device, non_blocking=True)
        sigmas, stretched = (t[rows].to(draws.device, non_blocking=True) for t in (sigma, stretch))
        blur_x, blur_y = gaussian_matrix(sigmas * stretched, side), gaussian_matrix(sigmas / stretched, side)
        if not reduced:
            image[target] = apply_separable(image[target], blur_y, blur_x)
            continue
        cells = math.ceil(side / float(pixels.cell[rows].min())) + 1
        widths, phases = (t[rows].to(draws.device, non_blocking=True) for t in (pixels.cell, pixels.phase))
        (down_x, up_x), (down_y, up_y) = (resampling(widths, phases[:, i], side, cells) for i in (0, 1))
        small = apply_separable(image[target], down_y @ blur_y, down_x @ blur_x)
        detail = 0
        if photographs:
            kept = (pixels.loss[rows] <= _NOTICEABLE).to(draws.device, non_blocking=True)[:, None, None, None]
            detail = kept * (apply_separable(image[target], blur_y, blur_x) - apply_separable(small, up_y, up_x))
        small = _read_out(small, noise[rows], filtering[rows], draws)
        image[target] = apply_separable(small, up_y, up_x) + detail
    rows = (~coarse).nonzero()[:, 0]
    if len(rows):
        target = rows.to(draws.device, non_blocking=True)
        image[target] = _read_out(image[target], noise[rows], filtering[rows], draws)


def _read_out(image: Tensor, noise: Tensor, filtering: Tensor, draws: Draws) -> Tensor:
    """Noise, partly common to the channels; then the colour filter."""
    tilt, common = draws.uniform(*_TILT, len(image)), draws.uniform(0.0, 1.0, len(image))
    rows, strength = _touched(noise, draws)
    if len(rows):
        tilt, common = (t.to(draws.device, non_blocking=True)[rows] for t in (tilt, common))
        image[rows] = noisy(image[rows], draws.noise(len(rows), *image.shape[1:]), strength, tilt, common)
    phase = draws.integers(2, len(image), 2)
    rows, strength = _touched(filtering, draws)
    if len(rows) and min(image.shape[2:]) > 1:
        chosen = image[rows]
        filled = demosaic(mosaic(chosen, phase.to(draws.device, non_blocking=True)[rows]))
        image[rows] = chosen.lerp(filled, strength[:, None, None, None])
    return image


def _compress(image: Tensor, pixels: _SourcePixels, config: AugmentationConfig, draws: Draws) -> None:
    """What compression takes from blocks of the source image's pixels, and adds; blocks begin anywhere."""
    count, side = len(image), image.shape[-1]
    step = pixels.kept * config.compression * _strengths(draws, 1.0, config.compression_share, count).square()
    start = draws.integers(_BLOCK, count, 2).float()
    cell = torch.where(pixels.coarse, pixels.cell, 1.0)
    phase = start + torch.where(pixels.coarse[:, None], pixels.phase, 0.0)
    rows = step.nonzero()[:, 0]
    if not len(rows):
        return
    cells = math.ceil(side / float(cell[rows].min())) + 1 + _BLOCK
    target, steps, widths, phases = (
        t.to(draws.device, non_blocking=True) for t in (rows, step[rows], cell[rows], phase[rows])
    )
    across, down = (reading(widths, phases[:, i], side, cells) for i in (0, 1))
    up_x, up_y = (resampling(widths, phases[:, i], side, cells)[1] for i in (0, 1))
    small = apply_separable(image[target].clamp(0, 1), down, across)
    image[target] += apply_separable(compress_blocks(small, steps) - small, up_y, up_x)


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

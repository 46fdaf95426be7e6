"""What stands behind a part: pieces of a fixed pool of pictures, recombined without end.

The pool holds procedural pictures (noise of many scales, gradients, stripes, polygons) made once from a seed and,
where a folder of photographs is given, pieces of those. A background is one to four of them, each turned, mirrored,
zoomed and recoloured at random, all but the first shown through random stencils.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from cad2pose.data.color import hue_rotation, saturation_matrix, transform_colors
from cad2pose.data.draws import Draws
from cad2pose.files import visible_files

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_CHUNK = 16
_LEAST_SPAN = 0.4  # of a photograph's shorter side, that a piece shows
_MARKS = 32
_LAYERS = (6, 10, 16)  # of pictures over the first one, by the patches that fill a side


class BackgroundPool:
    """Pictures to make backgrounds and textures of.

    Args:
        seed: of the procedural pictures and of the choice of pieces.
        device: where the pictures are kept, as bytes.
        count: number of pictures, of each kind.
        photos: folder of photographs, searched to any depth; None for procedural pictures only.
        photo_share: share of pictures taken from the photographs.
        side: of the pictures, in pixels.

    Raises:
        FileNotFoundError: if the folder of photographs does not exist.
        ValueError: if it holds no picture that can be read.
    """

    def __init__(
        self, seed: int, device: torch.device | str = "cpu", count: int = 256, photos: Path | None = None,
        photo_share: float = 0.6, side: int = 128,
    ) -> None:  # fmt: skip
        draws = Draws(seed, 101)
        pictures = [procedural_pictures(draws, count, side)]
        if photos is not None:
            pictures.append(photo_pieces(photos, draws, count, side))
        self.pictures = torch.cat(pictures).to(device)
        self._count = count
        self._photo_share = photo_share if photos is not None else 0.0

    def sample(self, draws: Draws, count: int, size: int) -> Float[Tensor, "count 3 size size"]:
        """`count` backgrounds in [0, 1]."""
        ground = self._turned(draws, count, size)
        for cells in _LAYERS:
            rows = draws.rows(0.5, count)
            if len(rows):
                stencil = random_stencil(draws, len(rows), size, cells)
                below = ground[rows]
                ground[rows] = below + stencil * (self._turned(draws, len(rows), size) - below)
        return ground

    def choose(self, draws: Draws, count: int) -> Float[Tensor, "count 3 side side"]:
        """`count` pictures of the pool as they are, white = 255."""
        index = draws.integers(self._count, count)
        index = torch.where(draws.chance(self._photo_share, count), index + self._count, index)
        return self.pictures[index.to(self.pictures.device, non_blocking=True)].float()

    def _turned(self, draws: Draws, count: int, size: int) -> Float[Tensor, "count 3 size size"]:
        angle = draws.uniform(-math.pi, math.pi, count)
        angle = torch.where(draws.chance(0.5, count), angle, 0.1 * angle)
        zoom = draws.log_uniform(0.3, 2.5, count)
        mirror = draws.chance(0.5, count).float() * 2 - 1
        turn = torch.stack((angle.cos() * mirror, -angle.sin(), angle.sin() * mirror, angle.cos()), -1)
        affine = torch.cat((turn.view(-1, 2, 2) * zoom[:, None, None], draws.uniform(-1.0, 1.0, count, 2, 1)), dim=-1)
        grid = affine_grid(affine.to(draws.device, non_blocking=True), size)
        picture = grid_sample(self.choose(draws, count), grid, padding_mode="reflection", align_corners=False)
        matrix = hue_rotation(0.5 * draws.normal(count)) @ saturation_matrix(draws.uniform(0.2, 1.4, count))
        matrix = matrix * (draws.log_uniform(0.6, 1.7, count) / 255)[:, None, None]
        offset = draws.uniform(-0.2, 0.1, count, 1).expand(-1, 3)
        return transform_colors(
            picture, matrix.to(draws.device, non_blocking=True), offset.to(draws.device, non_blocking=True)
        ).clamp_(0, 1)


def affine_grid(affine: Float[Tensor, "batch 2 3"], size: int) -> Float[Tensor, "batch size size 2"]:
    """Places in [-1, 1] to sample for each pixel of a square picture."""
    steps = (torch.arange(size, device=affine.device) * 2 + 1) / size - 1
    x = affine[:, None, :, 0] * steps[:, None]
    y = affine[:, None, :, 1] * steps[:, None] + affine[:, None, :, 2]
    return x[:, None] + y[:, :, None]


def random_stencil(draws: Draws, count: int, size: int, cells: int = 6) -> Float[Tensor, "count 1 size size"]:
    """Soft-edged masks: half planes, bands, and patches of noise, so many of which fill a side."""
    grid = (torch.arange(size, device=draws.device) * 2 + 1) / size - 1
    angle = draws.uniform(0.0, 2 * math.pi, count, 1).to(draws.device, non_blocking=True)
    line = angle.cos()[:, None] * grid + angle.sin()[:, :, None] * grid[:, None]
    line = line - draws.uniform(-0.8, 0.8, count, 1, 1).to(draws.device, non_blocking=True)
    width = draws.uniform(0.1, 0.8, count, 1, 1).to(draws.device, non_blocking=True)
    band = draws.chance(0.5, count)[:, None, None].to(draws.device, non_blocking=True)
    straight = torch.where(band, width - line.abs(), line)
    patches = draws.smooth_noise(count, 1, cells, size)[:, 0] * 0.5
    kind = draws.chance(0.5, count)[:, None, None].to(draws.device, non_blocking=True)
    sharpness = draws.log_uniform(4.0, 60.0, count, 1, 1).to(draws.device, non_blocking=True)
    return (torch.where(kind, straight, patches) * sharpness + 0.5).clamp(0, 1)[:, None]


def procedural_pictures(draws: Draws, count: int, side: int) -> UInt8[Tensor, "count 3 side side"]:
    """Pictures of nothing in particular, with detail at all scales and some straight edges."""
    chunks = []
    for start in range(0, count, _CHUNK):
        n = min(_CHUNK, count - start)
        picture = texture = _textured_noise(draws, n, side)
        for layer in range(12):
            shape = _random_polygons(draws, n, side) & draws.chance(0.7, n)[:, None, None, None]
            other = texture.roll((layer + 1, 31 * layer), (0, -1))
            colour = draws.uniform(-0.3, 0.7, n, 3, 1, 1) + draws.uniform(0.0, 0.8, n, 1, 1, 1) * other
            if layer % 4 == 3:
                colour = torch.where(draws.chance(0.4, n)[:, None, None, None], _printed(draws, n, side), colour)
            picture = torch.where(shape, colour, picture)
        chunks.append(picture.clamp(0, 1).mul(255).round().byte())
    return torch.cat(chunks)


def _textured_noise(draws: Draws, count: int, side: int) -> Float[Tensor, "count 3 side side"]:
    """Noise of six octaves with random weights, sometimes cut into stripes; mean and contrast at random."""
    picture = torch.zeros(count, 3, side, side)
    cells = 2
    while cells < side:
        weight = draws.uniform(0.0, 1.0, count, 1, 1, 1).square()
        gray, colour = draws.smooth_noise(count, 1, cells, side), draws.smooth_noise(count, 3, cells, side)
        picture += weight * (gray + draws.uniform(0.0, 0.6, count, 1, 1, 1) * colour)
        cells *= 2
    steps = torch.linspace(-1, 1, side)
    direction = draws.normal(count, 2, 1, 1) * draws.log_uniform(1.0, 20.0, count, 1, 1, 1)
    wave = torch.sin(direction[:, 0] * steps + direction[:, 1] * steps[:, None])[:, None]
    striped = draws.chance(0.25, count)[:, None, None, None]
    hard = torch.where(draws.chance(0.5, count)[:, None, None, None], wave.sign(), wave)
    picture = torch.where(striped, 0.3 * picture + hard * (0.5 + draws.normal(count, 3, 1, 1)), picture)
    spread = picture.std(dim=(1, 2, 3), keepdim=True) + 1e-3
    contrast, middle = draws.uniform(0.03, 0.25, count, 1, 1, 1), draws.uniform(0.1, 0.9, count, 1, 1, 1)
    return middle + 0.12 * draws.normal(count, 3, 1, 1) + contrast * picture / spread


def _printed(draws: Draws, count: int, side: int) -> Float[Tensor, "count 3 side side"]:
    """Sharp patterns in two colours of high contrast: markers, checkers, and lines of print."""
    ink, paper = draws.uniform(0.0, 0.3, count, 1, 1, 1), draws.uniform(0.6, 1.0, count, 1, 1, 1)
    tint = 1 - 0.4 * draws.uniform(0.0, 1.0, count, 3, 1, 1) * draws.chance(0.5, count)[:, None, None, None]
    steps = torch.arange(side) / side
    marks = draws.chance(0.5, count, _MARKS, _MARKS)
    rows, columns = (draws.log_uniform(4.0, float(_MARKS), count) for _ in range(2))
    columns = torch.where(draws.chance(0.5, count), rows, columns)  # square cells
    y, x = ((steps * n[:, None]).long() for n in (rows, columns))
    checked = (y[:, :, None] + x[:, None]) % 2 == 0
    dark = marks[torch.arange(count)[:, None, None], y[:, :, None], x[:, None]]
    dark = torch.where(draws.chance(0.2, count)[:, None, None], checked, dark)
    lines = draws.chance(0.4, count)[:, None, None] & (y[:, :, None] % 2 == 1)
    return (paper * tint).lerp(ink.expand(-1, 3, 1, 1), (dark & ~lines)[:, None].float())


def _random_polygons(draws: Draws, count: int, side: int) -> Bool[Tensor, "count 1 side side"]:
    """One convex polygon of three to six sides per picture, as a mask."""
    steps = torch.linspace(-1, 1, side)
    centre = draws.uniform(-1.0, 1.0, count, 2, 1, 1)
    reach = draws.log_uniform(0.05, 0.8, count, 1, 1)
    x, y = steps - centre[:, 0], steps[:, None] - centre[:, 1]
    inside = torch.ones(count, side, side, dtype=torch.bool)
    turn = draws.uniform(0.0, 2 * math.pi, count, 1, 1)
    for edge in range(6):
        angle = turn + edge * math.pi / 3 + 0.5 * draws.uniform(-1.0, 1.0, count, 1, 1)
        limit = reach * draws.uniform(0.3, 1.0, count, 1, 1)
        used = draws.chance(1.0 if edge % 2 == 0 else 0.5, count)[:, None, None]
        inside &= (angle.cos() * x + angle.sin() * y < limit) | ~used
    return inside[:, None]


def check_photos(folder: Path) -> None:
    """Find out early, from as few of its pictures as may be, that no pieces can be had of a folder of photographs.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it holds no picture that can be read.
    """
    if all(_decoded(path, 1) is None for path in _photo_files(folder)):
        raise ValueError(_nothing_in(folder))


def photo_pieces(folder: Path, draws: Draws, count: int, side: int) -> UInt8[Tensor, "count 3 side side"]:
    """Square pieces of the photographs in a folder, at random places and scales, photographs taken in turn.

    As many photographs as pieces are looked at, and more only where none of those can be read. What cannot be read is
    left out, counted and named in a warning.

    Raises:
        FileNotFoundError, ValueError: as `check_photos`.
    """
    paths = _photo_files(folder)
    order = torch.randperm(len(paths), generator=draws.host).tolist()
    turns = min(count, len(order))
    pieces: list[Tensor] = []
    broken: list[str] = []
    looked_at = 0
    while looked_at < turns or (not pieces and looked_at < len(order)):
        path, photo = paths[order[looked_at]], _decoded(paths[order[looked_at]], side)
        if photo is None:
            broken.append(path.name)
        else:
            pieces += _pieces(photo, draws, count // turns + (looked_at < count % turns), side)
        looked_at += 1
    if not pieces:
        raise ValueError(_nothing_in(folder))
    if broken:
        warnings.warn(
            f"{len(broken)} of {looked_at} pictures in {folder} cannot be read and are left out: "
            f"{', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}",
            stacklevel=2,
        )
    return torch.stack([pieces[i % len(pieces)] for i in range(count)])


def _photo_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of background photographs {folder} does not exist")
    return [path for path in visible_files(folder, "**/*") if path.suffix.lower() in _SUFFIXES]


def _decoded(path: Path, side: int) -> Image.Image | None:
    """A photograph in memory, or None where it cannot be read; large JPEGs only as fine as pieces of `side` need it."""
    try:
        with Image.open(path) as opened:
            least = math.ceil(side / _LEAST_SPAN)
            opened.draft("RGB", (least, least))
            return opened.convert("RGB")
    except Exception:  # decoders raise OSError, SyntaxError, DecompressionBombError, struct.error, EOFError, ...
        return None


def _nothing_in(folder: Path) -> str:
    return f"{folder} holds no picture that can be read; looked for {', '.join(_SUFFIXES)}: give a folder that has some"


def _pieces(photo: Image.Image, draws: Draws, count: int, side: int) -> list[UInt8[Tensor, "3 side side"]]:
    width, height = photo.size
    short = min(width, height)
    spans = (draws.uniform(_LEAST_SPAN, 1.0, count) * short).tolist()
    places = draws.uniform(0.0, 1.0, count, 2).tolist()
    pieces = []
    for span, (x, y) in zip(spans, places, strict=True):
        left, top = x * (width - span), y * (height - span)
        piece = photo.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + span, top + span))
        pieces.append(torch.from_numpy(np.array(piece)).permute(2, 0, 1).contiguous())
    return pieces

"""Embeddings in false colour: what cannot be told apart has one colour, in the query image and on the part alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.parts.part import Part
from cad2pose.pictures.embedding_checks import check_keys, check_mask, check_vectors
from cad2pose.pictures.painted_surface import smoothed, visible_surface

_GROUND = 0.125
_PERCENTILES = (0.02, 0.98)
_SMOOTHED_SHARE = 1 / 200  # of the surface, about each point
_NO_VARIANCE = 1e-12  # of a component, in mean squares of the keys; float32 rounding stays below
_CHUNK = 1024
# Red, green and blue of the three components, each from -1 to 1: lightness, then yellow against blue, then red against
# green, so that the components that differ most are those that every eye tells apart.
_OPPONENTS = ((0.22, 0.14, 0.24), (0.22, 0.14, -0.24), (0.22, -0.30, 0.0))
_MIDDLE = 0.55


@dataclass(frozen=True, eq=False)
class EmbeddingPalette:
    """Colours of one part's embeddings, made by `embedding_colours`; all float64 on the CPU.

    Args:
        points: `(m, 3)` spread evenly over the surface, mm, mesh file's frame.
        keys: `(m, E)` there.
        smooth_keys: `(m, E)` means of the keys of the nearest points.
        mean: `(E,)` of the smooth keys.
        axes: `(3, E)` their principal axes, of length 1, or 0 where they do not differ.
        low: `(3,)` components along the axes that get one end of their colours.
        high: `(3,)` those that get the other end.
    """

    points: Float[Tensor, "m 3"]
    keys: Float[Tensor, "m e"]
    smooth_keys: Float[Tensor, "m e"]
    mean: Float[Tensor, "e"]
    axes: Float[Tensor, "3 e"]
    low: Float[Tensor, "3"]
    high: Float[Tensor, "3"]

    def of(self, vectors: Float[Tensor, "*shape e2"]) -> Float[Tensor, "*shape 3"]:
        """RGB in [0, 1] of key vectors, float32 on the CPU.

        Raises:
            ValueError: for vectors of another dimension than the keys, or not finite.
        """
        check_vectors("vectors", vectors.shape[-1], vectors, self.keys)
        components = (vectors.detach().cpu().double() - self.mean) @ self.axes.T
        span = (self.high - self.low).clamp_min(1e-30)
        share = (2 * (components - self.low) / span - 1).clamp(-1, 1) * self.axes.any(1)
        return (_MIDDLE + share @ torch.tensor(_OPPONENTS).double().T).clamp(0, 1).float()

    def of_queries(self, queries: Float[Tensor, "*shape e2"]) -> Float[Tensor, "*shape 3"]:
        """RGB in [0, 1] of queries: each in the colour of the smooth key that it expects.

        That is the sum over the points of p(point | query) times its smooth key. Queries have lengths of their own
        (their certainty), so their colours are comparable with the part's only after this step. A query that fits
        everywhere gets the colour of the mean.

        Raises:
            ValueError: as `of`.
        """
        check_vectors("queries", queries.shape[-1], queries, self.keys)
        flat = queries.detach().cpu().double().reshape(-1, self.keys.shape[1])
        expected = [torch.softmax(chunk @ self.keys.T, dim=-1) @ self.smooth_keys for chunk in flat.split(_CHUNK)]
        return self.of(torch.cat(expected).reshape(queries.shape))


def embedding_colours(points: Float[Tensor, "m 3"], keys: Float[Tensor, "m2 e"]) -> EmbeddingPalette:
    """Palette from the first three principal components of the keys of one part's surface.

    The first becomes lightness, the second yellow against blue, the third red against green, each from its 2nd to its
    98th percentile. The largest entry of every axis is positive, so the same keys always get the same colours.
    Components along which the keys do not differ stay neutral. Keys are averaged over the nearest 0.5 % of the points
    first: key networks also wave finely in ways that no query can follow.

    Args:
        points: `(m, 3)` spread evenly over the surface, mm, mesh file's frame; some thousand make a smooth picture.
        keys: `(m, E)` there.

    Raises:
        ValueError: if there are no keys, another number of points, or numbers that are not finite.
    """
    check_keys(keys, points)
    points, keys = points.detach().cpu().double(), keys.detach().cpu().double()
    smooth = smoothed(points, keys, _SMOOTHED_SHARE)
    mean = smooth.mean(0)
    centred = smooth - mean
    variance, vectors = torch.linalg.eigh(centred.T @ centred / len(keys))
    differ = variance > _NO_VARIANCE * keys.square().sum(1).mean()
    leading = (vectors * differ).T.flip(0)[:3]
    axes = torch.nn.functional.pad(leading, (0, 0, 0, 3 - len(leading)))
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = torch.where(largest < 0, -axes, axes)
    low, high = torch.quantile(centred @ axes.T, torch.tensor(_PERCENTILES, dtype=torch.float64), dim=0)
    return EmbeddingPalette(points, keys, smooth, mean, axes, low, high)


def query_picture(
    queries: Float[Tensor, "e h w"], mask: Float[Tensor, "h2 w2"], palette: EmbeddingPalette
) -> Float[Tensor, "3 h w"]:
    """The query image in the palette's colours, gray and dark where the mask is unsure.

    Args:
        queries: not normalised.
        mask: probability in [0, 1] that the cell shows the part.
        palette: of the part's keys.

    Raises:
        ValueError: for a mask of another size or beyond [0, 1], or as `EmbeddingPalette.of_queries`.
    """
    check_mask(queries, mask)
    colours = palette.of_queries(queries.movedim(0, -1))
    opacity = mask.detach().cpu().float()[..., None]
    gray = 0.2 * colours.mean(-1, keepdim=True)
    return (opacity * colours + (1 - opacity) * gray).movedim(-1, 0).contiguous()


def key_picture(
    part: Part, palette: EmbeddingPalette, T_cam_obj: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: int
) -> Float[Tensor, "3 {size} {size}"]:
    """The part in a pose, its surface in the colours of its keys: the query image that this pose asks for.

    Args:
        part: what is drawn.
        palette: of this part's keys; colours are interpolated between its points.
        T_cam_obj: pose, mm.
        K: intrinsics of a picture of `size` x `size` pixels.
        size: in pixels.

    Raises:
        ValueError: for a pose that is not finite, a K that is no camera matrix, or a size that is not positive.
    """
    surface = visible_surface(part, T_cam_obj, K, size)
    colours = surface.values(palette.points, palette.of(palette.smooth_keys))
    return surface.picture(colours * (0.8 + 0.2 * surface.facing[:, None]), _GROUND)

"""Where on the part a pixel may lie: the distribution that its query gives over the surface."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry import make_transform, rotation_from_axis_angle
from cad2pose.parts.part import Part
from cad2pose.pictures.colour_maps import colour_bar, heat
from cad2pose.pictures.contact_sheet import contact_sheet
from cad2pose.pictures.embedding_checks import check_finite, check_keys, check_mask, check_vectors
from cad2pose.pictures.image_file import from_bytes
from cad2pose.pictures.painted_surface import smoothed, visible_surface

View = tuple[float, float]
"""Where the camera stands, in degrees from where it stood: walked round the part to the right, and risen."""

VIEWS: tuple[View, ...] = ((0.0, 0.0), (140.0, 30.0), (-140.0, -30.0))
"""As estimated, and from behind: from the right and above, from the left and below. Little stays out of sight."""

_DISTANCE = 6.0  # of a camera that walked, from the centre, in radii
_MARGIN = 1.06
_PAPER = 0.8  # gray value of the ground
_SMOOTHED_SHARE = 1 / 500
_SOLID_FROM = 0.12  # of the scale; below, the heat fades into the gray of the surface


def most_certain_pixel(queries: Float[Tensor, "e h w"], mask: Float[Tensor, "h2 w2"]) -> tuple[int, int]:
    """Row and column of the longest query where the mask's probability is at least one half.

    Raises:
        ValueError: if no pixel is in the mask, or the mask has another size.
    """
    check_mask(queries, mask)
    check_finite("queries", queries)
    inside = mask >= 0.5
    if not bool(inside.any()):
        raise ValueError(f"the mask has no pixel of at least one half, its largest is {float(mask.max()):.3g}")
    length = torch.linalg.vector_norm(queries.double(), dim=0).masked_fill(~inside, -1)
    row, column = divmod(int(length.argmax()), mask.shape[1])
    return row, column


def pixel_distribution(query: Float[Tensor, "q"], keys: Float[Tensor, "m e"]) -> Float[Tensor, "m"]:
    """Probabilities p(point | query): softmax of the dot products with the keys (SurfEmb), float64 on the CPU.

    Raises:
        ValueError: for a query of another dimension than the keys, no keys, or numbers that are not finite.
    """
    check_keys(keys)
    check_vectors("queries", len(query), query, keys)
    logits = keys.detach().cpu().double() @ query.detach().cpu().double()
    return torch.log_softmax(logits, dim=0).exp()


def distribution_views(
    part: Part, points: Float[Tensor, "m 3"], keys: Float[Tensor, "m2 e"], query: Float[Tensor, "q"],
    T_cam_obj: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: int,
    views: Sequence[View] = VIEWS, decades: int | None = None,
) -> list[Float[Tensor, "3 {size} {size}"]]:  # fmt: skip
    """The part in gray, and on it the density of p(point | query) as heat, one picture per view.

    The density is p averaged over the nearest 0.2 % of the points.

    Args:
        part: what is drawn.
        points: `(m, 3)` spread evenly over its surface, mm, mesh file's frame.
        keys: `(m, E)` there.
        query: `(E,)` of one pixel.
        T_cam_obj: pose, mm.
        K: intrinsics of a picture of `size` x `size` pixels. The view (0, 0) is drawn with it; the others look at the
            part's centre and hold the whole bounding sphere.
        size: of a picture in pixels.
        views: where the part is seen from.
        decades: None: heat is the density over its maximum. Else it is the logarithm of that, from 10^-decades to 1.

    Raises:
        ValueError: as `pixel_distribution`; for another number of points; or if decades is not positive.
    """
    check_keys(keys, points)
    if decades is not None and decades < 1:
        raise ValueError(f"decades is {decades}; it must be at least 1, or None for a linear scale")
    density = smoothed(points, pixel_distribution(query, keys)[:, None], _SMOOTHED_SHARE)[:, 0]
    level = density / density.max()
    if decades is not None:
        level = 1 + level.clamp_min(10.0**-decades).log10() / decades
    return [_heated(part, points, level, *_camera(part, T_cam_obj, K, size, view), size) for view in views]


def distribution_picture(
    part: Part, points: Float[Tensor, "m 3"], keys: Float[Tensor, "m2 e"], query: Float[Tensor, "q"],
    T_cam_obj: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: int,
    views: Sequence[View] = VIEWS, decades: int | None = None,
) -> Float[Tensor, "3 H W"]:  # fmt: skip
    """`distribution_views` side by side, named, with the colours' scale. Arguments and errors as there."""
    pictures = distribution_views(part, points, keys, query, T_cam_obj, K, size, views, decades)
    sheet = contact_sheet(pictures, [view_name(view) for view in views], columns=len(views), tile_width=size)
    ticks = (0, 0.25, 0.5, 0.75, 1) if decades is None else [10.0**-power for power in range(decades, -1, -1)]
    bar = colour_bar(heat(torch.linspace(0, 1, 256)), sheet.shape[1], [f"{t:g}" for t in ticks], max(8, size // 24))
    return torch.cat((sheet, from_bytes(bar)), dim=2)


def view_name(view: View) -> str:
    """A view in words."""
    if view == (0, 0):
        return "as estimated"
    turn, rise = view
    return f"{abs(turn):g} deg to the {'right' if turn > 0 else 'left'}, {abs(rise):g} {'up' if rise > 0 else 'down'}"


def _camera(
    part: Part, T_cam_obj: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: int, view: View
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """Pose and intrinsics of a view."""
    if view == (0, 0):
        return T_cam_obj, K
    turn, rise = (math.radians(angle) for angle in view)
    about_y, about_x = (
        rotation_from_axis_angle(torch.tensor(v, dtype=torch.float64)) for v in ((0.0, turn, 0.0), (rise, 0.0, 0.0))
    )
    rotation = about_x @ about_y @ T_cam_obj[:3, :3].detach().cpu().double()
    position = _DISTANCE * part.radius * torch.tensor([0.0, 0, 1], dtype=torch.float64)
    focal = size / 2 * math.sqrt(_DISTANCE**2 - 1) / _MARGIN  # a sphere's outline is wider than its equator
    middle = (size - 1) / 2
    fitted = torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1]], dtype=torch.float64)
    return make_transform(rotation, position - rotation @ part.center), fitted


def _heated(
    part: Part, points: Float[Tensor, "m 3"], level: Float[Tensor, "m"], T_cam_obj: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"], size: int,
) -> Float[Tensor, "3 {size} {size}"]:  # fmt: skip
    """Gray surface with levels in [0, 1] as heat on it."""
    surface = visible_surface(part, T_cam_obj, K, size)
    seen = surface.values(points, level[:, None])
    opacity = (seen / _SOLID_FROM).clamp(0, 1).float()
    gray = 0.06 + 0.2 * surface.facing[:, None]
    return surface.picture(opacity * heat(seen[:, 0]) + (1 - opacity) * gray, _PAPER)

"""What keeps light from a surface: shadows of lights, and surroundings that hide the sky.

Shadows come from a shadow map: the scene is rasterised once more as the light sees it. How soft they are follows the
light's size and the distance of what casts them (percentage-closer soft shadows, Fernando 2005). Openness is read off
the depth picture around each pixel (after McGuire et al. 2011); what the picture does not show does not count.

Both take a handful of depths around each pixel, on a disc of golden angles that is turned by a pattern of the pixel's
place, so that too few samples show as grain, not as bands.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.devices import constant
from cad2pose.rendering import kernels
from cad2pose.rendering.meshes import MeshSet
from cad2pose.rendering.rasterizer import Backend, rasterize, use_numba
from cad2pose.rendering.render import Rendering

_INTRINSICS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2))  # fx, skew, cx, fy, cy in K
_AWAY = 16.0  # radii of the scene from which it is seen as a light sees it
_TAPS = 16  # depths looked at around a pixel
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))  # between a tap and the next
_EDGE_ON = 0.2  # cosine to the light below which a surface's slope is not followed any further
_LIFT = 0.5  # texels by which surfaces are lifted along their normals before they are held against the shadow map
_LEAVE = (1.0, 4.0)  # texels that what hides a surface lies before its plane; more per tangent of the light's radius
_RADII = tuple(math.sqrt((tap + 0.5) / _TAPS) for tap in range(_TAPS))
_DISC = tuple((r * math.cos(tap * _GOLDEN_ANGLE), r * math.sin(tap * _GOLDEN_ANGLE)) for tap, r in enumerate(_RADII))
"""Offsets of the taps on a disc of radius 1, before they are turned."""


def shadows(
    meshes: MeshSet,
    mesh_index: Int[Tensor, "b m"],
    T_cam_obj: Float[Tensor, "b m 4 4"],
    rendering: Rendering,
    direction: Float[Tensor, "b 3"],
    spread: Float[Tensor, "b"],
    center: Float[Tensor, "b 3"],
    radius: Float[Tensor, "b"],
    size: int = 128,
    backend: Backend = "auto",
) -> Float[Tensor, "b h w"]:
    """Share of a distant light that reaches each pixel's surface.

    Args:
        meshes: of everything that casts shadows.
        mesh_index: `(B, M)` which mesh stands in each slot, -1 for none.
        T_cam_obj: `(B, M, 4, 4)` where.
        rendering: what the camera sees.
        direction: `(B, 3)` unit vector to the light, camera frame.
        spread: `(B,)` tangent of the light's angular radius.
        center: `(B, 3)` mm, and
        radius: `(B,)` mm, of the ball in which shadows are cast and caught; all else is lit.
        size: side of the shadow map in pixels.
        backend: as of `rasterize`.
    """
    R = _turned_to(direction.double())
    away = _AWAY * radius.double()
    offset = -(R @ center.double()[..., None])[..., 0]
    offset[:, 2] += away
    T_light_cam = torch.eye(4, dtype=torch.float64, device=R.device).repeat(len(R), 1, 1)
    T_light_cam[:, :3, :3], T_light_cam[:, :3, 3] = R, offset
    focal = 0.5 * (size - 4) * away / radius.double()
    K = torch.zeros(len(R), 3, 3, dtype=torch.float64, device=R.device)
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, 0, 2] = K[:, 1, 2] = (size - 1) / 2
    K[:, 2, 2] = 1
    seen = rasterize(meshes, mesh_index, T_light_cam[:, None] @ T_cam_obj.double(), K, size, size, backend).depth
    texel = 2 * radius.double() / (size - 4)
    lift, leave = _LIFT * texel, (_LEAVE[0] + _LEAVE[1] * spread) * texel
    middle = torch.full_like(focal, (size - 1) / 2)
    settings = torch.stack((focal, middle, spread.double(), texel, lift, leave), dim=1).float()
    T_light_cam = T_light_cam[:, :3].float()
    if use_numba(backend, meshes.vertices.device):
        from cad2pose.rendering import numba_light_paths

        lit = torch.empty_like(rendering.depth, memory_format=torch.contiguous_format)
        numba_light_paths.shadows(
            rendering.depth.contiguous().numpy(), rendering.normals.contiguous().numpy(),
            rendering.K.contiguous().numpy(), T_light_cam.contiguous().numpy(), settings.numpy(), seen.numpy(),
            np.array(_DISC, np.float32), np.float32(_EDGE_ON), lit.numpy(),
        )  # fmt: skip
        return lit
    arguments = (rendering.depth, rendering.normals, rendering.K, T_light_cam, settings, seen)
    found = kernels.shadow_shares(*arguments)
    return _shadows(*arguments) if found is None else found


def openness(rendering: Rendering, reach: Float[Tensor, "b"], backend: Backend = "auto") -> Float[Tensor, "b h w"]:
    """Share of the light from everywhere that reaches each pixel's surface past what stands within `reach` of it.

    Args:
        rendering: what the camera sees.
        reach: `(B,)` mm.
        backend: as of `rasterize`.
    """
    if use_numba(backend, rendering.depth.device):
        from cad2pose.rendering import numba_light_paths

        share = torch.empty_like(rendering.depth, memory_format=torch.contiguous_format)
        numba_light_paths.openness(
            rendering.depth.contiguous().numpy(), rendering.normals.contiguous().numpy(),
            rendering.K.contiguous().numpy(), reach.float().contiguous().numpy(), np.array(_DISC, np.float32),
            share.numpy(),
        )  # fmt: skip
        return share
    found = kernels.open_shares(rendering.depth, rendering.normals, rendering.K, reach.float())
    return _openness(rendering, reach.float()) if found is None else found


def _turned_to(direction: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Rotations R_light_cam of cameras that look against a direction."""
    forward = -direction
    steep = forward[:, :1].abs() > 0.9
    y, x = (constant(axis, forward.device).to(forward) for axis in ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
    aside = torch.where(steep, y, x)
    down = torch.nn.functional.normalize(torch.linalg.cross(forward, aside), dim=-1)
    return torch.stack((torch.linalg.cross(down, forward), down, forward), dim=-2)


def _shadows(
    depth: Float[Tensor, "b h w"],
    normals: Float[Tensor, "b 3 h w"],
    K: Float[Tensor, "b 3 3"],
    T_light_cam: Float[Tensor, "b 3 4"],
    settings: Float[Tensor, "b 6"],
    seen: Float[Tensor, "b s s"],
) -> Float[Tensor, "b h w"]:
    focal, middle, spread, texel, lift, leave = (column[:, None, None] for column in settings.unbind(1))
    points = _points(depth, K) + lift[:, None] * normals
    in_light = torch.einsum("bij,bjhw->bihw", T_light_cam[:, :, :3], points) + T_light_cam[:, :, 3, None, None]
    x, y, z = in_light.unbind(1)
    u, v = focal * x / z + middle, focal * y / z + middle
    # a slanted surface must not hide itself: what a texel shows is held against the tangent plane at its middle
    normal = torch.einsum("bij,bjhw->bihw", T_light_cam[:, :, :3], normals)
    slope = -normal[:, :2] / normal[:, 2:].clamp(max=-_EDGE_ON)
    turn = _turns(depth)
    search = (spread * 0.06 * z / texel).clamp(1, 0.12 * seen.shape[-1])  # two radii of the scene's sixteen

    def tapped(tap: int, reach: Tensor) -> tuple[Tensor, Tensor]:
        """A tap's depth, and whether it is before the plane."""
        du, dv = _tap(tap, turn)
        at_u, at_v = (u + reach * du + 0.5).floor(), (v + reach * dv + 0.5).floor()
        found = _look_up(seen, at_u, at_v)
        limit = z + texel * (slope[:, 0] * (at_u - u) + slope[:, 1] * (at_v - v)) - leave
        return found, (found > 0) & (found < limit)

    blockers, total = torch.zeros_like(z), torch.zeros_like(z)
    for tap in range(_TAPS):
        found, hides = tapped(tap, search)
        blockers, total = blockers + hides, total + torch.where(hides, found, 0)
    blur = (spread * (z - total / blockers.clamp_min(1)) / texel).clamp(0.5, 0.12 * seen.shape[-1])
    lit = torch.zeros_like(z)
    for tap in range(_TAPS):
        lit = lit + ~tapped(tap, blur)[1]
    return torch.where((blockers > 0) & (depth > 0), lit / _TAPS, 1.0)


def _openness(rendering: Rendering, reach: Float[Tensor, "b"]) -> Float[Tensor, "b h w"]:
    depth, normals = rendering.depth, rendering.normals
    points = _points(depth, rendering.K)
    far = reach[:, None, None]
    extent = (far * rendering.K[:, 0, 0, None, None] / depth.clamp_min(1e-3)).clamp(2, 0.25 * depth.shape[-1])
    turn = _turns(depth)
    v = torch.arange(depth.shape[1], device=depth.device, dtype=depth.dtype)[:, None]
    u = torch.arange(depth.shape[2], device=depth.device, dtype=depth.dtype)
    fx, skew, cx, fy, cy = (rendering.K[:, i, j, None, None] for i, j in _INTRINSICS)
    hidden = torch.zeros_like(depth)
    for tap in range(_TAPS):
        du, dv = _tap(tap, turn)
        column, row = (u + extent * du + 0.5).floor(), (v + extent * dv + 0.5).floor()
        found = _look_up(depth, column, row)
        y = (row - cy) / fy
        there = torch.stack(((column - cx - skew * y) / fx * found, y * found, found), dim=1) - points
        distance = there.norm(dim=1).clamp_min(1e-6)
        rise = ((there * normals).sum(1) / distance - 0.1).clamp_min(0)
        hidden = hidden + torch.where(found > 0, rise * (1 - distance / far).clamp_min(0), 0)
    return torch.where(depth > 0, (1 - 2.5 * hidden / _TAPS).clamp(0.1, 1), 1.0)


def _points(depth: Float[Tensor, "b h w"], K: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3 h w"]:
    u = torch.arange(depth.shape[2], device=depth.device, dtype=depth.dtype)
    v = torch.arange(depth.shape[1], device=depth.device, dtype=depth.dtype)[:, None]
    fx, skew, cx, fy, cy = (K[:, i, j, None, None] for i, j in _INTRINSICS)
    y = (v - cy) / fy
    return torch.stack(((u - cx - skew * y) / fx * depth, y * depth, depth), dim=1)


def _turns(maps: Float[Tensor, "b h w"]) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Cosine and sine of an angle for each pixel that differs much between neighbours.

    Interleaved gradient noise (Jimenez 2014).
    """
    u = torch.arange(maps.shape[2], device=maps.device, dtype=torch.float32)
    v = torch.arange(maps.shape[1], device=maps.device, dtype=torch.float32)[:, None]
    angle = 2 * math.pi * (52.9829189 * (0.06711056 * u + 0.00583715 * v).frac()).frac()
    return angle.cos(), angle.sin()


def _tap(
    tap: int, turn: tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Offset number `tap` of the disc, which has radius 1, turned."""
    (across, along), (cos, sin) = _DISC[tap], turn
    return across * cos - along * sin, across * sin + along * cos


def _look_up(
    maps: Float[Tensor, "b s t"], u: Float[Tensor, "b h w"], v: Float[Tensor, "b h w"]
) -> Float[Tensor, "b h w"]:
    """The pixel nearest to each place; 0 outside."""
    rows, columns = maps.shape[1:]
    column, row = (u + 0.5).floor().long(), (v + 0.5).floor().long()
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    index = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    return torch.where(inside, maps.flatten(1).gather(1, index.flatten(1)).view_as(u), 0.0)

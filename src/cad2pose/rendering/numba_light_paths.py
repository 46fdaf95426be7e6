"""`light_paths` for the CPU: the same arithmetic, pixel by pixel, compiled by Numba at the first call."""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np

from cad2pose.cpu_kernels import compiled

_TAPS = 16
_EDGE_ON = 0.2
_GOLDEN = math.pi * (3 - math.sqrt(5))
_ANGLES = np.arange(_TAPS) * _GOLDEN
_RADII = np.sqrt((np.arange(_TAPS) + 0.5) / _TAPS)
_COS, _SIN = (_RADII * np.cos(_ANGLES)).astype(np.float32), (_RADII * np.sin(_ANGLES)).astype(np.float32)


@compiled
@no_type_check
def _turn(u, v):
    first = np.float32(0.06711056) * np.float32(u) + np.float32(0.00583715) * np.float32(v)
    second = np.float32(52.9829189) * (first - math.floor(first))
    angle = 2 * math.pi * (second - math.floor(second))
    return np.float32(math.cos(angle)), np.float32(math.sin(angle))


@compiled
@no_type_check
def _look_up(maps, u, v):
    column, row = math.floor(u + np.float32(0.5)), math.floor(v + np.float32(0.5))
    if column < 0 or row < 0 or column >= maps.shape[1] or row >= maps.shape[0]:
        return np.float32(0)
    return maps[row, column]


@compiled
@no_type_check
def shadows(depth, normals, K, T_light_cam, settings, seen, lit):
    """Fill `lit`; see `light_paths.shadows`."""
    batch, height, width = depth.shape
    most = np.float32(0.12 * seen.shape[1])
    for b in range(batch):
        T, shadow = T_light_cam[b], seen[b]
        focal, middle, spread, texel = settings[b, 0], settings[b, 1], settings[b, 2], settings[b, 3]
        offset = np.float32(1.5) * texel
        for row in range(height):
            for column in range(width):
                lit[b, row, column] = 1
                d = depth[b, row, column]
                if d <= 0:
                    continue
                px = (column - K[b, 0, 2]) / K[b, 0, 0] * d + offset * normals[b, 0, row, column]
                py = (row - K[b, 1, 2]) / K[b, 1, 1] * d + offset * normals[b, 1, row, column]
                pz = d + offset * normals[b, 2, row, column]
                x = T[0, 0] * px + T[0, 1] * py + T[0, 2] * pz + T[0, 3]
                y = T[1, 0] * px + T[1, 1] * py + T[1, 2] * pz + T[1, 3]
                z = T[2, 0] * px + T[2, 1] * py + T[2, 2] * pz + T[2, 3]
                u, v = focal * x / z + middle, focal * y / z + middle
                nx, ny, nz = normals[b, 0, row, column], normals[b, 1, row, column], normals[b, 2, row, column]
                facing = min(T[2, 0] * nx + T[2, 1] * ny + T[2, 2] * nz, np.float32(-_EDGE_ON))
                sx = -(T[0, 0] * nx + T[0, 1] * ny + T[0, 2] * nz) / facing
                sy = -(T[1, 0] * nx + T[1, 1] * ny + T[1, 2] * nz) / facing
                c, s = _turn(column, row)
                search = min(max(spread * np.float32(0.06) * z / texel, np.float32(1)), most)
                blockers, total = 0, np.float32(0)
                for tap in range(_TAPS):
                    du, dv = c * _COS[tap] - s * _SIN[tap], s * _COS[tap] + c * _SIN[tap]
                    found = _look_up(shadow, u + search * du, v + search * dv)
                    if 0 < found < z + texel * (search * (sx * du + sy * dv) - 1):
                        blockers += 1
                        total += found
                if blockers == 0:
                    continue
                blur = min(max(spread * (z - total / blockers) / texel, np.float32(0.5)), most)
                free = 0
                for tap in range(_TAPS):
                    du, dv = c * _COS[tap] - s * _SIN[tap], s * _COS[tap] + c * _SIN[tap]
                    found = _look_up(shadow, u + blur * du, v + blur * dv)
                    if found <= 0 or found >= z + texel * (blur * (sx * du + sy * dv) - 1):
                        free += 1
                lit[b, row, column] = free / _TAPS


@compiled
@no_type_check
def openness(depth, normals, K, reach, share):
    """Fill `share`; see `light_paths.openness`."""
    batch, height, width = depth.shape
    most = np.float32(0.25 * width)
    for b in range(batch):
        fx, cx, fy, cy, far = K[b, 0, 0], K[b, 0, 2], K[b, 1, 1], K[b, 1, 2], reach[b]
        picture = depth[b]
        for row in range(height):
            for column in range(width):
                share[b, row, column] = 1
                d = picture[row, column]
                if d <= 0:
                    continue
                px, py = (column - cx) / fx * d, (row - cy) / fy * d
                nx, ny, nz = normals[b, 0, row, column], normals[b, 1, row, column], normals[b, 2, row, column]
                extent = min(max(far * fx / d, np.float32(2)), most)
                c, s = _turn(column, row)
                hidden = np.float32(0)
                for tap in range(_TAPS):
                    du, dv = c * _COS[tap] - s * _SIN[tap], s * _COS[tap] + c * _SIN[tap]
                    i = math.floor(row + extent * dv + np.float32(0.5))
                    j = math.floor(column + extent * du + np.float32(0.5))
                    if i < 0 or j < 0 or i >= height or j >= width:
                        continue
                    found = picture[i, j]
                    if found <= 0:
                        continue
                    x, y, z = (j - cx) / fx * found - px, (i - cy) / fy * found - py, found - d
                    distance = max(math.sqrt(x * x + y * y + z * z), np.float32(1e-6))
                    if distance >= far:
                        continue
                    rise = (x * nx + y * ny + z * nz) / distance - np.float32(0.1)
                    if rise > 0:
                        hidden += rise * (1 - distance / far)
                share[b, row, column] = min(max(1 - np.float32(2.5) * hidden / _TAPS, np.float32(0.1)), np.float32(1))

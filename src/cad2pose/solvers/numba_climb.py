"""The score with its derivatives (`score.py`) and the climb to its maxima (`refine.py`) for the CPU, by Numba.

Torch computes all points of all poses step by step, those that face away or are hidden included, and moves every number
through memory many times. Here a pose is climbed from the first step to the last with what it needs in the cache. The
same in CUDA: `cuda/climb.cu`. All in one file, because what Numba keeps on disk of a kernel is made anew only when that
kernel's own file changes.
"""

from __future__ import annotations

import math
from functools import partial
from typing import no_type_check

import numpy as np

from cad2pose.cpu_kernels import compiled

_STEP = 6
_CURVATURE = 21  # the lower triangle of the information matrix, row by row
_HELD = 8  # numbers kept of every point between the two passes
_LARGEST_RATIO = np.float32(12)  # as in score.py
_ZERO, _ONE, _NEAR, _TINY = np.float32(0), np.float32(1), np.float32(1e-3), np.float32(1e-9)
_BORDER = np.float32(1.001)
_TAIL = 8.0  # as in refine.py


_summing = partial(compiled, reorder=True)


@_summing
@no_type_check
def _nearest_viewpoints(R, p, directions, index, weight):
    """The four nearest viewpoints to where a pose is seen from; of the first three their weights, which sum to 1."""
    a = -(R[0, 0] * p[0] + R[1, 0] * p[1] + R[2, 0] * p[2])
    b = -(R[0, 1] * p[0] + R[1, 1] * p[1] + R[2, 1] * p[2])
    c = -(R[0, 2] * p[0] + R[1, 2] * p[1] + R[2, 2] * p[2])
    scale = _ONE / max(math.sqrt(a * a + b * b + c * c), np.float32(1e-12))
    a, b, c = a * scale, b * scale, c * scale
    for k in range(4):
        weight[k] = np.float32(-2)
    for d in range(len(directions)):
        along = a * directions[d, 0] + b * directions[d, 1] + c * directions[d, 2]
        if along <= weight[3]:
            continue
        place = 3
        while place > 0 and along > weight[place - 1]:
            weight[place], index[place] = weight[place - 1], index[place - 1]
            place -= 1
        weight[place], index[place] = along, d
    whole = _ZERO
    for k in range(3):
        weight[k] -= weight[3]
        whole += weight[k]
    for k in range(3):
        weight[k] /= max(whole, _TINY)


@_summing
@no_type_check
def _turned(R, x):
    return (
        R[0, 0] * x[0] + R[0, 1] * x[1] + R[0, 2] * x[2],
        R[1, 0] * x[0] + R[1, 1] * x[1] + R[1, 2] * x[2],
        R[2, 0] * x[0] + R[2, 1] * x[1] + R[2, 2] * x[2],
    )


@_summing
@no_type_check
def _exp_of_ratio(maps, crop, row, column, key):
    """m P at a pixel for a key, bounded."""
    embedding = len(key)
    ratio = maps[crop, row, column, embedding]
    for e in range(embedding):
        ratio += maps[crop, row, column, e] * key[e]
    return math.exp(min(max(ratio, -_LARGEST_RATIO), _LARGEST_RATIO))


@_summing
@no_type_check
def _between(a, b, c, d, u, v):
    """Bilinear between the upper (a, b) and the lower (c, d) two of four pixels, and the slopes across and down."""
    top, bottom = a + u * (b - a), c + u * (d - c)
    return top + v * (bottom - top), (b - a) + v * ((d - c) - (b - a)), bottom - top


@_summing
@no_type_check
def _looked_up(maps, crop, row, column, channel, u, v):
    """One of the maps' channels between four pixels."""
    return _between(
        maps[crop, row, column, channel], maps[crop, row, column + 1, channel], maps[crop, row + 1, column, channel],
        maps[crop, row + 1, column + 1, channel], u, v,
    )  # fmt: skip


@_summing
@no_type_check
def _derive(points, normals, R, p, fx, fy, mask_weight, mean, share, pixels, held, used, found):
    """Gradient and information, from what `_linearize` has held of the points used."""
    found[:] = 0
    step, growth = np.empty(_STEP, np.float32), np.empty(_STEP, np.float32)
    for j in range(len(used)):
        i = used[j]
        tx, ty, tz = _turned(R, points[i])
        nx, ny, nz = _turned(R, normals[i])
        depth = max(tz + p[2], _NEAR)
        covered, scale = held[j, 6], held[j, 7]
        gain = mask_weight * held[j, 0] + share * (held[j, 1] - mean)
        sx = (mask_weight * held[j, 2] + share * held[j, 4]) * fx / depth
        sy = (mask_weight * held[j, 3] + share * held[j, 5]) * fy / depth
        sz = -(sx * (tx + p[0]) + sy * (ty + p[1])) / depth
        step[0], step[1], step[2] = ty * sz - tz * sy, tz * sx - tx * sz, tx * sy - ty * sx
        step[3], step[4], step[5] = sx, sy, sz
        tilt = -scale / (depth * depth * depth)
        nearer = np.float32(3) * covered / depth
        growth[0] = tilt * (ny * p[2] - nz * p[1]) - nearer * ty
        growth[1] = tilt * (nz * p[0] - nx * p[2]) + nearer * tx
        growth[2] = tilt * (nx * p[1] - ny * p[0])
        growth[3], growth[4], growth[5] = tilt * nx, tilt * ny, tilt * nz - nearer
        at = _STEP
        for k in range(_STEP):
            weighted = covered * step[k]
            found[k] += weighted + gain * growth[k]
            for other in range(k + 1):
                found[at] += weighted * step[other]
                at += 1
    for k in range(_STEP + _CURVATURE):
        found[k] /= pixels


@_summing
@no_type_check
def _linearize(
    points, normals, keys, areas, visible, directions, maps, K, sums, outliers, mask_weight, crop, R, p, derivatives,
    held, used, viewpoint, weight, found,
):  # fmt: skip
    """The score; its gradient and information go into the 27 numbers of `found` where they are asked for."""
    _nearest_viewpoints(R, p, directions, viewpoint, weight)
    height, width, embedding = maps.shape[1], maps.shape[2], keys.shape[1]
    fx, fy, cx, cy = K[crop, 0, 0], K[crop, 1, 1], K[crop, 0, 2], K[crop, 1, 2]
    kept = _ONE - outliers
    covered_sum, match_sum, mask_sum, count = 0.0, 0.0, 0.0, 0
    for i in range(len(points)):
        shown = _ZERO
        for k in range(3):
            if visible[viewpoint[k], i]:
                shown += weight[k]
        if shown <= _ZERO:
            continue
        x, y, z = _turned(R, points[i])
        x, y, z = x + p[0], y + p[1], z + p[2]
        nx, ny, nz = _turned(R, normals[i])
        facing = -(nx * x + ny * y + nz * z)
        if not facing > _ZERO:
            continue
        depth = max(z, _NEAR)
        u = min(max(x / depth * fx + cx + _ONE, _ZERO), np.float32(width) - _BORDER)
        v = min(max(y / depth * fy + cy + _ONE, _ZERO), np.float32(height) - _BORDER)
        column, row = np.int64(u), np.int64(v)
        u, v = u - np.float32(column), v - np.float32(row)
        inside, _, _ = _looked_up(maps, crop, row, column, embedding + 2, u, v)
        scale = areas[i] * shown * fx * fy * inside
        if scale <= _ZERO:
            continue
        logit, logit_across, logit_down = _looked_up(maps, crop, row, column, embedding + 1, u, v)
        likely, likely_across, likely_down = _between(
            _exp_of_ratio(maps, crop, row, column, keys[i]), _exp_of_ratio(maps, crop, row, column + 1, keys[i]),
            _exp_of_ratio(maps, crop, row + 1, column, keys[i]),
            _exp_of_ratio(maps, crop, row + 1, column + 1, keys[i]), u, v,
        )  # fmt: skip
        density = kept * likely + outliers
        match = math.log(density)
        covered = scale * facing / (depth * depth * depth)
        covered_sum += covered
        match_sum += covered * match
        mask_sum += covered * logit
        if derivatives:
            held[count, 0], held[count, 1] = logit, match
            held[count, 2], held[count, 3] = logit_across, logit_down
            held[count, 4], held[count, 5] = kept / density * likely_across, kept / density * likely_down
            held[count, 6], held[count, 7] = covered, scale
            used[count] = i
            count += 1
    background, expected, pixels = sums[crop, 0], sums[crop, 1], sums[crop, 2]
    total = max(covered_sum, 1e-6)
    mean, share = np.float32(match_sum / total), np.float32(expected / total)
    value = (mask_weight * (background + mask_sum) + expected * mean) / pixels
    if derivatives:
        _derive(points, normals, R, p, fx, fy, mask_weight, mean, share, pixels, held, used[:count], found)
    return value


@_summing
@no_type_check
def _damped_step(found, p, damping, largest, step):
    """The damped step, by Cholesky's decomposition; zeros where there is none. Returns its largest part.

    The last unknown is a share of the position (see `refine`).
    """
    L, y = np.empty((_STEP, _STEP)), np.empty(_STEP)
    at = _STEP
    for i in range(_STEP):
        for j in range(i + 1):
            L[i, j] = found[at]
            at += 1
    for j in range(3):
        L[5, j] = p[0] * L[3, j] + p[1] * L[4, j] + p[2] * L[5, j]
    across, down = p[0] * L[3, 3] + p[1] * L[4, 3] + p[2] * L[5, 3], p[0] * L[4, 3] + p[1] * L[4, 4] + p[2] * L[5, 4]
    L[5, 5] = p[0] * across + p[1] * down + p[2] * (p[0] * L[5, 3] + p[1] * L[5, 4] + p[2] * L[5, 5])
    L[5, 3], L[5, 4] = across, down
    floor = 0.0
    for i in range(_STEP):
        floor += L[i, i] / 6
    floor = max(floor, 1e-9)
    proper = True
    for i in range(_STEP):
        for j in range(i + 1):
            one = L[i, j]
            if i == j:
                one += 0.1 * one + 1e-2 * floor
            one *= damping
            for k in range(j):
                one -= L[i, k] * L[j, k]
            if i == j:
                proper = proper and one > 0
                L[i, i] = math.sqrt(max(one, 1e-300))
            else:
                L[i, j] = one / L[j, j]
        one = found[i] if i < 5 else p[0] * found[3] + p[1] * found[4] + p[2] * found[5]
        for k in range(i):
            one -= L[i, k] * y[k]
        y[i] = one / L[i, i]
    most = 0.0
    for i in range(_STEP - 1, -1, -1):
        for k in range(i + 1, _STEP):
            y[i] -= L[k, i] * y[k]
        y[i] /= L[i, i]
    for k in range(_STEP):
        if not proper or not math.isfinite(y[k]):
            y[k] = 0.0
        most = max(most, abs(y[k]))
    factor = largest / max(most, largest)
    for k in range(5):
        step[k] = y[k] * factor
    step[5] = 0.0
    for k in range(3):
        step[3 + k] += p[k] * y[5] * factor
    return most * factor


@_summing
@no_type_check
def _perturb(R, p, step, R_next, p_next):
    """R <- exp(w) R, t <- t + d."""
    x, y, z = step[0], step[1], step[2]
    square = x * x + y * y + z * z
    angle = math.sqrt(square)
    a = 1 - square / 6 if angle < 1e-4 else math.sin(angle) / angle
    b = 0.5 - square / 24 if angle < 1e-4 else (1 - math.cos(angle)) / square
    for j in range(3):
        r, s, t = R[0, j], R[1, j], R[2, j]
        R_next[0, j] = (1 - b * (y * y + z * z)) * r + (b * x * y - a * z) * s + (b * x * z + a * y) * t
        R_next[1, j] = (b * x * y + a * z) * r + (1 - b * (x * x + z * z)) * s + (b * y * z - a * x) * t
        R_next[2, j] = (b * x * z - a * y) * r + (b * y * z + a * x) * s + (1 - b * (x * x + y * y)) * t
        p_next[j] = p[j] + step[3 + j]


@_summing
@no_type_check
def _with_prior(value, found, z, depth, sigma, samples):
    """The value with what was known of the depth before, whose slope and curvature are added to `found`."""
    off = math.log(z / depth) / sigma
    weight = (_TAIL + 1) / (_TAIL + off * off) / samples
    found[5] -= weight * off / (sigma * z)
    found[_STEP + _CURVATURE - 1] += weight / (sigma * sigma * z * z)
    return value - (_TAIL + 1) / 2 * math.log1p(off * off / _TAIL) / samples


@_summing
@no_type_check
def climb(
    points, normals, keys, areas, visible, directions, maps, K, sums, outliers, mask_weight, crops, prior_depth,
    prior_sigma, prior_samples, iterations, derivatives, damping, tolerance, largest_step, rotation, position, value,
    accepted, gradient, information,
):  # fmt: skip
    """Replace rotations and positions by those reached; fill the last four arrays.

    With prior_sigma 0 there is no prior; with no derivatives and no iterations, gradient and information stay as they
    are.
    """
    held, used = np.empty((len(points), _HELD), np.float32), np.empty(len(points), np.int64)
    viewpoint, weight = np.zeros(4, np.int64), np.empty(4, np.float32)
    here, there = np.zeros(_STEP + _CURVATURE), np.zeros(_STEP + _CURVATURE)
    R_next, p_next, step = np.empty((3, 3), np.float32), np.empty(3, np.float32), np.empty(_STEP)
    curved = derivatives or iterations > 0
    for n in range(len(crops)):
        R, p, crop = rotation[n], position[n], crops[n]
        now = _linearize(
            points, normals, keys, areas, visible, directions, maps, K, sums, outliers, mask_weight, crop, R, p, curved,
            held, used, viewpoint, weight, here,
        )  # fmt: skip
        if prior_sigma > 0:
            now = _with_prior(now, here, p[2], prior_depth[n], prior_sigma, prior_samples[n])
        factor, taken = damping, 0
        for _ in range(iterations):
            going = _damped_step(here, p, factor, largest_step, step) >= tolerance
            _perturb(R, p, step, R_next, p_next)
            following = _linearize(
                points, normals, keys, areas, visible, directions, maps, K, sums, outliers, mask_weight, crop, R_next,
                p_next, True, held, used, viewpoint, weight, there,
            )  # fmt: skip
            if prior_sigma > 0:
                following = _with_prior(following, there, p_next[2], prior_depth[n], prior_sigma, prior_samples[n])
            better = following > now
            if better:
                now = following
                here[:], R[:], p[:] = there, R_next, p_next
                taken += 1
            factor = min(max(factor * (0.4 if better else 4.0), 1e-3), 1e3)
            if not going:
                break
        value[n], accepted[n] = now, taken
        if curved:
            at = _STEP
            for i in range(_STEP):
                gradient[n, i] = here[i]
                for j in range(i + 1):
                    information[n, i, j] = information[n, j, i] = here[at]
                    at += 1

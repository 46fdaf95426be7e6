"""The rasteriser for the CPU: one z-buffer loop per image, compiled by Numba at the first call.

Drawing is deferred. The z-loop keeps inverse depth and face number only; barycentric coordinates and attributes are
worked out afterwards, once per covered pixel. Most triangles of a fine mesh cover no pixel centre at all, so the
cheapest test, an empty bounding box, comes first.

Screen positions are float32 and edge functions float64, in which their products are exact: two triangles that share an
edge never leave a pixel between them. Importing this module imports Numba; nothing is compiled until a kernel runs.
The compiled code is kept beside this file, or in the user's cache folder where that cannot be written.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np


def _compiled(function):
    """Compile at the first call without holding the interpreter lock, and keep the result on disk where one can."""
    options = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to write to: compiled afresh by every process
        return numba.njit(**options)(function)


@_compiled
@no_type_check
def _smaller(a, b):
    return a if a < b else b


@_compiled
@no_type_check
def _larger(a, b):
    return a if a > b else b


@_compiled
@no_type_check
def _smallest(a, b, c):
    return _smaller(_smaller(a, b), c)


@_compiled
@no_type_check
def _largest(a, b, c):
    return _larger(_larger(a, b), c)


@_compiled
@no_type_check
def _rotate(T, x, y, z):
    return (
        T[0, 0] * x + T[0, 1] * y + T[0, 2] * z,
        T[1, 0] * x + T[1, 1] * y + T[1, 2] * z,
        T[2, 0] * x + T[2, 1] * y + T[2, 2] * z,
    )


@_compiled
@no_type_check
def _cross(ax, ay, az, bx, by, bz):
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@_compiled
@no_type_check
def _unit(x, y, z):
    """The vector with length 1; a null vector looks at the camera."""
    square = x * x + y * y + z * z
    if square < np.float32(1e-20):
        return np.float32(0), np.float32(0), np.float32(-1)
    scale = np.float32(1) / np.sqrt(square)
    return x * scale, y * scale, z * scale


@_compiled
@no_type_check
def _project(vertices, first, last, P, near, screen):
    """Pixel u, v and 1 / z of the vertices; 1 / z is 0 where z is below `near`."""
    for i in range(last - first):
        x, y, z = vertices[first + i, 0], vertices[first + i, 1], vertices[first + i, 2]
        depth = P[2, 0] * x + P[2, 1] * y + P[2, 2] * z + P[2, 3]
        inverse = 1.0 / depth
        screen[i, 0] = (P[0, 0] * x + P[0, 1] * y + P[0, 2] * z + P[0, 3]) * inverse
        screen[i, 1] = (P[1, 0] * x + P[1, 1] * y + P[1, 2] * z + P[1, 3]) * inverse
        screen[i, 2] = inverse if depth >= near else 0.0


@_compiled
@no_type_check
def _select(screen, faces, first_vertex, first, last, height, width, selected):
    """Faces before the near plane whose bounding box holds a pixel centre; returns how many.

    Without a branch: which of many small triangles pass is beyond the processor's guessing.
    """
    zero, right, bottom = np.float32(0), np.float32(width - 1), np.float32(height - 1)
    count = 0
    for f in range(first, last):
        a, b, c = np.uintp(faces[f, 0]), np.uintp(faces[f, 1]), np.uintp(faces[f, 2])
        a, b, c = a - first_vertex, b - first_vertex, c - first_vertex
        left_x = np.ceil(_larger(_smallest(screen[a, 0], screen[b, 0], screen[c, 0]), zero))
        right_x = np.floor(_smaller(_largest(screen[a, 0], screen[b, 0], screen[c, 0]), right))
        top_y = np.ceil(_larger(_smallest(screen[a, 1], screen[b, 1], screen[c, 1]), zero))
        bottom_y = np.floor(_smaller(_largest(screen[a, 1], screen[b, 1], screen[c, 1]), bottom))
        before = _smallest(screen[a, 2], screen[b, 2], screen[c, 2]) > zero
        selected[count] = f
        count += (left_x <= right_x) & (top_y <= bottom_y) & before
    return count


@_compiled
@no_type_check
def _draw(screen, faces, first_vertex, selected, count, slot_number, inverse_depth, slot, face):
    """The z-loop over selected faces: keep the nearest at each pixel centre, the earlier one when equal."""
    height, width = inverse_depth.shape
    zero, right, bottom = np.float32(0), np.float32(width - 1), np.float32(height - 1)
    for k in range(count):
        f = selected[k]
        a, b, c = np.uintp(faces[f, 0]), np.uintp(faces[f, 1]), np.uintp(faces[f, 2])
        a, b, c = a - first_vertex, b - first_vertex, c - first_vertex
        left_x = int(np.ceil(_larger(_smallest(screen[a, 0], screen[b, 0], screen[c, 0]), zero)))
        right_x = int(_smaller(_largest(screen[a, 0], screen[b, 0], screen[c, 0]), right))
        top_y = int(np.ceil(_larger(_smallest(screen[a, 1], screen[b, 1], screen[c, 1]), zero)))
        bottom_y = int(_smaller(_largest(screen[a, 1], screen[b, 1], screen[c, 1]), bottom))
        xa, ya, wa = np.float64(screen[a, 0]), np.float64(screen[a, 1]), np.float64(screen[a, 2])
        xb, yb, wb = np.float64(screen[b, 0]), np.float64(screen[b, 1]), np.float64(screen[b, 2])
        xc, yc, wc = np.float64(screen[c, 0]), np.float64(screen[c, 1]), np.float64(screen[c, 2])
        # One division by the signed area makes the edge functions positive inside for either winding.
        scale = 1.0 / ((xb - xa) * (yc - ya) - (yb - ya) * (xc - xa))
        for y in range(top_y, bottom_y + 1):
            row = np.uintp(y)
            for x in range(left_x, right_x + 1):
                ea = ((xc - xb) * (y - yb) - (yc - yb) * (x - xb)) * scale
                eb = ((xa - xc) * (y - yc) - (ya - yc) * (x - xc)) * scale
                ec = ((xb - xa) * (y - ya) - (yb - ya) * (x - xa)) * scale
                if (ea >= 0) & (eb >= 0) & (ec >= 0):
                    column = np.uintp(x)
                    inverse = np.float32(ea * wa + eb * wb + ec * wc)
                    if inverse > inverse_depth[row, column]:
                        inverse_depth[row, column] = inverse
                        slot[row, column] = slot_number
                        face[row, column] = f


@_compiled
@no_type_check
def _resolve(screens, faces, vertex_start, mesh_of_slot, depth, slot, face, barycentric):
    """Inverse depth to depth, and perspective-correct barycentric coordinates, at the covered pixels."""
    height, width = depth.shape
    for y in range(height):
        for x in range(width):
            f = face[y, x]
            if f < 0:
                barycentric[y, x, 0] = barycentric[y, x, 1] = barycentric[y, x, 2] = 0
                continue
            s = slot[y, x]
            first = vertex_start[mesh_of_slot[s]]
            a, b, c = faces[f, 0] - first, faces[f, 1] - first, faces[f, 2] - first
            xa, ya = np.float64(screens[s, a, 0]) - x, np.float64(screens[s, a, 1]) - y
            xb, yb = np.float64(screens[s, b, 0]) - x, np.float64(screens[s, b, 1]) - y
            xc, yc = np.float64(screens[s, c, 0]) - x, np.float64(screens[s, c, 1]) - y
            ea = (xb * yc - yb * xc) * screens[s, a, 2]
            eb = (xc * ya - yc * xa) * screens[s, b, 2]
            ec = (xa * yb - ya * xb) * screens[s, c, 2]
            scale = 1.0 / (ea + eb + ec)
            barycentric[y, x, 0] = ea * scale
            barycentric[y, x, 1] = eb * scale
            barycentric[y, x, 2] = ec * scale
            depth[y, x] = 1 / depth[y, x]


@_compiled
@no_type_check
def rasterize_batch(
    vertices, faces, vertex_start, face_start, mesh_index, P, near, screens, selected, depth, slot, face, barycentric
):
    """Fill the last four arrays for a batch of images; `P` is K @ T_cam_obj[:3], `screens` and `selected` scratch."""
    height, width = depth.shape[1:]
    for i in range(mesh_index.shape[0]):
        depth[i] = 0
        slot[i] = -1
        face[i] = -1
        for s in range(mesh_index.shape[1]):
            mesh = mesh_index[i, s]
            if mesh < 0:
                continue
            first = vertex_start[mesh]
            _project(vertices, first, vertex_start[mesh + 1], P[i, s], near, screens[s])
            count = _select(
                screens[s], faces, np.uintp(first), face_start[mesh], face_start[mesh + 1], height, width, selected
            )
            _draw(screens[s], faces, np.uintp(first), selected, count, s, depth[i], slot[i], face[i])
        _resolve(screens, faces, vertex_start, mesh_index[i], depth[i], slot[i], face[i], barycentric[i])


@_compiled
@no_type_check
def _interpolate(vertices, faces, normals, colors, T, slot, face, barycentric, coordinates, normal, color):
    """Attributes of one image's visible surface."""
    height, width = face.shape
    for y in range(height):
        for x in range(width):
            f = face[y, x]
            if f < 0:
                for k in range(3):
                    coordinates[k, y, x] = normal[k, y, x] = color[k, y, x] = 0
                continue
            pose = T[slot[y, x]]
            a, b, c = np.uintp(faces[f, 0]), np.uintp(faces[f, 1]), np.uintp(faces[f, 2])
            la, lb, lc = barycentric[y, x, 0], barycentric[y, x, 1], barycentric[y, x, 2]
            for k in range(3):
                coordinates[k, y, x] = la * vertices[a, k] + lb * vertices[b, k] + lc * vertices[c, k]
                color[k, y, x] = la * colors[a, k] + lb * colors[b, k] + lc * colors[c, k]
            px, py, pz = coordinates[0, y, x], coordinates[1, y, x], coordinates[2, y, x]
            nx = la * normals[a, 0] + lb * normals[b, 0] + lc * normals[c, 0]
            ny = la * normals[a, 1] + lb * normals[b, 1] + lc * normals[c, 1]
            nz = la * normals[a, 2] + lb * normals[b, 2] + lc * normals[c, 2]
            # The flat normal decides the side, as an interpolated one may lean past a silhouette.
            gx, gy, gz = _cross(
                vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2],
                vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2],
            )  # fmt: skip
            agrees = nx * gx + ny * gy + nz * gz
            nx, ny, nz = _rotate(pose, nx, ny, nz)
            gx, gy, gz = _rotate(pose, gx, gy, gz)
            px, py, pz = _rotate(pose, px, py, pz)
            px, py, pz = _unit(px + pose[0, 3], py + pose[1, 3], pz + pose[2, 3])
            if agrees * (gx * px + gy * py + gz * pz) > 0:
                nx, ny, nz = -nx, -ny, -nz
            lean = _larger(nx * px + ny * py + nz * pz, np.float32(0))
            nx, ny, nz = _unit(nx - lean * px, ny - lean * py, nz - lean * pz)
            normal[0, y, x], normal[1, y, x], normal[2, y, x] = nx, ny, nz


@_compiled
@no_type_check
def interpolate_batch(vertices, faces, normals, colors, T, slot, face, barycentric, coordinates, normal, color):
    """Fill the last three arrays, `(B, 3, h, w)`, for a batch of images."""
    for i in range(len(T)):
        _interpolate(
            vertices, faces, normals, colors, T[i], slot[i], face[i], barycentric[i],
            coordinates[i], normal[i], color[i],
        )  # fmt: skip

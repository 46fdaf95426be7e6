"""The rasteriser for the CPU: one z-buffer loop per image, compiled by Numba at the first call.

Drawing is deferred. The z-loop keeps inverse depth and face number only; barycentric coordinates and attributes are
worked out afterwards, once per covered pixel. Most triangles of a fine mesh cover no pixel centre at all, so the
cheapest test, an empty bounding box, comes first.

Screen positions are float32 and edge functions float64, in which their products are exact: two triangles that share an
edge never leave a pixel between them. Importing this module imports Numba.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np

from cad2pose.cpu_kernels import compiled


@compiled
@no_type_check
def _smaller(a, b):
    return a if a < b else b


@compiled
@no_type_check
def _larger(a, b):
    return a if a > b else b


@compiled
@no_type_check
def _smallest(a, b, c):
    return _smaller(_smaller(a, b), c)


@compiled
@no_type_check
def _largest(a, b, c):
    return _larger(_larger(a, b), c)


@compiled
@no_type_check
def _rotate(T, x, y, z):
    return (
        T[0, 0] * x + T[0, 1] * y + T[0, 2] * z,
        T[1, 0] * x + T[1, 1] * y + T[1, 2] * z,
        T[2, 0] * x + T[2, 1] * y + T[2, 2] * z,
    )


@compiled
@no_type_check
def _cross(ax, ay, az, bx, by, bz):
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@compiled
@no_type_check
def _unit(x, y, z):
    """The vector with length 1; a null vector looks at the camera."""
    square = x * x + y * y + z * z
    if square < np.float32(1e-20):
        return np.float32(0), np.float32(0), np.float32(-1)
    scale = np.float32(1) / np.sqrt(square)
    return x * scale, y * scale, z * scale


@compiled
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


@compiled
@no_type_check
def _select(screen, faces, first_vertex, first, last, height, width, selected):
    """Faces before the near plane whose bounding box holds a pixel centre: how many face the camera, how many do not.

    The former fill `selected` from its start, the latter from its end: with the nearer half drawn first, most of the
    rest is known to be hidden at a glance. (A mesh with unreliable winding is merely slower.) There is no branch here:
    which of many small triangles pass is beyond the processor's guessing.
    """
    zero, right, bottom = np.float32(0), np.float32(width - 1), np.float32(height - 1)
    front, back, end = 0, 0, last - first - 1
    for f in range(first, last):
        a, b, c = np.uintp(faces[f, 0]), np.uintp(faces[f, 1]), np.uintp(faces[f, 2])
        a, b, c = a - first_vertex, b - first_vertex, c - first_vertex
        xa, ya, xb, yb = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1]
        xc, yc = screen[c, 0], screen[c, 1]
        left_x = np.ceil(_larger(_smallest(xa, xb, xc), zero))
        right_x = np.floor(_smaller(_largest(xa, xb, xc), right))
        top_y = np.ceil(_larger(_smallest(ya, yb, yc), zero))
        bottom_y = np.floor(_smaller(_largest(ya, yb, yc), bottom))
        before = _smallest(screen[a, 2], screen[b, 2], screen[c, 2]) > zero
        visible = (left_x <= right_x) & (top_y <= bottom_y) & before
        facing = (xb - xa) * (yc - ya) < (yb - ya) * (xc - xa)
        selected[front] = f
        front += visible & facing
        selected[end - back] = f
        back += visible & (not facing)
    return front, back


@compiled
@no_type_check
def _hidden(inverse_depth, nearest, left_x, right_x, top_y, bottom_y):
    """Whether all of a box of pixels shows something nearer."""
    for y in range(top_y, bottom_y + 1):
        for x in range(left_x, right_x + 1):
            if inverse_depth[np.uintp(y), np.uintp(x)] <= nearest:
                return False
    return True


@compiled
@no_type_check
def _draw(screen, faces, first_vertex, selected, slot_number, inverse_depth, slot, face):
    """The z-loop over selected faces: keep the nearest at each pixel centre; of equals the lower slot, then face."""
    height, width = inverse_depth.shape
    zero, right, bottom = np.float32(0), np.float32(width - 1), np.float32(height - 1)
    for k in range(len(selected)):
        f = selected[k]
        a, b, c = np.uintp(faces[f, 0]), np.uintp(faces[f, 1]), np.uintp(faces[f, 2])
        a, b, c = a - first_vertex, b - first_vertex, c - first_vertex
        left = np.ceil(_larger(_smallest(screen[a, 0], screen[b, 0], screen[c, 0]), zero))
        top = np.ceil(_larger(_smallest(screen[a, 1], screen[b, 1], screen[c, 1]), zero))
        left_x, right_x = int(left), int(_smaller(_largest(screen[a, 0], screen[b, 0], screen[c, 0]), right))
        top_y, bottom_y = int(top), int(_smaller(_largest(screen[a, 1], screen[b, 1], screen[c, 1]), bottom))
        wa, wb, wc = screen[a, 2], screen[b, 2], screen[c, 2]
        if _hidden(inverse_depth, _largest(wa, wb, wc), left_x, right_x, top_y, bottom_y):
            continue
        # Corners as seen from the first pixel; an edge function is then a cross product, and a step is one addition.
        xa, ya = np.float64(screen[a, 0]) - left, np.float64(screen[a, 1]) - top
        xb, yb = np.float64(screen[b, 0]) - left, np.float64(screen[b, 1]) - top
        xc, yc = np.float64(screen[c, 0]) - left, np.float64(screen[c, 1]) - top
        ea, eb, ec = xb * yc - yb * xc, xc * ya - yc * xa, xa * yb - ya * xb
        sign = np.copysign(1.0, ea + eb + ec)  # either winding becomes positive inside
        ea, eb, ec = ea * sign, eb * sign, ec * sign
        right_a, right_b, right_c = (yb - yc) * sign, (yc - ya) * sign, (ya - yb) * sign
        down_a, down_b, down_c = (xc - xb) * sign, (xa - xc) * sign, (xb - xa) * sign
        for y in range(top_y, bottom_y + 1):
            row, pa, pb, pc = np.uintp(y), ea, eb, ec
            for x in range(left_x, right_x + 1):
                if _smallest(pa, pb, pc) >= 0:
                    column = np.uintp(x)
                    inverse = np.float32((pa * wa + pb * wb + pc * wc) / (pa + pb + pc))
                    known = inverse_depth[row, column]
                    if inverse >= known and (
                        inverse > known or (slot[row, column] == slot_number and f < face[row, column])
                    ):
                        inverse_depth[row, column] = inverse
                        slot[row, column] = slot_number
                        face[row, column] = f
                pa, pb, pc = pa + right_a, pb + right_b, pc + right_c
            ea, eb, ec = ea + down_a, eb + down_b, ec + down_c


@compiled
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


@compiled
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
            start, stop, origin = face_start[mesh], face_start[mesh + 1], np.uintp(first)
            front, back = _select(screens[s], faces, origin, start, stop, height, width, selected)
            for part in (selected[:front], selected[stop - start - back : stop - start]):
                _draw(screens[s], faces, origin, part, s, depth[i], slot[i], face[i])
        _resolve(screens, faces, vertex_start, mesh_index[i], depth[i], slot[i], face[i], barycentric[i])


@compiled
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


@compiled
@no_type_check
def interpolate_batch(vertices, faces, normals, colors, T, slot, face, barycentric, coordinates, normal, color):
    """Fill the last three arrays, `(B, 3, h, w)`, for a batch of images."""
    for i in range(len(T)):
        _interpolate(
            vertices, faces, normals, colors, T[i], slot[i], face[i], barycentric[i],
            coordinates[i], normal[i], color[i],
        )  # fmt: skip

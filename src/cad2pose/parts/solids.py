"""Building closed surfaces from planar faces and strips between loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cad2pose.parts.mesh import Mesh
from cad2pose.parts.normals import merge_vertices, split_sharp_edges, vertex_normals
from cad2pose.parts.polygon import triangulate

Color = tuple[float, float, float]


class SurfaceBuilder:
    """Collects coloured triangles; `mesh` joins them to one surface with flat shading across its edges."""

    def __init__(self) -> None:
        self._corners: list[np.ndarray] = []
        self._colors: list[np.ndarray] = []

    def triangles(self, corners: np.ndarray, color: Color) -> None:
        """`(t, 3, 3)` corners in mm, counter-clockwise seen from outside."""
        self._corners.append(corners)
        self._colors.append(np.tile(np.asarray(color), (len(corners), 1)))

    def polygon(self, outer: np.ndarray, color: Color, holes: Sequence[np.ndarray] = ()) -> None:
        """A planar face: `(n, 3)` corners counter-clockwise seen from outside, holes clockwise."""
        ahead = np.roll(outer, -1, axis=0)
        normal = np.cross(outer, ahead).sum(axis=0)  # Newell: does not need a convex corner
        first = ahead[0] - outer[0]
        first = first / np.linalg.norm(first)
        basis = np.stack((first, np.cross(normal / np.linalg.norm(normal), first)), axis=1)
        faces = triangulate(outer @ basis, [hole @ basis for hole in holes])
        self.triangles(np.concatenate((outer, *holes))[faces], color)

    def strip(self, lower: np.ndarray, upper: np.ndarray, color: Color, closed: bool = True) -> None:
        """Quads between two loops (or open paths) of `(n, 3)` points.

        Seen from outside, the loops run to the right when `lower` lies below `upper`. Where a point of both
        loops is the same, the quad is a triangle.
        """
        count = len(lower) if closed else len(lower) - 1
        here = np.arange(count)
        there = (here + 1) % len(lower)
        first = np.stack((lower[here], lower[there], upper[there]), axis=1)
        second = np.stack((lower[here], upper[there], upper[here]), axis=1)
        corners = np.stack((first, second), axis=1).reshape(-1, 3, 3)
        sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self.triangles(corners[np.linalg.norm(sides, axis=1) > 1e-9], color)

    def copy_turned(self, rotation: np.ndarray) -> None:
        """Add everything so far once more, turned by a `(3, 3)` rotation about the origin."""
        self._corners += [corners @ rotation.T for corners in self._corners]
        self._colors += list(self._colors)

    def mesh(self) -> Mesh:
        """The finished surface, its vertices split where it has an edge or changes colour."""
        corners = torch.from_numpy(np.concatenate(self._corners))
        palette, group = np.unique(np.concatenate(self._colors), axis=0, return_inverse=True)
        soup = torch.arange(3 * len(corners)).reshape(-1, 3)
        vertices, faces = merge_vertices(corners.reshape(-1, 3), soup, 1e-7)
        assert len(faces) == len(corners), "a triangle collapsed"
        label = torch.from_numpy(group.reshape(-1).astype(np.int64))
        source, faces = split_sharp_edges(vertices, faces, label)
        colors = torch.empty(len(source), 3, dtype=torch.float32)
        colors[faces.flatten()] = torch.from_numpy(palette).float()[label].repeat_interleave(3, dim=0)
        split = vertices[source]
        return Mesh(split, faces, vertex_normals(split, faces), colors)


def circle(radius: float, height: float, count: int, phase: float = 0.0) -> np.ndarray:
    """`(count, 3)` points of a horizontal circle about z, counter-clockwise seen from above."""
    angles = phase + 2 * np.pi * np.arange(count) / count
    return np.stack((radius * np.cos(angles), radius * np.sin(angles), np.full(count, height)), axis=1)

"""Four example parts made by code, from no symmetry to a continuous one."""

from __future__ import annotations

import math

import numpy as np
import torch

from cad2pose.geometry.rotation import rotation_from_axis_angle
from cad2pose.geometry.transform import make_transform
from cad2pose.parts.mesh import Mesh
from cad2pose.parts.part import Part
from cad2pose.parts.solids import Color, SurfaceBuilder, circle
from cad2pose.parts.symmetry import ContinuousSymmetry, Symmetries

BUILTIN_PARTS = ("bracket", "nut", "bushing", "disc")

_PAINT: Color = (0.13, 0.36, 0.62)
_STEEL: Color = (0.63, 0.64, 0.66)
_DARK_STEEL: Color = (0.42, 0.43, 0.46)
_BRASS: Color = (0.74, 0.56, 0.27)
_DARK_BRASS: Color = (0.55, 0.40, 0.18)
_RED: Color = (0.66, 0.18, 0.14)


def builtin_part(name: str) -> Part:
    """One of `BUILTIN_PARTS` (object ids 1 to 4), with its exact symmetries declared.

    Raises:
        ValueError: for another name.
    """
    if name not in BUILTIN_PARTS:
        raise ValueError(f"there is no built-in part {name!r}; there are {', '.join(BUILTIN_PARTS)}")
    mesh, symmetries = {"bracket": _bracket, "nut": _nut, "bushing": _bushing, "disc": _disc}[name]()
    return Part.from_mesh(name, mesh, BUILTIN_PARTS.index(name) + 1, symmetries)


def _bracket() -> tuple[Mesh, Symmetries]:
    """An angle bracket, 64 x 36 x 46 mm: two plates, one rib off the middle, three unequal holes. No symmetry."""
    builder = SurfaceBuilder()
    length, width, height, wall = 64.0, 36.0, 46.0, 6.0
    cut_x, cut_y, slope_y, slope_z = 50.0, 24.0, 20.0, 28.0  # two corners are cut off
    rib_y0, rib_y1, rib_x, rib_z = 6.0, 10.5, 34.0, 34.0

    def at(points: np.ndarray, axis: int, value: float) -> np.ndarray:
        return np.insert(points, axis, value, axis=1)

    def hole(u: float, v: float, radius: float) -> np.ndarray:
        return circle(radius, 0.0, 32)[:, :2] + (u, v)

    # Outlines of the plates' outer and inner faces, counter-clockwise in (x, y) and in (y, z).
    floor_holes, back_holes = [hole(51.0, 12.5, 6.5), hole(41.0, 27.5, 3.5)], [hole(23.0, 24.0, 7.0)]
    floor = np.array([(0.0, 0.0), (length, 0.0), (length, cut_y), (cut_x, width), (0.0, width)])
    notch = np.array([(wall, width), (wall, rib_y1), (rib_x, rib_y1), (rib_x, rib_y0), (wall, rib_y0), (wall, 0.0)])
    top = np.concatenate((floor[1:4], notch))
    back = np.array([(0.0, 0.0), (width, 0.0), (width, slope_z), (slope_y, height), (0.0, height)])
    slot = np.array([(0.0, wall), (rib_y0, wall), (rib_y0, rib_z), (rib_y1, rib_z), (rib_y1, wall), (width, wall)])
    front = np.concatenate((back[2:], slot))
    for axis, outer, inner, loops in ((2, floor, top, floor_holes), (0, back, front, back_holes)):
        builder.polygon(at(outer, axis, 0.0)[::-1], _PAINT, [at(loop, axis, 0.0) for loop in loops])
        builder.polygon(at(inner, axis, wall), _PAINT, [at(loop, axis, wall)[::-1] for loop in loops])
        for loop in loops:
            builder.strip(at(loop, axis, wall), at(loop, axis, 0.0), _STEEL)

    # The edges of the L, its ends and cut corners, and the rib.
    near = np.array([(0.0, 0.0), (length, 0.0), (length, wall), (wall, wall), (wall, height), (0.0, height)])
    far = np.array([(0.0, 0.0), (cut_x, 0.0), (cut_x, wall), (wall, wall), (wall, slope_z), (0.0, slope_z)])
    rib = np.array([(wall, wall), (rib_x, wall), (wall, rib_z)])
    for outline, y in ((near, 0.0), (rib, rib_y0)):
        builder.polygon(at(outline, 1, y), _PAINT)
    for outline, y in ((far, width), (rib, rib_y1)):
        builder.polygon(at(outline, 1, y)[::-1], _PAINT)
    builder.strip(at(floor[1:4], 2, 0.0), at(floor[1:4], 2, wall), _PAINT, closed=False)
    builder.strip(at(back[2:], 0, 0.0), at(back[2:], 0, wall), _PAINT, closed=False)
    builder.strip(at(rib[1:], 1, rib_y1), at(rib[1:], 1, rib_y0), _PAINT, closed=False)
    return builder.mesh(), Symmetries()


def _nut() -> tuple[Mesh, Symmetries]:
    """A hexagon nut, 55 mm across flats, 24 mm high, both faces chamfered: group D6."""
    builder = SurfaceBuilder()
    count, half, flats, bore, washer = 96, 12.0, 27.5, 15.0, 26.5
    angles = 2 * np.pi * np.arange(count) / count
    reach = flats / np.cos((angles + np.pi / 6) % (np.pi / 3) - np.pi / 6)  # flats face 0, 60, ... degrees
    outline = np.stack((reach * np.cos(angles), reach * np.sin(angles), np.zeros(count)), axis=1)
    shoulder = outline + np.stack((0 * reach, 0 * reach, half - (reach - washer) * math.tan(math.pi / 6)), axis=1)
    builder.strip(outline, shoulder, _STEEL)
    builder.strip(shoulder, circle(washer, half, count), _STEEL)
    builder.strip(circle(washer, half, count), circle(bore + 1.8, half, count), _STEEL)
    builder.strip(circle(bore + 1.8, half, count), circle(bore, half - 1.8, count), _DARK_STEEL)
    builder.strip(circle(bore, half - 1.8, count), circle(bore, 0.0, count), _DARK_STEEL)
    # The lower half is the upper one turned over, so that even the triangles obey the symmetry.
    builder.copy_turned(np.diag((1.0, -1.0, -1.0)))
    turns = torch.tensor([[0.0, 0.0, math.pi / 3], [math.pi, 0.0, 0.0]], dtype=torch.float64)
    generators = make_transform(rotation_from_axis_angle(turns), torch.zeros(2, 3, dtype=torch.float64))
    return builder.mesh(), Symmetries.generated_by(generators)


def _bushing() -> tuple[Mesh, Symmetries]:
    """A flanged bushing, 60 mm flange, 42 mm high: continuous about z, and its two ends differ."""
    builder = SurfaceBuilder()
    count = 128
    outside = [(14.0, 0.0), (28.8, 0.0), (30.0, 1.2), (30.0, 6.0)]
    outside += [(19.0, 6.0), (19.0, 40.0), (17.0, 42.0), (14.0, 42.0)]
    bore = [(14.0, 42.0), (13.0, 41.0), (13.0, 1.0), (14.0, 0.0)]
    for profile, color in ((outside, _BRASS), (bore, _DARK_BRASS)):
        for lower, upper in zip(profile[:-1], profile[1:], strict=True):
            builder.strip(circle(*lower, count), circle(*upper, count), color)
    axis = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return builder.mesh(), Symmetries(continuous=(ContinuousSymmetry(axis),))


def _disc() -> tuple[Mesh, Symmetries]:
    """A disc, 76 mm, with a boss on one face and one notch in its rim: no symmetry, but nearly a continuous one."""
    builder = SurfaceBuilder()
    count, notch = 108, 3  # the notch is three steps of 3.33 degrees wide, 17.5 % of the radius
    radius, depth, boss, thick, high = 38.0, 6.8, 17.0, 9.0, 17.0
    # Step 0 starts at the notch; full loops inside of it, open paths around the rest of the rim.
    phase = -notch * math.pi / count
    floor, rim = radius - depth, np.r_[notch:count, 0]

    def ring(r: float, z: float) -> np.ndarray:
        return circle(r, z, count, phase)

    builder.strip(ring(floor, thick), ring(boss, thick), _RED)
    builder.strip(ring(radius, thick)[rim], ring(floor, thick)[rim], _RED, closed=False)
    builder.strip(ring(boss, thick), ring(boss, high - 1.5), _STEEL)
    builder.strip(ring(boss, high - 1.5), ring(boss - 1.5, high), _STEEL)
    builder.polygon(ring(boss - 1.5, high), _STEEL)
    builder.polygon(ring(floor, 0.0)[::-1], _DARK_STEEL)
    builder.strip(ring(floor, 0.0)[rim], ring(radius, 0.0)[rim], _DARK_STEEL, closed=False)
    builder.strip(ring(radius, 0.0)[rim], ring(radius, thick)[rim], _RED, closed=False)
    inner = np.arange(notch + 1)
    builder.strip(ring(floor, 0.0)[inner], ring(floor, thick)[inner], _STEEL, closed=False)
    for at, order in ((0, (radius, floor)), (notch, (floor, radius))):
        wall = [np.stack([ring(r, z)[at] for r in order]) for z in (0.0, thick)]
        builder.strip(wall[0], wall[1], _STEEL, closed=False)
    return builder.mesh(), Symmetries()

"""The table under a part: where it is, how the part and its neighbours stand on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import ConvexHull, KDTree, QhullError
from torch import Tensor

from cad2pose.data.draws import Draws
from cad2pose.geometry import make_transform, random_rotations
from cad2pose.parts.bounds import extreme_points, padded
from cad2pose.parts.mesh import Mesh

_OUTLINE = 200  # directions in which a thing's outermost points are known
_FLATTEST = math.sin(math.radians(8))  # a table seen more flatly than this hides behind its edge
_POSES = 24
_SAME_NORMAL = math.sqrt(2e-6)  # apart; some 0.08 degrees
_TILES = 4.0  # how often a texture is laid over the table


@dataclass(frozen=True)
class SupportConfig:
    """How often things stand on a table.

    Attributes:
        share: share of samples with a table under the part.
        stable_share: share of those in which the part rests on a face that it can stand on, where the pose allows it;
            in the others it touches the table as it happens to be turned.
        extent: smallest and largest half width of the table, in radii of the part.
        settled_share: share of the things beside the part that stand on its table.
    """

    share: float = 0.6
    stable_share: float = 0.8
    extent: tuple[float, float] = (2.0, 12.0)
    settled_share: float = 0.8

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name.endswith("share") and not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(f"{field.name} is {getattr(self, field.name):g}; it is a share between 0 and 1")
        if not 1 <= self.extent[0] <= self.extent[1]:
            raise ValueError(f"extent is {self.extent}; give smallest, largest in radii of the part, at least 1")

    @classmethod
    def off(cls) -> SupportConfig:
        """No table at all."""
        return cls(share=0.0)


@dataclass(frozen=True)
class Support:
    """A table in each scene; `present` says which have one, and what is said of the others has no meaning.

    Args:
        present: `(B,)`.
        up: `(B, 3)` its normal in the crop camera, towards the part.
        point: `(B, 3)` mm, on it, below the part's centre.
        half_width: `(B,)` mm.
        turn: `(B, 3, 3)` R_virt_table, whose third column is `up`.
    """

    present: Bool[Tensor, "batch"]
    up: Float[Tensor, "batch 3"]
    point: Float[Tensor, "batch 3"]
    half_width: Float[Tensor, "batch"]
    turn: Float[Tensor, "batch 3 3"]

    def transform(self) -> Float[Tensor, "batch 4 4"]:
        """T_virt_table of `table_mesh`, scaled to its size."""
        return table_transform(self.turn, self.point, self.half_width)


def table_mesh() -> Mesh:
    """A square across z; its texture is as fine as its size in radii."""
    corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]).double() * _TILES
    return Mesh.from_arrays(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))


def table_transform(
    turn: Float[Tensor, "*batch 3 3"], point: Float[Tensor, "*batch 3"], half_width: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 4 4"]:
    """Transform of `table_mesh` that turns it, puts its middle at a point and makes it that large (mm)."""
    return make_transform(turn * (half_width / _TILES)[..., None, None], point)


def resting_directions(mesh: Mesh) -> Float[Tensor, "k 3"]:
    """The directions, in a mesh's frame, that point up when it stands on one of its faces; none for a flat mesh.

    A part stands on a face of its convex hull if its centre of gravity lies above that face. The hull's own centre
    serves as the part's: CAD meshes are often open, and have no volume. Large faces come first.
    """
    points = mesh.used_vertices.double().numpy()
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):
        return torch.zeros(0, 3, dtype=torch.float64)
    corners = points[hull.simplices]
    inside = points[hull.vertices].mean(axis=0)
    normal, offset = hull.equations[:, :3], hull.equations[:, 3]
    area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    height = -(normal @ inside + offset)
    volume = area * height / 3
    center = ((corners.mean(axis=1) * 3 + inside) / 4 * volume[:, None]).sum(axis=0) / volume.sum()
    foot = center - normal * (normal @ center + offset)[:, None]
    stands = _inside_triangle(foot, corners, tolerance=1e-6 * float(np.ptp(points)))
    faces: list[tuple[float, np.ndarray]] = []
    by_normal, known = KDTree(normal), np.zeros(len(normal), dtype=bool)
    for row in np.flatnonzero(stands):
        if not known[row]:
            alike = np.sort(by_normal.query_ball_point(normal[row], _SAME_NORMAL))
            known[alike] = True
            together = alike[np.abs(offset[alike] - offset[row]) < 1e-6 * float(np.ptp(points))]
            faces.append((float(area[together].sum()), normal[row]))
    faces.sort(key=lambda face: -face[0])
    return torch.from_numpy(-np.array([face for _, face in faces[:_POSES]]).reshape(-1, 3))


def _inside_triangle(points: np.ndarray, corners: np.ndarray, tolerance: float) -> np.ndarray:
    """Whether each point, in the plane of its triangle, lies in it."""
    inside = np.ones(len(points), dtype=bool)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    for first, second in ((0, 1), (1, 2), (2, 0)):
        edge = corners[:, second] - corners[:, first]
        side = np.einsum("ij,ij->i", np.cross(edge, points - corners[:, first]), normal)
        inside &= side >= -tolerance * np.linalg.norm(edge, axis=1) * np.linalg.norm(normal, axis=1)
    return inside


class Outlines:
    """The outermost points and resting directions of meshes, padded to the same number.

    Args:
        meshes: of things.
        center: `(P, 3)` points that the outlines are about, mm.
        resting: work out where they can stand.
    """

    def __init__(self, meshes: Sequence[Mesh], center: Float[Tensor, "p 3"], resting: bool = True) -> None:
        outlines = [extreme_points(m.used_vertices, _OUTLINE) - c for m, c in zip(meshes, center, strict=True)]
        self.points = padded(outlines)
        found = [resting_directions(m) if resting else torch.zeros(0, 3, dtype=torch.float64) for m in meshes]
        most = max(1, *map(len, found))
        self.resting = torch.stack([torch.cat((f, f.new_zeros(most - len(f), 3))) for f in found])

    def depth_below(self, index: Int[Tensor, "*n"], up: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
        """How far meshes reach down from their centres, if `up`, in their own frames, is up; 0 for index -1."""
        reach = -(self.points[index.clamp_min(0)] @ up[..., None])[..., 0].amin(-1)
        return torch.where(index >= 0, reach, 0)


def place_support(
    config: SupportConfig,
    draws: Draws,
    outlines: Outlines,
    part_index: Int[Tensor, "batch"],
    T_virt_obj: Float[Tensor, "batch 4 4"],
    middle: Float[Tensor, "batch 3"],
    radius: Float[Tensor, "batch"],
) -> Support:
    """A table for each part, which the camera sees from above.

    Args:
        config: how often, how large.
        draws: random numbers.
        outlines: of the parts, about their centres.
        part_index: `(B,)`.
        T_virt_obj: `(B, 4, 4)` float64, mm.
        middle: `(B, 3)` the parts' centres in the crop cameras, mm.
        radius: `(B,)` of the parts, mm.
    """
    count = len(part_index)
    R = T_virt_obj[:, :3, :3]
    view = -torch.nn.functional.normalize(middle, dim=-1)
    resting = (R[:, None] @ outlines.resting[part_index][..., None])[..., 0]
    usable = (resting * view[:, None]).sum(-1) > _FLATTEST
    odds = torch.where(usable, 1 / (1 + torch.arange(usable.shape[1], dtype=torch.float64)), 0)
    stable = usable.any(1) & draws.chance(config.stable_share, count)
    odds = torch.where(stable[:, None], odds, 1.0)
    chosen = torch.multinomial(odds, 1, generator=draws.host)[:, 0]
    standing = resting[torch.arange(count), chosen]
    up = torch.where(stable[:, None], standing, _anyhow(draws, view))
    up = torch.nn.functional.normalize(up, dim=-1)
    drop = outlines.depth_below(part_index, (R.transpose(1, 2) @ up[..., None])[..., 0])
    point = middle - up * drop[:, None]
    turn = _frame(up, draws)
    # its farthest corner stays before the camera, as triangles that reach behind it are not drawn
    steep = (1 - up[:, 2].square()).clamp_min(1e-6).sqrt()
    wanted = draws.log_uniform(*config.extent, count).double() * radius
    half_width = torch.minimum(wanted, 0.8 * point[:, 2] / (math.sqrt(2) * steep))
    present = draws.chance(config.share, count) & (half_width > radius)
    return Support(present, up, point, half_width, turn)


def settle(
    support: Support,
    draws: Draws,
    config: SupportConfig,
    outlines: Outlines,
    mesh_index: Int[Tensor, "batch m"],
    T_virt_obj: Float[Tensor, "batch m 4 4"],
    radius: Float[Tensor, "batch"],
) -> Float[Tensor, "batch m 4 4"]:
    """Stand things on the table around the part, some of them; the others stay where they were.

    Args:
        support: the tables.
        draws: random numbers.
        config: how many of them.
        outlines: of the things' meshes, which have radius 1.
        mesh_index: `(B, m)` which mesh each of them is, -1 for none.
        T_virt_obj: `(B, m, 4, 4)` where they are; rotations times sizes.
        radius: `(B,)` of the part, mm.
    """
    count, slots = mesh_index.shape
    chosen = support.present[:, None] & draws.chance(config.settled_share, count, slots)
    size = radius[:, None] * draws.log_uniform(0.3, 1.3, count, slots)
    rotation = random_rotations(count * slots, draws.host, torch.float64).view(count, slots, 3, 3)
    directions = outlines.resting[mesh_index.clamp_min(0)]
    which = draws.integers(directions.shape[2], count, slots) % (directions.abs().sum(-1) > 0).sum(-1).clamp_min(1)
    stands = directions.gather(2, which[..., None, None].expand(-1, -1, 1, 3))[:, :, 0]
    upright = stands.abs().sum(-1) > 0
    up = support.up[:, None].expand(-1, slots, -1)
    # turn each thing so that its resting direction is up, then about that by a random angle
    rotation = torch.where(upright[..., None, None], aligned(rotation, stands, up), rotation)
    drop = outlines.depth_below(mesh_index, (rotation.transpose(-1, -2) @ up[..., None])[..., 0]) * size
    angle = draws.uniform(0.0, 2 * math.pi, count, slots).double()
    away = (radius[:, None] + size) * draws.uniform(0.55, 1.5, count, slots)
    along = torch.stack((angle.cos() * away, angle.sin() * away), dim=-1)
    place = support.point[:, None] + (support.turn[:, None, :, :2] @ along[..., None])[..., 0] + up * drop[..., None]
    seen = place[..., 2] > 0.2 * support.point[:, None, 2]
    standing = make_transform(rotation * size[..., None, None], place)
    return torch.where((chosen & seen)[..., None, None], standing, T_virt_obj)


def _anyhow(draws: Draws, view: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3"]:
    """Normals of tables seen at 10 to 80 degrees."""
    count = len(view)
    elevation = draws.uniform(math.radians(10), math.radians(80), count).double()[:, None]
    aside = torch.linalg.cross(view, draws.normal(count, 3).double())
    return view * elevation.sin() + torch.nn.functional.normalize(aside, dim=-1) * elevation.cos()


def _frame(up: Float[Tensor, "batch 3"], draws: Draws) -> Float[Tensor, "batch 3 3"]:
    """Rotations whose third column is `up`, turned about it at random."""
    x = torch.nn.functional.normalize(torch.linalg.cross(up, draws.normal(len(up), 3).double()), dim=-1)
    return torch.stack((x, torch.linalg.cross(up, x), up), dim=-1)


def aligned(
    rotation: Float[Tensor, "*n 3 3"], source: Float[Tensor, "*n 3"], target: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n 3 3"]:
    """Random rotations that take unit vectors to others: two frames put together, their sides from `rotation`."""

    def frame(axis: Tensor, aside: Tensor) -> Tensor:
        x = torch.nn.functional.normalize(torch.linalg.cross(axis, aside), dim=-1)
        return torch.stack((x, torch.linalg.cross(axis, x), axis), dim=-1)

    one, other = frame(source, rotation[..., 0]), frame(target, rotation[..., 1])
    return other @ one.transpose(-1, -2)

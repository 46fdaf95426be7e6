"""The surface of a part that can be seen, and how far points lie from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from cad2pose.parts.diagnosis import diagnose
from cad2pose.parts.distance_field import DistanceField
from cad2pose.parts.part import Part
from cad2pose.parts.surface import farthest_points, sample_by_area
from cad2pose.parts.triangle_distance import distance_to_triangles
from cad2pose.parts.visibility import count_views, seen_sides, sphere_directions

_DIRECTIONS = 96
_HIDING = 60_000  # points that may hide others
_LEAST_SHARE = 0.02  # of the drawn points that have to be seen
_CORNER = 0.98  # corner probes lie that far from their triangle's middle towards its corner
_FACING = 0.05  # cosine above which two pieces of surface face the same way
_FEW, _MANY = 4, 32
_SIDES = 32  # into which the samples are sorted by where they face
_TWICE = 2.0
_COLOURS = 16  # samples about a place among which its colour is looked for
_EVEN = 512


Effort = Literal["near", "quick", "careful"]


@dataclass(frozen=True, eq=False)
class SeenSurface:
    """Dense samples of what can be seen of a part, made by `see_surface`.

    Args:
        part: whose surface it is.
        points: `(N, 3)` mm.
        normals: `(N, 3)` of the triangles they lie on, towards where they are seen from.
        corners: `(N, 3, 3)` of these triangles, mm.
        colors: `(N, 3)` RGB, or None.
        probes: `(M,)` indices of points for judging motions: corners of triangles and points spread evenly.
        even: `(E,)` indices of points spread most evenly.
        reach: `(N,)` distance from each point to the farthest corner of its triangle, mm, for one point of each
            triangle (and side); 0 for the others.
        tree: of the points.
        sides: `(D, 3)` directions.
        field: coarse distances from the points.
        side_trees: for each, a tree of the points that face that way (None without any), and their indices.
    """

    part: Part
    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    corners: Float[Tensor, "n 3 3"]
    colors: Float[Tensor, "n 3"] | None
    probes: Int[Tensor, "m"]
    even: Int[Tensor, "e"]
    reach: Float[Tensor, "n"]
    tree: KDTree
    field: DistanceField
    sides: Float[Tensor, "d 3"]
    side_trees: tuple[tuple[KDTree | None, Int[Tensor, "_"]], ...]

    def distance(
        self, places: Float[Tensor, "k 3"], normals: Float[Tensor, "k 3"], effort: Effort = "quick"
    ) -> tuple[Float[Tensor, "k"], Int[Tensor, "k"]]:
        """Distances in mm to the surface that faces the same way, and the samples on the triangles that are nearest.

        Facing the same way is being at less than 87 degrees: the other side of a thin wall is another surface, and
        the floor of a notch is not replaced by the faces that the notch cuts. But where such a surface is more than
        twice as far as the nearest of all, the nearest of all counts: a hole is as large as it is deep, however far the
        next wall is that faces like its own. Distances are those of the triangles of the nearest samples.

        Args:
            places: mm.
            normals: of the surface that is looked for there.
            effort: `careful` looks at many samples, so that the true nearest triangle is hardly ever missed; `quick` at
                few, and is wrong by up to the distance of samples; `near` does not look behind surfaces of another
                side.
        """
        count = _MANY if effort == "careful" else _FEW
        index = _query(self.tree, places, count)
        all_sides = distance_to_triangles(places[:, None], self.corners[index])
        facing = torch.einsum("kd,kcd->kc", normals, self.normals[index]) > _FACING
        same_side, column = torch.where(facing, all_sides, torch.inf).min(1)
        nearest = index.gather(1, column[:, None])[:, 0]
        any_side, column = all_sides.min(1)
        nearest_of_all = index.gather(1, column[:, None])[:, 0]
        left = same_side.isinf().nonzero()[:, 0] if effort != "near" else nearest[:0]
        side = (normals[left] @ self.sides.T).argmax(1)
        for row, (tree, members) in enumerate(self.side_trees):
            which = left[side == row]
            if len(which) == 0 or tree is None:
                continue
            index = members[_query(tree, places[which], _MANY)]
            distance = distance_to_triangles(places[which, None], self.corners[index])
            facing = torch.einsum("kd,kcd->kc", normals[which], self.normals[index]) > _FACING
            same_side[which], column = torch.where(facing, distance, torch.inf).min(1)
            nearest[which] = index.gather(1, column[:, None])[:, 0]
        counts = same_side <= _TWICE * any_side
        return torch.where(counts, same_side, any_side), torch.where(counts, nearest, nearest_of_all)

    def colour_difference(self, places: Float[Tensor, "k 3"], colors: Float[Tensor, "k 3"]) -> Float[Tensor, "k"]:
        """Of each colour from the most similar one about its place: the largest of its channels, from 0 to 1.

        Looking at some samples lets edges between colours lie a little off.

        Raises:
            ValueError: if the surface has no colours.
        """
        if self.colors is None:
            raise ValueError("the surface was sampled without colours")
        index = _query(self.tree, places, _COLOURS)
        return (self.colors[index] - colors[:, None]).abs().amax(-1).amin(1)

    def exact_distance(self, places: Float[Tensor, "k 3"], normals: Float[Tensor, "k 3"]) -> Float[Tensor, "k"]:
        """As `distance`, from all triangles that are seen."""
        once = (self.reach > 0).nonzero()[:, 0]
        gap = torch.cdist(places, self.points[once])
        row, column = (gap - self.reach[once] <= _TWICE * gap.amin(1, keepdim=True)).nonzero(as_tuple=True)
        distance = distance_to_triangles(places[row], self.corners[once[column]])
        endless = torch.full((len(places),), torch.inf, dtype=torch.float64)
        facing = (normals[row] * self.normals[once[column]]).sum(1) > _FACING
        same_side = endless.scatter_reduce(0, row[facing], distance[facing], "amin")
        any_side = endless.scatter_reduce(0, row, distance, "amin")
        return torch.where(same_side <= _TWICE * any_side, same_side, any_side)


def see_surface(
    part: Part, count: int = 20_000, probes: int = 4000, colour: bool = False, seed: int = 0
) -> SeenSurface:
    """Sample what can be seen of a part.

    Inner surfaces are dropped; a sheet that is seen from both sides is there twice, once facing each way.

    Args:
        part: to be sampled.
        count: points drawn.
        probes: points for judging motions; half of them at corners of triangles, where polygons deviate most.
        colour: keep colours, too.
        seed: the same seed gives the same samples.

    Raises:
        ValueError: if hardly any of the surface can be seen from outside; for colour where the mesh has none.
    """
    if colour and part.mesh.colors is None:
        raise ValueError(f"part {part.name} has no vertex colours that symmetries could be judged by; leave out colour")
    generator = torch.Generator().manual_seed(seed)
    points, flat, faces = _draw(part, count, probes // 2, 2 * count, generator)
    corners = part.mesh.vertices[part.mesh.faces[faces]]
    hiding = part.normalize(sample_by_area(part.mesh, _HIDING, generator).points)
    front, back = count_views(part.normalize(points), flat, hiding, sphere_directions(_DIRECTIONS))
    outward, inward = seen_sides(front, back, diagnose(part.mesh), _DIRECTIONS)
    kept = torch.cat((outward.nonzero()[:, 0], inward.nonzero()[:, 0]))
    if len(kept) < _LEAST_SHARE * count:
        raise ValueError(f"part {part.name}: hardly any of its surface can be seen from outside; check the mesh")
    side = torch.ones(len(kept), 1, dtype=torch.float64)
    side[int(outward.sum()) :] = -1
    points, normals, corners = points[kept], flat[kept] * side, corners[kept]
    tree = KDTree(points.numpy())
    by_area = torch.arange(len(front)) < count
    spread = by_area[kept].nonzero()[:, 0]
    spread = spread[torch.randperm(len(spread), generator=generator)[: 2 * probes]]
    even = spread[farthest_points(points[spread], min(probes // 2, len(spread)))]
    colors = None
    if colour and part.mesh.colors is not None:
        of_corners = part.mesh.colors[part.mesh.faces[faces[kept]]].double()
        colors = _interpolated(of_corners, points, corners)
    at_corner = ((kept >= count) & (kept < count + probes // 2)).nonzero()[:, 0]
    field = DistanceField.of_points(points, part.center, part.radius)
    sides = sphere_directions(_SIDES)
    members = [(normals @ side > _FACING).nonzero()[:, 0] for side in sides]
    side_trees = tuple((KDTree(points[index].numpy()) if len(index) else None, index) for index in members)
    probing = torch.cat((even, at_corner))
    return SeenSurface(
        part, points, normals, corners, colors, probing, even[:_EVEN],
        _reach(points, corners, 2 * faces[kept] + (side[:, 0] > 0)), tree, field, sides, side_trees,
    )  # fmt: skip


def _query(tree: KDTree, places: Float[Tensor, "k 3"], count: int) -> Int[Tensor, "k c"]:
    index = tree.query(places.numpy(), k=min(count, tree.n))[1]
    return torch.from_numpy(index).view(len(places), -1)


def _reach(points: Float[Tensor, "n 3"], corners: Float[Tensor, "n 3 3"], name: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """How far the triangle of each point reaches from it; 0 but for one point of all that share a name."""
    index = torch.arange(len(name)).flip(0)
    names, place = name.flip(0).unique(return_inverse=True)
    first = torch.empty(len(names), dtype=torch.long).scatter_(0, place, index)
    reach = torch.zeros(len(points), dtype=torch.float64)
    reach[first] = torch.linalg.vector_norm(corners[first] - points[first, None], dim=-1).amax(1)
    return reach


def _draw(
    part: Part, count: int, at_corners: int, most_middles: int, generator: torch.Generator
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"], Int[Tensor, "n"]]:
    """Points by area, after them some near corners of triangles, and the middles of triangles that got none.

    With the triangles' normals, on the side of the vertex normals, and their indices.
    """
    mesh = part.mesh
    drawn = sample_by_area(mesh, count, generator)
    chosen = torch.randperm(count, generator=generator)[:at_corners]
    near = drawn.faces[chosen]
    tips = mesh.vertices[mesh.faces[near, torch.randint(3, (len(near),), generator=generator)]]
    area = mesh.face_areas
    area[drawn.faces] = 0
    missed = area.topk(min(most_middles, len(area)))[1]
    missed = missed[area[missed] > 0]
    middle = mesh.vertices[mesh.faces[torch.cat((near, missed))]].mean(1)
    points = torch.cat((drawn.points, _CORNER * tips + (1 - _CORNER) * middle[: len(near)], middle[len(near) :]))
    faces = torch.cat((drawn.faces, near, missed))
    flat = mesh.face_normals[faces]
    upward = (flat[:, None] * mesh.normals[mesh.faces[faces]]).sum((1, 2)) >= 0
    return points, torch.where(upward[:, None], flat, -flat), faces


def _interpolated(
    colors: Float[Tensor, "n 3 3"], points: Float[Tensor, "n 3"], corners: Float[Tensor, "n 3 3"]
) -> Float[Tensor, "n 3"]:
    """Colours at points of triangles, from those of their corners."""
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    square = normal.square().sum(-1).clamp_min(1e-300)
    second = (torch.linalg.cross(points - a, c - a) * normal).sum(-1) / square
    third = (torch.linalg.cross(b - a, points - a) * normal).sum(-1) / square
    weights = torch.stack((1 - second - third, second, third), dim=-1)
    return (weights[..., None] * colors).sum(1)

"""The surface of a part as solvers see it: samples that can be seen, how much of it each stands for, and from where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from torch import Tensor

from cad2pose.parts import Part
from cad2pose.parts.diagnosis import diagnose
from cad2pose.parts.surface import farthest_points, sample_by_area
from cad2pose.parts.visibility import count_views, seen_sides, sphere_directions, visibility

_HIDING = 40_000  # points entered in the visibility test's depth buffer
_DIRECTIONS = 642
EVEN_POINTS = (2048, 1024, 512, 256)
_MOST_ROUNDS = 6


@dataclass(frozen=True, eq=False)
class Surface:
    """Samples of one part's surface, about the bounding sphere's centre and in units of its radius.

    Args:
        points: `(m, 3)` even over the area that can be seen from outside; the first s are spread most evenly.
        normals: `(m, 3)` of the triangles they lie on, outward.
        areas: for s = 2048, 1024, ... the area `(s,)` that each of the first s points stands for, in square radii.
        directions: `(D, 3)` unit vectors from the centre towards viewpoints all around.
        visible: `(D, 2048)` which of the first points nothing hides, seen from there (facing away is no hiding) and
            from far away: at three radii or nearer a part with holes hides more of itself than that, up to a third.
        slenderness: the radius of the sphere over the second of the part's three extents, at least 1.
    """

    points: Float[Tensor, "m 3"]
    normals: Float[Tensor, "m 3"]
    areas: Mapping[int, Float[Tensor, "_"]]
    directions: Float[Tensor, "d 3"]
    visible: Bool[Tensor, "d s"]
    slenderness: float = 1.0

    @classmethod
    def of_part(cls, part: Part, count: int = 50_000, seed: int = 0) -> Surface:
        """Sample a part: `count` points by area where the surface can be seen, the first ones spread evenly.

        Inner surfaces (a cavity, the far side of a sheet's fold) are dropped: no query image can show them. Of a mesh
        that is inside out the other side is taken, of open sheets both where both can be seen.

        Raises:
            ValueError: if hardly a point of the mesh can be seen from outside, or for a count below 6144.
        """
        even = EVEN_POINTS[0]
        if count < 3 * even:
            raise ValueError(f"count is {count}; solvers need at least {3 * even} surface points")
        generator = torch.Generator().manual_seed(seed)
        directions = sphere_directions(_DIRECTIONS)
        hiding, _ = _draw(part, _HIDING, generator)
        diagnosis = diagnose(part.mesh)
        points, normals = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64)
        drawn = 0
        for _ in range(_MOST_ROUNDS):
            drawn_points, drawn_normals = _draw(part, max(2 * even, count - len(points)), generator)
            views = count_views(drawn_points, drawn_normals, hiding, directions[::8])
            outward, inward = seen_sides(*views, diagnosis, len(directions[::8]))
            drawn += len(outward)
            sides = torch.cat((drawn_points[outward], drawn_points[inward]))
            facing = torch.cat((drawn_normals[outward], -drawn_normals[inward]))
            if bool(inward.any()):  # some are left out in the end, of either side as many
                mixed = torch.randperm(len(sides), generator=generator)
                sides, facing = sides[mixed], facing[mixed]
            points, normals = torch.cat((points, sides)), torch.cat((normals, facing))
            if len(points) >= count:
                break
        if len(points) < even:
            raise ValueError(f"part {part.name}: hardly any of its surface can be seen from outside; check its normals")
        total = float(part.mesh.face_areas.sum()) / part.radius**2 * len(points) / drawn
        first = farthest_points(points[: 6 * even], even)
        rest = torch.ones(len(points), dtype=torch.bool)
        rest[first] = False
        order = torch.cat((first, rest.nonzero()[:, 0]))[:count]
        points, normals = points[order], normals[order]
        areas = {size: _shares(points, size).float() * total for size in EVEN_POINTS}
        visible = visibility(points[:even], normals[:even], hiding, directions)
        return cls(points.float(), normals.float(), areas, directions.float(), visible, _slenderness(points[:even]))

    def shown(
        self, rotation: Float[Tensor, "n 3 3"], position: Float[Tensor, "n 3"], count: int
    ) -> Bool[Tensor, "n {count}"]:
        """Which of the first points nothing hides in each of N poses, as seen from the nearest known viewpoint."""
        viewpoint = -(rotation.transpose(1, 2) @ position[..., None])[..., 0]
        return self.visible[(viewpoint @ self.directions.T).argmax(1), :count]

    def area(self, count: int) -> Float[Tensor, "{count}"]:
        """What each of the first `count` points stands for, in square radii.

        Raises:
            ValueError: for another number than those of `areas`.
        """
        if count not in self.areas:
            raise ValueError(f"points is {count}; it must be one of {', '.join(map(str, self.areas))}")
        return self.areas[count]

    @property
    def seen_area(self) -> float:
        """Of all that can be seen, in square radii; sheets count twice where both sides can."""
        return float(self.area(EVEN_POINTS[0]).sum())

    def share_shown(
        self, rotation: Float[Tensor, "n 3 3"], position: Float[Tensor, "n 3"], count: int
    ) -> Float[Tensor, "n {count}"]:
        """As `shown`, in between the three nearest viewpoints, so that it changes smoothly from one to the next."""
        viewpoint = -(rotation.transpose(1, 2) @ position[..., None])[..., 0]
        along, index = (torch.nn.functional.normalize(viewpoint, dim=1) @ self.directions.T).topk(4, dim=1)
        weight = along[:, :3] - along[:, 3:]
        weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-9)
        share = weight[:, :1] * self.visible[index[:, 0], :count]
        for other in (1, 2):
            share = share + weight[:, other, None] * self.visible[index[:, other], :count]
        return share

    def to(self, device: torch.device | str) -> Surface:
        """The same samples on another device."""
        areas = {size: area.to(device) for size, area in self.areas.items()}
        points, normals, directions, visible = (
            tensor.to(device) for tensor in (self.points, self.normals, self.directions, self.visible)
        )
        return Surface(points, normals, areas, directions, visible, self.slenderness)


def _slenderness(points: Float[Tensor, "m 3"]) -> float:
    along = (points - points.mean(0)) @ torch.linalg.svd(points - points.mean(0), full_matrices=False)[2].T
    return max(1.0, 1.0 / max(float((along.amax(0) - along.amin(0))[1]), 1e-3))


def _shares(points: Float[Tensor, "m 3"], size: int) -> Float[Tensor, "{size}"]:
    """The share of all points that lies nearest to each of the first `size`."""
    owner = torch.from_numpy(KDTree(points[:size].numpy()).query(points.numpy())[1])
    return torch.bincount(owner, minlength=size).double() / len(points)


def _draw(part: Part, count: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Points by area with the normals of their triangles, on the side of the vertex normals."""
    samples = sample_by_area(part.mesh, count, generator)
    flat = part.mesh.face_normals[samples.faces]
    flat = torch.where((flat * samples.normals).sum(1, keepdim=True) < 0, -flat, flat)
    return part.normalize(samples.points), flat

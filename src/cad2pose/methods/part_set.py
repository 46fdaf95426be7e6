"""The parts a method serves, as tensors on its device."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cad2pose.parts import Part, sample_surface
from cad2pose.parts.diagnosis import outward_normals
from cad2pose.parts.surface import sample_by_area, triangle_weights
from cad2pose.parts.symmetry_choice import nearest_turn

SURFACE_POINTS = 8192
SPARSE_POINTS = 256


class PartSet(nn.Module):
    """Centres, radii, symmetries and surface points of P parts, indexed by `part_index`.

    Everything is rebuilt from the parts, so nothing of it is in the state dict.

    Attributes:
        symmetries: of the parts, exact.

    Buffers:
        centre `(P, 3)` mm and radius `(P,)` mm of the bounding spheres;
        surface `(P, 8192, 3)` normalised surface points, area-uniform;
        triangles `(P, F, 3, 3)` normalised corners, padded, and area_steps `(P, F)`, the share of the area up to each;
        sparse `(P, 256, 3)` and sparse_normals: points spread evenly, with the outward normals of their triangles;
        symmetry `(P, K, 3, 3)` rotations of the symmetry group, in steps about an axis, padded with the identity, and
        axis `(P, 3)`, the first about which any turn is one, 0 where there is none.
    """

    centre: Tensor
    radius: Tensor
    surface: Tensor
    triangles: Tensor
    area_steps: Tensor
    sparse: Tensor
    sparse_normals: Tensor
    symmetry: Tensor
    axis: Tensor

    def __init__(self, parts: Sequence[Part], symmetry_steps: int) -> None:
        super().__init__()
        if not parts:
            raise ValueError("no parts were given; a method needs at least one")
        self.symmetries = tuple(part.symmetries for part in parts)
        groups = [part.symmetries.rotation_group(symmetry_steps) for part in parts]
        most = max(len(group) for group in groups)
        symmetry = torch.eye(3, dtype=torch.float64).repeat(len(parts), most, 1, 1)
        surface, sparse, normals = [], [], []
        for row, (part, group) in enumerate(zip(parts, groups, strict=True)):
            symmetry[row, : len(group)] = group
            dense = sample_by_area(part.mesh, SURFACE_POINTS, torch.Generator().manual_seed(0))
            even = sample_surface(part.mesh, SPARSE_POINTS, seed=0)
            surface.append((dense.points - part.center) / part.radius)
            sparse.append((even.points - part.center) / part.radius)
            normals.append(outward_normals(part.mesh)[even.faces])
        self._keep("centre", torch.stack([part.center for part in parts]))
        self._keep("radius", torch.tensor([part.radius for part in parts]))
        self._keep("surface", torch.stack(surface))
        largest = max(len(part.mesh.faces) for part in parts)
        triangles = torch.zeros(len(parts), largest, 3, 3, dtype=torch.float64)
        steps = torch.ones(len(parts), largest, dtype=torch.float64)
        for row, part in enumerate(parts):
            triangles[row, : len(part.mesh.faces)] = part.normalize(part.mesh.vertices)[part.mesh.faces]
            areas = part.mesh.face_areas.cumsum(0)
            steps[row, : len(areas)] = areas / areas[-1]
        self._keep("triangles", triangles)
        self._keep("area_steps", steps)
        self._keep("sparse", torch.stack(sparse))
        self._keep("sparse_normals", torch.stack(normals))
        self._keep("symmetry", symmetry)
        none = torch.zeros(3, dtype=torch.float64)
        turns = [part.symmetries.continuous for part in parts]
        self._keep("axis", torch.stack([axes[0].direction if axes else none for axes in turns]))

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor.float(), persistent=False)

    def subset(self, rows: Sequence[int]) -> PartSet:
        """Some of the parts, in this order."""
        chosen = copy.deepcopy(self)
        chosen.symmetries = tuple(self.symmetries[row] for row in rows)
        for name, buffer in self.named_buffers():
            setattr(chosen, name, buffer[list(rows)])
        return chosen

    def __len__(self) -> int:
        return len(self.radius)

    def random_surface(self, count: int, generator: torch.Generator | None) -> Float[Tensor, "parts {count} 3"]:
        """`count` points per part, uniform over the area, new ones at every call.

        They must be new: key networks learn a fixed set by heart, push down the keys of exactly those points, and say
        nothing of the surface between them.
        """
        device = self.triangles.device
        draw, *within = torch.rand(3, len(self), count, generator=generator, device=device)
        face = torch.searchsorted(self.area_steps, draw, right=True).clamp_max(self.triangles.shape[1] - 1)
        corners = self.triangles[torch.arange(len(self), device=device)[:, None], face]
        return (triangle_weights(*within)[..., None] * corners).sum(2)

    def nearest_symmetric(
        self,
        predicted: Float[Tensor, "batch 3 3"],
        truth: Float[Tensor, "batch 3 3"],
        part_index: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch 3 3"]:
        """Of all truths R S, S in the part's symmetry group, the one with the smallest angle to the prediction.

        Of the steps about an axis the nearest is found first, and then turned on to the very nearest.
        """
        predicted = predicted.detach()
        candidates = truth[:, None] @ self.symmetry[part_index]
        closeness = torch.einsum("bij,bkij->bk", predicted, candidates)
        best = closeness.argmax(1)
        nearest = candidates[torch.arange(len(best), device=best.device), best]
        return nearest @ nearest_turn(predicted.mT @ nearest, self.axis[part_index].to(nearest))

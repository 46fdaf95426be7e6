"""The parts a method serves, as tensors on its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cad2pose.parts import Part, sample_surface
from cad2pose.parts.surface import sample_by_area

SURFACE_POINTS = 8192
SPARSE_POINTS = 256


class PartSet(nn.Module):
    """Centres, radii, symmetries and surface points of P parts, indexed by `part_index`.

    Everything is rebuilt from the parts, so nothing of it is in the state dict.

    Buffers:
        centre `(P, 3)` mm and radius `(P,)` mm of the bounding spheres;
        surface `(P, 8192, 3)` normalised surface points, area-uniform;
        sparse `(P, 256, 3)` and sparse_normals: points spread evenly, with their normals;
        symmetry `(P, K, 3, 3)` rotations of the symmetry group, padded with the identity.
    """

    centre: Tensor
    radius: Tensor
    surface: Tensor
    sparse: Tensor
    sparse_normals: Tensor
    symmetry: Tensor

    def __init__(self, parts: Sequence[Part], symmetry_steps: int) -> None:
        super().__init__()
        if not parts:
            raise ValueError("no parts were given; a method needs at least one")
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
            normals.append(even.normals)
        self._keep("centre", torch.stack([part.center for part in parts]))
        self._keep("radius", torch.tensor([part.radius for part in parts]))
        self._keep("surface", torch.stack(surface))
        self._keep("sparse", torch.stack(sparse))
        self._keep("sparse_normals", torch.stack(normals))
        self._keep("symmetry", symmetry)

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor.float(), persistent=False)

    def __len__(self) -> int:
        return len(self.radius)

    def random_surface(self, count: int, generator: torch.Generator | None) -> Float[Tensor, "parts {count} 3"]:
        """`count` surface points per part, drawn with replacement."""
        parts, total = self.surface.shape[:2]
        rows = torch.randint(total, (parts, count), generator=generator, device=self.surface.device)
        return self.surface.gather(1, rows[..., None].expand(-1, -1, 3))

    def nearest_symmetric(
        self,
        predicted: Float[Tensor, "batch 3 3"],
        truth: Float[Tensor, "batch 3 3"],
        part_index: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch 3 3"]:
        """Of all truths R S, S in the part's symmetry group, the one with the smallest angle to the prediction."""
        candidates = truth[:, None] @ self.symmetry[part_index]
        closeness = torch.einsum("bij,bkij->bk", predicted.detach(), candidates)
        best = closeness.argmax(1)
        return candidates[torch.arange(len(best), device=best.device), best]

"""Several meshes packed into one set of tensors, ready to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.parts.mesh import Mesh

_GRAY = 0.6


@dataclass(frozen=True)
class MeshSet:
    """Triangle meshes, one behind the other.

    Mesh p owns `vertices[vertex_start[p] : vertex_start[p + 1]]` and likewise its faces. The two offsets stay on the
    CPU whatever the device: they decide shapes, and reading them must not wait for an accelerator.

    Args:
        vertices: `(V, 3)` float32, mm, in each mesh's own frame.
        faces: `(F, 3)` int32 indices into the packed vertices.
        normals: `(V, 3)` float32 unit vertex normals.
        colors: `(V, 3)` float32 in [0, 1].
        vertex_start: `(P + 1,)` int64, CPU.
        face_start: `(P + 1,)` int64, CPU.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    normals: Float[Tensor, "v 3"]
    colors: Float[Tensor, "v 3"]
    vertex_start: Int[Tensor, "p1"]
    face_start: Int[Tensor, "p1"]

    @classmethod
    def from_meshes(cls, meshes: Sequence[Mesh]) -> MeshSet:
        """Pack meshes in the order given; one without colours becomes gray.

        Raises:
            ValueError: if there are none.
        """
        if not meshes:
            raise ValueError("a mesh set needs at least one mesh, and none were given")
        vertex_start = list(accumulate((len(mesh.vertices) for mesh in meshes), initial=0))
        face_start = list(accumulate((len(mesh.faces) for mesh in meshes), initial=0))
        colors = [torch.full_like(m.vertices, _GRAY) if m.colors is None else m.colors for m in meshes]
        faces = [mesh.faces + first for mesh, first in zip(meshes, vertex_start[:-1], strict=True)]
        return cls(
            vertices=torch.cat([mesh.vertices for mesh in meshes]).float().contiguous(),
            faces=torch.cat(faces).int().contiguous(),
            normals=torch.cat([mesh.normals for mesh in meshes]).float().contiguous(),
            colors=torch.cat([color.float() for color in colors]).contiguous(),
            vertex_start=torch.tensor(vertex_start),
            face_start=torch.tensor(face_start),
        )

    def __len__(self) -> int:
        return len(self.face_start) - 1

    def to(self, device: torch.device | str) -> MeshSet:
        """The same meshes on another device (the offsets stay on the CPU)."""
        moved = {name: getattr(self, name).to(device) for name in ("vertices", "faces", "normals", "colors")}
        return replace(self, **moved)

"""What identifies a part, as plain JSON values."""

from __future__ import annotations

import hashlib
from typing import Any

from cad2pose.parts.part import Part


def describe_part(part: Part) -> dict[str, Any]:
    """What identifies a part: its numbers and a fingerprint of its mesh, colours included."""
    mesh = part.mesh
    arrays = (mesh.vertices, mesh.faces) if mesh.colors is None else (mesh.vertices, mesh.faces, mesh.colors)
    fingerprint = hashlib.sha256(b"".join(array.numpy().tobytes() for array in arrays))
    return {
        "name": part.name,
        "object_id": part.object_id,
        "diameter": part.diameter,
        "symmetries": part.symmetries.to_bop(),
        "mesh_sha256": fingerprint.hexdigest(),
    }

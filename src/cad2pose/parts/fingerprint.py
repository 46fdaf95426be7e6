"""What identifies a part, as plain JSON values."""

from __future__ import annotations

import hashlib
from typing import Any

from cad2pose.parts.part import Part


def describe_part(part: Part) -> dict[str, Any]:
    """What identifies a part: its numbers and a fingerprint of its mesh."""
    fingerprint = hashlib.sha256(part.mesh.vertices.numpy().tobytes() + part.mesh.faces.numpy().tobytes())
    return {
        "name": part.name,
        "object_id": part.object_id,
        "diameter": part.diameter,
        "symmetries": part.symmetries.to_bop(),
        "mesh_sha256": fingerprint.hexdigest(),
    }

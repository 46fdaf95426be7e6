"""What the symmetry finder says of the built-in parts and of LM-O's meshes: the table in docs/symmetries.md."""

import math
import os
import time
from pathlib import Path

import torch

from cad2pose.parts import BUILTIN_PARTS, Part, builtin_part, find_symmetries, load_bop_parts
from cad2pose.parts.symmetry_finder import FoundGroup


def main() -> None:
    torch.set_num_threads(1)
    parts = [builtin_part(name) for name in BUILTIN_PARTS]
    models = Path(os.environ.get("BOP_PATH", "/nowhere")) / "lmo" / "models"
    if models.is_dir():
        parts += load_bop_parts(models)
    print("| part | triangles | declared | found | largest | 95 % | off the declared | near | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for part in parts:
        start = time.perf_counter()
        report = find_symmetries(part)
        seconds = time.perf_counter() - start
        group, near = report.group, report.near
        found = (
            f"{group.name} | {group.fit.largest:.2f} % | {group.fit.percentile_95:.2f} %" if group else "none | - | -"
        )
        close = (
            f"{near.name}, {near.fit.largest / 100 * part.diameter:.1f} mm ({near.fit.largest:.1f} %)" if near else "-"
        )
        declared = f"{len(part.symmetries.discrete)} + {len(part.symmetries.continuous)}"
        off = _off(part, group) if group else "-"
        print(f"| {part.name} | {len(part.mesh.faces)} | {declared} | {found} | {off} | {close} | {seconds:.1f} |")


def _off(part: Part, group: FoundGroup) -> str:
    """Largest angle and distance between the axes of the declared motions and the nearest found ones."""
    angles, gaps = [0.0], [0.0]
    for axis in part.symmetries.continuous:
        best = max(group.symmetries.continuous, key=lambda other: abs(float(other.direction @ axis.direction)))
        angles.append(math.degrees(math.acos(min(1.0, abs(float(best.direction @ axis.direction))))))
        gaps.append(float(torch.linalg.cross(axis.offset - best.offset, best.direction).norm()))
    for stated in part.symmetries.discrete:
        change = group.symmetries.discrete[:, :3, :3].mT @ stated[:3, :3]
        cosine = ((change.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)
        nearest = group.symmetries.discrete[int(cosine.argmax())]
        angles.append(math.degrees(math.acos(float(cosine.max()))) / 2)  # a half turn doubles the axis' error
        point = part.center
        shift = (nearest - stated)[:3, :3] @ point + (nearest - stated)[:3, 3]
        gaps.append(float(shift.norm()) / 2)
    return f"{max(angles):.1f} deg, {100 * max(gaps) / part.diameter:.1f} %"


if __name__ == "__main__":
    main()

"""Depth refinement with a depth image full of faults.

    python benchmarks/depth.py [--crops 99]

The planted crops (`planted_crops.py`) are solved for from their query images; then every pose is moved along its ray to
where a depth image has the part. Of that image's pixels 30 % are missing, in patches and one by one, and 10 % are
wrong, by up to a third of the distance; the others have noise of 0.3 % of the distance. Where something hides the part
(up to four tenths of it), the depth is that of what hides it, and beyond the part that of a slanted background. The
last line is one JSON object; exit status 1 where a figure is missed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro
from torch import Tensor

from cad2pose.solvers import Hypotheses, SolverOptions, refine_depth, solve
from planted_crops import PARTS, PlantedCrop, planted_crop
from solver import Side, maps_of


@dataclass(frozen=True)
class Config:
    """Errors along the ray and across it, before and after."""

    crops: int = 99
    """Crops, the three parts in turn."""

    missing: float = 0.3
    """Share of pixels without a measurement."""

    wrong: float = 0.1
    """Share of pixels whose measurement is wrong."""


def depth_image(crop: PlantedCrop, number: int, missing: float, wrong: float) -> Tensor:
    """What a poor depth camera would say of a planted crop, mm, 0 where nothing."""
    generator = torch.Generator().manual_seed(7_000_003 + number)
    side = len(crop.depth)
    away = float(crop.depth[crop.depth > 0].median())

    def noise() -> Tensor:
        return torch.randn(side, side, generator=generator)

    def even() -> Tensor:
        return torch.rand(side, side, generator=generator)

    slope = torch.linspace(-0.1, 0.1, side)[:, None] + torch.linspace(-0.05, 0.05, side)
    depth = torch.where(crop.depth > 0, crop.depth, away * (1.25 + slope)).float()
    depth = torch.where(crop.hidden, away * (0.85 + 0.5 * slope), depth)
    depth = depth * (1 + 0.003 * noise())
    depth = torch.where(even() < wrong, away * (1 + (2 * even() - 1) / 3), depth)
    patches = torch.nn.functional.interpolate(even()[None, None, : side // 16, : side // 16], size=(side, side))[0, 0]
    return torch.where((patches < missing / 2) | (even() < missing / 2 / (1 - missing / 2)), 0.0, depth)


def main(config: Config) -> int:
    """Print the errors; 0 where the figures are met."""
    torch.set_num_threads(1)
    sides = {name: Side(name) for name in PARTS}
    along, across, used = [], [], 0
    for number in range(config.crops):
        crop = planted_crop(number)
        side, maps = sides[crop.part.name], maps_of(crop)
        found = solve(side.surface, side.keys, maps, SolverOptions())
        if not bool(found.found[0]):
            continue
        pose = Hypotheses(torch.zeros(1, dtype=torch.int64), found.rotation[:, 0], found.position[:, 0])
        radius = crop.part.radius
        depth = depth_image(crop, number, config.missing, config.wrong) / radius
        after = refine_depth(side.surface, maps, depth[None], crop.K[None], pose)
        used += int(torch.isfinite(after.sigma[0]))
        true = crop.part.middle(crop.T_cam_obj) / radius
        errors = [_errors(position[0].double(), true) for position in (pose.position, after.position)]
        along.append([error[0] for error in errors])
        across.append([error[1] for error in errors])
    before, behind = (float(column.median()) for column in torch.tensor(along).unbind(1))
    lateral = [float(column.median()) for column in torch.tensor(across).unbind(1)]
    figures = {
        "crops": config.crops, "solved": len(along), "moved": used,
        "along_ray_before_percent": before, "along_ray_after_percent": behind, "ratio": before / max(behind, 1e-9),
        "lateral_before_percent": lateral[0], "lateral_after_percent": lateral[1],
        "met_ratio_5": before >= 5 * behind, "met_lateral": lateral[1] <= 1.02 * lateral[0],
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if all(value for key, value in figures.items() if key.startswith("met_")) else 1


def _errors(position: Tensor, true: Tensor) -> tuple[float, float]:
    """Along the true ray and across it, % of the distance."""
    ray = true / true.norm()
    off = position - true
    along = float(off @ ray)
    return 100 * abs(along) / float(true.norm()), 100 * float((off - along * ray).norm()) / float(true.norm())


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Config)))

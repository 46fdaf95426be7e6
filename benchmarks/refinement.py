"""Refinement from poses that are 10 degrees and 5 % of the distance away, on query images without faults.

    python benchmarks/refinement.py [--crops 300]

The planted crops (`planted_crops.py`) with nothing wrong in them; every true pose is turned about a random axis and
moved in a random direction, and the solver refines it (nothing is proposed). The last line is one JSON object; exit
status 1 where a figure is missed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import tyro
from torch import Tensor

from cad2pose.geometry import rotation_from_axis_angle
from cad2pose.solvers import Hypotheses, PoseScore, RefineOptions, SolverOptions, Start, refine, solve
from planted_crops import PARTS, PlantedCrop, planted_crop
from solver import Side, maps_of


@dataclass(frozen=True)
class Config:
    """How many poses come back."""

    crops: int = 300
    """Crops, the three parts in turn."""

    degrees: float = 10.0
    """How far they are turned."""

    percent: float = 5.0
    """How far they are moved, of the distance."""


def displaced(crop: PlantedCrop, number: int, config: Config) -> Hypotheses:
    """The true pose, turned and moved at random."""
    generator = torch.Generator().manual_seed(number)
    axis, direction = torch.nn.functional.normalize(torch.randn(2, 3, generator=generator, dtype=torch.float64), dim=1)
    rotation = rotation_from_axis_angle(torch.deg2rad(torch.tensor(config.degrees)).double() * axis)
    position = crop.part.middle(crop.T_cam_obj) / crop.part.radius
    position = position + config.percent / 100 * position.norm() * direction
    turned = rotation @ crop.T_cam_obj[:3, :3]
    return Hypotheses(torch.zeros(1, dtype=torch.int64), turned[None].float(), position[None].float())


def main(config: Config) -> int:
    """Print the shares; 0 where the figures are met."""
    torch.set_num_threads(1)
    sides = {name: Side(name) for name in PARTS}
    back: dict[str, list[bool]] = {name: [] for name in PARTS}
    lowered = 0
    for number in range(config.crops):
        crop = planted_crop(number, faults=0.0)
        side, maps = sides[crop.part.name], maps_of(crop)
        poses = displaced(crop, number, config)
        found = solve(
            side.surface, side.keys, maps, SolverOptions(), Start(poses, torch.zeros(1)), symmetry=side.symmetry
        )  # fmt: skip
        errors = side.errors(crop, found.rotation[0, 0].double(), found.position[0, 0].double())
        back[crop.part.name].append(errors.rotation < 1 and errors.translation < 1)
        if number < 30:
            lowered += _steps_down(PoseScore(side.surface, side.keys, maps), poses)
    shares = {name: sum(found) / len(found) for name, found in back.items()}
    every = sum(map(sum, back.values())) / config.crops
    figures = {
        "crops": config.crops, "back": every, "of": shares, "steps_down": lowered,
        "met_back": every >= 0.95, "met_never_down": lowered == 0,
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if all(value for key, value in figures.items() if key.startswith("met_")) else 1


def _steps_down(score: PoseScore, poses: Hypotheses) -> int:
    """How many of twenty steps end lower than they began, the score worked out anew."""
    values: list[Tensor] = []
    for steps in range(21):
        found = refine(score, poses.row, poses.rotation, poses.position, RefineOptions(iterations=steps))
        values.append(score(poses.row, found.rotation, found.position))
    return int((torch.cat(values).diff() < -1e-6).sum())


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Config)))

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cad2pose.geometry import geodesic_distance, make_transform, random_rotations, rotation_from_axis_angle
from cad2pose.parts import ContinuousSymmetry, Part, Symmetries, builtin_part
from cad2pose.parts.symmetry import covering_rotations

FLIP_X = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1]
QUARTER_Z = [0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
ABOUT_Z = {"axis": [0, 0, 1], "offset": [0, 0, 0]}
ABOUT_X = {"axis": [1, 0, 0], "offset": [0, 0, 0]}


def golden(reference_path: Path) -> dict:
    return json.loads((reference_path / "golden" / "continuous_symmetry.json").read_text())


def test_counts_of_the_bop_toolkit(reference_path: Path) -> None:
    for case in golden(reference_path)["transformation_counts"]:
        symmetries = Symmetries.from_bop(case["model_info"])
        for step, count in case["n_transformations"].items():
            assert len(symmetries.transforms(float(step))) == count, (case["name"], step)


def test_transforms_of_the_bop_toolkit(reference_path: Path) -> None:
    content = golden(reference_path)
    for item in content["objects"]:
        transforms = Symmetries.from_bop(item["model_info"]).transforms(content["max_sym_disc_step"])
        for index, expected in item["symmetry_transformations_sample"].items():
            rotation = torch.tensor(expected["R"], dtype=torch.float64).reshape(3, 3)
            made = make_transform(rotation, torch.tensor(expected["t"], dtype=torch.float64))
            torch.testing.assert_close(transforms[int(index)], made, rtol=0, atol=1e-12)


def test_transforms_order_and_counts() -> None:
    both = Symmetries.from_bop({"symmetries_discrete": [FLIP_X], "symmetries_continuous": [ABOUT_Z, ABOUT_X]})
    transforms = both.transforms(0.3)
    assert transforms.shape == (2 * 2 * 11, 4, 4)
    torch.testing.assert_close(transforms[0], torch.eye(4, dtype=torch.float64))
    flip = torch.tensor(FLIP_X, dtype=torch.float64).reshape(4, 4)
    turned = both.continuous[1].transforms(11)[3] @ flip
    torch.testing.assert_close(transforms[22 + 11 + 3], turned)
    assert len(Symmetries().transforms()) == 1
    with pytest.raises(ValueError, match="max_step"):
        both.transforms(0.0)


def test_axis_away_from_the_origin_stays_where_it_is() -> None:
    offset = torch.tensor([7.5, -4.25, 3.0])
    item = ContinuousSymmetry(torch.tensor([1.0, 2.0, 2.0]), offset)
    transforms = item.transforms(9)
    for point in (offset.double(), offset.double() + 5 * item.axis):
        moved = transforms[:, :3, :3] @ point + transforms[:, :3, 3]
        torch.testing.assert_close(moved, point.expand_as(moved))


def test_a_symmetry_that_moves_the_middle_of_the_part_is_warned_of() -> None:
    bushing = builtin_part("bushing")
    away = torch.tensor([100.0, 0, 0]).double()
    mesh = replace(bushing.mesh, vertices=bushing.mesh.vertices + away)
    axis = ContinuousSymmetry(torch.tensor([0.0, 0, 1]))
    with pytest.warns(UserWarning, match="moves the middle of the part by 3.. % of its diameter"):
        Part.from_mesh("moved", mesh, symmetries=Symmetries(continuous=(axis,)))
    Part.from_mesh("moved", mesh, symmetries=Symmetries(continuous=(replace(axis, offset=away),)))
    half = torch.diag(torch.tensor([-1.0, -1, 1, 1]))[None]
    with pytest.warns(UserWarning, match="3.. %"):
        Part.from_mesh("moved", mesh, symmetries=Symmetries(half))


def test_round_trip_through_models_info() -> None:
    entry = {
        "symmetries_discrete": [FLIP_X, QUARTER_Z],
        "symmetries_continuous": [{"axis": [0, 0, 2], "offset": [1, 2, 3]}],
    }
    assert Symmetries.from_bop(entry).to_bop() == entry
    assert Symmetries.from_bop({"diameter": 3.0}).to_bop() == {}
    assert len(Symmetries.from_bop(entry)) == 3


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"symmetries_discrete": [FLIP_X[:15]]}, r"symmetries_discrete\[0\] has 15 numbers; it must have 16"),
        ({"symmetries_discrete": [FLIP_X, ["a"] * 16]}, r"symmetries_discrete\[1\].*list of 16 numbers"),
        ({"symmetries_discrete": [3]}, "list of 16 numbers"),
        ({"symmetries_discrete": "none"}, "must be a list"),
        ({"symmetries_discrete": [[2 * value for value in FLIP_X]]}, "not a rigid motion"),
        ({"symmetries_discrete": [[math.nan, *FLIP_X[1:]]]}, "not a rigid motion"),
        ({"symmetries_discrete": [[1.02, *FLIP_X[1:]]]}, "not a rigid motion"),
        ({"symmetries_discrete": [[*FLIP_X[:12], 0, 0, 1, 1]]}, "not a rigid motion"),
        ({"symmetries_discrete": [[-1, *FLIP_X[1:]]]}, "mirror image"),
        ({"symmetries_continuous": [{"axis": [0, 0, 0], "offset": [0, 0, 0]}]}, r"\(0, 0, 0\)"),
        ({"symmetries_continuous": [{"axis": [0, 1], "offset": [0, 0, 0]}]}, "axis has 2 numbers"),
        ({"symmetries_continuous": [{"axis": [0, 0, math.inf]}]}, "not finite"),
        ({"symmetries_continuous": [[0, 0, 1]]}, '"axis"'),
    ],
)
def test_malformed_entries(entry: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Symmetries.from_bop(entry)


def test_measured_symmetries_are_rigid_enough() -> None:
    nearly = [1.0004, 0, 0, 0, 0, -1, 0.003, 0, 0, 0, -1, 0, 0, 0, 0, 1]
    assert len(Symmetries.from_bop({"symmetries_discrete": [nearly]}).rotation_group()) == 2


def test_generated_group_is_d6() -> None:
    group = builtin_part("nut").symmetries.rotation_group()
    assert len(group) == 12
    torch.testing.assert_close(group[0], torch.eye(3, dtype=torch.float64))
    products = (group[:, None] @ group).flatten(0, 1)
    distance = geodesic_distance(products[:, None].expand(-1, 12, 3, 3), group.expand(144, 12, 3, 3))
    assert float(distance.min(1).values.max()) < 1e-6  # closed
    assert float(distance.kthvalue(2, dim=1).values.min()) > 0.5  # and no element twice


def test_generators_keep_their_translation() -> None:
    rotation = rotation_from_axis_angle(torch.tensor([0.0, 0.0, 2 * math.pi / 5], dtype=torch.float64))
    center = torch.tensor([10.0, -3.0, 2.0], dtype=torch.float64)
    symmetries = Symmetries.generated_by(make_transform(rotation, center - rotation @ center)[None])
    assert len(symmetries.discrete) == 4
    for transform in symmetries.discrete:
        torch.testing.assert_close(transform[:3, :3] @ center + transform[:3, 3], center)


def test_generators_that_do_not_close() -> None:
    rotation = rotation_from_axis_angle(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="do not close"):
        Symmetries.generated_by(make_transform(rotation, torch.zeros(3, dtype=torch.float64))[None])


@pytest.mark.parametrize(
    ("entry", "count"),
    [
        ({}, 1),
        ({"symmetries_discrete": [QUARTER_Z, QUARTER_Z]}, 2),
        ({"symmetries_discrete": [[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], FLIP_X]}, 2),
        ({"symmetries_continuous": [ABOUT_Z]}, 24),
        ({"symmetries_continuous": [ABOUT_Z, {"axis": [0, 0, -3], "offset": [0, 0, 9]}]}, 24),
        ({"symmetries_continuous": [ABOUT_Z], "symmetries_discrete": [QUARTER_Z]}, 24),
        ({"symmetries_continuous": [ABOUT_Z], "symmetries_discrete": [FLIP_X]}, 48),
        ({"symmetries_continuous": [ABOUT_Z, ABOUT_X]}, 576),
    ],
)
def test_rotation_group_has_no_repeats(entry: dict, count: int) -> None:
    group = Symmetries.from_bop(entry).rotation_group(24)
    assert len(group) == count
    torch.testing.assert_close(group[0], torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(group @ group.mT, torch.eye(3).double().expand(count, 3, 3))
    if 1 < count < 100:
        distance = geodesic_distance(group[:, None].expand(-1, count, 3, 3), group.expand(count, count, 3, 3))
        assert float(distance.kthvalue(2, dim=1).values.min()) > 0.2


def test_two_flips_that_differ_by_a_turn_count_once() -> None:
    flip_y = [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1]
    entry = {"symmetries_continuous": [ABOUT_Z], "symmetries_discrete": [FLIP_X, flip_y]}
    assert len(Symmetries.from_bop(entry).rotation_group(10)) == 20


def test_covering_is_even(generator: torch.Generator) -> None:
    count = 2000
    cover = covering_rotations(count)
    drawn = random_rotations(400, generator, dtype=torch.float64)
    pairs = (400, count, 3, 3)
    distance = geodesic_distance(drawn[:, None].expand(pairs), cover.expand(pairs)).min(1).values
    spacing = (8 * math.pi**2 / count) ** (1 / 3)  # side of a cell of SO(3), whose volume is 8 pi^2
    assert float(distance.max()) < 1.2 * spacing
    assert float(distance.mean()) < 0.65 * spacing


def test_no_steps() -> None:
    with pytest.raises(ValueError, match="steps"):
        Symmetries().rotation_group(0)

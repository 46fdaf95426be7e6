"""Symmetries found from geometry: analytic shapes, built-in parts, real meshes, and what breaks them."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from cad2pose.cli.symmetries import symmetries_command
from cad2pose.cli.symmetry_remark import symmetry_remarks
from cad2pose.geometry import make_transform, rotation_from_axis_angle, transform_points
from cad2pose.parts import (
    BUILTIN_PARTS,
    Symmetries,
    SymmetryOptions,
    SymmetryReport,
    builtin_part,
    find_symmetries,
    load_bop_parts,
    read_models_info,
    save_ply,
)
from cad2pose.parts.mesh import Mesh
from cad2pose.parts.part import Part
from cad2pose.parts.seen_surface import see_surface
from cad2pose.parts.symmetry_fit import measure_fit
from surface_distance import nearest_on_surface

QUICK = SymmetryOptions(quick=True, samples=3000)
LMO = Path(os.environ.get("BOP_PATH", "/nowhere")) / "lmo" / "models"
MOVED = make_transform(
    rotation_from_axis_angle(torch.tensor([0.4, -0.9, 0.7]).double()), torch.tensor([35.0, -60, 20]).double()
)


def part_of(shape: trimesh.Trimesh, transform: torch.Tensor = MOVED, colors: torch.Tensor | None = None) -> Part:
    """The shape with every triangle's corners of its own, moved."""
    corners = torch.from_numpy(np.array(shape.triangles)).double().reshape(-1, 3)
    faces = torch.arange(len(corners)).view(-1, 3)
    return Part.from_mesh("shape", Mesh.from_arrays(transform_points(transform, corners), faces, colors))


def joined(*shapes: trimesh.Trimesh) -> trimesh.Trimesh:
    """All of them as one shape."""
    starts = np.cumsum([0, *(len(shape.vertices) for shape in shapes[:-1])])
    faces = [shape.faces + start for shape, start in zip(shapes, starts, strict=True)]
    return trimesh.Trimesh(np.concatenate([s.vertices for s in shapes]), np.concatenate(faces), process=False)


def prism(order: int, radius: float = 30.0, height: float = 40.0) -> trimesh.Trimesh:
    angle = 2 * np.pi * np.arange(order) / order
    rim = np.stack((radius * np.cos(angle), radius * np.sin(angle), 0 * angle), axis=1)
    return trimesh.convex.convex_hull(np.concatenate((rim, rim + np.array([0, 0, height]))))


def gear(teeth: int, low: float = 38.0, high: float = 50.0, height: float = 15.0) -> trimesh.Trimesh:
    places = np.array([(0.0, low), (0.25, low), (0.25, high), (0.75, high), (0.75, low)])
    angle = 2 * np.pi / teeth * (np.arange(teeth)[:, None] + places[:, 0]).ravel()
    radius = np.tile(places[:, 1], teeth)
    rim = np.stack((radius * np.cos(angle), radius * np.sin(angle), 0 * angle), axis=1)
    up = np.array([0.0, 0.0, height])
    vertices, one = np.concatenate((rim, rim + up, [0 * up, up])), np.arange(len(rim))
    other, middle = np.roll(one, -1), 2 * len(rim) + 0 * one
    top, other_top = one + len(rim), other + len(rim)
    faces = [(middle, other, one), (middle + 1, top, other_top), (one, other, other_top), (one, other_top, top)]
    return trimesh.Trimesh(vertices, np.concatenate([np.stack(face, axis=1) for face in faces]), process=False)


def angle_between(first: torch.Tensor, second: torch.Tensor) -> float:
    """Degrees between two lines."""
    return math.degrees(math.acos(min(1.0, float((first @ second).abs() / first.norm() / second.norm()))))


def gap_of(axis_point: torch.Tensor, direction: torch.Tensor, point: torch.Tensor) -> float:
    """Distance of a point from a line, mm."""
    return float(torch.linalg.cross(point - axis_point, direction / direction.norm()).norm())


TETRAHEDRON = 30.0 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
SHAPES = {
    "box": (trimesh.creation.box((60, 50, 40)), "D2", 4),
    "square": (trimesh.creation.box((50, 50, 20)), "D4", 8),
    "cube": (trimesh.creation.box((50, 50, 50)), "O", 24),
    "tetrahedron": (trimesh.convex.convex_hull(TETRAHEDRON), "T", 12),
    "cone": (trimesh.creation.cone(20, 50), "Cinf", 0),
    "cylinder": (trimesh.creation.cylinder(20, 50), "Dinf", 0),
    **{f"prism{n}": (prism(n), f"D{n}", 2 * n) for n in range(3, 9)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_groups_of_analytic_shapes_wherever_they_lie(name: str) -> None:
    shape, group, order = SHAPES[name]
    part = part_of(shape)
    found = find_symmetries(part, QUICK).group
    assert found is not None
    assert (found.name, found.order) == (group, order)
    assert found.fit.largest < 0.5
    points = part.mesh.used_vertices
    for transform in found.symmetries.transforms(0.2):
        moved = nearest_on_surface(transform_points(transform, points), part.mesh)[0]
        assert float(moved.max()) < 0.006 * part.diameter
    main = found.axes[0]
    if not name.startswith(("cube", "tetra")):
        z = MOVED[:3, :3] @ torch.tensor([1.0, 0, 0] if name == "box" else [0, 0, 1]).double()
        assert min(angle_between(axis.direction, z) for axis in found.axes) < 0.5
        if name != "box":
            assert angle_between(main.direction, z) < 0.5
    assert gap_of(main.offset, main.direction, part.center) < 0.01 * part.diameter


def test_a_ball_has_several_continuous_axes() -> None:
    part = part_of(trimesh.creation.icosphere(2, 30.0))
    found = find_symmetries(part, QUICK).group
    assert found is not None
    assert found.name == "SO(3)"
    assert len(found.symmetries.continuous) == 3
    assert len(found.symmetries.rotation_group(12)) == 144


def test_an_axis_off_the_origin() -> None:
    """A block with a post that sticks in it, moved: the half turn is about the post, far from the origin."""
    parts = [trimesh.creation.box((20, 60, 12)), trimesh.creation.box((8, 8, 40))]
    parts[1].apply_translation((0, 0, 20))
    shape = joined(*parts)
    found = find_symmetries(part_of(shape), QUICK).group
    assert found is not None
    assert found.name == "C2"
    (axis,) = found.axes
    assert angle_between(axis.direction, MOVED[:3, 2]) < 0.5
    assert gap_of(axis.offset, axis.direction, MOVED[:3, 3]) < 0.3
    assert float(found.symmetries.discrete[0, :3, 3].norm()) > 10


def test_a_hole_is_named_with_its_size() -> None:
    """A blind hole, 9 mm deep, off the middle of a box: nearly D2."""
    hole = trimesh.creation.cylinder(4.0, 9.0, sections=16)
    hole.apply_translation((20, 0, 15.5))
    block = trimesh.creation.box((80, 60, 40))
    box = trimesh.Trimesh(*trimesh.remesh.subdivide_to_size(block.vertices, block.faces, 4.0)[:2])
    floor = 11.0
    keep = ~(
        (np.linalg.norm(box.triangles_center[:, :2] - (20, 0), axis=1) < 5.0) & (box.triangles_center[:, 2] > 19.9)
    )
    box.update_faces(keep)
    inside = hole.triangles_center[:, 2] < 19.9
    hole.update_faces(inside)
    hole.invert()
    report = find_symmetries(part_of(joined(box, hole)), SymmetryOptions(samples=10_000, tolerance=5.0))
    assert report.near is not None
    assert report.near.name == "D2"
    assert report.group is None
    assert report.near.fit.largest / 100 * report.part.diameter == pytest.approx(9.0, abs=1.0)
    place = MOVED[:3, :3].T @ (report.near.fit.place - MOVED[:3, 3])
    assert torch.linalg.vector_norm(place - torch.tensor([20.0, 0, floor]).double()) < 6


@pytest.fixture(scope="module")
def disc_report() -> SymmetryReport:
    return find_symmetries(builtin_part("disc"), SymmetryOptions(samples=6000))


@pytest.mark.parametrize("name", BUILTIN_PARTS)
def test_builtin_parts(name: str, disc_report: SymmetryReport) -> None:
    part = builtin_part(name)
    report = disc_report if name == "disc" else find_symmetries(part, SymmetryOptions(quick=True))
    found = report.symmetries
    assert len(found.rotation_group(12)) == len(part.symmetries.rotation_group(12))
    for rotation in part.symmetries.discrete:
        gaps = (found.discrete - rotation).abs().amax((1, 2))
        assert float(gaps.min()) < 0.01
    for axis in part.symmetries.continuous:
        assert angle_between(axis.direction, found.continuous[0].direction) < 0.5
        assert gap_of(found.continuous[0].offset, axis.direction, axis.offset) < 0.1
    if name == "disc":  # the notch is 6.8 mm deep
        assert report.near is not None
        assert report.near.name == "Cinf"
        assert report.near.fit.largest / 100 * part.diameter == pytest.approx(6.8, abs=0.1)
        assert float(report.near.fit.place[0]) > 30
        assert float(report.near.fit.place[1].abs()) < 3


@pytest.mark.parametrize(("name", "group", "samples"), [("nut", "D6", 6000), ("bushing", "Cinf", 20_000)])
def test_a_small_tolerance_keeps_what_is_exact(name: str, group: str, samples: int) -> None:
    report = find_symmetries(builtin_part(name), SymmetryOptions(tolerance=0.2, samples=samples))
    assert report.group is not None
    assert report.group.name == group
    assert report.group.fit.largest < 0.2
    assert report.near is None


def test_29_teeth_are_no_free_turn() -> None:
    report = find_symmetries(part_of(gear(29)), QUICK)
    assert report.group is not None
    assert report.group.name == "D29"


def test_colour_breaks_a_cube() -> None:
    """One face of another colour: only the four-fold axis through it is left."""
    shape = trimesh.creation.box((50, 50, 50))
    colors = torch.full((36, 3), 0.6)
    colors[torch.from_numpy(np.repeat(shape.face_normals[:, 2] > 0.9, 3))] = torch.tensor([0.8, 0.1, 0.1])
    part = part_of(shape, colors=colors)
    found = find_symmetries(part, SymmetryOptions(colour=True, samples=6000)).group
    assert found is not None
    assert found.name == "C4"
    assert angle_between(found.axes[0].direction, MOVED[:3, 2]) < 0.5
    with pytest.raises(ValueError, match="no vertex colours"):
        find_symmetries(part_of(shape), SymmetryOptions(colour=True))


def test_what_nobody_sees_does_not_count() -> None:
    """A cylinder with an asymmetric block in a cavity that is closed."""
    outer = trimesh.creation.cylinder(20, 50)
    block = trimesh.creation.box((12, 5, 9))
    block.apply_translation((6, 2, 8))
    found = find_symmetries(part_of(joined(outer, block)), QUICK).group
    assert found is not None
    assert found.name == "Dinf"


def test_the_measure_is_the_distance_of_surfaces() -> None:
    """Against brute force, for a motion that is no symmetry; and zero for one that is."""
    part = builtin_part("bracket")
    surface = see_surface(part, 6000, 800)
    motion = make_transform(
        rotation_from_axis_angle(torch.tensor([[0.02, 0.03, -0.02]]).double()),
        torch.tensor([[0.5, -0.4, 0.3]]).double(),
    )
    fit = measure_fit(surface, motion, careful=True)
    plain = nearest_on_surface(transform_points(motion[0], surface.points[surface.probes]), part.mesh)[0]
    assert fit.largest >= 100 * float(plain.max()) / part.diameter - 1e-9
    assert fit.percentile_95 == pytest.approx(100 * float(plain.quantile(0.95)) / part.diameter, rel=0.15)
    assert measure_fit(surface, torch.eye(4).double()[None], careful=True).largest < 1e-9


def test_options_are_checked() -> None:
    bad: tuple[dict[str, Any], ...] = (
        {"tolerance": 0.0},
        {"tolerance": 30.0},
        {"colour_tolerance": 0.0},
        {"samples": 10},
    )
    for wrong in bad:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SymmetryOptions(**wrong)


def test_command_writes_and_updates_models_info(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_ply(tmp_path / "box.ply", part_of(SHAPES["box"][0]).mesh)
    monkeypatch.setattr(
        "cad2pose.cli.symmetries.find_symmetries",
        lambda part, options: find_symmetries(part, replace(options, quick=True)),
    )
    info = tmp_path / "models_info.json"
    info.write_text('{"7": {"diameter": 3.5, "note": "kept"}, "2": {"diameter": 88, "unit": "mm"}}')
    symmetries_command(str(tmp_path / "box.ply"), object_id=2, out=tmp_path)
    text = capsys.readouterr().out
    assert "D2 (4 rotations" in text
    assert "180 degrees" in text
    entries = read_models_info(info)
    assert entries[7] == {"diameter": 3.5, "note": "kept"}
    assert entries[2]["unit"] == "mm"
    assert {"min_x", "size_z"} <= set(entries[2])
    assert entries[2]["diameter"] == 88, "BOP's thresholds hang on what is stated"
    assert len(Symmetries.from_bop(entries[2])) == 3
    assert (tmp_path / "box_symmetries.png").stat().st_size > 1000
    before = info.read_bytes()
    with pytest.raises(ValueError, match="--object-id"):
        symmetries_command("bracket", object_id=7, out=tmp_path)
    assert info.read_bytes() == before
    info.write_text("[half")
    with pytest.raises(ValueError, match="not a models_info.json"):
        symmetries_command("bracket", out=tmp_path)
    assert info.read_text() == "[half"


def test_command_names_the_broken_symmetry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, disc_report: SymmetryReport
) -> None:
    monkeypatch.setattr("cad2pose.cli.symmetries.find_symmetries", lambda part, options: disc_report)
    symmetries_command("disc", out=tmp_path)
    text = " ".join(capsys.readouterr().out.split())
    assert "disc: no symmetry within 8 %" in text
    assert "nearly group Cinf (continuous), broken by 6.8" in text
    assert "symmetries_continuous" not in json.loads((tmp_path / "models_info.json").read_text())["4"]
    assert (tmp_path / "disc_symmetries.png").is_file()


def test_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        symmetries_command("disc", out=tmp_path / "file" / "inner")
    with pytest.raises(ValueError, match="tolerance"):
        symmetries_command("disc", tolerance=-1.0, out=tmp_path)
    (tmp_path / "empty.ply").write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        symmetries_command(str(tmp_path / "empty.ply"), out=tmp_path)


@pytest.mark.skipif(not LMO.is_dir(), reason="needs LM-O's models under BOP_PATH")
def test_real_meshes() -> None:
    """The annotated half turns of eggbox and glue are found; nothing is found of ape, cat, duck and holepuncher."""
    for part in load_bop_parts(LMO, [1, 6, 9, 12, 10, 11]):
        report = find_symmetries(part, QUICK)
        assert len(report.symmetries) == len(part.symmetries), part.name
        for found, stated in zip(report.symmetries.discrete, part.symmetries.discrete, strict=True):
            difference = found[:3, :3].T @ stated[:3, :3]
            assert math.degrees(math.acos(float((difference.trace() - 1) / 2))) < 10  # 5 of the axis
            moved = [transform_points(t, part.center[None])[0] for t in (found, stated)]
            assert float((moved[0] - moved[1]).norm()) < 0.1 * part.diameter


def test_undeclared_symmetries_are_remarked_on() -> None:
    """A symmetric part without declared symmetries is named; declared ones and asymmetric parts are not."""
    nut, bracket = builtin_part("nut"), builtin_part("bracket")
    (remark,) = symmetry_remarks([nut, bracket, replace(nut, name="bare", symmetries=Symmetries())])
    assert remark.startswith("bare is declared without symmetries")
    assert "60 degrees (group D6" in remark
    assert "--models-info" in remark

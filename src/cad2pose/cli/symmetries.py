"""`cad2pose symmetries`: find a mesh's rotational symmetries and write them to models_info.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from cad2pose.cli.arguments import OptionalPath
from cad2pose.cli.console import plain_console
from cad2pose.cli.sources import find_part
from cad2pose.files import check_folder
from cad2pose.parts.diagnosis import axis_words, vector_words
from cad2pose.parts.mesh import Units
from cad2pose.parts.part import Part, check_entry, update_models_info
from cad2pose.parts.symmetry_finder import FoundGroup, SymmetryAxis, SymmetryOptions, SymmetryReport, find_symmetries

_MOST_AXES = 8  # drawn, and listed
_EXACT = 0.1  # % of the diameter; below it, what deviates is the facets


def symmetries_command(
    mesh: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MESH")],
    /,
    units: Units = "mm",
    object_id: int | None = None,
    tolerance: float = 8.0,
    colour: bool = False,
    colour_tolerance: float = 20.0,
    models_info: OptionalPath = None,
    out: Path = Path(),
) -> None:
    """Find the rotations after which a mesh looks the same, say how well it does, and write models_info.json.

    Whole groups are reported: an axis with its order (2 is half a turn), or with any angle; and near-symmetries, with
    the size and the place of what breaks them. What cannot be seen from outside does not count.

    Args:
        mesh: PLY, OBJ, STL or GLB file, or a built-in part: bracket, nut, bushing or disc.
        units: what the file's numbers are in.
        object_id: the part's entry in models_info.json; 1 by default, a built-in part has its own.
        tolerance: largest deviation of the surface that is allowed, in % of the part's diameter.
        colour: vertex colours must agree, too.
        colour_tolerance: largest difference of colours that is allowed, in % of black to white.
        models_info: the file to write, if not OUT/models_info.json; other objects in it stay as they are.
        out: folder for models_info.json and the picture, NAME_symmetries.png.
    """
    options = SymmetryOptions(tolerance=tolerance, colour=colour, colour_tolerance=colour_tolerance)
    if object_id is not None and object_id < 1:
        raise ValueError(f"object id {object_id} was given; ids are 1 or more")
    info = out / "models_info.json" if models_info is None else models_info
    for folder in (out, info.parent):
        check_folder(folder)
    part = find_part(mesh, units, object_id)
    check_entry(info, part)
    report = find_symmetries(part, options)
    console = plain_console()
    for table in _tables(report, options):
        console.print(table)
    update_models_info(info, replace(part, symmetries=report.symmetries))
    console.print(f"entry {part.object_id} of {info}", soft_wrap=True, highlight=False)
    picture = out / f"{part.name}_symmetries.png"
    if _save_picture(report, picture, options):
        console.print(f"axes: {picture}", soft_wrap=True, highlight=False)


def _tables(report: SymmetryReport, options: SymmetryOptions) -> list[Table | str]:
    shown: list[Table | str] = []
    if report.group is None:
        shown.append(f"{report.part.name}: no symmetry within {options.tolerance:g} % of the diameter")
    else:
        shown.append(_table(report.part, report.group, f"{report.part.name}: {_group_words(report.group)}"))
    if report.near is not None:
        near = report.near
        size = near.fit.largest / 100 * report.part.diameter
        text = f"nearly {_group_words(near)}, broken by {size:.3g} mm at {vector_words(near.fit.place)} mm"
        if near.fit.largest <= options.tolerance:
            text += f", or by colours that differ by {near.fit.colour:.3g} %"
        shown.append(_table(report.part, near, text))
    return shown


def _group_words(group: FoundGroup) -> str:
    count = f"{group.order} rotations with the identity" if group.order else "continuous"
    return f"group {group.name} ({count})"


def _table(part: Part, group: FoundGroup, title: str) -> Table:
    table = Table(
        "rotation", "axis", "through (mm)", "largest", "95 %", "most at (mm)", title=title, title_justify="left"
    )
    for axis in group.axes[:_MOST_AXES]:
        table.add_row(
            _rotation_words(axis), axis_words(axis.direction, 3), vector_words(axis.offset, 3),
            f"{axis.fit.largest:.2f} %", f"{axis.fit.percentile_95:.2f} %",
            vector_words(axis.fit.place, 3) if _broken(axis) else "-",
        )  # fmt: skip
    if len(group.axes) > _MOST_AXES:
        table.add_row(f"... {len(group.axes) - _MOST_AXES} more", "", "", "", "", "")
    table.add_row("all", "", "", f"{group.fit.largest:.2f} %", f"{group.fit.percentile_95:.2f} %", "")
    table.caption = f"deviation of the surface in % of the diameter, {part.diameter:.4g} mm"
    return table


def _rotation_words(axis: SymmetryAxis) -> str:
    return f"{360 / axis.order:.4g} degrees" if axis.order else "any"


def _broken(axis: SymmetryAxis) -> bool:
    """Whether there is anything to show of what deviates."""
    return axis.fit.largest > _EXACT


def _save_picture(report: SymmetryReport, path: Path, options: SymmetryOptions) -> bool:
    """Draw the axes of the group and of the near-symmetry; False where there are none."""
    groups = [(group, word) for group, word in ((report.group, ""), (report.near, "nearly: ")) if group is not None]
    if not groups:
        return False
    from cad2pose.pictures import save_png  # rendering is only loaded where there is something to draw
    from cad2pose.pictures.symmetry_sheet import AxisView, symmetry_sheet

    views = [
        AxisView(
            f"{word}{_rotation_words(axis)} about {axis_words(axis.direction, 2)}: up to {axis.fit.largest:.2f} %",
            axis.direction, axis.offset, axis.fit.place, axis.fit.points, axis.fit.deviations, _broken(axis),
        )
        for group, word in groups
        for axis in group.axes[:_MOST_AXES]
    ]  # fmt: skip
    highest = max([options.tolerance, *(group.fit.largest for group, _ in groups)])
    save_png(path, symmetry_sheet(report.part, views, highest, "%"))
    return True

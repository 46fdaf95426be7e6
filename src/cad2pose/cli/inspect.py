"""`cad2pose inspect`: what was understood of a mesh file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from cad2pose.cli.arguments import OptionalPath
from cad2pose.cli.console import plain_console
from cad2pose.cli.sources import builtin_name, find_part
from cad2pose.cli.symmetry_remark import symmetry_remark
from cad2pose.files import check_folder
from cad2pose.parts.diagnosis import MeshDiagnosis, describe_symmetries, diagnose, units_remark
from cad2pose.parts.mesh import Units, load_mesh
from cad2pose.parts.part import Part

_BUILT_IN = "built in"
_MOST_SYMMETRIES = 12


def inspect_command(
    mesh: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MESH")],
    /,
    units: Units = "mm",
    object_id: int | None = None,
    models_info: OptionalPath = None,
    out: Path = Path(),
) -> None:
    """Read a mesh, print what was understood of it, and save a picture of it from six sides.

    Args:
        mesh: PLY, OBJ, STL or GLB file, or a built-in part: bracket, nut, bushing or disc.
        units: what the file's numbers are in.
        object_id: entry of models_info.json that the part is; 1 by default.
        models_info: BOP models_info.json with the part's diameter and symmetries.
        out: folder for the picture, NAME_six_views.png.
    """
    check_folder(out)
    built_in = builtin_name(mesh) is not None
    if built_in and object_id is not None:
        raise ValueError(f"{mesh} is built in and has an id of its own; --object-id is about mesh files")
    part = find_part(mesh, units, object_id, models_info)
    console = plain_console()
    console.print(_table(part, _BUILT_IN if built_in else mesh, units, models_info))

    from cad2pose.pictures import save_png  # rendering is only loaded once the mesh is known to be usable
    from cad2pose.pictures.six_views import six_views

    picture = out / f"{part.name}_six_views.png"
    save_png(picture, six_views(part))
    console.print(f"six views: {picture}", soft_wrap=True, highlight=False)


def _table(part: Part, source: str, units: Units, models_info: Path | None) -> Table:
    """Everything known of the part, with remarks on what looks odd."""
    found, mesh = diagnose(part.mesh), part.mesh
    low, high = mesh.used_vertices.aminmax(dim=0)
    table = Table(title=f"{part.name}", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("file", source)
    unused = f" ({found.unused_vertices} without a triangle)" if found.unused_vertices else ""
    table.add_row("vertices", f"{len(mesh.vertices)}{unused}")
    flat = f" ({found.flat_faces} without area)" if found.flat_faces else ""
    table.add_row("triangles", f"{len(mesh.faces)}{flat}{_divided_words(part, source, units)}")
    table.add_row("size x, y, z", " x ".join(f"{side:.5g}" for side in (high - low).tolist()) + " mm")
    table.add_row("from", "({:.5g}, {:.5g}, {:.5g}) mm".format(*low.tolist()))
    table.add_row("diameter", f"{part.diameter:.6g} mm")
    center = "({:.5g}, {:.5g}, {:.5g})".format(*(round(value, 6) + 0.0 for value in part.center.tolist()))
    table.add_row("bounding sphere", f"centre {center} mm, radius {part.radius:.6g} mm")
    remark = units_remark(part.diameter, units)
    table.add_row("units", "mm" if source == _BUILT_IN else f"{units} {'(' + remark + ')' if remark else ''}".strip())
    table.add_row("watertight", _watertight_words(found))
    table.add_row("pieces", f"{found.components}")
    table.add_row("triangles face", found.orientation + _inverted_words(found))
    table.add_row("vertex normals", _normals_words(found))
    table.add_row("vertex colours", "none (shown gray)" if mesh.colors is None else "yes")
    words = describe_symmetries(part.symmetries)
    if len(words) > _MOST_SYMMETRIES:
        words = [*words[:_MOST_SYMMETRIES], f"... and {len(words) - _MOST_SYMMETRIES} more"]
    beside = Path(source).parent / "models_info.json"
    if models_info is None and source != _BUILT_IN and beside.is_file():
        words.append(f"(not read: {beside}; pass --models-info and --object-id)")
    if remark := symmetry_remark(part):
        words.append(f"warning: {remark}")
    table.add_row("symmetries", "\n".join(words))
    return table


def _divided_words(part: Part, source: str, units: Units) -> str:
    """How many triangles the file has, where others were made of them."""
    if source == _BUILT_IN or part.mesh.colors is None:
        return ""
    count = len(load_mesh(source, units, keep_vertices=True).faces)
    return f", the file's {count} divided for their texture" if count != len(part.mesh.faces) else ""


def _watertight_words(found: MeshDiagnosis) -> str:
    if found.watertight:
        return "yes"
    return f"no: {found.open_edges} open edges, {found.crowded_edges} edges of more than two triangles"


def _inverted_words(found: MeshDiagnosis) -> str:
    if found.components > 1 and found.inverted_components:
        return f"; {found.inverted_components} of {found.components} pieces inside out (cavities, or flipped)"
    return ""


def _normals_words(found: MeshDiagnosis) -> str:
    if found.flipped_normals < 1e-3:
        return "agree with the triangles"
    return f"point against {100 * found.flipped_normals:.1f} % of the triangles; rendering turns them to the camera"

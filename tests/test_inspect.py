from pathlib import Path

import cv2
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals

from cad2pose.cli.inspect import inspect_command
from cad2pose.parts import builtin_part, save_ply, write_models_info
from cad2pose.parts.diagnosis import describe_symmetries, diagnose, units_remark
from cad2pose.parts.mesh import Mesh
from cad2pose.pictures.six_views import six_views


def flipped(mesh: Mesh, keep: slice) -> Mesh:
    """The triangles in `keep` turned round."""
    faces = mesh.faces.clone()
    faces[keep] = faces[keep].flip(-1)
    return Mesh(mesh.vertices, faces, mesh.normals, mesh.colors)


@pytest.mark.parametrize("name", ["nut", "builtin:nut"])
def test_builtin_part(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    inspect_command(name, out=tmp_path / "new")
    text = capsys.readouterr().out
    for words in ("1920", "65.99", "55 x 63.5", "60 degrees about z", "outward", "watertight"):
        assert words in text
    picture = cv2.imread(str(tmp_path / "new" / "nut_six_views.png"))
    assert picture is not None
    assert picture.shape[1] > 2.5 * picture.shape[0] / 2


def test_file_with_models_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = builtin_part("bushing")
    save_ply(tmp_path / "part.ply", part.mesh)
    write_models_info(tmp_path / "models_info.json", [part])
    inspect_command(str(tmp_path / "part.ply"), out=tmp_path)
    assert "none declared" in (text := " ".join(capsys.readouterr().out.split()))
    assert "--models-info" in text
    inspect_command(str(tmp_path / "part.ply"), object_id=3, models_info=tmp_path / "models_info.json", out=tmp_path)
    assert "any rotation about z" in capsys.readouterr().out


def test_triangles_made_for_a_texture_are_told_from_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cube = trimesh.creation.box((50, 50, 50))
    image = Image.effect_noise((64, 64), 50).convert("RGB")
    cube.visual = TextureVisuals(uv=cube.vertices[:, :2] / 50 + 0.5, image=image)
    cube.export(tmp_path / "cube.obj")
    inspect_command(str(tmp_path / "cube.obj"), out=tmp_path)
    text = " ".join(word for word in capsys.readouterr().out.split() if word != "│")
    assert "the file's 12 divided for their texture" in text
    assert "watertight yes" in text


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    trimesh.creation.box((0.02, 0.03, 0.04)).export(tmp_path / "metres.stl")
    with pytest.raises(ValueError, match="--units m"):
        inspect_command(str(tmp_path / "metres.stl"), out=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="missing"):
        inspect_command(str(tmp_path / "missing.ply"), out=tmp_path / "out")
    with pytest.raises(ValueError, match="built-in part 'bolt'"):
        inspect_command("builtin:bolt", out=tmp_path / "out")
    with pytest.raises(ValueError, match="nut: built-in parts are in mm"):
        inspect_command("nut", "m", out=tmp_path / "out")
    with pytest.raises(ValueError, match="nut is built in and has an id of its own"):
        inspect_command("nut", object_id=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_six_views_show_the_silhouettes() -> None:
    """The bracket's L from -y: its outline fills as much of the picture as the drawing does."""
    part = builtin_part("bracket")
    sheet = six_views(part, size=160)
    assert sheet.shape[0] == 3
    dark = (sheet[2] > sheet[0] + 0.1).double()  # blue paint
    width, height = sheet.shape[2] // 3, sheet.shape[1] // 2
    below = [float(dark[height:, column * width : (column + 1) * width].sum()) for column in range(3)]
    pixel = (160 / (2 * 1.06 * part.radius)) ** 2  # pixels per mm^2, roughly, at the centre's distance
    outline = 64 * 36 - 14 * 12 / 2  # the base, from below
    assert below[2] / pixel == pytest.approx(outline, rel=0.2)
    assert below[0] / pixel == pytest.approx(64 * 6 + 6 * 40 + 28 * 28 / 2, rel=0.25)


def test_inside_out_and_inconsistent() -> None:
    mesh = builtin_part("disc").mesh
    assert diagnose(flipped(mesh, slice(0, None))).orientation == "inside out"
    found = diagnose(flipped(mesh, slice(0, 10)))
    assert found.twisted_edges > 0
    assert found.watertight
    assert "inconsistent" in found.orientation
    assert found.flipped_normals == pytest.approx(10 / len(mesh.faces))


def test_open_surface_stray_vertices_and_pieces() -> None:
    mesh = builtin_part("disc").mesh
    stray = torch.cat((mesh.vertices, torch.full((2, 3), 5.0).double()))
    up = torch.tensor([[0.0, 0, 1]]).double().expand(2, 3)
    found = diagnose(Mesh(stray, mesh.faces[1:], torch.cat((mesh.normals, up))))
    assert (found.open_edges, found.unused_vertices, found.watertight) == (3, 2, False)
    assert "not closed" in found.orientation
    nut = builtin_part("nut").mesh
    inner = Mesh(nut.vertices / 9, nut.faces.flip(-1), nut.normals)
    both = torch.cat((nut.vertices, inner.vertices)), torch.cat((nut.faces, inner.faces + len(nut.vertices)))
    found = diagnose(Mesh.from_arrays(*both))
    assert (found.components, found.inverted_components) == (2, 1)
    assert found.volume == pytest.approx(diagnose(nut).volume * (1 - 9**-3))


def test_words() -> None:
    assert describe_symmetries(builtin_part("bracket").symmetries) == ["none declared"]
    assert describe_symmetries(builtin_part("bushing").symmetries) == ["any rotation about z through (0, 0, 0) mm"]
    words = describe_symmetries(builtin_part("nut").symmetries)
    assert len(words) == 11
    assert {"180 degrees about x", "180 degrees about y", "180 degrees about z", "60 degrees about -z"} <= set(words)
    assert units_remark(60.0, "mm") == ""
    assert "--units cm" in units_remark(3.0, "mm")
    assert "--units inch, cm or mm" in units_remark(3000.0, "m")

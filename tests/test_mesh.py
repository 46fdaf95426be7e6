import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial.distance import pdist
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from cad2pose.geometry import random_rotations
from cad2pose.parts import (
    Part,
    Symmetries,
    builtin_part,
    load_bop_parts,
    load_mesh,
    load_part,
    read_models_info,
    save_ply,
    write_models_info,
)
from cad2pose.parts.bounds import bounding_sphere, largest_distance
from cad2pose.parts.diagnosis import diagnose
from cad2pose.parts.mesh import Mesh, Units
from cad2pose.parts.polygon import triangulate
from cad2pose.parts.texture import refine_for_texture

SIDES = (20.0, 30.0, 40.0)
SUFFIXES = (".ply", ".obj", ".stl", ".glb")


def box(**colors: np.ndarray) -> trimesh.Trimesh:
    """A box, with `vertex_colors` or `face_colors` where they are given."""
    plain = trimesh.creation.box(SIDES)
    return trimesh.Trimesh(plain.vertices, plain.faces, process=False, **colors)  # type: ignore[arg-type]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode("latin-1") if isinstance(content, str) else content)
    return path


def ply(vertices: str, faces: str, vertex_count: int, face_count: int) -> str:
    return (
        f"ply\nformat ascii 1.0\nelement vertex {vertex_count}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {face_count}\nproperty list uchar int vertex_indices\nend_header\n{vertices}{faces}"
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_box(tmp_path: Path, suffix: str) -> None:
    box().export(tmp_path / f"box{suffix}")
    mesh = load_mesh(tmp_path / f"box{suffix}")
    torch.testing.assert_close(mesh.vertices.amax(0), torch.tensor(SIDES).double() / 2)
    assert mesh.vertices.dtype == mesh.normals.dtype == torch.float64
    assert diagnose(mesh).watertight
    assert diagnose(mesh).volume == pytest.approx(20 * 30 * 40)
    assert mesh.colors is None
    flat = mesh.face_normals[:, None].expand(-1, 3, 3)
    torch.testing.assert_close(mesh.normals[mesh.faces], flat)  # no normal blurs over an edge


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_surfaces_stay_smooth(tmp_path: Path, suffix: str) -> None:
    trimesh.creation.icosphere(3, 30.0).export(tmp_path / f"ball{suffix}")
    mesh = load_mesh(tmp_path / f"ball{suffix}")
    assert len(mesh.vertices) == 642
    assert float(torch.linalg.vecdot(mesh.normals, mesh.vertices / 30).min()) > 0.999


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_normals_of_the_file_are_kept(tmp_path: Path, suffix: str) -> None:
    given = np.tile([0.6, 0.0, 0.8], (8, 1))
    mesh = trimesh.Trimesh(box().vertices, box().faces, vertex_normals=given, process=False)
    if suffix == ".ply":
        mesh.export(tmp_path / "box.ply", vertex_normal=True)
    else:
        mesh.export(tmp_path / f"box{suffix}", include_normals=True)
    loaded = load_mesh(tmp_path / f"box{suffix}")
    assert len(loaded.vertices) == 8
    np.testing.assert_allclose(loaded.normals.numpy(), given, atol=1e-6)


def test_vertices_can_be_kept_as_they_are(tmp_path: Path) -> None:
    box().export(tmp_path / "box.ply")
    kept = load_mesh(tmp_path / "box.ply", keep_vertices=True)
    np.testing.assert_array_equal(kept.vertices.numpy(), box().vertices)
    assert float(torch.linalg.vecdot(kept.normals, kept.vertices).min()) > 0


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_vertex_colours(tmp_path: Path, suffix: str) -> None:
    colored = box(vertex_colors=np.c_[(box().vertices > 0) * 255, np.full(8, 255)].astype(np.uint8))
    colored.export(tmp_path / f"box{suffix}")
    mesh = load_mesh(tmp_path / f"box{suffix}")
    assert mesh.colors is not None
    torch.testing.assert_close(mesh.colors, (mesh.vertices > 0).float())


def test_glb_colours_are_linear_and_become_displayed_ones(tmp_path: Path) -> None:
    """glTF 2.0, 3.9.2: factors and vertex colours are linear, textures sRGB; 55 / 255 is half of sRGB's range."""
    grey = np.tile([55, 55, 55, 255], (8, 1)).astype(np.uint8)
    box(vertex_colors=grey).export(tmp_path / "vertices.glb")
    plain = box()
    material = PBRMaterial(baseColorFactor=[55, 55, 55, 255])
    plain.visual = TextureVisuals(material=material)
    plain.export(tmp_path / "factor.glb")
    for name in ("vertices.glb", "factor.glb"):
        colors = load_mesh(tmp_path / name).colors
        assert colors is not None
        torch.testing.assert_close(colors, torch.full_like(colors, 0.5), atol=4e-3, rtol=0)
    box(vertex_colors=grey).export(tmp_path / "vertices.ply")
    colors = load_mesh(tmp_path / "vertices.ply").colors
    assert colors is not None
    torch.testing.assert_close(colors, torch.full_like(colors, 55 / 255))


def test_face_colours_do_not_blur(tmp_path: Path) -> None:
    colored = box(face_colors=np.c_[np.arange(12) * 20, np.zeros((12, 2)), np.full(12, 255)].astype(np.uint8))
    colored.export(tmp_path / "box.ply")
    mesh = load_mesh(tmp_path / "box.ply")
    assert mesh.colors is not None
    red = (mesh.colors[mesh.faces][..., 0] * 255).round()
    torch.testing.assert_close(red, (torch.arange(12.0) * 20)[:, None].expand(12, 3))


def test_texture_becomes_vertex_colours(tmp_path: Path) -> None:
    colored = box()
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8).repeat(8, 0).repeat(8, 1))
    uv = np.stack((np.where(colored.vertices[:, 0] > 0, 0.95, 0.05), np.full(8, 0.5)), axis=1)
    colored.visual = TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=image))
    colored.export(tmp_path / "box.glb")
    mesh = load_mesh(tmp_path / "box.glb")
    assert mesh.colors is not None
    expected = torch.where(mesh.vertices[:, :1] > 0, torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0]))
    reach = float(mesh.vertices[:, 0].max())
    aside = mesh.vertices[:, 0].abs() > 0.2 * reach
    torch.testing.assert_close(mesh.colors[aside], expected[aside])
    kept = load_mesh(tmp_path / "box.glb", keep_vertices=True)
    assert len(kept.vertices) == 8
    assert kept.colors is not None
    assert kept.colors[kept.vertices[:, 0] > 0].unique(dim=0).tolist() == [[0.0, 0.0, 1.0]]


def test_a_picture_that_is_missing_is_named_and_nothing_is_made_up(tmp_path: Path) -> None:
    corners = "v 0 0 0\nv 50 0 0\nv 0 40 0\nv 0 0 30\nvt 0 0\nvt 1 0\nvt 0 1\n"
    faces = "f 1/1 3/3 2/2\nf 1/1 2/2 4/3\nf 1/1 4/3 3/2\nf 2/1 3/2 4/3\n"
    written(tmp_path, "part.obj", f"mtllib my part.mtl\n{corners}usemtl skin\n{faces}")
    written(tmp_path, "my part.mtl", "newmtl skin\nKd 1 0 0\nmap_Kd -clamp on skin picture.png\n")
    with pytest.warns(UserWarning, match=r"skin picture\.png, which colours the part, is not there"):
        assert load_mesh(tmp_path / "part.obj").colors is None
    load_mesh(tmp_path / "part.obj", keep_vertices=True)  # shapes alone: nothing is missed
    Image.new("RGB", (4, 4), (0, 255, 0)).save(tmp_path / "picture.png")
    written(tmp_path, "my part.mtl", "newmtl skin\nKd 1 0 0\nmap_Kd picture.png\n")
    colors = load_mesh(tmp_path / "part.obj").colors
    assert colors is not None
    assert colors.unique(dim=0).tolist() == [[0.0, 1.0, 0.0]]
    text = (
        "ply\nformat ascii 1.0\ncomment TextureFile tex.png\nelement vertex 4\nproperty float x\nproperty float y\n"
        "property float z\nproperty float texture_u\nproperty float texture_v\nelement face 4\n"
        "property list uchar int vertex_indices\nend_header\n"
        "0 0 0 0 0\n50 0 0 1 0\n0 40 0 0 1\n0 0 30 1 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"
    )
    written(tmp_path, "part.ply", text)
    with pytest.warns(UserWarning, match=r"tex\.png"):
        assert load_mesh(tmp_path / "part.ply").colors is None


def test_colours_of_polygons_that_were_split_are_refused(tmp_path: Path) -> None:
    square = "-10 -10 0\n10 -10 0\n10 10 0\n-10 10 0\n0 0 15\n"
    header = ply(square, "", 5, 5).replace(
        "property list uchar int vertex_indices\n",
        "property list uchar int vertex_indices\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n",
    )
    faces = "4 0 3 2 1 255 0 0\n3 0 1 4 0 255 0\n3 1 2 4 0 255 0\n3 2 3 4 0 255 0\n3 3 0 4 0 255 0\n"
    with pytest.raises(ValueError, match="colours of 5 faces, and 6 triangles; export it triangulated"):
        load_mesh(written(tmp_path, "tent.ply", header + faces))


def test_normals_without_a_length_are_worked_out(tmp_path: Path) -> None:
    plain = box()
    lines = [" ".join(map(str, (*vertex, 0, 0, 0))) for vertex in plain.vertices.tolist()]
    faces = [" ".join(map(str, (3, *face))) for face in plain.faces.tolist()]
    text = ply("", "", 8, 12).replace(
        "property float z\n", "property float z\nproperty float nx\nproperty float ny\nproperty float nz\n"
    )
    mesh = load_mesh(written(tmp_path, "box.ply", text + "\n".join([*lines, *faces]) + "\n"))
    flat = mesh.face_normals[:, None].expand(-1, 3, 3)
    assert float((mesh.normals[mesh.faces] * flat).sum(-1).min()) > 0.5


def test_texture_within_a_triangle_is_not_lost(tmp_path: Path) -> None:
    """A plate of two triangles with a checkerboard on it: its colours where they are, no gap, the same area."""
    size = 64
    checks = (np.add(*np.indices((size, size)) // 8) % 2 * 255).astype(np.uint8)
    corners = np.array([[0.0, 0, 0], [80, 0, 0], [80, 80, 0], [0, 80, 0]])
    plate = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    plate.visual = TextureVisuals(uv=corners[:, :2] / 80, image=Image.fromarray(checks).convert("RGB"))
    plate.export(tmp_path / "plate.obj")
    mesh = load_mesh(tmp_path / "plate.obj")
    assert 1000 < len(mesh.faces) < 20_000
    assert mesh.colors is not None
    assert float(mesh.face_areas.sum()) == pytest.approx(6400)
    place = mesh.vertices[:, :2] / 80 * 8
    inside = ((place - place.floor() - 0.5).abs() < 0.35).all(1)
    cell = place[inside].floor().long()
    dark = (cell[:, 0] + 7 - cell[:, 1]) % 2 == 0  # a texture's rows go downwards
    shown = mesh.colors[inside].mean(1) > 0.5
    assert (shown == ~dark).float().mean() > 0.97
    edges = torch.cat([mesh.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]).sort(1).values
    counts = edges.unique(dim=0, return_counts=True)[1]
    ends = mesh.vertices[edges.unique(dim=0)[counts == 1]]
    on_border = ((ends == 0) | (ends == 80))[..., :2].any(-1).all(1)
    assert bool(on_border.all()), "an edge with one triangle lies on the plate's border, or there is a gap"


def test_texture_seams_do_not_open(tmp_path: Path) -> None:
    """Faces of a cube that show more or less of a texture, and share no vertices: their edges are halved alike."""
    cube = trimesh.creation.box((50, 50, 50))
    corners = cube.vertices[cube.faces].reshape(-1, 3)
    apart = trimesh.Trimesh(corners, np.arange(36).reshape(-1, 3), process=False)
    uv = np.tile([[0.0, 0], [1, 0], [0, 1]], (12, 1)) * np.linspace(0.01, 1, 12).repeat(3)[:, None]
    apart.visual = TextureVisuals(uv=uv, image=Image.new("RGB", (64, 64), (200, 0, 0)))
    apart.export(tmp_path / "cube.obj")
    mesh = load_mesh(tmp_path / "cube.obj")
    assert len(mesh.faces) > 1000
    found = diagnose(mesh)
    assert (found.watertight, found.open_edges) == (True, 0)


def test_textures_stop_dividing_in_time() -> None:
    rng = np.random.default_rng(0)
    vertices, faces = rng.normal(size=(50, 3)), rng.integers(0, 50, size=(40_000, 3))
    refined = refine_for_texture(vertices, faces, rng.uniform(size=(50, 2)), None, (4096, 4096))
    assert len(refined[1]) <= 200_000
    assert refined[3] is None


def test_scene_is_flattened_with_its_transforms(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(box(vertex_colors=np.tile([255, 0, 0, 255], (8, 1)).astype(np.uint8)))
    mirror = np.diag([1.0, 1.0, -1.0, 1.0])
    mirror[:3, 3] = (100, 0, 0)
    scene.add_geometry(trimesh.creation.box((10, 10, 10)), transform=mirror)
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb")
    found = diagnose(mesh)
    assert (found.components, found.inverted_components, found.orientation) == (2, 0, "outward")
    assert found.flipped_normals == 0
    assert found.volume == pytest.approx(24_000 + 1000)
    assert float(mesh.vertices[:, 0].max()) == pytest.approx(105)
    assert mesh.colors is not None
    right = mesh.vertices[:, 0] > 50
    assert bool((mesh.colors[right] == 0.6).all())
    torch.testing.assert_close(mesh.colors[~right], torch.tensor([1.0, 0, 0]).expand(int((~right).sum()), 3))


def test_a_piece_without_area_is_left_out(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box((10, 20, 30)))
    line = trimesh.Trimesh([[0, 0, 0], [50, 0, 0], [90, 0, 0]], [[0, 1, 2]], process=False)
    scene.add_geometry(line)
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb")
    assert float(mesh.used_vertices[:, 0].max()) == pytest.approx(5)
    scene = trimesh.Scene()
    scene.add_geometry(line)
    scene.export(tmp_path / "line.glb")
    with pytest.raises(ValueError, match="zero area"):
        load_mesh(tmp_path / "line.glb")


def test_a_stray_vertex_far_away_does_not_merge_all_others(tmp_path: Path) -> None:
    mesh = builtin_part("bracket").mesh
    far = torch.tensor([[1e10, 0.0, 0.0]]).double()
    stray = Mesh(torch.cat((mesh.vertices, far)), mesh.faces, torch.cat((mesh.normals, far * 1e-10)))
    save_ply(tmp_path / "stray.ply", stray)
    found, wanted = diagnose(load_mesh(tmp_path / "stray.ply")), diagnose(mesh)
    assert found.volume == pytest.approx(wanted.volume, rel=1e-5)
    assert (found.components, found.watertight, found.unused_vertices) == (wanted.components, True, 1)


def test_obj_with_materials_quads_and_an_old_code_page(tmp_path: Path) -> None:
    written(tmp_path, "m.mtl", "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 1 0\n")
    text = "# Gehäuse\nmtllib m.mtl\nv 0 0 0\nv 10 0 0\nv 10 10 0\nv 0 10 0\nv 0 0 9\n"
    path = written(tmp_path, "quad.obj", text + "usemtl a\nf 1 2 3 4\nusemtl b\nf 1 2 5\n")
    mesh = load_mesh(path)
    assert len(mesh.faces) == 3
    assert mesh.colors is not None
    assert mesh.colors.unique(dim=0).tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(("units", "factor"), [("mm", 1.0), ("cm", 10.0), ("inch", 25.4), ("m", 1000.0)])
def test_units(tmp_path: Path, units: Units, factor: float) -> None:
    trimesh.creation.box(np.array(SIDES) / factor).export(tmp_path / "box.stl")
    assert largest_distance(load_mesh(tmp_path / "box.stl", units).vertices) == pytest.approx(2900**0.5)


@pytest.mark.parametrize(
    ("scale", "units", "advice"),
    [(1e-3, "mm", "metres: pass --units m"), (1e3, "mm", "--units"), (1, "m", "millimetres: pass --units mm")],
)
def test_wrong_units_are_refused(tmp_path: Path, scale: float, units: Units, advice: str) -> None:
    trimesh.creation.box(np.array(SIDES) * scale).export(tmp_path / "box.stl")
    with pytest.raises(ValueError, match=advice):
        load_mesh(tmp_path / "box.stl", units)


@pytest.mark.parametrize("suffix", [".ply", ".stl", ".glb"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.97])
def test_cut_short(tmp_path: Path, suffix: str, share: float) -> None:
    box().export(tmp_path / f"box{suffix}")
    data = (tmp_path / f"box{suffix}").read_bytes()
    with pytest.raises(ValueError, match="cut short"):
        load_mesh(written(tmp_path, f"cut{suffix}", data[: int(len(data) * share)]))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [bytes(range(256)) * 4, b"hello\n"])
def test_not_a_mesh(tmp_path: Path, suffix: str, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"junk.*(damaged|no geometry)"):
        load_mesh(written(tmp_path, f"junk{suffix}", content))


CORNERS = "0 0 0\n10 0 0\n0 10 0\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.ply", "", "empty"),
        ("cloud.ply", ply(CORNERS, "", 3, 0), "no triangles"),
        ("cloud.obj", "v 0 0 0\nv 10 0 0\nv 0 10 0\n", "no triangles"),
        ("nan.ply", ply("nan 0 0\n10 0 0\n0 10 0\n", "3 0 1 2\n", 3, 1), "NaN or infinite"),
        ("nan.obj", "v 0 0 0\nv 10 nan 0\nv 0 10 0\nf 1 2 3\n", "NaN or infinite"),
        ("line.obj", "v 0 0 0\nv 10 0 0\nv 20 0 0\nf 1 2 3\n", "zero area"),
        ("index.ply", ply(CORNERS, "3 0 1 9\n", 3, 1), "names vertex 9"),
        ("negative.ply", ply(CORNERS, "3 0 1 -1\n", 3, 1), "names vertex -1"),
        ("index.obj", "v 0 0 0\nv 10 0 0\nv 0 10 0\nf 1 2 9\n", "damaged"),
        ("short.ply", ply("0 0 0\n10 0 0\n", "", 3, 1), "cut short"),
        ("fewer.ply", ply(CORNERS, "3 0 1 2\n", 3, 2), "header states 2 faces, it has 1"),
        ("part.step", "ISO-10303-21;", r"\.ply, \.obj, \.stl, \.glb"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as caught:
        load_mesh(path)
    assert name in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.ply"):
        load_mesh(tmp_path / "nothing.ply")
    with pytest.raises(ValueError, match="is a folder"):
        load_mesh(tmp_path)


@pytest.mark.parametrize("name", ["nut", "bracket"])
def test_save_ply_round_trip(tmp_path: Path, name: str) -> None:
    mesh = builtin_part(name).mesh
    save_ply(tmp_path / "part.ply", mesh)
    loaded = load_mesh(tmp_path / "part.ply")
    assert torch.equal(loaded.vertices, mesh.vertices)
    assert torch.equal(loaded.faces, mesh.faces)
    torch.testing.assert_close(loaded.normals, mesh.normals, rtol=0, atol=1e-6)
    assert loaded.colors is not None
    assert mesh.colors is not None
    torch.testing.assert_close(loaded.colors, mesh.colors, rtol=0, atol=0.51 / 255)
    save_ply(tmp_path / "plain.ply", Mesh(mesh.vertices, mesh.faces, mesh.normals))
    assert load_mesh(tmp_path / "plain.ply").colors is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.ply", "plain.ply"]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 30, 400])
@pytest.mark.parametrize("flat", [False, True])
def test_bounding_sphere_is_smallest(count: int, flat: bool, generator: torch.Generator) -> None:
    points = torch.randn(count, 3, generator=generator, dtype=torch.float64) * torch.tensor(
        [3.0, 5.0, 0.0 if flat else 4]
    )
    points = points @ random_rotations(1, generator, torch.float64)[0].T + 100
    center, radius = bounding_sphere(points)
    distances = (points - center).norm(dim=-1)
    assert float(distances.max()) <= radius + 1e-9
    # Smallest: no other centre does better, and the centre is a mean of the points that touch.
    others = center + torch.randn(300, 3, generator=generator, dtype=torch.float64) * radius * 0.05
    assert float(torch.cdist(others, points).amax(1).min()) >= radius - 1e-9
    touching = points[distances > radius * (1 - 1e-7)]
    assert 2 <= len(touching) <= 4


def test_bounding_sphere_of_regular_bodies() -> None:
    """Many points touch, and any four of them may carry it."""
    for mesh in (trimesh.creation.icosphere(2, 7.0), trimesh.creation.box((2, 2, 2))):
        center, radius = bounding_sphere(torch.from_numpy(np.array(mesh.vertices)) + 50)
        torch.testing.assert_close(center, torch.full((3,), 50.0).double())
        assert radius == pytest.approx(7.0 if len(mesh.vertices) > 8 else 3**0.5)


@pytest.mark.parametrize("scale", [(1, 1, 1), (1, 1, 0), (1, 0, 0)])
def test_largest_distance(scale: tuple[int, int, int], generator: torch.Generator) -> None:
    points = torch.randn(300, 3, generator=generator, dtype=torch.float64) * torch.tensor(scale) + 1000
    assert largest_distance(points) == pytest.approx(pdist(points.numpy()).max(), rel=1e-9)


def test_stray_vertices_do_not_count() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [900, 900, 900]])
    part = Part.from_mesh("triangle", Mesh.from_arrays(vertices, torch.tensor([[0, 1, 2]])))
    assert part.diameter == pytest.approx(200**0.5)
    torch.testing.assert_close(part.center, torch.tensor([5.0, 5, 0]).double())
    assert float(part.normalize(vertices[:3]).norm(dim=-1).max()) == pytest.approx(1)


def test_lmo_diameters(bop_path: Path) -> None:
    folder = bop_path / "lmo" / "models_eval"
    info = json.loads((folder / "models_info.json").read_text())
    for part in load_bop_parts(folder, [1, 6, 10]):
        stated = info[str(part.object_id)]
        assert part.diameter == stated["diameter"]
        full = load_mesh(bop_path / "lmo" / "models" / f"{part.name}.ply")
        assert largest_distance(full.vertices) == pytest.approx(part.diameter, abs=1e-3)
        assert 0.995 * part.diameter / 2 <= part.radius <= part.diameter * 0.375**0.5  # Jung's theorem; a coarser mesh
        entry = part.to_bop()
        assert list(entry)[:7] == ["diameter", *(f"{kind}_{axis}" for kind in ("min", "size") for axis in "xyz")]
        assert set(entry) == set(stated)


def test_models_info_round_trip(tmp_path: Path) -> None:
    parts = [builtin_part("nut"), builtin_part("bushing")]
    write_models_info(tmp_path / "models_info.json", parts)
    for part in parts:
        save_ply(tmp_path / f"obj_{part.object_id:06d}.ply", part.mesh)
    for part, loaded in zip(parts, load_bop_parts(tmp_path), strict=True):
        assert loaded.object_id == part.object_id
        assert loaded.to_bop() == part.to_bop()
    by_hand = load_part(
        tmp_path / "obj_000002.ply", object_id=2, models_info=tmp_path / "models_info.json", symmetries=Symmetries()
    )
    assert len(by_hand.symmetries) == 0
    with pytest.raises(ValueError, match="no object 7; it has 2, 3"):
        load_bop_parts(tmp_path, [7])
    with pytest.raises(ValueError, match="no object 9"):
        load_part(tmp_path / "obj_000002.ply", object_id=9, models_info=tmp_path / "models_info.json")
    with pytest.raises(FileNotFoundError, match="folder"):
        load_bop_parts(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": {}}', '{"1": 3}', "\xff"])
def test_damaged_models_info(tmp_path: Path, content: str) -> None:
    with pytest.raises(ValueError, match=r"models_info\.json"):
        read_models_info(written(tmp_path, "models_info.json", content))


def test_diameter_of_another_part_is_noticed(tmp_path: Path) -> None:
    box().export(tmp_path / "box.ply")
    for stated, said in (("120.0", "120 mm"), ("NaN", "nan mm")):
        written(tmp_path, "models_info.json", f'{{"1": {{"diameter": {stated}}}}}')
        with pytest.raises(ValueError, match=rf"{said}, but the mesh measures 53\.85"):
            load_part(tmp_path / "box.ply", models_info=tmp_path / "models_info.json")


@pytest.mark.parametrize("corners", [5, 12, 40])
def test_triangulation_covers_the_polygon_once(corners: int) -> None:
    """A star with two holes: triangles are upright, their areas sum to the polygon's, every vertex is used."""
    random = np.random.default_rng(corners)
    angles = np.sort(2 * np.pi * (np.arange(corners) + random.uniform(0, 0.5, corners)) / corners)
    outer = random.uniform(5, 9, corners)[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    turn = -2 * np.pi * np.arange(9) / 9
    holes = [
        np.stack((np.cos(turn) * size, np.sin(turn) * size), axis=1) + at for size, at in ((0.8, 0.9), (0.5, -0.9))
    ]
    points = np.concatenate((outer, *holes))
    a, b, c = points[triangulate(outer, holes)].transpose(1, 0, 2)
    areas = _cross(b - a, c - a) / 2
    expected = sum(_cross(loop, np.roll(loop, -1, axis=0)).sum() / 2 for loop in (outer, *holes))
    assert areas.min() > 0
    assert areas.sum() == pytest.approx(expected)
    assert len(areas) == len(points) + 2 * 2 - 2
    assert set(triangulate(outer, holes).flatten()) == set(range(len(points)))


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]

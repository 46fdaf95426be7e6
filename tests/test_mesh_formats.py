"""What mesh formats allow and readers get wrong: polygons of any shape, colours of any type, counting back."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

from cad2pose.parts import Mesh
from cad2pose.parts.mesh import load_mesh
from cad2pose.parts.polygon_faces import fans_of, triangulate_faces

L = [(50, 0), (50, 10), (10, 10), (10, 40), (0, 40), (0, 0)]  # area 800
ARROW = [(0, 0), (40, 10), (0, 20), (15, 10)]  # a concave quad of area 250
CONVEX = [(0, 0), (40, 0), (55, 20), (40, 40), (0, 40)]


def prism(outline: list[tuple[int, int]], start: int) -> tuple[list[tuple[int, int, int]], list[list[int]]]:
    outline = outline[start:] + outline[:start]
    count = len(outline)
    corners = [(x, y, z) for z in (0, 20) for x, y in outline]
    sides = [[i, (i + 1) % count, count + (i + 1) % count, count + i] for i in range(count)]
    return corners, [list(range(count))[::-1], list(range(count, 2 * count)), *sides]


def write(path: Path, corners: list[tuple[int, int, int]], faces: list[list[int]]) -> Path:
    rows = ["{} {} {}".format(*corner) for corner in corners]
    if path.suffix == ".obj":
        text = [f"v {row}" for row in rows] + ["f " + " ".join(str(at + 1) for at in face) for face in faces]
    else:
        axes = [f"property float {axis}" for axis in "xyz"]
        text = ["ply", "format ascii 1.0", f"element vertex {len(rows)}", *axes, f"element face {len(faces)}"]
        text += ["property list uchar int vertex_indices", "end_header", *rows]
        text += [" ".join(map(str, [len(face), *face])) for face in faces]
    path.write_text("\n".join(text) + "\n")
    return path


def cap_area(mesh: Mesh) -> float:
    upper = mesh.vertices[mesh.faces][..., 2].amin(1) > 19
    return float(mesh.face_areas[upper].sum())


@pytest.mark.parametrize("suffix", [".obj", ".ply"])
@pytest.mark.parametrize(("outline", "area"), [(L, 800.0), (ARROW, 250.0)])
def test_concave_polygons_are_covered_once(tmp_path: Path, suffix: str, outline: list[tuple[int, int]], area: float):
    for start in range(len(outline)):
        mesh = load_mesh(write(tmp_path / f"part{suffix}", *prism(outline, start)))
        assert cap_area(mesh) == pytest.approx(area)
        assert len(mesh.faces) == 2 * (len(outline) - 2) + 2 * len(outline)


@pytest.mark.parametrize("suffix", [".obj", ".ply"])
def test_convex_polygons_are_fans(tmp_path: Path, suffix: str):
    corners, faces = prism(CONVEX, 0)
    mesh = load_mesh(write(tmp_path / f"part{suffix}", corners, faces), keep_vertices=True)
    own = {tuple(sorted(map(int, face))) for face in mesh.faces}
    assert {(5, 6, 7), (5, 7, 8), (5, 8, 9)} <= own


@pytest.mark.parametrize("suffix", [".obj", ".ply"])
def test_a_polygon_that_crosses_itself_is_told_of(tmp_path: Path, suffix: str):
    corners = [(0, 0, 0), (50, 40, 0), (50, 0, 0), (0, 40, 0), (20, 20, 30)]
    with pytest.warns(UserWarning, match="1 polygons cross themselves"):
        load_mesh(write(tmp_path / f"part{suffix}", corners, [[0, 1, 2, 3], [0, 1, 4]]))


def test_polygons_of_a_texture_keep_it(tmp_path: Path):
    corners, faces = prism(L, 0)
    text = ["mtllib a.mtl", "usemtl a"] + ["v {} {} {}".format(*corner) for corner in corners]
    text += [f"vt {x / 50} {y / 40}" for x, y, _ in corners]
    text += ["f " + " ".join(f"{at + 1}/{at + 1}" for at in face) for face in faces]
    (tmp_path / "a.obj").write_text("\n".join(text))
    (tmp_path / "a.mtl").write_text("newmtl a\nmap_Kd a.png\n")
    Image.new("RGB", (8, 8), (250, 10, 10)).save(tmp_path / "a.png")
    mesh = load_mesh(tmp_path / "a.obj")
    assert cap_area(mesh) == pytest.approx(800.0)
    assert mesh.colors is not None
    torch.testing.assert_close(mesh.colors[0], torch.tensor([250.0, 10, 10]) / 255)


def test_fans_and_cuts_have_the_same_shape():
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 7, 40)
    angle = np.concatenate([np.sort(rng.uniform(0, 2 * np.pi, size)) for size in sizes])
    vertices = np.stack((np.cos(angle), np.sin(angle), np.zeros(len(angle))), axis=1)  # convex
    cut = triangulate_faces(vertices, np.arange(len(vertices)), sizes)
    assert np.array_equal(cut.corners, fans_of(sizes))
    assert np.array_equal(np.bincount(cut.face), sizes - 2)


def test_indices_that_count_back_count_from_where_they_stand(tmp_path: Path):
    text = "v 0 0 0\nv 30 0 0\nv 0 30 0\nf -3 -2 -1\nv 0 0 30\nv 30 0 30\nv 0 30 30\nf -3 -2 -1\nf 1 2 -1\n"
    (tmp_path / "a.obj").write_text(text)
    mesh = load_mesh(tmp_path / "a.obj", keep_vertices=True)
    heights = sorted(mesh.vertices[mesh.faces][..., 2].sum(1).tolist())
    assert heights == [0.0, 30.0, 90.0]


def glb(path: Path, colors: np.ndarray, factor: list[float] | None = None, material: bool = True) -> Path:
    """A box of which every vertex has a colour."""
    plain = trimesh.creation.box((40, 30, 20))
    kind = {"uint8": 5121, "uint16": 5123, "float32": 5126}[colors.dtype.name]
    indices, places = plain.faces.astype(np.uint32).tobytes(), plain.vertices.astype(np.float32).tobytes()
    content = indices + places + colors.tobytes()
    content += b"\0" * (-len(content) % 4)
    views, at = [], 0
    for size in (len(indices), len(places), colors.nbytes):
        views.append({"buffer": 0, "byteOffset": at, "byteLength": size})
        at += size
    reach = {"min": plain.bounds[0].tolist(), "max": plain.bounds[1].tolist()}
    primitive: dict[str, object] = {"attributes": {"POSITION": 1, "COLOR_0": 2}, "indices": 0}
    if material:
        primitive["material"] = 0
    tree = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}], "buffers": [{"byteLength": len(content)}], "bufferViews": views,
        "materials": [{"pbrMetallicRoughness": {} if factor is None else {"baseColorFactor": factor}}],
        "accessors": [
            {"bufferView": 0, "componentType": 5125, "count": plain.faces.size, "type": "SCALAR"},
            {"bufferView": 1, "componentType": 5126, "count": 8, "type": "VEC3", **reach},
            {"bufferView": 2, "componentType": kind, "count": 8, "type": f"VEC{colors.shape[1]}",
             "normalized": kind != 5126},
        ],
    }  # fmt: skip
    head = json.dumps(tree).encode()
    head += b" " * (-len(head) % 4)
    chunks = struct.pack("<I4s", len(head), b"JSON") + head + struct.pack("<I4s", len(content), b"BIN\0") + content
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    return path


def srgb(linear: float) -> float:
    return 1.055 * linear ** (1 / 2.4) - 0.055


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("factor", [None, [0.5, 1.0, 1.0, 1.0]])
def test_vertex_colours_of_glb_with_a_material(tmp_path: Path, dtype: type, factor: list[float] | None):
    most = 1.0 if dtype is np.float32 else np.iinfo(dtype).max
    colors = np.tile(np.array([0.6, 0.2, 0.1, 1.0]) * most, (8, 1)).astype(dtype)
    mesh = load_mesh(glb(tmp_path / "a.glb", colors, factor))
    assert mesh.colors is not None
    expected = torch.tensor([srgb(0.6 * (0.5 if factor else 1.0)), srgb(0.2), srgb(0.1)])
    torch.testing.assert_close(mesh.colors, expected.expand(len(mesh.vertices), 3), atol=0.01, rtol=0)


def test_wide_colours_of_glb_without_a_material_are_refused(tmp_path: Path):
    colors = np.full((8, 4), 30000, dtype=np.uint16)
    with pytest.raises(ValueError, match="16-bit colours of vertices without a material"):
        load_mesh(glb(tmp_path / "a.glb", colors, material=False))


def test_a_factor_colours_a_texture_of_glb(tmp_path: Path):
    part = trimesh.creation.box((40, 30, 20))
    image = Image.new("RGB", (8, 8), (255, 255, 255))
    material = PBRMaterial(baseColorTexture=image, baseColorFactor=[255, 0, 128, 255])
    part.visual = TextureVisuals(uv=np.full((8, 2), 0.5), material=material)
    part.export(tmp_path / "a.glb")
    for keep in (False, True):
        mesh = load_mesh(tmp_path / "a.glb", keep_vertices=keep)
        assert mesh.colors is not None
        torch.testing.assert_close(mesh.colors[0], torch.tensor([1.0, 0.0, srgb(128 / 255)]), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("kind", "red"), [("uchar", 128), ("ushort", 32896), ("float", 0.502), ("double", 128.0), ("int", 128)]
)
def test_ply_colours_of_any_type(tmp_path: Path, kind: str, red: float):
    full = {"ushort": 65535, "float": 1.0}.get(kind, 255)
    head = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    head += "".join(f"property {kind} {name}\n" for name in ("red", "green", "blue"))
    head += "element face 4\nproperty list uchar int vertex_indices\nend_header\n"
    corners = ["0 0 0", "40 0 0", "0 30 0", "0 0 20"]
    rows = "".join(f"{corner} {red} {full} 0\n" for corner in corners)
    (tmp_path / "a.ply").write_text(head + rows + "3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n")
    mesh = load_mesh(tmp_path / "a.ply")
    assert mesh.colors is not None
    torch.testing.assert_close(mesh.colors[0], torch.tensor([0.502, 1.0, 0.0]), atol=2e-3, rtol=0)


def test_numbers_that_are_no_colours_are_refused(tmp_path: Path):
    corners, faces = prism(CONVEX, 0)
    path = write(tmp_path / "a.ply", corners, faces)
    text = path.read_text().replace("property float z\n", "property float z\n" + "".join(
        f"property float {name}\n" for name in ("red", "green", "blue")
    ))  # fmt: skip
    for corner in corners:
        row = "{} {} {}\n".format(*corner)
        text = text.replace(f"\n{row}", f"\n{row.strip()} 300 0 0\n", 1)
    path.write_text(text)
    with pytest.raises(ValueError, match="colours that are no numbers from 0 to 1, nor from 0 to 255"):
        load_mesh(path)


TETRAHEDRON = "f 1/1 3/1 2/1\nf 1/1 2/1 4/1\nf 1/1 4/1 3/1\nf 2/1 3/1 4/1\n"


def test_vertex_colours_of_obj_go_before_a_plain_material_and_after_a_picture(tmp_path: Path):
    corners = "".join(f"v {place} 1 0.5 0\n" for place in ("0 0 0", "40 0 0", "0 30 0", "0 0 20")) + "vt 0.5 0.5\n"
    (tmp_path / "a.obj").write_text("mtllib a.mtl\n" + corners + "usemtl a\n" + TETRAHEDRON)
    (tmp_path / "a.mtl").write_text("newmtl a\nKd 0.2 0.6 0.3\n")
    mesh = load_mesh(tmp_path / "a.obj")
    assert mesh.colors is not None
    torch.testing.assert_close(mesh.colors[0], torch.tensor([1.0, 0.5, 0.0]), atol=3e-3, rtol=0)
    (tmp_path / "bytes.obj").write_text("mtllib a.mtl\n" + corners.replace("1 0.5 0", "255 128 0") + TETRAHEDRON)
    with pytest.raises(ValueError, match="colours up to 255; OBJ has them from 0 to 1"):
        load_mesh(tmp_path / "bytes.obj")
    (tmp_path / "a.mtl").write_text("newmtl a\nmap_Kd a.png\n")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(tmp_path / "a.png")
    mesh = load_mesh(tmp_path / "a.obj")
    assert mesh.colors is not None
    assert mesh.colors[0].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("options", ["", "-s 1 1 1 ", "-clamp on -blendu off "])
def test_options_before_a_picture_and_several_material_files(tmp_path: Path, options: str):
    corners = "".join(f"v {place}\n" for place in ("0 0 0", "40 0 0", "0 30 0", "0 0 20")) + "vt 0.5 0.5\n"
    (tmp_path / "a.obj").write_text("mtllib a.mtl b.mtl\n" + corners + "usemtl wood\n" + TETRAHEDRON)
    (tmp_path / "a.mtl").write_text(f"newmtl wood\nmap_Kd {options}my wood.png\n")
    (tmp_path / "b.mtl").write_text("newmtl other\nKd 1 0 0\n")
    Image.new("RGB", (8, 8), (0, 255, 0)).save(tmp_path / "my wood.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mesh = load_mesh(tmp_path / "a.obj")
    assert mesh.colors is not None
    assert mesh.colors[0].tolist() == [0.0, 1.0, 0.0]
    (tmp_path / "my wood.png").unlink()
    with pytest.warns(UserWarning, match="my wood.png, which colours the part, is not there"):
        assert load_mesh(tmp_path / "a.obj").colors is None


def test_a_part_far_from_its_origin_is_refused(tmp_path: Path):
    shifted = trimesh.creation.box((40, 30, 20))
    shifted.apply_translation((0.0, 4e5, 0.0))
    shifted.export(tmp_path / "near.ply")
    load_mesh(tmp_path / "near.ply")
    shifted.apply_translation((0.0, 4e6, 0.0))
    shifted.export(tmp_path / "far.ply")
    with pytest.raises(ValueError, match=r"mm away from the origin of its file.*10000 times its size"):
        load_mesh(tmp_path / "far.ply")

"""What a page carries, how it is served, and what is said to mistaken users; without a browser."""

from __future__ import annotations

import base64
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from cad2pose.cli import main
from cad2pose.cli.estimate_inputs import boxes_of_object
from cad2pose.estimator import EstimatorOptions, PoseEstimator
from cad2pose.geometry import Camera
from cad2pose.model_file import Model, save_model
from cad2pose.parts import Mesh, Part, builtin_part
from cad2pose.pictures import pixel_distribution, save_png
from cad2pose.structures import PoseDetails, PoseEstimates
from cad2pose.viewer import SceneMaker, ViewerServer, page_of
from cad2pose.viewer.payload import payload_of
from cad2pose.viewer.scene import Photograph, Scene
from cad2pose.viewer.server import ListedImage
from cad2pose.viewer.thinning import thinned
from small_models import planted_model, random_model, wedge

CAMERA = Camera.from_values(200.0, 200.0, 79.5, 59.5, 160, 120)
POSE = torch.eye(4, dtype=torch.float64)
POSE[:3, 3] = torch.tensor([-100.0, -100, 300])


def maker_of(model: Model) -> SceneMaker:
    return SceneMaker(PoseEstimator([model], "cpu", EstimatorOptions(refine=False)), points=6144, triangles=500)


def estimated(maker: SceneMaker, image: torch.Tensor) -> PoseEstimates:
    return maker.estimator.estimate(image, CAMERA, boxes_of_object([(40.0, 30.0, 60.0, 50.0)], 1))


@pytest.fixture(scope="module")
def shown() -> Shown:
    """One detection of a model with random weights, with all that its page is made of."""
    torch.manual_seed(0)
    maker, image = maker_of(random_model()), torch.rand(3, 120, 160)
    found = estimated(maker, image)
    return Shown(maker, found, maker.photograph("x.png", image, CAMERA), maker.scenes(image, CAMERA, found)[0])


@dataclass(frozen=True)
class Shown:
    maker: SceneMaker
    found: PoseEstimates
    photograph: Photograph
    scene: Scene

    def page(self, name: str = "x.png", part: str = "wedge") -> str:
        named = replace(self.maker.part(1), name=part)
        return page_of(replace(self.photograph, name=name), [self.scene], [named])


def decoded(array: dict[str, str], kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["data"]), kind)


def test_what_travels_gives_the_distribution(shown: Shown) -> None:
    """softmax over the keys of a query is exp(query . key - log Z), all from the payload's own numbers."""
    drawn = shown.maker.part(1)
    sent = json.loads(json.dumps(payload_of(shown.photograph, [shown.scene], [drawn])))
    query, part = sent["scenes"][0]["query"], sent["parts"]["1"]
    keys = decoded(part["keys"], "<f2").reshape(-1, query["size"]).astype(np.float64)
    queries = decoded(query["queries"], "<f2").reshape(-1, query["size"]).astype(np.float64)
    assert (len(keys), len(queries)) == (6144, query["height"] * query["width"])
    for pixel in (0, 27, 63):
        found = np.exp(keys @ queries[pixel] - query["logPartition"][pixel])
        wanted = pixel_distribution(torch.from_numpy(queries[pixel]), torch.from_numpy(keys))
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    points = part["points"]["low"] + np.array(part["points"]["step"]) * decoded(part["points"], "<u2").reshape(-1, 3)
    assert np.abs(points - drawn.points.numpy()).max() < 1e-3 * drawn.radius
    normals = decoded(part["pointNormals"], "i1").reshape(-1, 3) / 127
    assert np.abs(normals - drawn.point_normals.numpy()).max() < 0.01


def test_a_scene_has_the_poses_that_were_found(shown: Shown) -> None:
    assert torch.equal(shown.scene.poses[0], shown.found.T_cam_obj[0])
    assert shown.scene.probability is None  # nothing was refined, so nothing is known of alternatives
    assert shown.scene.reason is None
    assert shown.scene.free_axis is None


def test_alternatives_come_with_their_probabilities(shown: Shown) -> None:
    other = POSE.clone()
    other[2, 3] = 350
    first, nothing = shown.found.T_cam_obj[0], torch.full((4, 4), torch.nan, dtype=torch.float64)
    details = replace(
        shown.found.details, free_axis=torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64),
        alternatives=torch.stack((first, other, nothing))[None],
        probability=torch.tensor([[0.7, 0.3, 0.0]], dtype=torch.float64),
    )  # fmt: skip
    image = torch.rand(3, 120, 160)
    (scene,) = shown.maker.scenes(image, CAMERA, replace(shown.found, details=details))
    assert torch.equal(scene.poses, torch.stack((first, other)))
    assert scene.probability is not None
    assert scene.probability.tolist() == [0.7, 0.3]
    assert scene.free_axis is not None
    assert scene.free_axis.tolist() == [0, 0, 1]
    lost = PoseDetails.unknown(("nothing there",))
    nowhere = replace(shown.found, T_cam_obj=nothing[None], score=torch.zeros(1, dtype=torch.float64), details=lost)
    (scene,) = shown.maker.scenes(image, CAMERA, nowhere)
    assert (len(scene.poses), scene.reason) == (0, "nothing there")
    assert scene.query is not None  # the network spoke all the same
    assert "nothing there" in page_of(shown.photograph, [scene], [shown.maker.part(1)])


def test_a_model_without_queries_shows_its_pose_and_no_distribution() -> None:
    maker, image = maker_of(planted_model(POSE[None], wedge())), torch.rand(3, 120, 160)
    assert not maker.has_queries(1)
    (scene,) = maker.scenes(image, CAMERA, estimated(maker, image))
    assert scene.query is None
    torch.testing.assert_close(scene.poses[0], POSE, atol=1e-4, rtol=0)
    page = page_of(maker.photograph("x.png", image, CAMERA), [scene], [maker.part(1)])
    assert '"keys": null' in page
    assert "has no query image" in page


def test_points_stand_for_the_surface_that_can_be_seen() -> None:
    balls = [trimesh.creation.icosphere(3, radius) for radius in (50.0, 40.0)]
    balls[1].invert()
    both = balls[0] + balls[1]
    mesh = Mesh.from_arrays(torch.tensor(both.vertices, dtype=torch.float64), torch.tensor(both.faces))
    drawn = maker_of(random_model(Part.from_mesh("hollow", mesh))).part(1)
    assert drawn.area * len(drawn.points) == pytest.approx(4 * np.pi * 50**2, rel=0.1), "and not what it encloses"


def test_a_large_photograph_is_scaled_down_with_its_camera() -> None:
    maker = SceneMaker(PoseEstimator([random_model()], "cpu"), pixels=80)
    image = torch.zeros(3, 120, 160)
    image[:, 60:, :80] = 1
    photograph = maker.photograph("x.png", image, CAMERA)
    assert photograph.image.shape == (3, 60, 80)
    assert photograph.full_size == (160, 120)
    torch.testing.assert_close(photograph.camera.K, CAMERA.resized(0.5).K)
    assert float(photograph.image[0, 30:, :40].min()) == 1
    assert float(photograph.image[0, :30].max()) == 0
    assert maker.photograph(
        "x.png", image[:, :50, :70], Camera.from_values(9.0, 9.0, 3.0, 3.0, 70, 50)
    ).image.shape == (3, 50, 70)


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>.png", "<!--<script>.png", "a\u2028&\"'.png"])
def test_names_are_escaped_wherever_they_stand(shown: Shown, name: str) -> None:
    plain, page = shown.page(), shown.page(name, name)
    for tag in ("<script", "</script", "<!--", "<img"):
        assert page.count(tag) == plain.count(tag)
    start = page.index('id="payload">') + len('id="payload">')
    sent = json.loads(page[start : page.index("</script>", start)])
    assert sent["photograph"]["name"] == name
    assert sent["parts"]["1"]["name"] == name


def test_a_page_names_no_address_but_a_namespace(shown: Shown) -> None:
    page = shown.page().replace("http://www.w3.org/1999/xhtml", "")
    assert page.count("http") == page.count("http-equiv")
    assert "default-src 'none'" in page


def test_a_page_shows_something_and_has_its_part(shown: Shown) -> None:
    with pytest.raises(ValueError, match="no detection"):
        page_of(shown.photograph, [], [])
    with pytest.raises(ValueError, match="no part was given for object 1"):
        page_of(shown.photograph, [shown.scene], [])


def test_a_thinned_mesh_keeps_its_shape_and_its_sides() -> None:
    steps = torch.arange(120, dtype=torch.float64)
    around, up = torch.meshgrid(steps * torch.pi / 60, (steps + 0.5) * torch.pi / 120, indexing="ij")
    ball = 40 * torch.stack((around.cos() * up.sin(), around.sin() * up.sin(), up.cos()), dim=-1).flatten(0, 1)
    i, j = torch.meshgrid(torch.arange(120), torch.arange(119), indexing="ij")
    a, b, c, d = (((i + x) % 120 * 120 + j + y).flatten() for x, y in ((0, 0), (1, 0), (1, 1), (0, 1)))
    faces = torch.cat((torch.stack((a, d, c), 1), torch.stack((a, c, b), 1)))
    mesh = Mesh.from_arrays(ball, faces)
    coarse = thinned(mesh, 2000)
    assert 800 < len(coarse.faces) <= 2000
    assert float((coarse.vertices.norm(dim=1) - 40).abs().max()) < 2
    middle = coarse.vertices[coarse.faces].mean(1)
    assert (
        float(((middle * coarse.face_normals).sum(1) > 0).double().mean()) > 0.97
    )  # some at the seams of octants turn over
    assert thinned(mesh, 10**6) is mesh


@pytest.fixture
def server() -> Iterator[ViewerServer]:
    def page(index: int) -> str:
        if index == 1:
            raise ValueError("box 0 lies outside <the image>")
        return f"page {index}"

    images = [ListedImage("a<b", "x/a<b.png", 1), ListedImage("c", "c.png", 2), ListedImage("d", "d.png", 0)]
    with ViewerServer(images, page, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(server: ViewerServer, path: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(server.url.rstrip("/") + path, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_server_lists_images_and_makes_pages_when_they_are_opened(
    server: ViewerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, listing = asked(server, "/")
    assert status == 200
    assert "a&lt;b" in listing
    assert 'href="/image/0"' in listing
    assert "/image/2" not in listing  # without a box, without a page
    assert asked(server, "/image/0") == (200, "page 0")
    assert asked(server, "/image/1") == (500, "no page could be made: box 0 lies outside <the image>")
    for path in ("/image/7", "/image/-1", "/../etc/passwd", "/image/0/x"):
        assert asked(server, path)[0] == 404
    assert asked(server, "/", "evil.example")[0] == 421
    assert asked(server, "/", "localhost")[0] == 421
    monkeypatch.setattr("cad2pose.viewer.server._HTTP", server.server_port)  # which browsers leave out
    assert asked(server, "/", "localhost")[0] == 200
    monkeypatch.setattr(server, "page", lambda index: 1 / 0)
    assert asked(server, "/image/0") == (500, "no page could be made: division by zero")


def test_a_taken_port_is_said(server: ViewerServer) -> None:
    with pytest.raises(OSError, match=r"port \d+ .* is taken by another program; give another with --port"):
        ViewerServer([], str, server.server_port)
    with pytest.raises(ValueError, match="port is 99999"):
        ViewerServer([], str, 99999)


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    model = random_model(builtin_part("nut"))
    save_model(tmp_path / "model.safetensors", model.method, model.parts, {})
    save_png(tmp_path / "photo.png", torch.rand(3, 120, 160))
    (tmp_path / "camera.json").write_text(json.dumps(CAMERA.to_bop()))
    named = [("model", "model.safetensors"), ("image", "photo.png"), ("camera", "camera.json")]
    return [word for name, file in named for word in (f"--{name}", str(tmp_path / file))] + ["--device", "cpu"]


def test_mistakes_are_said(inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = ["--box", "40", "30", "60", "50"]
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "none.json").write_text("[]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, message in (
            ([], "--image needs one of --box"),
            ([*box, "--export", str(tmp_path / "page.pdf")], "a page is written as .html"),
            ([*box, "--export", str(tmp_path / "folder.html")], "is a folder"),
            ([*box, "--port", str(taken.getsockname()[1])], "is taken by another program"),
            ([*box, "--only", "0", "9"], "none of the 1 images"),
            (["--box", "900", "30", "60", "50", "--export", str(tmp_path / "page.html")], "outside the image"),
            (["--detections", str(tmp_path / "none.json")], "none.json"),
            ([*box, "--model", str(tmp_path / "gone.safetensors")], "gone.safetensors"),
        ):
            assert main(["view", *inputs, *arguments]) == 2
            assert message in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_an_export_replaces_a_file_as_a_whole(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    page.write_text("older")
    box = ["--box", "40", "30", "60", "50", "--no-refine", "--no-recrop"]
    assert main(["view", *inputs, *box, "--export", str(page)]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert page.stat().st_size < 5e6
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
    assert "MB, opens in any browser, offline" in capsys.readouterr().out

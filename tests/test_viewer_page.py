"""The exported page in a real browser, offline: what the mouse lights up, and that nobody is asked for anything."""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cad2pose.cli import main
from cad2pose.data.scenes import Photo, synthetic_photo
from cad2pose.geometry import Camera, project_points, transform_points
from cad2pose.model_file import shipped_model_path
from cad2pose.parts import builtin_part
from cad2pose.pictures import save_png
from cad2pose.rendering import MeshSet, render

CAMERA = Camera.from_values(620.0, 620.0, 319.5, 239.5, 640, 480)
NUT = builtin_part("nut")
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
HOSTILE = "<script>alert(1)<!--&quot;'.png"  # a file's name has no slash, so its end tag cannot be in it


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser; asked for first, so that nothing is made where it is missing."""
    pytest.importorskip("playwright.sync_api", reason="playwright, the browser's driver, is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no chromium on PATH, in which the page would be opened")
    return path


@pytest.fixture(scope="module")
def photo() -> Photo:
    return synthetic_photo([NUT], CAMERA, 1)


@pytest.fixture(scope="module")
def exported(chromium: str, photo: Photo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    image, camera, page = folder / HOSTILE, folder / "camera.json", folder / "page.html"
    save_png(image, photo.image)
    camera.write_text(json.dumps(CAMERA.to_bop()))
    page.write_text("an older page")
    box = [str(number) for number in photo.detections.box[0].tolist()]
    arguments = ["--model", str(shipped_model_path()), "--image", str(image), "--camera", str(camera)]
    arguments += ["--box", *box, "--object-id", "2", "--export", str(page), "--device", "cpu"]
    assert main(["view", *arguments]) == 0
    return page


@pytest.fixture(scope="module")
def page(chromium: str, exported: Path) -> Iterator[Any]:
    """The page, open and ready; any request but for the file itself fails the tests, and so does an error in it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_offline(True)
        tab: Any = context.new_page()
        tab.asked, tab.errors = [], []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.on("dialog", lambda dialog: tab.errors.append(dialog.message))
        tab.goto(exported.as_uri())
        tab.evaluate("window.cad2pose.ready")
        yield tab
        browser.close()
    assert not tab.errors


def the_scene(exported: Path) -> dict[str, Any]:
    text = exported.read_text(encoding="utf-8")
    start = text.index('id="payload">') + len('id="payload">')
    return json.loads(text[start : text.index("</script>", start)])


def seen_corner(scene: dict[str, Any], photo: Photo) -> tuple[torch.Tensor, torch.Tensor]:
    """An outer corner of the nut that can be seen, a little inside its edges, and where it is in the crop."""
    vertices = NUT.mesh.used_vertices
    reach = vertices[:, :2].norm(dim=1)
    corners = vertices[reach > 0.999 * reach.max()]
    corners = NUT.center + 0.93 * (corners - NUT.center)
    R = torch.tensor(scene["R"], dtype=torch.float64).view(3, 3)
    K = torch.tensor(scene["K"], dtype=torch.float64).view(3, 3)
    T = photo.T_cam_obj[0].double().clone()
    T[:3] = R @ T[:3]
    seen = transform_points(T, corners)
    pixels = project_points(K, seen)
    depth = render(
        MeshSet.from_meshes([NUT.mesh]), torch.zeros(1, 1, dtype=torch.int64), T[None, None], K[None], scene["side"],
        scene["side"],
    ).depth[0]  # fmt: skip
    column, row = pixels.round().long().clamp(0, scene["side"] - 1).unbind(1)
    shown = depth[row, column]
    behind = torch.where(shown > 0, seen[:, 2] - shown, torch.inf)
    best = int(behind.argmin())
    return corners[best], pixels[best]


def point_at(page: Any, canvas: str, pixel: torch.Tensor, side: int) -> None:
    """Move the real mouse over a pixel of the crop."""
    box = page.locator(canvas).bounding_box()
    share = (pixel + 0.5) / side
    page.mouse.move(box["x"] + float(share[0]) * box["width"], box["y"] + float(share[1]) * box["height"])
    page.evaluate("window.cad2pose.update()")


def numbers(page: Any, array: str) -> torch.Tensor:
    """An array of the page, as text: the driver would wrap every single number."""
    return torch.tensor(json.loads(page.evaluate(f"JSON.stringify(Array.from({array}))")), dtype=torch.float64)


def wait_until(page: Any, condition: str) -> None:
    """The driver's own waiting evaluates text inside the page, which the page forbids."""
    page.evaluate(
        f"""new Promise((resolve, reject) => {{
            const since = performance.now();
            const look = () => ({condition}) ? resolve() : performance.now() - since > 20000
                ? reject(new Error("waited in vain")) : setTimeout(look, 20);
            look();
        }})"""
    )


def test_the_mouse_on_a_corner_lights_all_that_the_symmetry_makes_equal(
    page: Any, exported: Path, photo: Photo
) -> None:
    scene = the_scene(exported)["scenes"][0]
    corner, pixel = seen_corner(scene, photo)
    point_at(page, "#crop", pixel, scene["side"])
    wait_until(page, "cad2pose.state.ms.neighbours")
    page.evaluate("cad2pose.update()")
    state = page.evaluate("({...cad2pose.state.pixel, total: cad2pose.state.total})")
    cells = scene["query"]["height"]
    assert [state["row"], state["column"]] == ((pixel.flip(0) + 0.5) * cells / scene["side"]).long().tolist()
    assert state["total"] == pytest.approx(1, abs=0.01)
    probability = numbers(page, "cad2pose.state.distribution")
    points = numbers(page, "cad2pose.points()").view(-1, 3)
    equal = (corner - NUT.center) @ NUT.symmetries.rotation_group().mT + NUT.center
    equal = equal.view(-1, 3)
    assert len(equal) == 12
    away = torch.cdist(points, equal)
    near = [float(probability[away[:, k] < 0.12 * NUT.diameter].sum()) for k in range(len(equal))]
    assert min(near) > 0.4 * max(near)
    assert sum(near) > 0.7
    levels = numbers(page, "cad2pose.state.levels")  # what is drawn
    lit = [float(levels[away[:, k] < 0.12 * NUT.diameter].max()) for k in range(len(equal))]
    assert min(lit) > 0.2 * float(levels.max())
    far = away.amin(1) > 0.25 * NUT.diameter
    assert int(far.sum()) > 1000
    assert float(probability[far].sum()) < 0.01
    assert float(levels[far].max()) < 0.02 * float(levels.max())


def test_a_finger_does_as_the_mouse(page: Any, exported: Path, photo: Photo) -> None:
    scene = the_scene(exported)["scenes"][0]
    _, pixel = seen_corner(scene, photo)
    context = page.context.browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    context.set_offline(True)
    phone = context.new_page()
    phone.goto(exported.as_uri())
    phone.evaluate("window.cad2pose.ready")
    canvas = phone.locator("#crop")
    canvas.scroll_into_view_if_needed()
    box, share = canvas.bounding_box(), (pixel + 0.5) / scene["side"]
    phone.touchscreen.tap(box["x"] + float(share[0]) * box["width"], box["y"] + float(share[1]) * box["height"])
    phone.evaluate("window.cad2pose.update()")
    state = phone.evaluate("cad2pose.state.pixel")
    cells = scene["query"]["height"]
    wanted = ((pixel.flip(0) + 0.5) * cells / scene["side"]).long().tolist()
    assert [state["row"], state["column"]] == pytest.approx(wanted, abs=1)
    assert numbers(phone, "cad2pose.state.distribution").sum() == pytest.approx(1, abs=0.01)
    width = phone.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, "a phone shows the page without sideways scrolling"
    context.close()


def test_nothing_is_asked_of_anybody(page: Any, exported: Path) -> None:
    asked = [url for url in page.asked if not url.startswith("data:")]
    assert asked == [exported.as_uri()]


def test_the_part_over_the_crop_is_where_the_renderer_puts_it(page: Any, exported: Path) -> None:
    scene = the_scene(exported)["scenes"][0]
    side = scene["side"]
    drawn = torch.tensor(page.evaluate("cad2pose.silhouette()")).view(side, side).bool()
    T = torch.tensor(scene["poses"][0], dtype=torch.float64).view(4, 4)
    T[:3] = torch.tensor(scene["R"], dtype=torch.float64).view(3, 3) @ T[:3]
    K = torch.tensor(scene["K"], dtype=torch.float64).view(1, 3, 3)
    mask = render(
        MeshSet.from_meshes([NUT.mesh]), torch.zeros(1, 1, dtype=torch.int64), T[None, None], K, side, side
    ).mask[0]  # fmt: skip
    overlap = float((drawn & mask).sum() / (drawn | mask).sum())

    assert overlap > 0.985
    for shift in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        moved = torch.roll(mask, shift, (0, 1))

        assert float((drawn & moved).sum() / (drawn | moved).sum()) < 0.95


def test_the_mouse_on_the_part_shows_that_point_in_the_crop(page: Any, exported: Path) -> None:
    page.locator("#home").click()
    box = page.locator("#surface").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 30, box["y"] + box["height"] / 2 - 10)
    state = page.evaluate("({point: cad2pose.state.point, likelihood: [...cad2pose.state.likelihood]})")
    assert state["point"] >= 0
    values = np.array(state["likelihood"])
    best = int(values.argmax())
    mask = base64.b64decode(the_scene(exported)["scenes"][0]["query"]["mask"]["data"])
    side = math.isqrt(len(mask))
    page.evaluate(f"cad2pose.showPixel({best // side}, {best % side})")
    there = page.evaluate("cad2pose.state.distribution[cad2pose.state.point]")
    assert values[best] == pytest.approx(there * mask[best] / 255, rel=1e-3)
    page.mouse.move(5, 5)
    assert page.evaluate("cad2pose.state.point") == -1


def test_keys_and_the_table_serve_those_without_a_mouse(page: Any) -> None:
    page.locator("#crop-frame").focus()
    before = page.evaluate("({...cad2pose.state.pixel})")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    after = page.evaluate("({...cad2pose.state.pixel})")
    assert (after["row"], after["column"]) == (before["row"] + 1, before["column"] + 1)
    assert f"Pixel {after['column']}, {after['row']}" in page.locator("#pixel-text").inner_text()
    page.keyboard.press("g")
    assert page.locator("#ghosts").is_checked()
    poses = page.locator("#poses tbody tr").count()
    wait_until(page, f"document.querySelectorAll('#labels span:not([hidden])').length === {poses}")
    page.keyboard.press("g")
    assert "alternatives" in page.locator("#poses caption").inner_text()
    assert page.locator("#poses tbody tr").count() >= 6


def test_hostile_names_are_text(page: Any, exported: Path) -> None:
    assert page.locator(".file").inner_text() == HOSTILE
    assert page.title().startswith(HOSTILE)
    assert "<script>alert" not in exported.read_text(encoding="utf-8")

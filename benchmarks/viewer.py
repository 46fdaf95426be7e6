"""Size of a page, time to its first picture, and time for a hovered pixel's distribution, measured in Chromium.

Needs chromium on PATH and playwright; without a GPU the pictures in 3D are drawn by the CPU.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro

from cad2pose.data.scenes import synthetic_photo
from cad2pose.estimator import PoseEstimator
from cad2pose.files import write_text
from cad2pose.geometry import Camera
from cad2pose.model_file import shipped_model_path
from cad2pose.viewer import DrawnPart, SceneMaker, page_of

FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
HOVER = """() => {
    const {height, width} = JSON.parse(document.getElementById("payload").textContent).scenes[0].query;
    const times = [], updates = [];
    for (let i = 0; i < 200; i++) {
        cad2pose.showPixel(i % height, (7 * i) % width);
        times.push(cad2pose.state.ms.distribution);
        if (i % 10 === 0) { cad2pose.update(); updates.push(cad2pose.state.ms.update); }
    }
    return [times.slice(20), updates.slice(2)];
}"""


@dataclass(frozen=True)
class Config:
    """Bytes and milliseconds of a page."""

    page: Path | None = None
    """an exported page; by default one of the built-in nut, its mesh divided into as many triangles"""

    triangles: int = 20_000
    """of that mesh"""

    repeats: int = 5
    """times the page is opened"""


def make_page(triangles: int) -> str:
    """A page of a rendered nut; its mesh is divided, which changes nothing but the size."""
    estimator = PoseEstimator.load(shipped_model_path(), "cpu")
    camera = Camera.from_values(620.0, 620.0, 319.5, 239.5, 640, 480)
    photo = synthetic_photo([estimator.parts[2]], camera, 1)
    found = estimator.estimate(photo.image, camera, photo.detections)
    maker = SceneMaker(estimator)
    part = divided(maker.part(2), triangles)
    return page_of(maker.photograph("nut.png", photo.image, camera), maker.scenes(photo.image, camera, found), [part])


def divided(part: DrawnPart, triangles: int) -> DrawnPart:
    """The part with the longest sides of its triangles halved until there are so many; shape and look stay."""
    vertices, normals, colors, faces = part.vertices, part.normals, part.colors, part.faces
    assert colors is not None, "built-in parts have colours"
    while len(faces) < triangles:
        corners = vertices[faces]
        area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
        order = area.argsort(descending=True)
        split, rest = faces[order[: triangles - len(faces)]], faces[order[triangles - len(faces) :]]
        sides = (vertices[split] - vertices[split.roll(-1, 1)]).norm(dim=2)
        turned = split.gather(1, (sides.argmax(1, keepdim=True) + torch.arange(3)) % 3)
        a, b, c = turned.unbind(1)
        middle = len(vertices) + torch.arange(len(split))
        vertices, normals, colors = (torch.cat((v, (v[a] + v[b]) / 2)) for v in (vertices, normals, colors))
        faces = torch.cat((rest, torch.stack((a, middle, c), 1), torch.stack((middle, b, c), 1)))
    return replace(part, vertices=vertices, normals=normals, colors=colors, faces=faces, triangles=len(faces))


def measure(browser: Any, page: Path) -> dict[str, float]:
    """Milliseconds of one opening."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    tab = context.new_page()
    tab.goto(page.absolute().as_uri())
    tab.evaluate("cad2pose.ready")
    tab.evaluate("new Promise((resolve) => setTimeout(resolve, 1500))")  # the neighbours are found meanwhile
    first = tab.evaluate("({...cad2pose.state.ms})")
    times, updates = tab.evaluate(HOVER)
    context.close()
    return {
        "first_pictures_ms": first["pictures"], "part_in_3d_ms": first["first"], "distribution_ms": median(times),
        "distribution_slowest_ms": max(times), "drawing_ms": median(updates),
    }  # fmt: skip


def main(config: Config) -> int:
    from playwright.sync_api import sync_playwright

    torch.set_num_threads(1)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("there is no chromium on PATH, in which the page would be measured")
        return 1
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page = config.page or Path(folder) / "page.html"
        if config.page is None:
            write_text(page, make_page(config.triangles))
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        measure(browser, page)  # warms up
        rows = [measure(browser, page) for _ in range(config.repeats)]
        size = page.stat().st_size
        browser.close()
    figures = {name: round(median(row[name] for row in rows), 2) for name in rows[0]}
    print(f"page of {size / 1e6:.2f} MB (to stay below 5); medians of {config.repeats} openings, by the CPU alone")
    for name, value in figures.items():
        print(f"{name:>24} {value:9.2f}")
    print(json.dumps({"benchmark": "viewer", "bytes": size, **figures}))
    return int(size >= 5e6 or figures["first_pictures_ms"] >= 1000 or figures["distribution_ms"] > 8)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))

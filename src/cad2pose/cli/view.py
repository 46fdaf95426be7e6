"""`cad2pose view`: a page that shows what the network says of a photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from cad2pose.cli.arguments import OptionalPath
from cad2pose.cli.console import plain_console
from cad2pose.cli.image_choice import ImageChoice, check_tasks
from cad2pose.data.image_tasks import ImageTask
from cad2pose.estimator import EstimatorOptions, PoseEstimator, best_per_object
from cad2pose.files import check_file, write_text
from cad2pose.viewer import SceneMaker, ViewerServer, page_of
from cad2pose.viewer.server import ListedImage

_OPTIONS, _IMAGES = EstimatorOptions(), ImageChoice()
_PORT = 8765


def view_command(
    *,
    model: Path,
    images: Annotated[ImageChoice, tyro.conf.arg(name="")] = _IMAGES,
    only: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="SCENE IMAGE", help_behavior_hint="")] = None,
    export: OptionalPath = None,
    port: int = _PORT,
    options: Annotated[EstimatorOptions, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands] = _OPTIONS,
    device: str = "auto",
) -> None:
    """Show in a browser what the network says of a photograph.

    Mouse on a pixel: its distribution over the part's surface; mouse on the part: the likelihood of that point over the
    crop; the poses with their probabilities, over the picture and as ghosts. Serves pages on this machine until Ctrl-C,
    each made when it is opened; with --export writes one page that works offline, from a mail attachment.

    Args:
        model: model file, or a folder of them, which then means all their objects.
        images: which images, and where in them.
        only: scene and image number of the one image that is shown; those of --image files have scene 0.
        export: write the page of one image to this file (.html) in place of serving.
        port: where to serve; 0 takes a free one.
        options: of the estimator.
        device: auto (CUDA where there is one), cpu, cuda, cuda:1, ...
    """
    images.check()
    _check_export(export)
    estimator = PoseEstimator.load(model, device, options)
    tasks = _chosen(images.tasks(estimator), only)
    if not any(len(task.detections) for task in tasks):
        raise ValueError(f"{tasks[0].path} has no detection to show; give --box, --mask, or detections of it")
    maker, console = SceneMaker(estimator), plain_console()
    if export is not None:
        _export(console, maker, tasks, export)
    else:
        _serve(console, maker, tasks, port)


def page_of_task(maker: SceneMaker, task: ImageTask, back: str | None = None) -> str:
    """Estimate the poses of an image's detections, and show them.

    Raises:
        ValueError: for an image without detections, or as the estimator raises it.
    """
    if not len(task.detections):
        raise ValueError(f"{task.path} has no detection to show")
    check_tasks(maker.estimator, [task])
    pixels = task.read()
    found = best_per_object(maker.estimator.estimate(pixels, task.camera, task.detections), task.counts)
    scenes = maker.scenes(pixels, task.camera, found)
    parts = [maker.part(object_id) for object_id in sorted({scene.object_id for scene in scenes})]
    return page_of(maker.photograph(_readable(task.path.name), pixels, task.camera), scenes, parts, back)


def _check_export(export: Path | None) -> None:
    if export is None:
        return
    if export.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--export is {export}; a page is written as .html, which browsers open")
    if export.is_dir():
        raise IsADirectoryError(f"--export is {export}, which is a folder; name the file, such as page.html")
    check_file(export)


def _chosen(tasks: Sequence[ImageTask], only: tuple[int, int] | None) -> Sequence[ImageTask]:
    if only is None:
        return tasks
    chosen = [task for task in tasks if (task.scene_id, task.image_id) == only]
    if not chosen:
        first = tasks[0]
        raise ValueError(
            f"--only is {only[0]} {only[1]}, which is none of the {len(tasks)} images; the first is "
            f"{first.scene_id} {first.image_id}"
        )
    return chosen


def _export(console: Console, maker: SceneMaker, tasks: Sequence[ImageTask], path: Path) -> None:
    shown = [task for task in tasks if len(task.detections)]
    if len(shown) > 1:
        first = shown[0]
        raise ValueError(
            f"{len(shown)} images have detections, and --export writes the page of one; choose it with --only SCENE "
            f"IMAGE, such as --only {first.scene_id} {first.image_id}, or leave --export out to serve them all"
        )
    page = page_of_task(maker, shown[0])
    write_text(path, page)
    size = len(page.encode("utf-8")) / 1e6
    console.print(f"{path}: {size:.1f} MB, opens in any browser, offline", soft_wrap=True, highlight=False)


def _serve(console: Console, maker: SceneMaker, tasks: Sequence[ImageTask], port: int) -> None:
    listed = [ListedImage(task.name, str(task.path), len(task.detections)) for task in tasks]
    back = "/" if len(tasks) > 1 else None
    with ViewerServer(listed, lambda index: page_of_task(maker, tasks[index], back), port) as server:
        images = "1 image" if len(tasks) == 1 else f"{len(tasks)} images"
        console.print(f"{images} at {server.url} (Ctrl-C ends)", soft_wrap=True, highlight=False)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")


def _readable(name: str) -> str:
    """A file's name without what is no text."""
    return name.encode("utf-8", "replace").decode("utf-8")

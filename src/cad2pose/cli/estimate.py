"""`cad2pose estimate`: poses of known objects in images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from cad2pose import __version__
from cad2pose.cli.arguments import OptionalPath
from cad2pose.cli.console import plain_console
from cad2pose.cli.debug_sheets import DebugSheets
from cad2pose.cli.image_choice import ImageChoice, check_tasks
from cad2pose.data.image_tasks import ImageTask
from cad2pose.data.results import Results, write_results_csv
from cad2pose.estimator import EstimatorOptions, PoseEstimator, SteadyPoses, best_per_object, likely_right
from cad2pose.files import check_folder, write_text
from cad2pose.pictures import OverlayStyle, draw_poses, save_png
from cad2pose.structures import PoseEstimates

_OPTIONS, _IMAGES = EstimatorOptions(), ImageChoice()

Done = tuple[ImageTask, PoseEstimates]
"""A task and what was found."""
Broken = tuple[ImageTask, str]
"""A task that cannot be read, and why."""


def estimate_command(
    *,
    model: Path,
    out: Path = Path("out"),
    images: Annotated[ImageChoice, tyro.conf.arg(name="")] = _IMAGES,
    depth: OptionalPath = None,
    depth_scale: float = 1.0,
    bop_depth: bool = False,
    min_score: float = 0.0,
    min_confidence: float = 0.0,
    steady: bool = False,
    options: Annotated[EstimatorOptions, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands] = _OPTIONS,
    pictures: bool = True,
    debug_pictures: bool = False,
    blend: float = 0.0,
    device: str = "auto",
) -> None:
    """Estimate the poses of known objects in images.

    Either --image with --camera and one of --box, --mask and --detections, or --bop with --detections. Writes
    results.csv (BOP's form), results.json, and a picture per image with the contours, axes and scores of the poses
    (pictures/). Every box gets a pose; `--instances N` keeps the best N of an object in an image, and a BOP targets
    file as many as it asks for. results.json has more: the chance that a pose is right, where the model was calibrated
    for poses of its kind; poses that were refined or solved for with their covariance, their free axis and their
    alternatives; boxes without a pose with the reason. Images that cannot be read are left out, named at the end, and
    results.json says why; the status is then 2.

    Args:
        model: model file, or a folder of them, which then means all their objects.
        out: folder for the results.
        images: which images, and where in them.
        depth: depth image of the same pixels, or a folder of them named as the images; poses are moved along their rays
            to where it has them.
        depth_scale: millimetres per unit of the depth images.
        bop_depth: use the depth images of the BOP dataset.
        min_score: leave out poses with a lower score (0 to 1).
        min_confidence: leave out poses that are right with a lower chance (0 to 1), as the model was calibrated for.
        steady: the images are a video, in the order of their names: of all poses of a symmetric part that look the
            same, take those turned least against the image before.
        options: of the estimator.
        pictures: save a picture per image.
        debug_pictures: save a sheet per box (debug/): the crop, its mask and query image in false colour, the keys in
            the pose found, the distribution of the surest pixel over the part, and the pose's score pixel by pixel.
        blend: opacity of the part drawn over the picture, 0 to 1.
        device: auto (CUDA where there is one), cpu, cuda, cuda:1, ...
    """
    images.check()
    _check_depth(images.bop, depth, depth_scale, bop_depth)
    for name, value in (("--min-score", min_score), ("--min-confidence", min_confidence)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it lies between 0 and 1")
    check_folder(out)
    style = OverlayStyle(blend=blend)
    estimator = PoseEstimator.load(model, device, options)
    tasks = images.tasks(estimator, depth, depth_scale, bop_depth)
    check_tasks(estimator, tasks)
    wanted = sorted({i for task in tasks for i in task.detections.object_id.tolist()})
    estimator.check_use(wanted, bop_depth or depth is not None, min_confidence > 0)
    console = plain_console()
    inspect = DebugSheets(estimator, out / "debug", wanted) if debug_pictures else None
    ready = estimator.prepare(wanted)
    done: list[Done] = []
    broken: list[Broken] = []
    try:
        limits, folder = (min_score, min_confidence), out if pictures else None
        _estimate(console, estimator, tasks, limits, steady, folder, style, inspect, done, broken)
    finally:  # what was found is worth keeping when something later fails
        if done:
            _write(out, model, estimator, done, broken)
    if done:
        _say(console, estimator, done, ready, out)
    if broken:
        others = f" (and {len(broken) - 1} more, see results.json)" if len(broken) > 1 and done else ""
        raise ValueError(f"{broken[0][1]}{others}; {len(broken)} of {len(tasks)} images were left out")


def _check_depth(bop: Path | None, depth: Path | None, scale: float, bop_depth: bool) -> None:
    if bop is None and bop_depth:
        raise ValueError("--bop-depth is about a BOP dataset; give --depth FILE with --image")
    if bop is not None and depth is not None:
        raise ValueError("--depth goes with --image; the depth images of a BOP dataset are used with --bop-depth")
    if depth is None and scale != 1.0:
        raise ValueError(f"--depth-scale is {scale}, and there is no --depth; a BOP dataset states its own scale")
    if not 0 < scale < float("inf"):
        raise ValueError(f"--depth-scale is {scale}; it must be a positive number of millimetres per unit")


def _estimate(
    console: Console,
    estimator: PoseEstimator,
    tasks: Sequence[ImageTask],
    limits: tuple[float, float],
    steady: bool,
    out: Path | None,
    style: OverlayStyle,
    inspect: DebugSheets | None,
    done: list[Done],
    broken: list[Broken],
) -> None:
    """Poses of all tasks, to be added to `done`; each picture is written as soon as it is drawn.

    `limits` are the least score and the least confidence. Scenes of a data set are videos of their own.
    """
    steadied: dict[int, SteadyPoses] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for task in progress.track(tasks, description="images"):
            try:
                pixels, depth = task.read(), task.read_depth()
            except (OSError, ValueError) as error:
                broken.append((task, str(error)))
                continue
            try:
                found = estimator.estimate(pixels, task.camera, task.detections, limits[0], depth)
            except ValueError as error:
                broken.append((task, f"{task.path}: {error}"))
                continue
            if limits[1] > 0:
                found = likely_right(found, limits[1])
            found = best_per_object(found, task.counts)
            if steady:
                found = steadied.setdefault(task.scene_id, SteadyPoses(estimator.parts))(found)
            if inspect is not None:
                inspect.save(task, pixels, found)
            if out is not None:
                straight, camera = task.camera.undistort_image(pixels), task.camera.without_distortion()
                save_png(
                    out / "pictures" / f"{task.name}.png",
                    draw_poses(straight, camera, estimator.parts, found, style),
                )
            done.append((task, found))


def _write(out: Path, model: Path, estimator: PoseEstimator, done: Sequence[Done], broken: Sequence[Broken]) -> None:
    """results.csv and results.json."""
    images: list[dict[str, object]] = [
        {
            "image": str(task.path),
            "scene_id": task.scene_id,
            "im_id": task.image_id,
            "seconds": found.seconds,
            "stages": dict(found.stages),
            "poses": [_pose_entry(estimator, found, row) for row in range(len(found))],
        }
        for task, found in done
    ]
    images += [
        {"image": str(task.path), "scene_id": task.scene_id, "im_id": task.image_id, "left_out": why}
        for task, why in broken
    ]
    about = {"cad2pose": __version__, "model": str(model), "units": "mm", "images": images}
    results = Results.from_estimates({(task.scene_id, task.image_id): found for task, found in done})
    write_results_csv(out / "results.csv", results)
    write_text(out / "results.json", json.dumps(about, indent=1, allow_nan=False) + "\n")


def _pose_entry(estimator: PoseEstimator, found: PoseEstimates, row: int) -> dict[str, object]:
    """A pose with all that is known of it, or why there is none."""
    object_id, details = int(found.object_id[row]), found.details
    entry: dict[str, object] = {"obj_id": object_id, "name": estimator.parts[object_id].name}
    if details.reasons[row] is not None:
        return entry | {"no_pose": details.reasons[row], "box": found.box[row].tolist()}
    entry |= {"score": float(found.score[row])}
    if not bool(torch.isnan(found.confidence[row])):
        entry["confidence"] = float(found.confidence[row])
    entry |= _pose_numbers(found.T_cam_obj[row])
    entry["box"] = found.box[row].tolist()
    if not bool(torch.isnan(details.covariance[row]).any()):
        entry["covariance"] = details.covariance[row].tolist()
        entry["free_axis"] = details.free_axis[row].tolist() if bool(details.free_axis[row].any()) else None
    known = (details.probability[row] > 0).nonzero()[:, 0].tolist()
    if known:
        entry["alternatives"] = [
            {"probability": float(details.probability[row, k])} | _pose_numbers(details.alternatives[row, k])
            for k in known
        ]
    return entry


def _pose_numbers(T_cam_obj: Tensor) -> dict[str, object]:
    return {"R": T_cam_obj[:3, :3].flatten().tolist(), "t": T_cam_obj[:3, 3].tolist()}


def _say(console: Console, estimator: PoseEstimator, done: Sequence[Done], ready: float, out: Path) -> None:
    """A summary, with the seconds it took to be ready; for a single image, the poses themselves."""
    if len(done) == 1:
        for row in range(len(done[0][1])):
            entry = _pose_entry(estimator, done[0][1], row)
            title = f"{entry['name']} (object {entry['obj_id']})"
            if "no_pose" in entry:
                console.print(f"{title}: no pose: {entry['no_pose']}", soft_wrap=True, highlight=False)
                continue
            x, y, z = done[0][1].T_cam_obj[row, :3, 3].tolist()
            sure = f", {entry['confidence']:.0%} likely right" if "confidence" in entry else ""
            line = f"{title}: score {entry['score']:.3f}{sure}, t = {x:.1f} {y:.1f} {z:.1f}"
            console.print(f"{line} mm", highlight=False)
    poses = sum(int(found.found.sum()) for _, found in done)
    lost = sum(len(found) for _, found in done) - poses
    median = sorted(done, key=lambda one: one[1].seconds)[len(done) // 2][1]
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in median.stages.items())
    took = f"{median.seconds:.2f} s per image (median" + (f": {stages})" if stages else ")")
    console.print(
        f"{poses} poses in {len(done)} images{_without(lost)}, {took}, {ready:.1f} s before the first: "
        f"{out / 'results.csv'}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


def _without(lost: int) -> str:
    return f" ({lost} {'box' if lost == 1 else 'boxes'} without a pose, see results.json)" if lost else ""

"""`cad2pose demo`: fresh pictures of the built-in parts, and how well their poses are estimated."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import tyro
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from torch import Tensor

from cad2pose.cli.arguments import OptionalPath
from cad2pose.cli.console import plain_console
from cad2pose.data.results import Results, write_results_csv
from cad2pose.data.scenes import Photo, synthetic_photo
from cad2pose.estimator import EstimatorOptions, PoseEstimator
from cad2pose.files import check_folder, write_text
from cad2pose.geometry import Camera, geodesic_distance
from cad2pose.geometry.rotation import degrees
from cad2pose.model_file import shipped_model_path
from cad2pose.parts.part import Part
from cad2pose.pictures import OverlayStyle, contact_sheet, draw_poses, save_png
from cad2pose.structures import PoseEstimates

_INTRINSICS = (620.0, 620.0, 319.5, 239.5)
_SIZE = (640, 480)
_FINE_STEPS = 720  # of a continuous symmetry: half a degree apart
_LARGEST_SEED = 2**31
_OPTIONS = EstimatorOptions()


@dataclass(frozen=True)
class PoseErrors:
    """How far an estimate is from the truth.

    Args:
        picture: number of the picture, from 0.
        part: name of the part.
        rotation_deg: to the nearest of the rotations that its symmetry makes equal.
        translation_mm: distance of the two positions of the bounding sphere's centre.
        translation_percent: the same in percent of its true distance from the camera.
        score: the estimator's own.
        visibility: share of the silhouette that is not hidden.
    """

    picture: int
    part: str
    rotation_deg: float
    translation_mm: float
    translation_percent: float
    score: float
    visibility: float


def demo_command(
    *,
    out: Path = Path("demo_out"),
    images: int = 8,
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None,
    model: OptionalPath = None,
    options: Annotated[EstimatorOptions, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands] = _OPTIONS,
    device: str = "auto",
) -> None:
    """Render fresh pictures of the built-in parts in clutter, estimate their poses, and compare them with the truth.

    Writes demo.png, a sheet of all pictures with the estimated poses drawn in; results.csv in BOP's form; and
    errors.json.

    Args:
        out: folder for the results.
        images: number of pictures.
        seed: of the pictures; a fresh one by default, which is printed.
        model: model file of the built-in parts, or of other parts; the one that comes with the package by default.
        options: of the estimator.
        device: auto (CUDA where there is one), cpu, cuda, cuda:1, ...
    """
    if images < 1:
        raise ValueError(f"images is {images}; it must be 1 or more")
    check_folder(out)
    seed = secrets.randbelow(_LARGEST_SEED) if seed is None else seed
    estimator = PoseEstimator.load(model or shipped_model_path(), device, options)
    camera = Camera.from_values(*_INTRINSICS, *_SIZE)
    console = plain_console()
    console.print(f"seed {seed}: {images} fresh pictures of {', '.join(p.name for p in estimator.parts.values())}")
    start = time.perf_counter()
    photos, found = _estimate(console, estimator, camera, images, seed)
    pairs = enumerate(zip(photos, found, strict=True))
    errors = [error for index, (photo, each) in pairs for error in pose_errors(index, estimator, photo, each)]
    console.print(errors_table(errors))
    if lost := sum(len(each) for each in found) - len(errors):
        console.print(f"no pose was found in {lost} of {lost + len(errors)} boxes; they are left out of the table")
    _write(out, seed, estimator, camera, photos, found, errors)
    seconds = time.perf_counter() - start
    console.print(f"{seconds:.0f} s in all; the pictures: {out / 'demo.png'}", soft_wrap=True, highlight=False)


def _estimate(
    console: Console, estimator: PoseEstimator, camera: Camera, images: int, seed: int
) -> tuple[list[Photo], list[PoseEstimates]]:
    parts = list(estimator.parts.values())
    photos, found = [], []
    columns = (TextColumn("pictures"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        for index in bar.track(range(images)):
            photo = synthetic_photo(parts, camera, seed + index)
            photos.append(photo)
            found.append(estimator.estimate(photo.image, camera, photo.detections))
    return photos, found


def pose_errors(picture: int, estimator: PoseEstimator, photo: Photo, found: PoseEstimates) -> list[PoseErrors]:
    """Errors of the poses that were found in one picture; boxes are in the order of its detections."""
    errors = []
    for row in found.found.nonzero()[:, 0].tolist():
        part = estimator.parts[int(found.object_id[row])]
        rotation, offset, distance = _difference(part, found.T_cam_obj[row], photo.T_cam_obj[row].double().cpu())
        errors.append(
            PoseErrors(
                picture, part.name, rotation, offset, 100 * offset / distance, float(found.score[row]),
                float(photo.visibility[row]),
            )
        )  # fmt: skip
    return errors


def _difference(part: Part, T_found: Float[Tensor, "4 4"], T_true: Float[Tensor, "4 4"]) -> tuple[float, float, float]:
    """Rotation error (deg), distance of the centres (mm), and the true centre's distance from the camera (mm)."""
    candidates = T_true[:3, :3] @ part.symmetries.rotation_group(_FINE_STEPS)
    angle = geodesic_distance(T_found[:3, :3].expand_as(candidates), candidates).min()
    there, here = map(part.middle, (T_true, T_found))
    return float(degrees(angle)), float((there - here).norm()), float(there.norm())


def errors_table(errors: Sequence[PoseErrors]) -> Table:
    """All errors part by part, with medians."""
    table = Table(
        caption="turned: rotation error to the nearest symmetric version of the truth. off: position error of the "
        "part's centre, in mm and in % of its distance from the camera. visible: share of the silhouette.",
        caption_justify="left",
    )
    for column in ("part", "picture", "turned °", "off mm", "off %", "score", "visible"):
        table.add_column(column, justify="left" if column == "part" else "right", no_wrap=True)
    for name, rows in _by_part(errors).items():
        for row in rows:
            table.add_row(name, str(row.picture), *_cells(row))
        table.add_row(name, "median", *_cells(_medians(rows)), style="bold", end_section=True)
    if errors:
        table.add_row("all", "median", *_cells(_medians(errors)), style="bold")
    return table


def _by_part(errors: Iterable[PoseErrors]) -> Mapping[str, list[PoseErrors]]:
    groups: dict[str, list[PoseErrors]] = {}
    for error in errors:
        groups.setdefault(error.part, []).append(error)
    return groups


def _medians(errors: Sequence[PoseErrors]) -> PoseErrors:
    names = ("rotation_deg", "translation_mm", "translation_percent", "score", "visibility")
    return PoseErrors(-1, "median", **{name: median(getattr(error, name) for error in errors) for name in names})


def _cells(error: PoseErrors) -> list[str]:
    return [
        f"{error.rotation_deg:.1f}", f"{error.translation_mm:.1f}", f"{error.translation_percent:.1f}",
        f"{error.score:.2f}", f"{error.visibility:.0%}",
    ]  # fmt: skip


def _write(
    out: Path,
    seed: int,
    estimator: PoseEstimator,
    camera: Camera,
    photos: Sequence[Photo],
    found: Sequence[PoseEstimates],
    errors: Sequence[PoseErrors],
) -> None:
    """demo.png, results.csv, errors.json."""
    style = OverlayStyle(blend=0.0)
    drawn = [draw_poses(p.image.cpu(), camera, estimator.parts, f, style) for p, f in zip(photos, found, strict=True)]
    labels = []
    for index in range(len(photos)):
        mine = [error for error in errors if error.picture == index]
        middle = _medians(mine) if mine else None
        labels.append(
            f"{index}: median {middle.rotation_deg:.1f} deg, {middle.translation_percent:.1f} %"
            if middle
            else f"{index}"
        )
    save_png(out / "demo.png", contact_sheet(drawn, labels, columns=min(4, len(drawn)), tile_width=480))
    write_results_csv(out / "results.csv", Results.from_estimates({(0, i): e for i, e in enumerate(found)}))
    parts = {name: asdict(_medians(rows)) for name, rows in _by_part(errors).items()}
    content = {"seed": seed, "medians": parts, "poses": [asdict(error) for error in errors]}
    write_text(out / "errors.json", json.dumps(content, indent=1, allow_nan=False) + "\n")

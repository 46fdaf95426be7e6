"""A piece of the photograph about a target, with the outlines of truth and estimate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cad2pose.data.bop import BopDataset
from cad2pose.geometry import Camera, project_points, transform_points
from cad2pose.geometry.intrinsics import resized_intrinsics
from cad2pose.parts.part import Part
from cad2pose.pictures.image_file import jpeg_bytes, to_bytes
from cad2pose.pictures.outlines import draw_outlines, truth_and_estimate
from cad2pose.report.cases import Case
from cad2pose.report.skeleton import jpeg_uri

SIDE = 256
"""Pixels of a picture."""

_ROOM = 1.35  # of the larger outline
_LEAST = 40.0  # px of the photograph
_REACH = 3.0  # sides of the true outline: estimates further off are cut
_GROUND = 90

Square = tuple[float, float, float]
"""Left, top and side, in pixels of the photograph."""


def case_pictures(
    dataset: BopDataset, wanted: Iterable[tuple[Case, Sequence[int]]]
) -> tuple[dict[tuple[int, ...], list[str]], list[str]]:
    """Pictures of cases as addresses of images, by the case's key and the files' places; and what could not be read.

    Every photograph is read once, whatever its size, and none is kept. Where one cannot be read, the outlines stand on
    gray.

    Args:
        dataset: the split.
        wanted: cases, and the places of the files whose estimates are drawn, side by side and of the same piece.
    """
    by_image: dict[tuple[int, int], dict[tuple[int, ...], tuple[Case, Sequence[int]]]] = {}
    for case, places in wanted:
        by_image.setdefault((case.scene_id, case.image_id), {})[*case.key, *places] = case, places
    pictures: dict[tuple[int, ...], list[str]] = {}
    troubles: list[str] = []
    for (scene_id, image_id), cases in sorted(by_image.items()):
        pixels, camera, trouble = _photograph(dataset, scene_id, image_id)
        troubles += [trouble] if trouble else []
        for key, (case, places) in cases.items():
            poses = [case.poses[place] for place in places]
            square = _square(camera, case.part, case.truth.T_cam_obj, poses)
            pictures[key] = [jpeg_uri(jpeg_bytes(_draw(pixels, camera, case, T, square))) for T in poses]
    return pictures, troubles


def _photograph(
    dataset: BopDataset, scene_id: int, image_id: int
) -> tuple[UInt8[np.ndarray, "h w 3"] | None, Camera, str]:
    """Pixels without lens distortion, the camera, and why there are no pixels."""
    camera = dataset.scene(scene_id).camera(image_id)
    plain = Camera(camera.K, camera.width, camera.height)
    try:
        image = dataset.image(scene_id, image_id).read()
    except (OSError, ValueError) as error:
        return None, plain, str(error)
    if camera.distortion:
        image = camera.undistort_image(image)
    return to_bytes(image), plain, ""


def _draw(
    pixels: UInt8[np.ndarray, "h w 3"] | None, camera: Camera, case: Case, T_found: Float[Tensor, "4 4"] | None,
    square: Square,
) -> UInt8[np.ndarray, "side side 3"]:  # fmt: skip
    left, top, side = square
    scale = SIDE / side
    canvas = np.full((SIDE, SIDE, 3), _GROUND, dtype=np.uint8)
    if pixels is not None:
        canvas = _cut(pixels, left, top, scale)
    K = camera.K.clone()
    K[0, 2] -= left + 0.5  # the square's first pixel has its left edge there
    K[1, 2] -= top + 0.5
    outlines = truth_and_estimate(case.part, case.truth.T_cam_obj, T_found)
    draw_outlines(canvas, resized_intrinsics(K, scale), case.part, outlines)
    return canvas


def _cut(pixels: UInt8[np.ndarray, "h w 3"], left: float, top: float, scale: float) -> UInt8[np.ndarray, "side side 3"]:
    """The square, enlarged or reduced to SIDE; gray where it leaves the photograph."""
    shift = 0.5 * scale - 0.5
    matrix = np.array([[scale, 0, shift - scale * (left + 0.5)], [0, scale, shift - scale * (top + 0.5)]])
    if scale < 0.5:  # so large a square: average before pixels are picked
        step = int(1 / scale)
        x, y = max(0, int(left)), max(0, int(top))
        piece = pixels[y : y + int(SIDE / scale) + 2, x : x + int(SIDE / scale) + 2]
        if not piece.size:  # all of it lies beside the photograph
            return np.full((SIDE, SIDE, 3), _GROUND, dtype=np.uint8)
        pixels = cv2.resize(piece, (max(1, piece.shape[1] // step), max(1, piece.shape[0] // step)),
                            interpolation=cv2.INTER_AREA)  # fmt: skip
        across, down = piece.shape[1] / pixels.shape[1], piece.shape[0] / pixels.shape[0]
        smaller = np.array([[across, 0, x + 0.5 * across - 0.5], [0, down, y + 0.5 * down - 0.5], [0, 0, 1]])
        matrix = matrix @ smaller
    flag = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_LINEAR
    return cv2.warpAffine(pixels, matrix, (SIDE, SIDE), flags=flag, borderValue=(_GROUND,) * 3)


def _square(
    camera: Camera, part: Part, T_true: Float[Tensor, "4 4"], found: Sequence[Float[Tensor, "4 4"] | None]
) -> Square:
    """What is shown: the true outline with the estimated ones, as far as they are near."""
    low, high = true_low, true_high = _extent(camera, part, T_true)
    reach = _REACH * float((high - low).max()) / 2
    for T in found:
        if T is not None and part.is_ahead(T):
            other_low, other_high = _extent(camera, part, T)
            low = torch.minimum(low, torch.maximum(other_low, true_low - reach))
            high = torch.maximum(high, torch.minimum(other_high, true_high + reach))
    centre, side = (low + high) / 2, max(_LEAST, _ROOM * float((high - low).max()))
    return float(centre[0]) - side / 2, float(centre[1]) - side / 2, side


def _extent(
    camera: Camera, part: Part, T_cam_obj: Float[Tensor, "4 4"]
) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"]]:
    """Least and largest pixel of the projected vertices that lie before the camera, within ten images of the image."""
    points = transform_points(T_cam_obj.double(), part.mesh.vertices.double())
    points = points[points[:, 2] > 1]
    if not len(points):
        middle = torch.tensor([camera.width / 2, camera.height / 2], dtype=torch.float64)
        return middle, middle
    pixels = project_points(camera.K, points)
    room = 10.0 * max(camera.width, camera.height)
    return pixels.amin(0).clamp(-room, room), pixels.amax(0).clamp(-room, room)

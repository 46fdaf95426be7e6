"""VSD of estimates in a BOP data set: depth of both poses by the house's rasteriser, against the depth image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_files import BopInstance
from cad2pose.data.images import read_depth
from cad2pose.data.results import Results
from cad2pose.evaluation.pairs import PairKey, Problem
from cad2pose.evaluation.visible_surface import VSD_DELTA, VSD_TAUS, VisibilityMode, depth_to_distance, vsd_error
from cad2pose.geometry.camera import Camera
from cad2pose.geometry.intrinsics import project_points
from cad2pose.geometry.transform import transform_points
from cad2pose.parts.bounds import hull_indices
from cad2pose.parts.part import Part
from cad2pose.rendering import NEAR, MeshSet, rasterize

_MARGIN = 1  # px about the two silhouettes


def missing_depth(dataset: BopDataset, images: Sequence[tuple[int, int]]) -> str:
    """Why VSD cannot be had for these images; empty where it can."""
    without = [key for key in images if key[1] not in dataset.scene(key[0]).depth_files]
    if not without:
        return ""
    if len(without) == len(images):
        return f"split {dataset.split!r} has no depth images"
    scene, image = without[0]
    return f"{len(without)} of {len(images)} images have no depth image, the first is scene {scene}, image {image}"


def vsd_of_problems(
    results: Results,
    problems: Sequence[Problem],
    parts: Mapping[int, Part],
    dataset: BopDataset,
    mode: VisibilityMode = "bop19",
) -> dict[PairKey, Float[Tensor, "t"]]:
    """VSD at BOP's ten tolerances of every pair of an estimate and a ground truth, by (row, place of the truth).

    Raises:
        FileNotFoundError, ValueError: for a depth image that is missing, broken, or of another size than its camera.
    """
    surfaces = {object_id: _Surface(part) for object_id, part in parts.items()}
    images: dict[tuple[int, int], list[Problem]] = {}
    for problem in problems:
        images.setdefault((problem.target.scene_id, problem.target.image_id), []).append(problem)
    found: dict[PairKey, Float[Tensor, "t"]] = {}
    for key, group in images.items():
        if not any(len(p.rows) for p in group):
            continue
        camera = group[0].camera
        depth = _measured(dataset, key, camera)
        for problem in group:
            surface = surfaces[problem.target.object_id]
            for row in problem.rows.tolist():
                for truth in problem.truths:
                    found[row, truth.index] = _error(results.T_cam_obj[row], truth, depth, camera, surface, mode)
    return found


def _measured(dataset: BopDataset, image: tuple[int, int], camera: Camera) -> Float[Tensor, "h w"]:
    """The depth image in mm, without distortion as its camera is used; the colour image need not be there."""
    scene = dataset.scene(image[0])
    path = scene.depth_file(image[1])
    depth = read_depth(path, scene.depth_scale(image[1]))
    if depth.shape != (camera.height, camera.width):
        raise ValueError(
            f"{path} is {depth.shape[1]} x {depth.shape[0]} pixels, but its camera has {camera.width} x {camera.height}"
            "; resize neither: K belongs to one size"
        )
    return camera.undistort_depth(depth)


class _Surface:
    """What is drawn of a part, and what tells its extent in an image."""

    def __init__(self, part: Part) -> None:
        self.meshes = MeshSet.from_meshes([part.mesh])
        self.hull = part.mesh.vertices[hull_indices(part.mesh.vertices)].double()
        self.taus = [tau * part.diameter for tau in VSD_TAUS]

    def draw(self, poses: Float[Tensor, "b 4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]) -> Tensor:
        """Depth images `(b, h, w)` of the part in each pose."""
        index = torch.zeros(len(poses), 1, dtype=torch.int64)
        width, height = size
        return rasterize(self.meshes, index, poses[:, None], K.expand(len(poses), 3, 3), height, width).depth


def _error(
    T_est: Float[Tensor, "4 4"],
    truth: BopInstance,
    depth: Float[Tensor, "h w"],
    camera: Camera,
    surface: _Surface,
    mode: VisibilityMode,
) -> Float[Tensor, "t"]:
    """VSD of one pair, in the part of the image that holds both silhouettes."""
    poses = torch.stack((T_est.double(), truth.T_cam_obj))
    left, top, right, bottom = _window(poses, camera, surface.hull)
    if left >= right or top >= bottom:
        return torch.ones(len(surface.taus), dtype=torch.float64)  # nothing to be seen of either
    K = camera.K.clone()
    K[:2, 2] -= torch.tensor([left, top], dtype=torch.float64)
    drawn = surface.draw(poses, K, (right - left, bottom - top))
    measured = depth_to_distance(depth[top:bottom, left:right], camera.K, (left, top))
    estimated, true = depth_to_distance(drawn, camera.K, (left, top))
    return vsd_error(measured, true, estimated, surface.taus, VSD_DELTA, "step", mode)


def _window(poses: Float[Tensor, "b 4 4"], camera: Camera, hull: Float[Tensor, "n 3"]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) about all silhouettes; the whole image where a pose reaches the camera."""
    moved = transform_points(poses, hull.expand(len(poses), -1, -1))
    ahead = moved[..., 2].amin(1) > NEAR
    if not bool(ahead.all()):
        return 0, 0, camera.width, camera.height
    limit = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    pixels = project_points(camera.K.expand(len(poses), 3, 3), moved).flatten(0, 1)
    low = torch.minimum((pixels.amin(0) - _MARGIN).floor().clamp(min=0), limit)
    high = torch.minimum((pixels.amax(0) + _MARGIN + 1).ceil().clamp(min=0), limit)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])

"""From estimates of an image to the scenes of a page."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.estimator import Inspection, PoseEstimator, inspect_estimates, surface_keys_of
from cad2pose.geometry import Camera, undistort_boxes, virtual_camera, warp_to_crops
from cad2pose.methods import QueryImageMethod
from cad2pose.pictures import EmbeddingPalette, embedding_colours, query_picture
from cad2pose.solvers import Surface
from cad2pose.structures import PoseEstimates
from cad2pose.viewer.scene import DrawnPart, Photograph, QueryScene, Scene
from cad2pose.viewer.thinning import thinned

POINTS = 50_000
MOST_TRIANGLES = 20_000
MOST_PIXELS = 1280  # of the longer side of the photograph in a page
_CHUNK = 512
_HALF_MOST = 60_000.0


@dataclass(frozen=True, eq=False)
class _Known:
    drawn: DrawnPart
    palette: EmbeddingPalette | None


class SceneMaker:
    """Makes scenes, and keeps the parts' surfaces with their keys.

    Args:
        estimator: whose estimates are shown.
        points: surface points of a part.
        triangles: most triangles of a part's mesh.
        pixels: most pixels along a side of a photograph.
    """

    def __init__(
        self,
        estimator: PoseEstimator,
        points: int = POINTS,
        triangles: int = MOST_TRIANGLES,
        pixels: int = MOST_PIXELS,
    ) -> None:
        self.estimator = estimator
        self._points, self._triangles, self._pixels = points, triangles, pixels
        self._known: dict[int, _Known] = {}

    def has_queries(self, object_id: int) -> bool:
        """Whether the model that serves an object has a query image, and so a distribution to show."""
        return isinstance(self.estimator.model_of(object_id)[0].method, QueryImageMethod)

    def part(self, object_id: int) -> DrawnPart:
        """A part as pages draw it; made at the first call."""
        return self._part(object_id).drawn

    def photograph(self, name: str, image: Float[Tensor, "3 h w"], camera: Camera) -> Photograph:
        """The picture as a page holds it: without lens distortion, scaled down where it is large."""
        straight, full = camera.undistort_image(image.cpu()), camera.without_distortion()
        scale = min(1.0, self._pixels / max(full.width, full.height))
        if scale == 1:
            return Photograph(name, straight, full, (full.width, full.height))
        small = full.resized(scale)
        shape = (small.height, small.width)
        pixels = torch.nn.functional.interpolate(straight[None], size=shape, mode="area")[0]
        return Photograph(name, pixels, small, (full.width, full.height))

    def scenes(self, image: Float[Tensor, "3 h w"], camera: Camera, estimates: PoseEstimates) -> list[Scene]:
        """One scene per row of the estimates, which are of this image as it was given to the estimator."""
        found = []
        for row, object_id in enumerate(estimates.object_id.tolist()):
            one = estimates[torch.tensor([row])]
            if self.has_queries(object_id):
                (seen,) = inspect_estimates(self.estimator, image, camera, one)
                query = self._query(object_id, seen)
                found.append(_scene(one, seen.crop, seen.K_virt, seen.R_virt_cam, query))
            else:
                found.append(_scene(one, *self._crop(image, camera, one), None))
        return found

    def _part(self, object_id: int) -> _Known:
        known = self._known.get(object_id)
        if known is None:
            known = self._known[object_id] = self._make_part(object_id)
        return known

    def _make_part(self, object_id: int) -> _Known:
        model, index = self.estimator.model_of(object_id)
        method, part = model.method, model.parts[index]
        mesh = thinned(part.mesh, self._triangles)
        points = normals = torch.zeros(0, 3, dtype=torch.float64)
        palette = keys = colors = None
        area = 0.0
        if isinstance(method, QueryImageMethod):
            surface = Surface.of_part(part, self._points)
            keys = half(method.surface_keys(index, surface.points.to(self.estimator.device)).cpu())
            palette = embedding_colours(*surface_keys_of(self.estimator, object_id))
            colors = palette.of(keys)
            points, normals = surface.points.double() * part.radius + part.center, surface.normals.double()
            area = surface.seen_area * part.radius**2 / len(points)
        drawn = DrawnPart(
            part.name, object_id, mesh.vertices, mesh.normals, mesh.colors, mesh.faces, len(part.mesh.faces),
            points, normals, area, keys, colors, part.center, part.radius,
        )  # fmt: skip
        return _Known(drawn, palette)

    def _query(self, object_id: int, seen: Inspection) -> QueryScene:
        known = self._part(object_id)
        assert known.palette is not None, "the model has a query image"
        assert known.drawn.keys is not None, "likewise"
        queries = half(seen.queries.movedim(0, -1))
        picture = query_picture(seen.queries, seen.mask, known.palette)
        return QueryScene(queries, log_partition(queries, known.drawn.keys), seen.mask, picture)

    def _crop(
        self, image: Float[Tensor, "3 h w"], camera: Camera, one: PoseEstimates
    ) -> tuple[Float[Tensor, "3 r r"], Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
        """The crop of the given box, of a model without a query image, with K_virt and R_virt_cam."""
        config = self.estimator.model_of(int(one.object_id[0]))[0].method.config
        box, _ = undistort_boxes(one.box.to("cpu", torch.float64), camera)
        size = torch.tensor([[camera.width, camera.height]], dtype=torch.float64)
        crops = virtual_camera(camera.K[None], box, size, config.crop_size, config.pad)
        picture, _ = warp_to_crops(image.cpu()[None], crops, lens=camera.lens)
        return picture[0], crops.K_virt[0], crops.R_virt_cam[0]


def half(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Rounded to what half precision can hold, which is how numbers travel in a page; what is no number becomes 0."""
    return values.float().nan_to_num(0).clamp(-_HALF_MOST, _HALF_MOST).half().float()


def log_partition(queries: Float[Tensor, "h w e"], keys: Float[Tensor, "n e"]) -> Float[Tensor, "h w"]:
    """Logarithm of the sum over the points of exp(query . key), for every pixel."""
    flat = queries.flatten(0, 1)
    sums = [torch.logsumexp(chunk @ keys.T, dim=1) for chunk in flat.split(_CHUNK)]
    return torch.cat(sums).view(queries.shape[:2])


def _scene(
    one: PoseEstimates,
    crop: Float[Tensor, "3 r r"],
    K_virt: Float[Tensor, "3 3"],
    R_virt_cam: Float[Tensor, "3 3"],
    query: QueryScene | None,
) -> Scene:
    poses, probability = one.T_cam_obj[:0], None
    if bool(one.found[0]):
        poses = one.T_cam_obj
        known = (one.details.probability[0] > 0).nonzero()[:, 0]
        if len(known):
            poses = torch.cat((poses, one.details.alternatives[0, known[1:]]))
            probability = one.details.probability[0, known]
    axis = one.details.free_axis[0]
    x, y, w, h = one.box[0].tolist()
    confidence = float(one.confidence[0])
    return Scene(
        int(one.object_id[0]), crop, K_virt.cpu(), R_virt_cam.cpu(), query, poses, probability,
        axis if bool(axis.any()) else None, float(one.score[0]),
        None if math.isnan(confidence) else confidence, one.details.reasons[0], (x, y, w, h),
    )  # fmt: skip

"""What a page shows: parts with the keys of their surface, and detections with queries, masks and poses."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.geometry import Camera


@dataclass(frozen=True, eq=False)
class DrawnPart:
    """A part as a page draws it; lengths in mm, in the mesh file's frame.

    Args:
        name: of the part.
        object_id: of the part.
        vertices, normals: `(v, 3)` of the mesh, thinned out where it was too large.
        colors: `(v, 3)` RGB in [0, 1], or None.
        faces: `(f, 3)`.
        triangles: how many the part's own mesh has.
        points, point_normals: `(n, 3)` even over the surface that can be seen.
        area: that a point stands for, mm^2.
        keys: `(n, E)` there, rounded to half precision; None for a model without query images, and then n is 0.
        key_colors: `(n, 3)` the keys in false colour, RGB in [0, 1]; None likewise.
        center: `(3,)` of the bounding sphere.
        radius: of the bounding sphere.
    """

    name: str
    object_id: int
    vertices: Float[Tensor, "v 3"]
    normals: Float[Tensor, "v 3"]
    colors: Float[Tensor, "v 3"] | None
    faces: Int[Tensor, "f 3"]
    triangles: int
    points: Float[Tensor, "n 3"]
    point_normals: Float[Tensor, "n 3"]
    area: float
    keys: Float[Tensor, "n e"] | None
    key_colors: Float[Tensor, "n 3"] | None
    center: Float[Tensor, "3"]
    radius: float


@dataclass(frozen=True, eq=False)
class QueryScene:
    """The query image of a detection.

    Args:
        queries: `(h, w, E)`, rounded to half precision.
        log_partition: `(h, w)` logarithm of the sum over the part's points of exp(query . key), so that
            log p(point | pixel) = query . key - log_partition.
        mask: `(h, w)` probability that the pixel shows the part.
        picture: `(3, h, w)` the query image in the false colours of the part's keys.
    """

    queries: Float[Tensor, "h w e"]
    log_partition: Float[Tensor, "h w"]
    mask: Float[Tensor, "h w"]
    picture: Float[Tensor, "3 h w"]


@dataclass(frozen=True, eq=False)
class Scene:
    """One detection.

    Args:
        object_id: whose `DrawnPart` it shows.
        crop: `(3, r, r)` RGB in [0, 1].
        K_virt: `(3, 3)` of the crop camera.
        R_virt_cam: `(3, 3)` from the source camera's axes to the crop camera's.
        query: its query image; None for a model without one.
        poses: `(k, 4, 4)` in the source camera, mm: the pose found, then the alternatives; k is 0 without a pose.
        probability: of the poses, as the solver gives them; None where only one pose is known.
        free_axis: unit axis in the source camera about which the part may turn unseen; None where there is none.
        score: of the pose found, in [0, 1].
        confidence: the chance that it is right; None where it is not known.
        reason: why there is no pose; None where there is one.
        box: x, y, w, h in the image.
    """

    object_id: int
    crop: Float[Tensor, "3 r r"]
    K_virt: Float[Tensor, "3 3"]
    R_virt_cam: Float[Tensor, "3 3"]
    query: QueryScene | None
    poses: Float[Tensor, "k 4 4"]
    probability: Float[Tensor, "k"] | None
    free_axis: Float[Tensor, "3"] | None
    score: float
    confidence: float | None
    reason: str | None
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Photograph:
    """The picture that detections were found in.

    Args:
        name: of its file, for people.
        image: `(3, H, W)` RGB in [0, 1], without lens distortion, of the size that the page holds.
        camera: of `image`.
        full_size: width and height of the file's picture.
    """

    name: str
    image: Float[Tensor, "3 h w"]
    camera: Camera
    full_size: tuple[int, int]

"""Where a camera may see a part from: all of SO(3), or a stated range of viewpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.data.draws import Draws
from cad2pose.geometry import make_transform, random_rotations, rotation_to_ray, rotations_towards, unproject_pixels

_STATED_WIDTH = 640  # of the image that apparent sizes are stated for, in pixels
_BORDER_REACH = 0.2  # at the image border at least this share of the half extent stays inside beyond the centre


@dataclass(frozen=True)
class PosePrior:
    """Distribution of T_cam_obj.

    Attributes:
        free_share: share of poses drawn from all of SO(3); the rest keep to the ranges of viewpoints below.
        elevation: lowest and highest elevation of the camera in degrees, over the plane across `up_axis`.
        camera_roll: the camera leans at most this many degrees to either side.
        up_axis: direction in the part's frame that points up in the world.
        distance: nearest and farthest depth of the part's centre in mm; None: by `apparent_size`.
        apparent_size: smallest and largest projected diameter in pixels of an image 640 pixels wide.
        border_share: share of poses that may be cut by the image border, by less than half along either side.

    Raises:
        ValueError: for shares outside [0, 1], empty ranges, or an up axis without direction.
    """

    free_share: float = 1.0
    elevation: tuple[float, float] = (-90.0, 90.0)
    camera_roll: float = 30.0
    up_axis: tuple[float, float, float] = (0.0, 0.0, 1.0)
    distance: tuple[float, float] | None = None
    apparent_size: tuple[float, float] = (40.0, 250.0)
    border_share: float = 0.15

    def __post_init__(self) -> None:
        for name in ("free_share", "border_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name):g}; it is a share between 0 and 1")
        low, high = self.elevation
        if not -90 <= low <= high <= 90:
            raise ValueError(f"elevation is {self.elevation}; give lowest, highest in degrees within [-90, 90]")
        if not 0 <= self.camera_roll <= 180:
            raise ValueError(f"camera_roll is {self.camera_roll:g}; give degrees within [0, 180]")
        for name in ("distance", "apparent_size"):
            bounds = getattr(self, name)
            if bounds is not None and not 0 < bounds[0] <= bounds[1] < math.inf:
                raise ValueError(
                    f"{name} is {bounds}; give nearest, farthest (or smallest, largest), both positive and finite"
                )
        if not math.hypot(*self.up_axis) > 0:
            raise ValueError(f"up_axis is {self.up_axis}; it needs a direction")

    def sample(
        self,
        draws: Draws,
        center: Float[Tensor, "batch 3"],
        radius: Float[Tensor, "batch"],
        K: Float[Tensor, "batch 3 3"],
        image_size: Float[Tensor, "batch 2"],
    ) -> Float[Tensor, "batch 4 4"]:
        """One pose per row.

        Args:
            draws: random numbers.
            center: `(B, 3)` centre of each part's bounding sphere in its own frame, mm.
            radius: `(B,)` radius of that sphere, mm.
            K: `(B, 3, 3)` intrinsics.
            image_size: `(B, 2)` width and height in pixels.

        Returns:
            `(B, 4, 4)` T_cam_obj in float64, mm.
        """
        count = len(radius)
        focal = K[:, 0, 0]
        if self.distance is None:
            apparent = draws.log_uniform(*self.apparent_size, count).double() * image_size[:, 0] / _STATED_WIDTH
            depth = 2 * radius * focal / apparent
        else:
            depth = draws.log_uniform(*self.distance, count).double()
        depth = torch.maximum(depth, 1.5 * radius)  # never inside the part
        pixel = self._pixels(draws, (radius / depth)[:, None] * K.diagonal(dim1=1, dim2=2)[:, :2], image_size)
        ray = unproject_pixels(K, pixel[:, None])[:, 0]
        facing = rotation_to_ray(ray)
        allocentric = torch.where(
            draws.chance(self.free_share, count)[:, None, None],
            random_rotations(count, draws.host, torch.float64),
            self._viewpoints(draws, count),
        )
        rotation = facing @ allocentric
        translation = ray * depth[:, None] - (rotation @ center[..., None])[..., 0]
        return make_transform(rotation, translation)

    def _pixels(
        self, draws: Draws, extent: Float[Tensor, "batch 2"], image_size: Float[Tensor, "batch 2"]
    ) -> Float[Tensor, "batch 2"]:
        """Pixels for the part's centre: the whole part inside the image, or (some) cut by its border."""
        count = len(extent)
        cut = draws.chance(self.border_share, count)
        margin = torch.where(cut[:, None], _BORDER_REACH * extent, extent)
        margin = torch.minimum(margin, image_size / 2)
        return margin + draws.uniform(0.0, 1.0, count, 2).double() * (image_size - 2 * margin) - 0.5

    def _viewpoints(self, draws: Draws, count: int) -> Float[Tensor, "count 3 3"]:
        """Rotations of cameras that look at the part from the stated range, even on that piece of the sphere."""
        low, high = (math.sin(math.radians(bound)) for bound in self.elevation)
        sine = draws.uniform(low, high, count).double()
        azimuth = draws.uniform(0.0, 2 * math.pi, count).double()
        roll = draws.uniform(-math.radians(self.camera_roll), math.radians(self.camera_roll), count).double()
        return rotations_towards(sine, azimuth, roll) @ _upright_frame(self.up_axis).T


def check_apparent_size(smallest: float, width: int, height: int) -> None:
    """Find out that no part can be seen whole, as even the smallest of its sizes is larger than the image.

    Args:
        smallest: projected diameter in pixels of an image 640 wide, as of `PosePrior.apparent_size`.
        width, height: of the image in pixels.

    Raises:
        ValueError: if it is longer than the image's longer side.
    """
    longest = _STATED_WIDTH * max(width, height) / width
    if smallest > longest:
        raise ValueError(
            f"apparent_size begins at {smallest:g} pixels, more than the longer side of the image ({width} x {height} "
            f"pixels; {longest:g} where it is scaled to a width of {_STATED_WIDTH}), so that no part would be seen "
            f"whole; let it begin at {longest:g} or less"
        )


def _upright_frame(up_axis: tuple[float, float, float]) -> Float[Tensor, "3 3"]:
    """A rotation whose third column is the up axis; the identity for +z."""
    up = torch.nn.functional.normalize(torch.tensor(up_axis, dtype=torch.float64), dim=0)
    if up[2] < -0.5:  # the minimal rotation is undefined straight down: turn by pi about x first
        flip = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
        return flip @ rotation_to_ray(flip @ up)
    return rotation_to_ray(up)

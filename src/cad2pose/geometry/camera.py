"""The pinhole camera: intrinsics, image size, OpenCV lens distortion, and BOP's json form of it.

OpenCV axes (x right, y down, z forward); pixel centres at integer coordinates, so an image covers
[-0.5, width - 0.5] x [-0.5, height - 0.5].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cad2pose.geometry.crop import Lens, sample_image
from cad2pose.geometry.intrinsics import project_points, resized_intrinsics, unproject_pixels

_DISTORTION_LENGTHS = (0, 4, 5, 8)
_TINY, _NORMALISED = 64, 4.0  # pixels
_WIDEST = 8.0  # |(x/z, y/z)|, 83 degrees off the axis
_NEWTON_STEPS, _DIFFERENCE = 30, 1e-6
_STRAIGHT = 1e-3  # pixels


def _numbers(name: str, values: object) -> tuple[float, ...]:
    """A flat list of numbers, as JSON gives it."""
    if isinstance(values, (list, tuple)):
        try:
            return tuple(float(value) for value in values)
        except (TypeError, ValueError, OverflowError):
            pass
    raise ValueError(f"{name} must be numbers in one flat list, got {str(values)[:100]}")


@dataclass(frozen=True, eq=False)
class Camera:
    """A calibrated camera.

    Args:
        K: `(3, 3)` intrinsics in pixels, kept in float64.
        width: image width in pixels.
        height: image height in pixels.
        distortion: OpenCV coefficients (k1, k2, p1, p2[, k3[, k4, k5, k6]]); empty for none.

    Raises:
        ValueError: if K is not a finite 3x3 matrix [fx s cx; 0 fy cy; 0 0 1] with positive focal
            lengths, the size is not positive, or the number of coefficients is not 0, 4, 5 or 8.
    """

    K: Float[Tensor, "3 3"]
    width: int
    height: int
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        K = torch.as_tensor(self.K, dtype=torch.float64)
        if K.shape != (3, 3):
            raise ValueError(f"camera matrix K has shape {tuple(K.shape)}; it must be 3 x 3: [fx 0 cx; 0 fy cy; 0 0 1]")
        if not bool(torch.isfinite(K).all()):
            raise ValueError(f"camera matrix K has entries that are not finite: {K.tolist()}")
        if K[2].tolist() != [0, 0, 1] or K[1, 0] != 0:
            raise ValueError(f"camera matrix K must look like [fx s cx; 0 fy cy; 0 0 1], got {K.tolist()}")
        if K[0, 0] <= 0 or K[1, 1] <= 0:
            fx, fy = float(K[0, 0]), float(K[1, 1])
            raise ValueError(f"focal lengths must be positive pixels, got fx = {fx:g} and fy = {fy:g}")
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"image size must be positive, got {self.width} x {self.height}")
        if self.width > _TINY and float(K[:2].abs().max()) < _NORMALISED:
            raise ValueError(
                f"fx = {float(K[0, 0]):g} and cx = {float(K[0, 2]):g} for an image {self.width} pixels wide: these are "
                "shares of the image's size; give pixels (fx and cx times the width, fy and cy times the height)"
            )
        if len(self.distortion) not in _DISTORTION_LENGTHS or not all(math.isfinite(c) for c in self.distortion):
            raise ValueError(
                f"distortion has {len(self.distortion)} coefficients {self.distortion}; "
                "give none, or 4, 5 or 8 finite ones in OpenCV's order (k1, k2, p1, p2[, k3[, k4, k5, k6]])"
            )
        object.__setattr__(self, "K", K)
        object.__setattr__(self, "distortion", tuple(float(c) for c in self.distortion))

    @classmethod
    def from_values(
        cls, fx: float, fy: float, cx: float, cy: float, width: int, height: int, distortion: Sequence[float] = ()
    ) -> Camera:
        """Camera from its four intrinsic numbers."""
        K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
        return cls(K, width, height, tuple(distortion))

    @classmethod
    def from_bop(cls, entry: Mapping[str, object], width: int | None = None, height: int | None = None) -> Camera:
        """Camera from BOP's `camera.json` (fx, fy, cx, cy, width, height) or one entry of `scene_camera.json`.

        The latter (`cam_K`, nine numbers row by row) has no image size, which must then be given. An
        optional `distortion` list is read too.

        Raises:
            ValueError: for missing or malformed entries.
        """
        size = (entry.get("width", width), entry.get("height", height))
        if size[0] is None or size[1] is None:
            raise ValueError("the camera entry has no width and height, and none were given")
        if "cam_K" in entry:
            numbers = entry["cam_K"]
        elif all(key in entry for key in ("fx", "fy", "cx", "cy")):
            numbers = [entry["fx"], 0, entry["cx"], 0, entry["fy"], entry["cy"], 0, 0, 1]
        else:
            raise ValueError(f"a camera needs cam_K, or fx, fy, cx and cy; this one has {sorted(entry)}")
        values = _numbers("cam_K" if "cam_K" in entry else "fx, fy, cx, cy", numbers)
        if len(values) != 9:
            raise ValueError(f"cam_K has {len(values)} numbers; it must have 9, row by row")
        distortion = _numbers("distortion", entry.get("distortion", ()))
        sides = _numbers("width and height", size)
        if not all(side.is_integer() for side in sides):
            raise ValueError(f"width and height are {size[0]} and {size[1]}; they must be whole numbers of pixels")
        K = torch.tensor(values, dtype=torch.float64).reshape(3, 3)
        return cls(K, int(sides[0]), int(sides[1]), distortion)

    def to_bop(self) -> dict[str, object]:
        """Inverse of `from_bop`; both forms at once, so that every BOP reader finds its own."""
        K = self.K
        entry: dict[str, object] = {
            "fx": float(K[0, 0]), "fy": float(K[1, 1]), "cx": float(K[0, 2]), "cy": float(K[1, 2]),
            "width": self.width, "height": self.height, "cam_K": K.flatten().tolist(),
        }  # fmt: skip
        if self.distortion:
            entry["distortion"] = list(self.distortion)
        return entry

    def from_half_integers(self) -> Camera:
        """This camera with pixel centres at integers, where K had them at half integers, as BlenderProc writes it."""
        K = self.K.clone()
        K[:2, 2] -= 0.5
        return Camera(K, self.width, self.height, self.distortion)

    def resized(self, scale: float) -> Camera:
        """The camera of the image resized by `scale`."""
        K = resized_intrinsics(self.K, scale)
        return Camera(K, max(1, round(self.width * scale)), max(1, round(self.height * scale)), self.distortion)

    def distort(self, rays: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """OpenCV's lens model on normalised coordinates (x/z, y/z)."""
        coefficients = self.distortion + (0.0,) * (8 - len(self.distortion))
        k1, k2, p1, p2, k3, k4, k5, k6 = coefficients
        x, y = rays.unbind(-1)
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return torch.stack((x * radial + dx, y * radial + dy), dim=-1)

    def straighten(self, pixels: Float[Tensor, "*batch 2"]) -> Float64[Tensor, "*batch 2"]:
        """Where a camera without distortion, with the same K, shows what the lens shows at some pixels.

        The inverse of `bent_pixels`, by Newton's method. NaN where the lens shows nothing: no ray within its reach is
        seen there.
        """
        pixels = pixels.double()
        if not any(self.distortion):
            return pixels
        K = self.K.to(pixels.device)
        seen = unproject_pixels(K, pixels.reshape(-1, 2))[:, :2]
        rays, small = seen, _DIFFERENCE * torch.eye(2, dtype=torch.float64, device=pixels.device)
        for _ in range(_NEWTON_STEPS):
            slopes = (self.distort(rays[:, None] + small) - self.distort(rays[:, None] - small)) / (2 * _DIFFERENCE)
            (along_x, along_y), left = slopes.unbind(1), seen - self.distort(rays)
            volume = along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]
            x = (left[:, 0] * along_y[:, 1] - left[:, 1] * along_y[:, 0]) / volume
            y = (left[:, 1] * along_x[:, 0] - left[:, 0] * along_x[:, 1]) / volume
            rays = rays + torch.stack((x, y), dim=1)
        straight = project_points(K, torch.cat((rays, torch.ones_like(rays[:, :1])), dim=1)).view(pixels.shape)
        off = torch.linalg.vector_norm(self.bent_pixels(straight) - pixels, dim=-1, keepdim=True)
        return torch.where(off < _STRAIGHT, straight, torch.nan)

    def undistort_image(self, image: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        """The image a lens without distortion would have taken with the same K and size.

        Pixels that the lens did not see are 0. Returned unchanged where there is no distortion.

        Raises:
            ValueError: if the image has another size than the camera.
        """
        if image.shape[-2:] != (self.height, self.width):
            height, width = image.shape[-2:]
            raise ValueError(f"the image is {width} x {height} pixels but its camera {self.width} x {self.height}")
        if not any(self.distortion):
            return image
        colour, valid = sample_image(image[None], self._bent_grid(image))
        return (colour * valid)[0]

    def undistort_depth(self, depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        """As `undistort_image`, of the nearest measurements; 0 where the lens did not see.

        Raises:
            ValueError: if the depth image has another size than the camera.
        """
        if depth.shape != (self.height, self.width):
            height, width = depth.shape
            raise ValueError(
                f"the depth image is {width} x {height} pixels but its camera {self.width} x {self.height}"
            )
        if not any(self.distortion):
            return depth
        u, v = self._bent_grid(depth)[0].round().clamp(-1, max(depth.shape)).long().unbind(-1)
        inside = (u >= 0) & (v >= 0) & (u < self.width) & (v < self.height)
        return torch.where(inside, depth[v.clamp(0, self.height - 1), u.clamp(0, self.width - 1)], 0.0)

    @property
    def lens(self) -> Lens:
        """`bent_pixels`, or None where there is no distortion; for `warp_to_crops`."""
        return self.bent_pixels if any(self.distortion) else None

    def bent_pixels(self, pixels: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Where the lens shows what pixels of a camera without distortion would, with the same K.

        Far outside (-1e6) where the lens model does not reach: beyond some angle its polynomial turns back.
        """
        K = self.K.to(pixels)
        rays = unproject_pixels(K, pixels.reshape(-1, 2))[:, :2]
        bent = project_points(K, torch.cat((self.distort(rays), torch.ones_like(rays[:, :1])), dim=1))
        reached = torch.linalg.vector_norm(rays, dim=1, keepdim=True) < self._lens_reach
        return torch.where(reached, bent, -1e6).reshape(pixels.shape)

    @cached_property
    def _lens_reach(self) -> float:
        """Largest |(x/z, y/z)| up to which the lens shows what is farther out farther out; infinite for most lenses."""
        if not any(self.distortion):
            return math.inf
        radius = torch.linspace(0, _WIDEST, 4001, dtype=torch.float64)
        radial = Camera(self.K, self.width, self.height, (*self.distortion[:2], 0.0, 0.0, *self.distortion[4:]))
        shown = radial.distort(torch.stack((radius, torch.zeros_like(radius)), dim=1))[:, 0]
        back = (shown.diff() <= 0).nonzero()
        return float(radius[back[0, 0]]) if len(back) else math.inf

    def _bent_grid(self, like: Tensor) -> Float[Tensor, "1 h w 2"]:
        """Where the lens shows what every pixel without distortion would."""
        v, u = torch.meshgrid(torch.arange(self.height), torch.arange(self.width), indexing="ij")
        return self.bent_pixels(torch.stack((u, v), dim=-1).to(like))[None]

    def without_distortion(self) -> Camera:
        """The camera that belongs to `undistort_image`'s result."""
        return Camera(self.K, self.width, self.height)

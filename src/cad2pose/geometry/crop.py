"""The virtual crop camera: a detection box becomes a pinhole camera that looks at the box.

With H = K_virt R_virt_cam K_cam^-1 the image is warped into that camera, and
T_virt_obj = R_virt_cam T_cam_obj holds exactly, roll included. Everything downstream of the crop
(rendering, correspondences, regression) sees one ordinary pinhole camera.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.geometry.intrinsics import invert_intrinsics
from cad2pose.geometry.rotation import rotation_about_z, rotation_to_ray

DEFAULT_PAD = 1.5
OUTSIDE_FILL = 0.5
_MAX_SUPERSAMPLING = 8
Lens = Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class VirtualCamera:
    """A batch of crop cameras.

    Args:
        K_virt: `(B, 3, 3)` intrinsics of the crop, in crop pixels.
        R_virt_cam: `(B, 3, 3)` rotation from source camera to crop camera coordinates.
        K_cam: `(B, 3, 3)` intrinsics of the source image.
        box: `(B, 4)` the box x, y, w, h it was made from, in source pixels.
        image_size: `(B, 2)` width and height of the source image.
        size: side of the square crop in pixels.
    """

    K_virt: Float[Tensor, "batch 3 3"]
    R_virt_cam: Float[Tensor, "batch 3 3"]
    K_cam: Float[Tensor, "batch 3 3"]
    box: Float[Tensor, "batch 4"]
    image_size: Float[Tensor, "batch 2"]
    size: int

    @property
    def homography(self) -> Float[Tensor, "batch 3 3"]:
        """H_virt_cam: homogeneous source pixel -> homogeneous crop pixel."""
        return self.K_virt @ self.R_virt_cam @ invert_intrinsics(self.K_cam)

    @property
    def inverse_homography(self) -> Float[Tensor, "batch 3 3"]:
        """H_cam_virt: homogeneous crop pixel -> homogeneous source pixel."""
        return self.K_cam @ self.R_virt_cam.transpose(-1, -2) @ invert_intrinsics(self.K_virt)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> VirtualCamera:
        """The same cameras elsewhere."""
        tensors = (self.K_virt, self.R_virt_cam, self.K_cam, self.box, self.image_size)
        return VirtualCamera(*(t.to(device=device, dtype=dtype or t.dtype) for t in tensors), size=self.size)

    def __getitem__(self, index: slice | Tensor) -> VirtualCamera:
        tensors = (self.K_virt, self.R_virt_cam, self.K_cam, self.box, self.image_size)
        return VirtualCamera(*(t[index] for t in tensors), size=self.size)

    @classmethod
    def join(cls, cameras: Sequence[VirtualCamera]) -> VirtualCamera:
        """All of them, one after the other; of the same size."""
        names = ("K_virt", "R_virt_cam", "K_cam", "box", "image_size")
        tensors = (torch.cat([getattr(camera, name) for camera in cameras]) for name in names)
        return cls(*tensors, size=cameras[0].size)

    def to_virtual(self, T_cam_obj: Float[Tensor, "batch 4 4"]) -> Float[Tensor, "batch 4 4"]:
        """T_virt_obj of poses given in the source camera."""
        return rotate_transform(self.R_virt_cam, T_cam_obj)

    def to_source(self, T_virt_obj: Float[Tensor, "batch 4 4"]) -> Float[Tensor, "batch 4 4"]:
        """T_cam_obj of poses given in the crop camera."""
        return rotate_transform(self.R_virt_cam.transpose(-1, -2), T_virt_obj)

    def ray_map(self, stride: int = 1) -> Float[Tensor, "batch 2 h w"]:
        """((u - cx) / f, (v - cy) / f) at the centres of stride x stride cells of the crop."""
        cells = self.size // stride
        centres = torch.arange(cells, dtype=self.K_virt.dtype, device=self.K_virt.device) * stride + (stride - 1) / 2
        focal, cx, cy = (self.K_virt[:, i, j, None] for i, j in ((0, 0), (0, 2), (1, 2)))
        x = ((centres - cx) / focal)[:, None, :].expand(-1, cells, -1)
        y = ((centres - cy) / focal)[:, :, None].expand(-1, -1, cells)
        return torch.stack((x, y), dim=1)

    def pixel_map(self, stride: int = 1) -> Float[Tensor, "batch 2 h w"]:
        """Where stride x stride cells of the crop are in the source image, as shares of its width and height.

        It tells the place and the size of the crop, which no map of the crop camera does (GDR-Net, section 3.2).
        """
        cells = self.size // stride
        centres = torch.arange(cells, dtype=self.K_virt.dtype, device=self.K_virt.device) * stride + (stride - 1) / 2
        inverse = self.inverse_homography
        u, v = inverse[:, :, 0, None] * centres, inverse[:, :, 1, None] * centres + inverse[:, :, 2, None]
        x, y, w = (u[:, :, None, :] + v[:, :, :, None]).unbind(1)
        size = self.image_size[:, :, None, None]
        return (torch.stack((x, y), dim=1) / w[:, None] + 0.5) / size


def rotate_transform(
    rotation: Float[Tensor, "*batch 3 3"], transform: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, "*batch 4 4"]:
    """Apply a rotation from the left to a rigid transform."""
    return torch.cat((rotation @ transform[..., :3, :], transform[..., 3:, :]), dim=-2)


def virtual_camera(
    K_cam: Float[Tensor, "batch 3 3"],
    box: Float[Tensor, "batch 4"],
    image_size: Float[Tensor, "batch 2"],
    size: int,
    pad: float = DEFAULT_PAD,
    roll: Float[Tensor, "batch"] | None = None,
) -> VirtualCamera:
    """The camera that looks at each box.

    Args:
        K_cam: `(B, 3, 3)` intrinsics of the source images.
        box: `(B, 4)` x, y, w, h in pixels as COCO and BOP write it: x, y is the distance of the left and
            upper edge from the image's own left and upper edge (-0.5 in pixel-centre coordinates).
        image_size: `(B, 2)` width, height.
        size: side r of the square crop.
        pad: the box corners reach 1 / pad of the way to the crop's border.
        roll: `(B,)` rotation about the viewing axis in rad; it never changes the focal length.

    Returns:
        Cameras with R_virt_cam = Rz(roll) R_min, one focal length (r / 2) / (pad m) where m is the largest
        |x| or |y| of the box corners on the unrolled plane z = 1, and the principal point (r - 1) / 2.
    """
    x, y, w, h = (box - torch.tensor([0.5, 0.5, 0, 0], dtype=box.dtype, device=box.device)).unbind(-1)
    corners = torch.stack((torch.stack((x, x + w, x, x + w), -1), torch.stack((y, y, y + h, y + h), -1)), dim=-1)
    centre = torch.stack((x + w / 2, y + h / 2), dim=-1)[:, None]
    pixels = torch.cat((centre, corners), dim=1)
    rays = torch.cat((pixels, torch.ones_like(pixels[..., :1])), -1) @ invert_intrinsics(K_cam).transpose(-1, -2)
    R_min = rotation_to_ray(rays[:, 0]).transpose(-1, -2)
    seen = rays[:, 1:] @ R_min.transpose(-1, -2)
    reach = (seen[..., :2] / seen[..., 2:]).abs().flatten(1).amax(1)
    focal = (size / 2) / (pad * reach)
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    middle = torch.full_like(focal, (size - 1) / 2)
    K_virt = torch.stack((focal, zero, middle, zero, focal, middle, zero, zero, one), -1).unflatten(-1, (3, 3))
    R_virt_cam = R_min if roll is None else rotation_about_z(roll) @ R_min
    return VirtualCamera(K_virt, R_virt_cam, K_cam, box, image_size, size)


def sample_image(
    image: Float[Tensor, "batch c h w"], pixels: Float[Tensor, "batch rows columns 2"], shrink: int = 1
) -> tuple[Float[Tensor, "batch c rows columns"], Float[Tensor, "batch 1 rows columns"]]:
    """Bilinear samples at pixel coordinates (u, v), and 1 where they lie inside the image, else 0.

    Outside, the nearest border pixel is returned, so that the border itself is not darkened. With `shrink`
    k > 1 the samples are taken from the image of k x k means.
    """
    height, width = image.shape[-2:]
    extent = torch.tensor([width, height], dtype=pixels.dtype, device=pixels.device)
    edges = pixels + 0.5
    inside = ((edges >= 0) & (edges <= extent)).all(-1)[:, None].to(image.dtype)
    if shrink > 1:
        image = torch.nn.functional.avg_pool2d(image, shrink, ceil_mode=True, count_include_pad=False)
        extent = torch.tensor([image.shape[-1], image.shape[-2]], dtype=edges.dtype, device=edges.device) * shrink
    grid = (edges * (2 / extent) - 1).to(image.dtype)
    colour = torch.nn.functional.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return colour, inside


def crop_pixels(
    H_cam_virt: Float[Tensor, "batch 3 3"], size: int, supersampling: int = 1
) -> tuple[Float[Tensor, "batch n n 2"], Bool[Tensor, "batch n n"]]:
    """Source pixel of every (sub)pixel of a crop, n = size * supersampling, and whether it lies in front.

    `H_cam_virt` takes homogeneous crop pixels to source pixels. The pixels have its dtype.
    """
    steps = torch.arange(size * supersampling, dtype=H_cam_virt.dtype, device=H_cam_virt.device)
    steps = (steps + 0.5) / supersampling - 0.5
    across = H_cam_virt[:, :, 0, None] * steps
    down = H_cam_virt[:, :, 1, None] * steps + H_cam_virt[:, :, 2, None]
    u, v, depth = (across[:, :, None, :] + down[:, :, :, None]).unbind(1)
    front = depth > 1e-9
    scale = 1 / torch.where(front, depth, torch.ones_like(depth))
    return torch.stack((u * scale, v * scale), dim=-1), front


def minification(H_cam_virt: Float[Tensor, "batch 3 3"], size: int) -> Float[Tensor, "batch"]:
    """Source pixels per crop pixel at the crop's centre, along the direction that shrinks most."""
    middle = torch.full_like(H_cam_virt[:, 0, 0], (size - 1) / 2)
    point = torch.stack((middle, middle, torch.ones_like(middle)), dim=-1)
    u, v, w = (H_cam_virt @ point[..., None])[..., 0].unbind(-1)
    jacobian = H_cam_virt[:, :2, :2] - torch.stack((u / w, v / w), -1)[..., None] * H_cam_virt[:, 2:, :2]
    jacobian = jacobian / w[:, None, None]
    return torch.linalg.matrix_norm(jacobian, ord=2)


def warp_to_crops(
    image: Float[Tensor, "batch c h w"], camera: VirtualCamera, fill: float = OUTSIDE_FILL, lens: Lens = None
) -> tuple[Float[Tensor, "batch c size size"], Float[Tensor, "batch 1 size size"]]:
    """Warp images into their virtual cameras without aliasing.

    Where the warp shrinks by a factor s, every crop pixel is the mean of ceil(s) x ceil(s) bilinear
    samples; from s = 8 on, of at most 8 x 8 samples of an image already shrunk by averaging.

    Args:
        image: `(B, C, H, W)`, one per camera; expand one image for several boxes of it (it is not copied).
        camera: B cameras.
        fill: value of the pixels that lie outside the source image.
        lens: where it shows what pixels of an image without distortion would (`Camera.lens`), where images are as the
            lens made them.

    Returns:
        crops `(B, C, r, r)` and the share of each crop pixel `(B, 1, r, r)` that the source image covers.
    """
    size = camera.size
    H_cam_virt = camera.inverse_homography
    factors = minification(H_cam_virt.cpu(), size).tolist()  # singular values of 2 x 2 matrices: no task for a GPU
    counts = [max(1, math.ceil(factor - 0.05)) for factor in factors]
    H_cam_virt = H_cam_virt.to(image.dtype)  # exact where it matters, quick for every pixel
    crops = image.new_empty((len(counts), image.shape[1], size, size))
    covered = image.new_empty((len(counts), 1, size, size))
    for count in sorted(set(counts)):
        rows = torch.tensor([i for i, c in enumerate(counts) if c == count], device=image.device)
        shrink = math.ceil(count / _MAX_SUPERSAMPLING)
        samples = math.ceil(count / shrink)
        pixels, front = crop_pixels(H_cam_virt[rows], size, samples)
        if lens is not None:
            pixels = lens(pixels)
        if image.stride(0) == 0:
            shared = sample_image(image[:1], pixels.flatten(0, 1)[None], shrink)
            colour, inside = (s[0].unflatten(1, pixels.shape[:2]).transpose(0, 1) for s in shared)
        else:
            colour, inside = sample_image(image[rows], pixels, shrink)
        inside = inside * front[:, None]
        colour = colour * inside + fill * (1 - inside)
        crops[rows] = torch.nn.functional.avg_pool2d(colour, samples)
        covered[rows] = torch.nn.functional.avg_pool2d(inside, samples)
    return crops, covered


def warp_depth_to_crops(
    depth: Float[Tensor, "h w"], camera: VirtualCamera, lens: Lens = None
) -> Float[Tensor, "batch size size"]:
    """Depth images of the crop cameras from that of the source camera.

    Every crop pixel takes the source pixel nearest to it: means of depths before and behind an edge would be depths of
    nothing. A depth is that of the point along the crop camera's own axis.

    Args:
        depth: `(H, W)` z in the source camera, 0 where nothing was measured.
        camera: B cameras of this image.
        lens: as of `warp_to_crops`.
    """
    height, width = depth.shape
    straight, front = crop_pixels(camera.inverse_homography.to(depth.dtype), camera.size)
    pixels = straight if lens is None else lens(straight)
    u, v = pixels.nan_to_num().clamp(-1, max(height, width) + 1).round().long().unbind(-1)
    inside = front & (u >= 0) & (v >= 0) & (u < width) & (v < height)
    u, v = u.clamp(0, width - 1), v.clamp(0, height - 1)
    of_pixels = torch.stack((u, v), dim=-1).to(depth.dtype) if lens is None else straight
    rays = torch.cat((of_pixels, torch.ones_like(of_pixels[..., :1])), dim=-1)
    into = (camera.R_virt_cam @ invert_intrinsics(camera.K_cam)).to(depth.dtype)[:, 2]
    return torch.where(inside, depth[v, u] * torch.einsum("bijk,bk->bij", rays, into), 0.0).clamp_min(0)

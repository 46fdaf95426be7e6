"""A part from six sides on one sheet."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.geometry import make_transform
from cad2pose.parts.part import Part
from cad2pose.pictures.contact_sheet import contact_sheet
from cad2pose.rendering.meshes import MeshSet
from cad2pose.rendering.render import render
from cad2pose.rendering.shading import Lights, Material, shade, to_display, to_linear

_SUPERSAMPLING = 2
_DISTANCE = 6.0  # of the camera from the centre, in radii: little perspective, as in a drawing
_MARGIN = 1.06
_GROUND = (0.93, 0.93, 0.94)

# Where the camera stands, and which way is up in the picture.
_VIEWS = (("+x", "+z"), ("-x", "+z"), ("+y", "+z"), ("-y", "+z"), ("+z", "+y"), ("-z", "+y"))


def six_views(part: Part, size: int = 320) -> Float[Tensor, "3 H W"]:
    """The part seen from the ends of its file's axes, each view `size` pixels, with the sides' lengths beneath."""
    center, radius = part.center, part.radius
    T_cam_obj = torch.stack([look_from(_direction(side), _direction(up), center, radius) for side, up in _VIEWS])
    pixels = size * _SUPERSAMPLING
    focal = pixels / 2 * (_DISTANCE**2 - 1) ** 0.5 / _MARGIN  # a sphere's outline is wider than its equator
    middle = (pixels - 1) / 2
    K = torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1]], dtype=torch.float32)
    count = len(_VIEWS)
    index = torch.zeros(count, 1, dtype=torch.int64)
    meshes = MeshSet.from_meshes([part.mesh])
    rendering = render(meshes, index, T_cam_obj[:, None].float(), K.expand(count, 3, 3), pixels, pixels)
    plastic = Material(torch.full((count, 1), 0.45), torch.zeros(count, 1), torch.full((count, 1), 0.04))
    images = to_display(shade(rendering, _headlights(count), plastic, to_linear(rendering.colors)))
    images = torch.where(rendering.mask[:, None], images, torch.tensor(_GROUND)[:, None, None])
    images = torch.nn.functional.avg_pool2d(images, _SUPERSAMPLING)
    lengths = (part.mesh.used_vertices.amax(0) - part.mesh.used_vertices.amin(0)).tolist()
    labels = []
    for side, up in _VIEWS:
        across = next(axis for axis in "xyz" if axis not in side + up)
        named = [f"{axis} {lengths['xyz'.index(axis)]:.4g}" for axis in (across, up[1])]
        labels.append(f"from {side}: {named[0]} wide, {named[1]} high (mm)")
    return contact_sheet(list(images), labels, columns=3, tile_width=size)


def _direction(name: str) -> Float[Tensor, "3"]:
    vector = torch.zeros(3, dtype=torch.float64)
    vector["xyz".index(name[1])] = 1.0 if name[0] == "+" else -1.0
    return vector


def look_from(
    side: Float[Tensor, "3"], up: Float[Tensor, "3"], center: Float[Tensor, "3"], radius: float
) -> Float[Tensor, "4 4"]:
    """T_cam_obj of a camera on that side of the centre, looking at it."""
    rotation = torch.stack((torch.linalg.cross(up, side), -up, -side))
    return make_transform(rotation, _DISTANCE * radius * torch.tensor([0.0, 0, 1]).double() - rotation @ center)


def _headlights(count: int) -> Lights:
    """A key light from above left and a weak fill from the right, behind the camera."""
    directions = torch.nn.functional.normalize(torch.tensor([[-0.5, -0.8, -1.0], [0.8, 0.2, -0.6]]), dim=-1)
    intensities = torch.tensor([0.7, 0.25])[:, None].expand(2, 3)
    return Lights(
        torch.full((count, 3), 0.2), directions.expand(count, 2, 3), intensities.expand(count, 2, 3),
        torch.full((count, 2), 20.0),
    )  # fmt: skip

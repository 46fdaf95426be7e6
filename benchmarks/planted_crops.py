"""Query images made by formula, with the faults of a network's: what solvers are compared on.

Every crop shows one of three built-in parts, the nut symmetric, in a random pose. Keys are Fourier features of the
part's coordinates, 12 numbers of one length, taken of invariants where the part is symmetric; a query is the key of
what the pixel shows, with these faults:

    everywhere      coordinates are off by a smooth field of 0.03 radii and by 0.02 radii from pixel to pixel;
                    how sure a query is varies smoothly
    behind things   up to four tenths of the silhouette is hidden: coordinates there are off by 0.35 radii, and queries
                    are a third as long
    at the edge     the mask's edge is displaced by a smooth field of 2 pixels, and is unsure where something hides it;
                    queries go on beyond it as at the edge
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from cad2pose.geometry import make_transform, random_rotations
from cad2pose.parts import Part, builtin_part
from cad2pose.rendering import MeshSet, render

PARTS = ("bracket", "disc", "nut")
EMBEDDING, FREQUENCY, SHARPNESS = 12, 3.0, 60.0
FILL = 0.6  # the part's diameter in sides of the crop


@dataclass(frozen=True, eq=False)
class PlantedCrop:
    """One crop.

    Args:
        part: what it shows.
        queries: `(12, r, r)`.
        mask_logits: `(r, r)` of the full silhouette.
        K: `(3, 3)` of the crop camera.
        T_cam_obj: `(4, 4)` true pose, mm.
        depth: `(r, r)` of the part in that pose, mm, 0 where it is not.
        hidden: `(r, r)` where something stands before it.
    """

    part: Part
    queries: Tensor
    mask_logits: Tensor
    K: Tensor
    T_cam_obj: Tensor
    depth: Tensor
    hidden: Tensor


def planted_crop(number: int, side: int = 224, faults: float = 1.0) -> PlantedCrop:
    """Crop number `number` of an endless row, the parts in turn; `faults` scales them, 0 leaves none."""
    generator = torch.Generator().manual_seed(1_000_003 + number)
    part = builtin_part(PARTS[number % len(PARTS)])
    focal = 3.0 * side
    depth = focal * part.diameter / (FILL * side) * (1 + 0.25 * (_even(generator) - 0.5))
    across = 0.15 * (torch.rand(2, generator=generator, dtype=torch.float64) - 0.5) * part.diameter
    position = torch.tensor([*across.tolist(), depth], dtype=torch.float64)
    rotation = random_rotations(1, generator, torch.float64)[0]
    T = make_transform(rotation, position - rotation @ part.center)
    K = torch.tensor([[focal, 0, (side - 1) / 2], [0, focal, (side - 1) / 2], [0, 0, 1.0]])
    meshes = MeshSet.from_meshes([part.mesh])
    seen = render(meshes, torch.zeros(1, 1, dtype=torch.long), T[None, None], K[None], side, side)
    mask = seen.mask[0]
    hidden = _blob(mask, 0.4 * _even(generator), generator) if _even(generator) < 0.7 else torch.zeros_like(mask)
    hidden = hidden & (faults > 0)
    inside = mask.nonzero()
    nearest = torch.from_numpy(distance_transform_edt(~mask.numpy(), return_distances=False, return_indices=True))
    points = part.normalize(seen.coordinates[0].permute(1, 2, 0))[nearest[0].long(), nearest[1].long()]
    off = 0.03 * _smooth(3, side, side / 10, generator) + 0.02 * torch.randn(3, side, side, generator=generator)
    off = torch.where(hidden, 0.35 * _smooth(3, side, side / 6, generator), off) * faults
    sure = torch.exp(0.25 * faults * _smooth(1, side, side / 6, generator)) * torch.where(hidden, 1 / 3, 1.0)
    queries = embed(part, points.reshape(-1, 3) + off.flatten(1).T).T.reshape(EMBEDDING, side, side) * sure
    logits = (_signed_distance(mask) + 2 * faults * _smooth(1, side, side / 12, generator)[0]).clamp(-6, 6)
    logits = torch.where(hidden, 0.4 * logits + 0.5 * faults * _smooth(1, side, side / 12, generator)[0], logits)
    assert len(inside), "a planted part is always seen"
    return PlantedCrop(part, queries.float(), logits.float(), K, T, seen.depth[0], hidden)


def embed(part: Part, points: Tensor) -> Tensor:
    """Keys `(n, 12)` of normalised points: Fourier features, of coordinates that no symmetry of the part changes."""
    x, y, z = points.double().unbind(-1)
    if part.name == "nut":
        radius, angle = torch.hypot(x, y), 6 * torch.atan2(y, x)
        points = torch.stack((2 * radius, 4 * z**2, 0.5 * radius * angle.cos(), 2 * z * angle.sin()), dim=-1)
    generator = torch.Generator().manual_seed(1)
    frequencies = torch.randn(points.shape[-1], EMBEDDING // 2, generator=generator, dtype=torch.float64)
    phases = FREQUENCY * points.double() @ frequencies
    return (math.sqrt(2 * SHARPNESS / EMBEDDING) * torch.cat((phases.cos(), phases.sin()), dim=-1)).float()


def _even(generator: torch.Generator) -> float:
    return float(torch.rand(1, generator=generator))


def _smooth(channels: int, side: int, length: float, generator: torch.Generator) -> Tensor:
    """Noise of about unit spread that changes over `length` pixels."""
    cells = max(2, round(side / length)) + 3
    coarse = torch.randn(1, channels, cells, cells, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)[0]
    return fine / 0.75  # what interpolation takes from the spread


def _blob(mask: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A part of the crop that hides a share of the mask: all that lies beyond a curved line."""
    side = len(mask)
    v, u = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angle = 2 * math.pi * _even(generator)
    along = u * math.cos(angle) + v * math.sin(angle) + side / 12 * _smooth(1, side, side / 3, generator)[0]
    edge = along[mask].quantile(1 - share) if share > 0 else along.max() + 1
    return along > edge


def _signed_distance(mask: Tensor) -> Tensor:
    inside, outside = (torch.from_numpy(distance_transform_edt(m.numpy())) for m in (mask, ~mask))
    return inside - outside

"""Tiny parts and models with random weights, quick to make."""

from __future__ import annotations

from dataclasses import replace

import torch

from cad2pose.geometry import rotation_about_z
from cad2pose.methods import GdrNetConfig, GdrNetMethod, QueryConfig, QueryMethod, SurfEmbConfig
from cad2pose.model_file import Model
from cad2pose.parts.mesh import Mesh
from cad2pose.parts.part import Part
from cad2pose.parts.symmetry import ContinuousSymmetry, Symmetries
from cad2pose.structures import CropBatch

SMALL = QueryConfig(
    crop_size=32, stride=4, width=8, key_width=8, head_width=8, head_hidden=(16, 8), positives=8, negatives=16
)
SMALL_GDRNET = GdrNetConfig(
    crop_size=32, width=8, encoder="resnet18", decoder_width=8, head_width=8, head_hidden=(16, 8), regions=4
)
SMALL_SURFEMB = SurfEmbConfig(crop_size=32, stride=2, width=8, key_width=8, positives=8, negatives=16)


def wedge(object_id: int = 1, name: str = "wedge", shift: float = 100.0, symmetric: bool = False) -> Part:
    """A tetrahedron of about 60 mm, its origin far outside; colours on it. Not truly symmetric, whatever it claims."""
    vertices = torch.tensor([[0.0, 0, 0], [50, 0, 0], [0, 35, 0], [0, 0, 20]], dtype=torch.float64) + shift
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    colors = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    part = Part.from_mesh(name, Mesh.from_arrays(vertices, faces, colors), object_id)
    if not symmetric:
        return part
    axis = ContinuousSymmetry(torch.tensor([0.0, 0, 1]).double(), part.center)
    return Part(name, object_id, part.mesh, Symmetries(continuous=(axis,)), part.center, part.radius, part.diameter)


def random_model(*parts: Part) -> Model:
    parts = parts or (wedge(),)
    return Model(QueryMethod(SMALL, parts).eval(), tuple(parts), {"samples": "0"})


def rolled(batch: CropBatch, turns: int) -> CropBatch:
    """The crops as cameras rolled by quarter turns see them, without truth; exact, as crops are square and centred."""
    turn = rotation_about_z(torch.tensor(turns * torch.pi / 2, dtype=batch.camera.R_virt_cam.dtype))
    camera = replace(batch.camera, R_virt_cam=turn @ batch.camera.R_virt_cam)
    image, valid = (tensor.rot90(-turns, (2, 3)) for tensor in (batch.image, batch.valid))
    return replace(batch, image=image, valid=valid, camera=camera, truth=None)


class PlantedMethod(GdrNetMethod):
    """Answers with the true pose of the part, whichever crop it is shown; it has no query image to refine poses on."""

    def plant(self, T_cam_obj: torch.Tensor) -> PlantedMethod:
        self.T_cam_obj = T_cam_obj
        self.seen: list[CropBatch] = []
        return self

    def poses(self, output, batch):  # type: ignore[no-untyped-def]
        self.seen.append(batch)
        T_virt_obj = batch.camera.to_virtual(self.T_cam_obj[batch.part_index].to(batch.camera.box))
        return T_virt_obj, torch.full((len(batch),), 0.75)


def planted_model(T_cam_obj: torch.Tensor, *parts: Part) -> Model:
    return Model(PlantedMethod(SMALL_GDRNET, parts).plant(T_cam_obj).eval(), tuple(parts), {})

"""The renderer's light next to a path tracer's: the same parts, table, lights and materials in Mitsuba 3.

    pip install mitsuba    # a development tool; nothing else here needs it
    python benchmarks/path_traced.py OUT [--samples 512]

Every scene is a built-in part on a table under light from everywhere and one lobe, which the path tracer gets as an
environment picture. For each: how far radiance is off in the mean, in % of the scene's mean, without shadows and
openness and with them, against light that goes straight from its source to the surface, and against all light (with
what surfaces throw on each other, which the renderer leaves out). OUT gets a picture per scene: path traced, ours, ours
without shadows. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import torch
import trimesh
import tyro
from jaxtyping import Float
from torch import Tensor

from cad2pose.parts import builtin_part
from cad2pose.parts.mesh import Mesh
from cad2pose.pictures import contact_sheet, save_png
from cad2pose.pictures.six_views import look_from
from cad2pose.rendering import Lights, Material, MeshSet, openness, render, shade, shadows, to_display

SIZE = 128
FOCAL = 2.2 * SIZE
ENVIRONMENT = 256  # rows of the environment picture


@dataclass(frozen=True)
class Case:
    """One scene: what, of which material, how lit."""

    part: str
    roughness: float
    metallic: float
    sharpness: float
    ambient: float


CASES = {
    "nut, plastic, sun": Case("nut", 0.5, 0.0, 2000.0, 0.2),
    "bracket, plastic, sun": Case("bracket", 0.5, 0.0, 2000.0, 0.2),
    "bracket, plastic, window": Case("bracket", 0.5, 0.0, 30.0, 0.3),
    "bushing, metal, window": Case("bushing", 0.4, 1.0, 30.0, 0.4),
    "disc, matt, sky": Case("disc", 1.0, 0.0, 2.0, 0.1),
    "nut, open sky": Case("nut", 1.0, 0.0, 30.0, 1.0),
}


@dataclass(frozen=True)
class Config:
    """How carefully.

    Attributes:
        out: folder of the pictures.
        samples: paths per pixel.
    """

    out: tyro.conf.Positional[Path]
    samples: int = 512


def main(config: Config) -> None:
    import mitsuba  # pyright: ignore[reportMissingImports]  # installed by hand where references are made

    mitsuba.set_variant("scalar_rgb")
    config.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, dict[str, float]] = {}
    for name, case in CASES.items():
        scene = Scene(case)
        ours, bare = scene.ours(blocked=True), scene.ours(blocked=False)
        straight = scene.path_traced(mitsuba, config.samples, depth=2)
        whole = scene.path_traced(mitsuba, config.samples, depth=8)
        size = float(straight.mean())
        figures[name] = {
            "bare, straight light": 100 * float((bare - straight).abs().mean()) / size,
            "straight light": 100 * float((ours - straight).abs().mean()) / size,
            "all light": 100 * float((ours - whole).abs().mean()) / float(whole.mean()),
        }
        print(name, {key: f"{value:.1f} %" for key, value in figures[name].items()}, flush=True)
        exposure = 0.6 / float(whole.mean())
        tiles = [to_display(picture * exposure) for picture in (whole, straight, ours, bare)]
        labels = ["all light", "straight light", "ours", "ours, bare"]
        sheet = contact_sheet(tiles, labels, columns=4, tile_width=2 * SIZE)
        save_png(config.out / f"{name.replace(', ', '_')}.png", sheet)
    print(json.dumps(figures))


class Scene:
    """A part on a table, everything in the camera's frame."""

    def __init__(self, case: Case) -> None:
        self.case = case
        part = builtin_part(case.part)
        side = torch.nn.functional.normalize(torch.tensor([0.7, 0.2, 0.6]).double(), dim=0)
        up = torch.nn.functional.normalize(torch.tensor([0.0, 0, 1]).double() - side[2] * side, dim=0)
        self.T = look_from(side, up, part.center, part.radius)
        low = float(part.mesh.used_vertices[:, 2].min())
        reach = 6 * part.radius
        corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]).double() * reach
        corners = corners + torch.tensor([float(part.center[0]), float(part.center[1]), low])
        table = Mesh.from_arrays(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))
        self.part, self.meshes = part, (part.mesh, table)
        light = torch.nn.functional.normalize(torch.tensor([0.2, 0.7, 0.9]).double(), dim=0)
        self.light = (self.T[:3, :3] @ light).float()
        self.colors = (torch.tensor([0.5, 0.25, 0.12]), torch.tensor([0.4, 0.42, 0.45]))

    def ours(self, blocked: bool) -> Float[Tensor, "3 h w"]:
        case = self.case
        meshes = MeshSet.from_meshes(self.meshes)
        index = torch.tensor([[0, 1]], dtype=torch.int32)
        T = self.T.float().expand(1, 2, 4, 4).contiguous()
        middle = (SIZE - 1) / 2
        K = torch.tensor([[[FOCAL, 0, middle], [0, FOCAL, middle], [0, 0, 1]]])
        seen = render(meshes, index, T, K, SIZE, SIZE)
        lights = Lights(
            torch.full((1, 3), case.ambient), self.light[None, None], torch.ones(1, 1, 3),
            torch.full((1, 1), case.sharpness),
        )  # fmt: skip
        table = (1.0, 0.0, 0.0)
        values = zip((case.roughness, case.metallic, 0.04), table, strict=True)
        material = Material(*(torch.tensor([pair]) for pair in values))
        colors = torch.stack(self.colors)[seen.slot.clamp_min(0).long()].movedim(-1, 1)
        if not blocked:
            return shade(seen, lights, material, colors)[0]
        center = self.part.middle(self.T).float()[None]
        radius = torch.tensor([2.6 * self.part.radius])
        spread = torch.tensor([min(0.6, (2 / case.sharpness) ** 0.5)])
        lit = shadows(meshes, index, T, seen, self.light[None], spread, center, radius, SIZE)
        free = openness(seen, torch.tensor([0.8 * self.part.radius]))
        return shade(seen, lights, material, colors, lit[:, None], free)[0]

    def path_traced(self, mitsuba: Any, samples: int, depth: int) -> Float[Tensor, "3 h w"]:
        case = self.case
        part = {
            "type": "principled", "base_color": _rgb(self.colors[0]), "roughness": case.roughness,
            "metallic": case.metallic, "specular": 0.5,
        }  # fmt: skip
        table = {"type": "diffuse", "reflectance": _rgb(self.colors[1])}
        scene: dict[str, Any] = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": depth, "hide_emitters": True},
            "sensor": {
                "type": "perspective", "fov": float(np.degrees(2 * np.arctan(SIZE / 2 / FOCAL))), "near_clip": 1.0,
                "far_clip": 1e5, "to_world": mitsuba.ScalarTransform4f(np.diag([-1.0, -1.0, 1.0, 1.0])),
                "film": {"type": "hdrfilm", "width": SIZE, "height": SIZE, "rfilter": {"type": "box"}},
                "sampler": {"type": "independent", "sample_count": samples},
            },
            "sky": {"type": "envmap", "bitmap": mitsuba.Bitmap(self._environment())},
        }  # fmt: skip
        with TemporaryDirectory() as folder:
            for name, mesh, bsdf in zip(("part", "table"), self.meshes, (part, table), strict=True):
                vertices = (mesh.vertices @ self.T[:3, :3].T + self.T[:3, 3]).numpy()
                normals = (mesh.normals.double() @ self.T[:3, :3].T).numpy()
                path = Path(folder) / f"{name}.ply"
                trimesh.Trimesh(vertices, mesh.faces.numpy(), vertex_normals=normals, process=False).export(
                    path, vertex_normal=True
                )
                scene[name] = {"type": "ply", "filename": str(path), "bsdf": {"type": "twosided", "nested": bsdf}}
            picture = np.array(mitsuba.render(mitsuba.load_dict(scene)))
        return torch.from_numpy(picture[..., :3]).permute(2, 0, 1).float()

    def _environment(self) -> np.ndarray:
        """Radiance by direction; rows go from +y to -y, columns about y from -z through +x."""
        rows, columns = ENVIRONMENT, 2 * ENVIRONMENT
        theta = (np.arange(rows) + 0.5)[:, None] / rows * np.pi
        phi = (np.arange(columns) + 0.5) / columns * 2 * np.pi
        direction = np.stack(
            (np.sin(phi) * np.sin(theta), np.cos(theta) * np.ones_like(phi), -np.cos(phi) * np.sin(theta)), axis=-1
        )
        sharp = self.case.sharpness
        peak = sharp / (2 * -np.expm1(-2 * sharp))
        lobe = peak * np.exp(sharp * (direction @ self.light.double().numpy() - 1))
        return np.repeat((self.case.ambient + lobe)[..., None], 3, axis=-1).astype(np.float32)


def _rgb(color: Float[Tensor, "3"]) -> dict[str, Any]:
    return {"type": "rgb", "value": color.tolist()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Config, description=__doc__))

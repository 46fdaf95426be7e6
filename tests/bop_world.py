"""A small BOP dataset on disk, made by code: two scenes, two objects (a wedge and a symmetric box), one split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cad2pose.geometry import make_transform, random_rotations
from cad2pose.parts import Mesh, Part, Symmetries, save_ply, write_models_info
from cad2pose.rendering import MeshSet, rasterize

WIDTH, HEIGHT = 64, 48
K = [60.0, 0.0, 31.0, 0.0, 61.0, 23.5, 0.0, 0.0, 1.0]


def make_bop(
    root: Path, split: str = "test", folder: str = "rgb", suffix: str = ".png", rendered_depth: bool = False
) -> Path:
    """Write the dataset; scenes 1 and 2 with images 3 and 5, each showing object 1 once and object 2 twice.

    Depth images are flat, or what a camera would measure of the parts.
    """
    parts = small_parts()
    for name in ("models", "models_eval"):
        for part in parts:
            save_ply(root / name / f"obj_{part.object_id:06d}.ply", part.mesh)
        write_models_info(root / name / "models_info.json", parts)
    camera = {"fx": K[0], "fy": K[4], "cx": K[2], "cy": K[5], "width": WIDTH, "height": HEIGHT, "depth_scale": 0.5}
    write_json(root / "camera.json", camera)
    generator = torch.Generator().manual_seed(3)
    targets = []
    for scene_id in (1, 2):
        scene = root / split / f"{scene_id:06d}"
        for kind in (folder, "depth", "mask_visib"):
            (scene / kind).mkdir(parents=True)
        cameras, truth, infos = {}, {}, {}
        for image_id in (3, 5):
            pixels = np.full((HEIGHT, WIDTH, 3), 10 * scene_id + image_id, np.uint8)
            Image.fromarray(pixels if folder == "rgb" else pixels[..., 0]).save(
                scene / folder / f"{image_id:06d}{suffix}"
            )
            Image.fromarray(np.full((HEIGHT, WIDTH), 1200, np.uint16)).save(scene / "depth" / f"{image_id:06d}.png")
            cameras[image_id] = {"cam_K": K, "depth_scale": 0.5}
            truth[image_id], infos[image_id] = [], []
            for index, object_id in enumerate((1, 2, 2)):
                R = random_rotations(1, generator, torch.float64)[0]
                t = [30.0 * index - 30, 10.0 * index, 500 + 20 * index]
                truth[image_id].append({"obj_id": object_id, "cam_R_m2c": R.flatten().tolist(), "cam_t_m2c": t})
                box = [8 + 16 * index, 10, 12, 14]
                infos[image_id].append({"bbox_obj": box, "bbox_visib": box, "visib_fract": 0.9 - 0.1 * index})
                mask = np.zeros((HEIGHT, WIDTH), np.uint8)
                mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 255
                Image.fromarray(mask).save(scene / "mask_visib" / f"{image_id:06d}_{index:06d}.png")
            counts = {1: 1, 2: 2}
            targets += [
                {"scene_id": scene_id, "im_id": image_id, "obj_id": o, "inst_count": n} for o, n in counts.items()
            ]
        write_json(scene / "scene_camera.json", cameras)
        write_json(scene / "scene_gt.json", truth)
        for image_id in truth if rendered_depth else ():
            depth = rendered(parts, truth[image_id])
            Image.fromarray(depth).save(scene / "depth" / f"{image_id:06d}.png")
        write_json(scene / "scene_gt_info.json", infos)
    write_json(root / f"{split.split('_')[0]}_targets_bop19.json", targets)
    return root


def rendered(parts: list[Part], truth: list[dict]) -> np.ndarray:
    """Depth image of what is annotated, in units of 0.5 mm."""
    poses = torch.stack([pose(entry["cam_R_m2c"], entry["cam_t_m2c"]) for entry in truth])
    index = torch.tensor([[entry["obj_id"] - 1 for entry in truth]])
    camera = torch.tensor(K, dtype=torch.float64).reshape(1, 3, 3)
    meshes = MeshSet.from_meshes([part.mesh for part in parts])
    depth = rasterize(meshes, index, poses[None], camera, HEIGHT, WIDTH).depth[0]
    return (2 * depth).round().numpy().astype(np.uint16)


def small_parts() -> list[Part]:
    """A wedge without symmetry, and a box that looks the same after half a turn about z."""
    signs = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=torch.float64)
    faces = torch.tensor(
        [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4],
         [1, 5, 7], [1, 7, 3]]
    )  # fmt: skip
    box = signs * torch.tensor([20.0, 12.0, 30.0])
    wedge = box + torch.where(signs[:, 2:] > 0, torch.tensor([15.0, 3.0, 0.0]), torch.zeros(3))
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))[None]
    return [
        Part.from_mesh("wedge", Mesh.from_arrays(wedge, faces), 1),
        Part.from_mesh("box", Mesh.from_arrays(box, faces), 2, Symmetries(half_turn)),
    ]


def write_json(path: Path, content: object) -> None:
    """Plain json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_json(path: Path, change) -> None:
    """Apply `change` to the content of a json file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write_json(path, content)


def pose(rotation: list[float], translation: list[float]) -> torch.Tensor:
    """T from nine numbers row by row and three."""
    R = torch.tensor(rotation, dtype=torch.float64).reshape(3, 3)
    return make_transform(R, torch.tensor(translation, dtype=torch.float64))

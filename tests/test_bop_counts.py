"""What scene_gt_info.json of rendered data sets says, against the masks and the poses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bop_world import small_parts
from cad2pose.data import bop_writer
from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_writer import RenderPlan, write_dataset
from cad2pose.data.tabletop import TabletopConfig
from cad2pose.geometry import Camera
from cad2pose.parts import Part
from cad2pose.rendering import MeshSet, rasterize

CAMERA = Camera.from_values(75.0, 76.0, 39.5, 29.5, 80, 60)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in which parts hide each other, and leave the picture in part or altogether."""
    out = tmp_path_factory.mktemp("cut") / "set"
    photos = TabletopConfig(parts=(4, 6), others=2, pictures=2, apparent_size=(250.0, 300.0))
    write_dataset(small_parts(), CAMERA, RenderPlan(scenes=1, images=4, seed=2, photos=photos), out)
    return out


def test_counts_and_boxes_are_those_of_the_masks_and_of_the_whole_silhouettes(cut):
    """BOP counts a silhouette where it leaves the picture, too: here it is pieced together of nine pictures."""
    dataset = BopDataset(cut, bop_writer.SPLIT)
    parts = {part.object_id: part for part in dataset.parts()}
    infos = json.loads((cut / bop_writer.SPLIT / "000000" / "scene_gt_info.json").read_text())
    leaving, hidden, gone = 0, 0, 0
    for image in dataset:
        measured = image.read_depth() > 0
        for instance in image.instances:
            whole = whole_silhouette(parts[instance.object_id], instance.T_cam_obj)
            silhouette, visible = (image.read_mask(instance, visible=flag) for flag in (False, True))
            assert torch.equal(whole[60:120, 80:160], silhouette)
            count, seen = int(whole.sum()), int(visible.sum())
            assert infos[str(image.image_id)][instance.index] == {
                "bbox_obj": box_of(whole, 80, 60), "bbox_visib": box_of(visible), "px_count_all": count,
                "px_count_valid": int((silhouette & measured).sum()), "px_count_visib": seen,
                "visib_fract": seen / count if count else 0.0,
            }  # fmt: skip
            assert instance.visible_fraction == (seen / count if count else 0.0), "as readers have it"
            leaving += count > int(silhouette.sum()) > 0
            hidden += seen < int(silhouette.sum())
            gone += seen == 0
    assert leaving > 2
    assert hidden > 2
    assert gone > 0


def whole_silhouette(part: Part, T_cam_obj: torch.Tensor) -> torch.Tensor:
    """A part on a canvas of three by three pictures, the one in the middle being the camera's own."""
    meshes, rows = MeshSet.from_meshes([part.mesh]), []
    for down in (1, 0, -1):
        row = []
        for right in (1, 0, -1):
            K = CAMERA.K.float() + torch.tensor([[0, 0, 80.0 * right], [0, 0, 60.0 * down], [0, 0, 0]])
            row.append(
                rasterize(meshes, torch.zeros(1, 1).int(), T_cam_obj.float()[None, None], K[None], 60, 80).slot[0]
            )
        rows.append(torch.cat(row, dim=1))
    return torch.cat(rows) >= 0


def box_of(mask: torch.Tensor, left: int = 0, top: int = 0) -> list[int]:
    """x, y, width and height in pixels, of a mask whose origin is at (left, top); -1 where it is empty."""
    v, u = mask.nonzero().unbind(1)
    if not len(u):
        return [-1, -1, -1, -1]
    return [int(u.min()) - left, int(v.min()) - top, int(u.max() - u.min()) + 1, int(v.max() - v.min()) + 1]

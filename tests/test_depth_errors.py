from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bop_world import make_bop
from cad2pose.data.bop import BopDataset
from cad2pose.evaluation import evaluate
from cad2pose.evaluation.depth_errors import vsd_of_problems
from cad2pose.evaluation.pairs import Annotations, pose_problems
from cad2pose.evaluation.visible_surface import VSD_TAUS, depth_to_distance, vsd_error
from cad2pose.geometry import rotation_from_axis_angle
from cad2pose.rendering import MeshSet, rasterize
from test_evaluate import true_results


@pytest.mark.parametrize("shift", [(0.0, 0.0, 6.0), (4.0, -3.0, -9.0), (-260.0, 0.0, 0.0), (0.0, 0.0, -480.0)])
def test_a_window_gives_what_the_whole_image_gives(tmp_path, shift):
    """Estimates near the truth, half out of the image, and reaching behind the camera."""
    dataset = BopDataset(make_bop(tmp_path, rendered_depth=True))
    results = true_results(dataset)
    turn = rotation_from_axis_angle(torch.tensor([0.1, -0.05, 0.2], dtype=torch.float64))
    results.T_cam_obj[:, :3, :3] = turn @ results.T_cam_obj[:, :3, :3]
    results.T_cam_obj[:, :3, 3] += torch.tensor(shift, dtype=torch.float64)
    parts = {part.object_id: part for part in dataset.parts(evaluation=True)}
    problems = pose_problems(results, Annotations(dataset), dataset.targets())
    found = vsd_of_problems(results, problems, parts, dataset)
    assert len(found) == 4 * (1 + 4)  # two estimates stand against two truths each
    for problem in problems:
        part, image = parts[problem.target.object_id], dataset.image(*problem.image)
        camera, meshes = problem.camera, MeshSet.from_meshes([part.mesh])
        measured = depth_to_distance(image.read_depth(), camera.K)
        for row in problem.rows.tolist():
            for truth in problem.truths:
                poses = torch.stack((truth.T_cam_obj, results.T_cam_obj[row]))[:, None]
                index = torch.zeros(2, 1, dtype=torch.int64)
                K = camera.K.expand(2, 3, 3)
                depth = rasterize(meshes, index, poses, K, camera.height, camera.width).depth
                true, estimated = depth_to_distance(depth, camera.K)
                plain = vsd_error(measured, true, estimated, [tau * part.diameter for tau in VSD_TAUS])
                assert found[row, truth.index].tolist() == pytest.approx(plain.tolist(), abs=1e-9)


def test_depth_of_another_size_than_the_camera(tmp_path):
    dataset = BopDataset(make_bop(tmp_path))
    results = true_results(dataset)
    path = dataset.root / "test" / "000001" / "depth" / "000003.png"
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(path)
    with pytest.raises(ValueError, match="000003.png is 5 x 4 pixels, but its camera has 64 x 48"):
        evaluate(results, dataset)


def test_colour_images_are_not_needed(tmp_path):
    dataset = BopDataset(make_bop(tmp_path, rendered_depth=True))
    results = true_results(dataset)
    for path in dataset.root.glob("test/*/rgb/*"):
        path.unlink()
    assert evaluate(results, BopDataset(dataset.root)).total.AR == 1


def test_depth_images_are_made_straight_as_their_camera_is_used(tmp_path):
    """A wall hides parts near the picture's edge; through a lens both are seen some pixels further in."""
    dataset = BopDataset(make_bop(tmp_path))
    for path in dataset.root.glob("test/0*/scene_gt.json"):
        content = json.loads(path.read_text())
        for entries in content.values():
            for number, entry in enumerate(entries):
                entry["cam_t_m2c"] = [-215.0, 60.0 * number - 60, 500.0]
        path.write_text(json.dumps(content))
    depth = np.full((48, 64), 1400, np.uint16)
    depth[:, :5] = 600
    dataset = BopDataset(dataset.root)
    results = true_results(dataset)
    results.T_cam_obj[:, 0, 3] += 8.0
    _measure(dataset, depth, ())
    plain = evaluate(results, BopDataset(dataset.root)).total.AR_VSD
    _measure(dataset, depth, (-0.6, 0.0, 0.0, 0.0))
    through_lens = evaluate(results, BopDataset(dataset.root)).total.AR_VSD
    assert plain is not None
    assert 0.1 < plain < 0.9
    assert through_lens == pytest.approx(plain, abs=0.05)


def _measure(dataset: BopDataset, depth: np.ndarray, lens: tuple[float, ...]) -> None:
    """Write what a camera with this lens sees of a straight depth image, for all images."""
    for folder in sorted(dataset.root.glob("test/0*")):
        path = folder / "scene_camera.json"
        cameras = json.loads(path.read_text())
        for name, entry in cameras.items():
            camera = dataset.scene(int(folder.name)).camera(int(name))
            rows, columns = np.mgrid[: camera.height, : camera.width]
            pixels = torch.from_numpy(np.stack((columns, rows), -1)).double().view(-1, 2)
            shown = replace(camera, distortion=lens).bent_pixels(pixels) if lens else pixels
            nearest = (shown[None] - pixels[:, None]).norm(dim=-1).argmin(1)
            seen = depth.reshape(-1)[nearest.numpy()].reshape(depth.shape)
            Image.fromarray(seen).save(folder / "depth" / f"{int(name):06d}.png")
            if lens:
                entry["distortion"] = list(lens)
        path.write_text(json.dumps(cameras))

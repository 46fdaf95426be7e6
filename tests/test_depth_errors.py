from __future__ import annotations

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

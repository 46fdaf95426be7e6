from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bop_world import pose
from cad2pose.evaluation.visible_surface import depth_to_distance, visibility_masks, vsd_error
from cad2pose.parts import Mesh
from cad2pose.rendering import MeshSet, rasterize

GOLDEN = Path(__file__).parent / "golden"
VSD = json.loads((GOLDEN / "vsd.json").read_text())
K = torch.tensor(VSD["K"], dtype=torch.float64).reshape(3, 3)
CASES = [pytest.param(case, id=case["name"]) for case in VSD["cases"]]


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "vsd.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def distances(arrays, case):
    index = case["case_id"]
    return [depth_to_distance(arrays[f"depth_{kind}_{index}"], K) for kind in ("test", "gt", "est")]


@pytest.mark.parametrize("case", CASES)
def test_golden_errors_and_masks(arrays, case):
    index, expected, diameter = case["case_id"], case["expected"], case["diameter"]
    measured, true, estimated = distances(arrays, case)
    taus = [tau * diameter for tau in VSD["taus"]]
    found = {
        "vsd_step": vsd_error(measured, true, estimated, taus),
        "vsd_tlinear": vsd_error(measured, true, estimated, taus, cost="tlinear"),
        "vsd_step_delta_5": vsd_error(measured, true, estimated, taus, delta=5.0),
        "vsd_step_taus_in_mm_not_normalized": vsd_error(measured, true, estimated, VSD["taus_not_normalized_mm"]),
    }
    assert set(found) == set(expected)
    for name, values in found.items():
        assert values.tolist() == pytest.approx(expected[name], abs=1e-9), name
    masks = dict(zip(("gt", "est"), visibility_masks(measured, true, estimated), strict=True))
    for kind, mask in masks.items():
        assert torch.equal(mask, arrays[f"visib_{kind}_{index}"].bool())
    older = visibility_masks(measured, true, estimated, mode="bop18")
    assert [int(mask.sum()) for mask in older] == [case["counts"][f"visib_{k}_bop18"] for k in ("gt", "est")]


def test_golden_distances_and_the_older_masks(arrays):
    found = distances(arrays, VSD["cases"][2])
    for kind, distance in zip(("test", "gt", "est"), found, strict=True):
        assert torch.allclose(distance, arrays[f"dist_{kind}_2"], rtol=0, atol=1e-9)
    for kind, mask in zip(("gt", "est"), visibility_masks(found[0], found[1], found[2], mode="bop18"), strict=True):
        assert torch.equal(mask, arrays[f"visib_{kind}_bop18_2"].bool())


@pytest.mark.parametrize("case", CASES)
def test_our_own_rendering_gives_the_golden_errors(arrays, case):
    thing = VSD["meshes"][case["mesh"]]
    if isinstance(thing["vertices"], str):
        objects = json.loads((GOLDEN / "continuous_symmetry.json").read_text())["objects"]
        thing = next(entry for entry in objects if entry["name"] == "cylinder_continuous_z")
    mesh = Mesh.from_arrays(torch.tensor(thing["vertices"], dtype=torch.float64), torch.tensor(thing["faces"]))
    poses = torch.stack([pose(case[f"R_{kind}"], case[f"t_{kind}"]) for kind in ("gt", "est")])
    width, height = VSD["image_size"]
    index = torch.zeros(2, 1, dtype=torch.int64)
    depth = rasterize(MeshSet.from_meshes([mesh]), index, poses[:, None], K.expand(2, 3, 3), height, width).depth
    measured = distances(arrays, case)[0]
    true, estimated = depth_to_distance(depth, K)
    taus = [tau * case["diameter"] for tau in VSD["taus"]]
    assert vsd_error(measured, true, estimated, taus).tolist() == pytest.approx(case["expected"]["vsd_step"], abs=1e-3)


def test_a_window_of_the_image_has_the_distances_of_the_whole():
    depth = 500 + torch.rand(30, 40)
    whole = depth_to_distance(depth, K)
    assert torch.equal(depth_to_distance(depth[7:20, 11:33], K, (11, 7)), whole[7:20, 11:33])


def test_what_equals_a_limit():
    """A difference equal to tau costs, a surface exactly delta behind the measurement is visible."""
    measured, true = torch.full((1, 2), 100.0).double(), torch.full((1, 2), 115.0).double()
    assert vsd_error(measured, true, true, [1.0]).tolist() == [0]
    assert vsd_error(measured, true + 1e-6, true + 1e-6, [1.0]).tolist() == [1]  # hidden, both of them
    near = torch.full((1, 2), 100.0).double()
    assert vsd_error(measured, near, near + 5, [5.0, 5.001]).tolist() == [1, 0]


def test_tolerances_must_be_positive():
    distance = torch.ones(2, 2).double()
    with pytest.raises(ValueError, match="must be positive, got \\[0.0\\]"):
        vsd_error(distance, distance, distance, [0.0])

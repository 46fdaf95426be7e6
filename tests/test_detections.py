from __future__ import annotations

import json

import pytest
import torch

from bop_world import write_json
from cad2pose.data.detections import read_detections, write_detections
from cad2pose.structures import Detections


def detections(*object_ids: int) -> Detections:
    count = len(object_ids)
    ids = torch.tensor(object_ids, dtype=torch.int64)
    return Detections(ids, torch.rand(count, 4, dtype=torch.float64) + 1, torch.rand(count, dtype=torch.float64))


@pytest.mark.parametrize("form", ["bop", "by_image"])
def test_both_forms_read_back_to_the_digit(tmp_path, form):
    given = {(1, 3): detections(2, 5, 2), (7, 0): detections(1)}
    write_detections(tmp_path / "d.json", given, form)
    again = read_detections(tmp_path / "d.json")
    assert list(again) == list(given)
    for key, one in given.items():
        for name, value in vars(one).items():
            assert torch.equal(getattr(again[key], name), value)


def test_forms_are_as_others_write_them(tmp_path):
    bop = {"scene_id": 2, "image_id": 17, "category_id": 9, "bbox": [1, 2, 3, 4], "score": 0.5, "segmentation": {}}
    write_json(tmp_path / "bop.json", [bop])
    by_image = {"2/17": [{"obj_id": 9, "bbox_est": [1, 2, 3, 4], "score": 0.5, "time": 0.1}], "2/18": []}
    write_json(tmp_path / "by_image.json", by_image)
    first, second = read_detections(tmp_path / "bop.json"), read_detections(tmp_path / "by_image.json")
    for found in (first[2, 17], second[2, 17]):
        assert (found.object_id.tolist(), found.box.tolist(), found.score.tolist()) == ([9], [[1, 2, 3, 4]], [0.5])
    assert len(second[2, 18]) == 0
    write_detections(tmp_path / "out.json", first, "by_image", seconds=0.1)
    assert json.loads((tmp_path / "out.json").read_text()) == {"2/17": by_image["2/17"]}


def entry(**changes):
    good = {"scene_id": 2, "image_id": 17, "category_id": 9, "bbox": [1, 2, 3, 4], "score": 0.5}
    return {key: value for key, value in (good | changes).items() if value is not None}


def test_boxes_of_no_width_are_left_out_and_counted(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps([entry(), entry(bbox=[1, 2, 0, 4]), entry(image_id=99, bbox=[1, 2, 3, 0])]))
    with pytest.warns(UserWarning, match=r"2 of 3 boxes of .*d.json have no width or no height; they are left out"):
        found = read_detections(path)
    assert sorted(len(boxes) for boxes in found.values()) == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "must hold a list of detections"),
        ([entry(), 5], "detection 1: must be a json object"),
        ([entry(bbox=[1, 2, 3])], "detection 0: bbox must be a list of 4 numbers"),
        ([entry(), entry(bbox=[1, 2, -1, 4])], "detection 1: bbox .* w > 0"),
        ([entry(bbox=[1, 2, 0, 4])], "none of its 1 boxes has a width and a height"),
        ([entry(bbox=[1, 2, 3, "4"])], "'4', which is not a finite number"),
        ([entry(score=None)], "score is missing"),
        ([entry(score="high")], "score holds 'high'"),
        ([entry(category_id=1.5)], "category_id must be a whole number"),
        ([entry(image_id=None)], "image_id must be a whole number, it is missing"),
        ({"17": []}, "keys must be SCENE/IMAGE"),
        ({"2/17": {}}, "image 2/17: must hold a list"),
        ({"2/17": [{"obj_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]}, "image 2/17, detection 0: bbox_est must be"),
    ],
)
def test_malformed_files(tmp_path, content, message):
    write_json(tmp_path / "d.json", content)
    with pytest.raises(ValueError, match=r"d\.json.*" + message):
        read_detections(tmp_path / "d.json")


def test_lmo(bop_path):
    for name in ("cosypose_maskrcnn_pbr_lmo", "gdrnet_fasterrcnn_lmo"):
        found = read_detections(bop_path / "lmo" / "detections" / f"{name}.json")
        assert len(found) == 40
        assert all(scene == 2 for scene, _ in found)
        ids = torch.cat([d.object_id for d in found.values()])
        assert set(ids.tolist()) >= {1, 5, 6, 8, 9, 10, 11, 12}

from __future__ import annotations

import json

import pytest
import torch

from bop_world import edit_json, make_bop
from cad2pose.data.bop import BopDataset
from cad2pose.data.results import Results, read_results_csv
from cad2pose.evaluation import evaluate, interpolated_average_precision
from cad2pose.evaluation.average_precision import AP_THRESHOLDS, Outcomes


def results_of(dataset: BopDataset, keep=lambda image, instance: True) -> Results:
    rows = [(image, i) for image in dataset for i in image.instances if keep(image, i)]
    return Results(
        torch.tensor([image.scene_id for image, _ in rows]),
        torch.tensor([image.image_id for image, _ in rows]),
        torch.tensor([instance.object_id for _, instance in rows]),
        torch.linspace(0.9, 0.1, len(rows), dtype=torch.float64),
        torch.stack([instance.T_cam_obj for _, instance in rows]),
        torch.full((len(rows),), -1.0, dtype=torch.float64),
    )


def joined(*several: Results) -> Results:
    return Results(*(torch.cat([getattr(r, name) for r in several]) for name in vars(several[0])))


def test_curves_of_the_golden_file(reference_path):
    golden = json.loads((reference_path / "golden" / "average_precision_bop24.json").read_text())
    for case in golden["calc_ap_cases"]:
        recall, precision = (torch.tensor(case[key], dtype=torch.float64) for key in ("recall", "precision"))
        assert float(interpolated_average_precision(recall, precision)) == pytest.approx(case["ap"], abs=1e-12)


def test_golden_average_precision(reference_path, bop_path):
    golden = json.loads((reference_path / "golden" / "average_precision_bop24.json").read_text())
    results = read_results_csv(reference_path / "golden" / "average_recall_results_lmo-test.csv")
    scores = evaluate(results, BopDataset(bop_path / "lmo"))
    every = torch.ones(1, len(scores.table.images), dtype=torch.float64)
    for key, name in (("mssd", "AP_MSSD"), ("mssd_mm", "AP_MSSD_mm"), ("mspd", "AP_MSPD")):
        detail = golden["detail"][key]
        assert [entry["threshold"] for entry in detail["per_threshold"]] == pytest.approx(AP_THRESHOLDS[name])
        assert scores.average_precision()[name] == pytest.approx(detail["mAP"], abs=1e-9)
        for object_id, value in detail["mAP_per_object"].items():
            outcome = scores.precision.per_object[int(object_id)][name]
            assert float(outcome.average_precision(every)) == pytest.approx(value, abs=1e-9)
            for k, entry in enumerate(detail["per_threshold"]):
                one = Outcomes(outcome.image, outcome.right[k : k + 1], outcome.counted[k : k + 1], outcome.targets)
                expected = entry["AP_per_object"][object_id]
                assert float(one.average_precision(every)) == pytest.approx(expected, abs=1e-9)
    assert scores.average_precision()["AP"] == pytest.approx(golden["final"]["bop24_mAP"], abs=1e-9)


def test_wrong_detections_cost_by_their_score(tmp_path):
    dataset = BopDataset(make_bop(tmp_path))
    right = results_of(dataset)
    assert evaluate(right, dataset).average_precision() == dict.fromkeys((*AP_THRESHOLDS, "AP"), 1)
    wrong = results_of(dataset, lambda image, instance: instance.object_id == 1)
    wrong.T_cam_obj[:, 2, 3] += 500
    wrong.score[:] = 0.05  # four wrong ones behind the four right ones: no recall is lost to them
    behind = evaluate(joined(right, wrong), dataset)
    assert behind.average_precision()["AP"] == 1
    wrong.score[:] = 0.95
    before = evaluate(joined(right, wrong), dataset)
    assert before.average_precision()["AP_MSSD"] == pytest.approx((1 + 0.5) / 2)
    assert before.per_object[1].AR_MSSD == 0  # localization takes the one of the higher score


def test_hardly_visible_annotations_are_no_targets(tmp_path):
    root = make_bop(tmp_path)
    for scene in (1, 2):
        path = root / "test" / f"{scene:06d}" / "scene_gt_info.json"
        edit_json(path, lambda infos: [entry[2].update(visib_fract=0.05) for entry in infos.values()])
    dataset = BopDataset(root)
    # without estimates of them nothing is missed, and with them nothing is wrong
    seen = results_of(dataset, lambda image, instance: instance.index != 2)
    assert evaluate(seen, dataset).average_precision()["AP"] == 1
    assert evaluate(results_of(dataset), dataset).average_precision()["AP"] == 1
    assert evaluate(seen, dataset).per_object[2].AR_MSSD == 0.5  # localization goes by the targets file


def test_what_is_not_annotated_in_an_image_has_no_effect(tmp_path):
    root = make_bop(tmp_path)
    path = root / "test" / "000001" / "scene_gt.json"
    edit_json(path, lambda truth: truth["3"].pop(0))
    edit_json(path.with_name("scene_gt_info.json"), lambda infos: infos["3"].pop(0))
    edit_json(root / "test_targets_bop19.json", lambda targets: targets.pop(0))
    dataset = BopDataset(root)
    right = results_of(dataset)
    stray = Results(*(value[:1].clone() for value in vars(right).values()))
    stray.scene_id[:], stray.image_id[:], stray.object_id[:] = 1, 3, 1
    stray.score[:] = 2.0
    assert evaluate(joined(stray, right), dataset).average_precision()["AP"] == 1


def test_a_hundred_estimates_of_an_image_count(tmp_path):
    dataset = BopDataset(make_bop(tmp_path))
    right = results_of(dataset, lambda image, instance: (image.scene_id, image.image_id) == (1, 3))
    many = Results(*(value[1:2].repeat(100, *[1] * (value.dim() - 1)) for value in vars(right).values()))
    many.score[:] = 5.0
    many.T_cam_obj[:, 2, 3] += 1000
    scores = evaluate(joined(many, right), dataset)
    assert len(scores.precision.per_object[2]["AP_MSSD"].image) == 100
    assert len(scores.precision.per_object[1]["AP_MSSD"].image) == 0


def test_weights_repeat_images():
    """Twice the weight is twice the image."""
    image = torch.tensor([0, 1, 0, 2, 1])
    right = torch.tensor([[True, False, True, True, False]])
    counted = torch.tensor([[True, True, True, True, False]])
    outcome = Outcomes(image, right, counted, torch.tensor([2, 1, 2]))
    repeated = Outcomes(
        torch.tensor([0, 0, 1, 0, 0, 1]),
        right[:, [0, 0, 1, 2, 2, 4]],
        counted[:, [0, 0, 1, 2, 2, 4]],
        torch.tensor([4, 1]),
    )
    weighted = outcome.average_precision(torch.tensor([[2.0, 1, 0], [0, 0, 0]], dtype=torch.float64))
    assert float(weighted[0]) == float(repeated.average_precision(torch.ones(1, 2, dtype=torch.float64)))
    assert bool(weighted[1].isnan())

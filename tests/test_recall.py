from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from cad2pose.evaluation.recall import (
    TargetErrors,
    best_scored,
    compute_recall,
    match_greedily,
    target_credits,
    target_errors,
)

MATCHING = json.loads((Path(__file__).parent / "golden" / "matching.json").read_text())


@pytest.mark.parametrize("case", MATCHING["match_poses_cases"], ids=lambda case: case["name"])
def test_matching_against_golden_values(case):
    score = torch.tensor([e["score"] for e in case["estimates"]], dtype=torch.float64)
    errors = torch.tensor([e["errors_per_gt"] for e in case["estimates"]], dtype=torch.float64)
    thresholds = torch.tensor(case["thresholds"], dtype=torch.float64)
    valid = None if case["gt_valid_mask"] is None else torch.tensor(case["gt_valid_mask"])
    found = match_greedily(score, errors, thresholds, case["max_ests_count"] or None, valid)
    assert [(m.estimate, m.ground_truth) for m in found] == [
        (m["est_id"], m["gt_id"]) for m in case["expected_matches"]
    ]


@pytest.mark.parametrize("expected", MATCHING["scene_case"]["expected"])
def test_scenes_with_several_instances_against_golden_values(expected):
    truth, estimates = MATCHING["scene_case"]["gt"], MATCHING["scene_case"]["estimates"]
    count = expected["n_top"] if expected["n_top"] > 0 else None
    hits, targets, matches = {1: 0, 2: 0}, {1: 0, 2: 0}, {}
    for image, entries in truth.items():
        for object_id in (1, 2):
            mine = [g for g, entry in enumerate(entries) if entry["obj_id"] == object_id]
            rows = [row for row in estimates if row[:2] == [int(image), object_id]]
            errors = torch.tensor([[[row[4][str(g)]] for g in mine] for row in rows], dtype=torch.float64)
            score = torch.tensor([row[3] for row in rows], dtype=torch.float64)
            valid = torch.tensor([entries[g]["valid"] for g in mine])
            instances = int(valid.sum())
            targets[object_id] += instances if count is None else min(count, instances)
            if rows and mine:
                limit = torch.tensor([expected["threshold"]], dtype=torch.float64)
                found = match_greedily(score, errors, limit, count, valid)
                hits[object_id] += len(found)
                matches |= {(int(image), mine[m.ground_truth]): rows[m.estimate][2] for m in found}
    for image, g, estimate in expected["matches"]:
        assert matches.get((image, g), -1) == estimate
    scores = expected["scores"]
    assert (sum(hits.values()), sum(targets.values())) == (scores["tp_count"], scores["targets_count"])
    for object_id, recall in scores["obj_recalls"].items():
        assert hits[int(object_id)] / targets[int(object_id)] == pytest.approx(recall)


def test_equal_scores_go_by_order():
    score = torch.tensor([0.5, 0.9, 0.5, 0.9])
    assert best_scored(score, 3).tolist() == [1, 3, 0]


def test_recall_counts_missing_estimates_and_pools_targets():
    def problem(object_id, errors):
        table = torch.tensor(errors, dtype=torch.float64).reshape(-1, 1, 1)
        return TargetErrors(object_id, torch.arange(len(table), 0, -1).double(), table)

    problems = [problem(4, [0.1]), problem(2, [0.3]), problem(2, []), problem(2, [0.6, 0.0])]
    recall = compute_recall(problems, torch.tensor([[0.2], [0.5]], dtype=torch.float64))
    assert recall.of_object(4).tolist() == [1, 1]
    assert recall.of_object(2).tolist() == [0, pytest.approx(1 / 3)]
    assert recall.total.tolist() == [0.25, 0.5]
    assert recall.mean_over_objects.tolist() == [0.5, pytest.approx(2 / 3)]


def test_average_recall_of_golden_errors(reference_path):
    """Matching and averaging alone: the errors come from a table, no mesh is read."""
    golden = json.loads((reference_path / "golden" / "average_recall.json").read_text())
    with (reference_path / "golden" / "average_recall_errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    diameters = {int(k): d for k, d in golden["diameters"].items()}

    def problems(columns, scale):
        found = []
        for image, object_id, _ in golden["targets"]:
            mine = [r for r in rows if (int(r["im_id"]), int(r["obj_id"])) == (image, object_id)]
            mine.sort(key=lambda r: int(r["row"]))
            score = torch.tensor([float(r["score"]) for r in mine], dtype=torch.float64)
            values = [[float(r[column(object_id)]) / scale(object_id) for column in columns] for r in mine]
            found.append(
                TargetErrors(object_id, score, torch.tensor(values, dtype=torch.float64).reshape(-1, 1, len(columns)))
            )
        return found

    def recall(columns, thresholds, scale=lambda _: 1.0):
        return compute_recall(problems(columns, scale), torch.tensor(thresholds, dtype=torch.float64))

    for name, step, scale in (("mssd", 0.05, lambda o: diameters[o]), ("mspd", 5.0, lambda _: 1.0)):
        found = recall([lambda _, name=name: name], [[step * i] for i in range(1, 11)], scale)
        assert float(found.total.mean()) == pytest.approx(golden[name]["AR_total"], abs=1e-12)
        assert float(found.mean_over_objects.mean()) == pytest.approx(golden[name]["AR_mean_over_objects"], abs=1e-12)
        for object_id, value in golden[name]["AR_per_object"].items():
            assert float(found.of_object(int(object_id)).mean()) == pytest.approx(value, abs=1e-12)
        hits = torch.stack(list(found.hits.values())).sum(0).tolist()
        assert hits == [entry["tp_count"] for entry in golden[name]["per_threshold"]]
    add_s = recall([lambda o: "adi" if o in (10, 11) else "add"], [[0.02], [0.05], [0.1]], lambda o: diameters[o])
    expected = [golden["ADD(-S)_recall"][key]["recall"] for key in ("0.02d", "0.05d", "0.10d")]
    assert add_s.total.tolist() == pytest.approx(expected, abs=1e-12)
    both = recall([lambda _: "re", lambda _: "te"], [[2, 20], [5, 50], [10, 100]])
    expected = [golden["re_te_recall"][key]["recall"] for key in ("2deg_2cm", "5deg_5cm", "10deg_10cm")]
    assert both.total.tolist() == pytest.approx(expected, abs=1e-12)


def test_credits_go_to_the_targets_that_are_taken():
    """Two estimates and three targets: the better-scored one takes the third at every limit, the other the first."""
    table = torch.tensor([[0.25, 0.9, 0.8], [0.3, 0.5, 0.05]], dtype=torch.float64)[..., None]
    several = TargetErrors(1, torch.tensor([0.2, 0.9], dtype=torch.float64), table)
    single = TargetErrors(1, torch.tensor([0.5], dtype=torch.float64), torch.tensor([[[0.2]]], dtype=torch.float64))
    missed = TargetErrors(1, torch.zeros(0, dtype=torch.float64), torch.zeros(0, 1, 1, dtype=torch.float64))
    limits = torch.tensor([[0.1], [0.2], [0.3], [0.4]], dtype=torch.float64)
    problems = [several, single, missed]
    credits = target_credits(problems, limits)
    assert credits.tolist() == [0.5, 0, 1, 0.5, 0]
    assert float(credits.mean()) == pytest.approx(float(compute_recall(problems, limits).total.mean()))
    assert target_errors(problems)[:, 0].tolist() == [0.25, math.inf, 0.05, 0.2, math.inf]

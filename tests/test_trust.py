from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bop_world import edit_json, make_bop, small_parts
from cad2pose.cli import main
from cad2pose.cli.symmetry_remark import symmetry_remarks
from cad2pose.data.bop import BopDataset
from cad2pose.data.results import Results, write_results_csv
from cad2pose.evaluation import evaluate
from cad2pose.evaluation.breakdown import break_down
from cad2pose.evaluation.headline import draw_figures, paired_tests
from cad2pose.evaluation.result_checks import check_results, orthonormalized
from cad2pose.evaluation.score_quality import judge_scores
from cad2pose.evaluation.trust import trust
from cad2pose.parts.part import Part
from test_evaluate import true_results


def moved(results: Results, millimetres: float, chosen) -> Results:
    T_cam_obj = results.T_cam_obj.clone()
    T_cam_obj[chosen, 2, 3] += millimetres
    return replace(results, T_cam_obj=T_cam_obj)


@pytest.fixture
def world(tmp_path):
    dataset = BopDataset(make_bop(tmp_path / "made", rendered_depth=True))
    return dataset, true_results(dataset)


def test_every_figure_has_an_interval_about_it(world):
    dataset, results = world
    half = moved(results, 3000, (results.scene_id == 1) & (results.image_id == 3))
    report = trust(evaluate(half, dataset), draws=200)
    values, intervals = report.figures.values, report.figures.intervals()
    assert set(values) == set(intervals)
    assert {"AR", "AR_VSD", "AR_MSSD", "AR_MSPD", "AP", "AUC_ADD_S_100mm", "rotation_deg_median"} <= set(values)
    assert values["recall_ADD_S_0p1d"] == 0.75
    assert (intervals["recall_ADD_S_0p1d"].low, intervals["recall_ADD_S_0p1d"].high) == (
        0.25,
        1,
    )  # 4 images, whole ones
    for name, value in values.items():
        assert intervals[name].low - 1e-9 <= value <= intervals[name].high + 1e-9, name
    json.dumps(report.to_json(), allow_nan=False)


def test_the_same_seed_gives_the_same_intervals(world):
    dataset, results = world
    scores = evaluate(moved(results, 3000, results.image_id == 3), dataset)
    assert trust(scores, 50, 1).to_json() == trust(scores, 50, 1).to_json()
    assert trust(scores, 50, 1).to_json() != trust(scores, 50, 2).to_json()


def test_paired_figures(world):
    dataset, results = world
    good, bad = (draw_figures(evaluate(r, dataset), 200) for r in (results, moved(results, 3000, results.score > -1)))
    tests = paired_tests(good, bad)
    assert (tests["AP_MSSD"].difference, tests["AP_MSSD"].p_value) == (-1, pytest.approx(2 / 201))
    assert paired_tests(good, good)["AP"].p_value == 1
    with pytest.raises(ValueError, match="same targets"):
        paired_tests(good, draw_figures(evaluate(results, dataset, dataset.targets()[:1]), 200))
    with pytest.raises(ValueError, match="same draws, got 200 and 10"):
        paired_tests(good, draw_figures(evaluate(results, dataset), 10))


def test_groups_hold_every_target_once(world):
    dataset, results = world
    far = results.T_cam_obj[:, :3, 3].norm(dim=1) > 530
    scores = evaluate(moved(results, 3000, far), dataset)
    groups = break_down(scores.table, 20)
    for by in ("object", "visible share", "distance", "box size"):
        assert sum(g.row.targets for g in groups if g.by == by) == 12, by
    near, *_, last = [g for g in groups if g.by == "distance"]
    assert (near.row.AR, last.row.AR) == (1, 0)
    assert [(g.label, g.row.targets) for g in groups if g.by == "visible share"] == [
        ("0.70 to 0.90", 8), ("0.90 to 1.00", 4)
    ]  # fmt: skip
    assert [g.row.measures["AR_MSSD"] for g in groups if g.by == "object"] == [
        scores.per_object[1].AR_MSSD, scores.per_object[2].AR_MSSD
    ]  # fmt: skip


def test_what_is_not_told_is_in_no_group(world):
    dataset, results = world
    for scene in (1, 2):
        (dataset.root / "test" / f"{scene:06d}" / "scene_gt_info.json").unlink()
    groups = break_down(evaluate(results, BopDataset(dataset.root)).table, 20)
    assert {g.by for g in groups} == {"object", "distance"}


def test_scores_that_are_probabilities(world):
    dataset, results = world
    wrong = moved(results, 3000, results.object_id == 1)
    sure = replace(wrong, score=(wrong.object_id == 2).double())
    quality = judge_scores(evaluate(sure, dataset).estimates)
    assert quality is not None
    assert (quality.estimates, quality.right) == (12, pytest.approx(2 / 3))
    assert (quality.plain_error, quality.curve.area) == (0, quality.curve.least_area)
    assert quality.calibration.a > 0
    misled = judge_scores(evaluate(replace(sure, score=1 - sure.score), dataset).estimates)
    assert misled is not None
    assert misled.plain_error == 1
    assert misled.calibration.a < 0
    assert misled.curve.area > quality.curve.area
    logits = judge_scores(evaluate(replace(sure, score=10 * sure.score - 5), dataset).estimates)
    assert logits is not None
    assert (logits.plain, logits.plain_error) == (None, None)
    assert logits.fitted_error is not None
    assert logits.fitted_error < 0.35
    assert judge_scores([]) is None


def test_checks_name_the_rows(world):
    dataset, results = world
    targets = dataset.targets()
    assert check_results(results, dataset, targets, dataset.parts(), "r.csv") == []
    odd = Results(*(value.clone() for value in vars(results).values()))
    odd.object_id[1], odd.image_id[2], odd.scene_id[3] = 77, 99, 8
    odd.T_cam_obj[4, 2, 3] *= -1
    odd.T_cam_obj[5, 0, :3] *= 1.004
    said = check_results(odd, dataset, targets, dataset.parts(), "r.csv")
    assert len(said) == 4
    assert (
        "1 of 12 rows are for objects that the data set does not have (it has [1, 2]); they are left out: row 1" in said
    )
    assert "2 of 12 rows are for images that are not in the data set; they are left out: rows 2, 3" in said
    assert any("not before the camera" in text and text.endswith(": row 4") for text in said)
    assert any("orthonormal only to 1 %" in text and text.endswith(": row 5") for text in said)
    fewer = [t for t in targets if t.object_id == 1 and t.scene_id == 1]
    said = check_results(results, dataset, fewer, dataset.parts(), "r.csv")
    assert any(text.startswith("6 of 12 rows are for images that are not among the targets") for text in said)
    assert any(text.startswith("4 of 12 rows are for objects that are not asked for") for text in said)


def test_results_without_targets(world):
    dataset, results = world
    foreign = replace(results, object_id=results.object_id + 10)
    with pytest.raises(ValueError, match="none of the 12 rows of r.csv is for a target of made.*object 11.*--split"):
        check_results(foreign, dataset, dataset.targets(), dataset.parts(), "r.csv")
    none = Results(*(value[:0] for value in vars(results).values()))
    assert check_results(none, dataset, dataset.targets(), dataset.parts(), "r.csv") == [
        "r.csv holds no rows, so every target is missed"
    ]


def test_a_file_without_rows_is_scored(world, tmp_path, capsys):
    dataset, results = world
    write_results_csv(tmp_path / "none.csv", Results(*(value[:0] for value in vars(results).values())))
    write_results_csv(tmp_path / "all.csv", results)
    base = ["--bop", str(dataset.root), "--draws", "10", "--json", str(tmp_path / "s.json")]
    for files in (["none.csv"], ["all.csv", "none.csv"]):
        assert main(["evaluate", *(str(tmp_path / name) for name in files), *base]) == 0
        out, err = capsys.readouterr()
        assert "none.csv holds no rows, so every target is missed" in err
        saved = json.loads((tmp_path / "s.json").read_text())
        entry = saved["others"][0] if "others" in saved else saved
        assert (entry["all"]["AR"], entry["all"]["AP"], entry["score_quality"]) == (0, 0, None)
        assert entry["figures"]["rotation_deg_median"] is None
        assert entry["intervals"]["AR"] == [0, 0]
    assert saved["others"][0]["minus_first"]["AR"]["difference"] == -1
    assert saved["others"][0]["minus_first"]["rotation_deg_mean"]["p_value"] is None
    write_results_csv(tmp_path / "foreign.csv", replace(results, object_id=results.object_id + 10))
    assert main(["evaluate", str(tmp_path / "foreign.csv"), *base]) == 2
    assert "none of the 12 rows of foreign.csv is for a target" in capsys.readouterr().err


def test_only_rotations_beyond_rounding_are_made_orthonormal(world):
    _, results = world
    skewed = replace(results, T_cam_obj=results.T_cam_obj.clone())
    skewed.T_cam_obj[0, 0, :3] *= 1 + 2e-5  # as six digits leave it
    skewed.T_cam_obj[1:, 0, :3] *= 1.008
    mended = orthonormalized(skewed).T_cam_obj
    R = mended[1:, :3, :3]
    assert torch.allclose(R @ R.transpose(1, 2), torch.eye(3).double(), atol=1e-12)
    assert torch.equal(mended[0], skewed.T_cam_obj[0])
    assert torch.equal(mended[:, :3, 3], skewed.T_cam_obj[:, :3, 3])


def test_command_line_with_several_files(world, tmp_path, capsys):
    dataset, results = world
    write_results_csv(tmp_path / "good.csv", results)
    write_results_csv(tmp_path / "bad.csv", moved(results, 3000, results.image_id == 3))
    files = [str(tmp_path / name) for name in ("good.csv", "bad.csv")]
    base = ["--bop", str(dataset.root), "--draws", "50", "--json", str(tmp_path / "s.json")]
    assert main(["evaluate", *files, *base]) == 0
    out, _ = capsys.readouterr()
    assert "bad.csv minus good.csv" in out
    assert "AR (BOP)" in out
    saved = json.loads((tmp_path / "s.json").read_text())
    assert (saved["results"], saved["all"]["AR"]) == ("good.csv", 1)
    (other,) = saved["others"]
    assert (other["results"], other["all"]["recall_ADD_S_0p1d"]) == ("bad.csv", 0.5)
    test = other["minus_first"]["recall_ADD_S_0p1d"]
    assert test["difference"] == -0.5
    assert test["interval"][0] < -0.5 < test["interval"][1] <= 0
    assert main(["evaluate", files[1], *base]) == 0
    out, _ = capsys.readouterr()
    assert "expected calibration error" in out.replace("\n", " ")
    assert "0.90 to 1.00" in out
    saved = json.loads((tmp_path / "s.json").read_text())
    assert saved["bootstrap"] == {"draws": 50, "seed": 0, "level": 0.95, "resampled": "images"}
    assert saved["intervals"]["AR"][0] < saved["figures"]["AR"] == saved["all"]["AR"] < saved["intervals"]["AR"][1]
    assert saved["score_quality"]["estimates"] == 12
    assert "others" not in saved


def test_command_line_options(world, tmp_path, capsys, unhurried):
    dataset, results = world
    skewed = replace(results, T_cam_obj=results.T_cam_obj.clone())
    skewed.T_cam_obj[:, 0, :3] *= 1.008
    write_results_csv(tmp_path / "r.csv", skewed)
    base = ["evaluate", str(tmp_path / "r.csv"), "--bop", str(dataset.root), "--draws", "20"]
    frobenius = []
    for extra, words in ((["--as-written"], "they are scored as they are"), ([], "the nearest rotations are scored")):
        assert main([*base, *extra, "--json", str(tmp_path / "s.json")]) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert f"12 of 12 rows are of rotations that are orthonormal only to 1 %; {words}" in said
        frobenius.append(json.loads((tmp_path / "s.json").read_text())["all"]["rotation_frobenius"]["mean"])
    assert frobenius[0] > frobenius[1] + 1e-4
    skewed.T_cam_obj[3, 0, :3] *= 1.02
    write_results_csv(tmp_path / "far.csv", skewed)
    assert main(["evaluate", str(tmp_path / "far.csv"), "--bop", str(dataset.root)]) == 2
    assert "line 5: R is not a rotation" in capsys.readouterr().err
    write_results_csv(tmp_path / "one.csv", Results(*(v[results.object_id == 1] for v in vars(results).values())))
    assert main(["evaluate", str(tmp_path / "one.csv"), "--bop", str(dataset.root), "--objects", "2"]) == 2
    assert "none of the 4 rows of one.csv is for a target of the objects [2] (--objects)" in capsys.readouterr().err
    assert main(["evaluate", "--bop", str(dataset.root)]) == 2
    assert "no results file was given" in capsys.readouterr().err
    assert main([*base, "--draws", "0"]) == 2
    assert "at least one image and one draw" in capsys.readouterr().err
    edit_json(dataset.root / "models_eval" / "models_info.json", lambda infos: infos["2"].pop("symmetries_discrete"))
    assert main([*base, "--check-symmetries"]) == 0
    assert "obj_000002 is declared without symmetries" in capsys.readouterr().err


def test_parts_that_nobody_looked_at_for_symmetries_are_named():
    wedge, box = small_parts()
    plain = Part.from_mesh("plain", box.mesh, 3)
    (remark,) = symmetry_remarks([wedge, box, plain], seconds=-1.0)
    assert "not looked at: wedge, plain (" in remark
    assert [remark.split(" is ")[0] for remark in symmetry_remarks([box, plain], seconds=60.0)] == ["plain"]

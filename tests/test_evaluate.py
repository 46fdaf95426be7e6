from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bop_world import HEIGHT, WIDTH, edit_json, make_bop
from cad2pose.cli import main
from cad2pose.data.bop import BopDataset
from cad2pose.data.results import Results, read_results_csv, write_results_csv
from cad2pose.evaluation import ScoringOptions, evaluate
from cad2pose.evaluation.result_checks import check_results
from cad2pose.parts import Mesh, save_ply


@pytest.fixture(scope="module")
def lmo(bop_path):
    return BopDataset(bop_path / "lmo")


@pytest.fixture(scope="module")
def lmo_parts(lmo):
    return lmo.parts(evaluation=True)


@pytest.fixture(scope="module")
def golden_scores(reference_path, lmo, lmo_parts):
    results = read_results_csv(reference_path / "golden" / "average_recall_results_lmo-test.csv")
    return evaluate(results, lmo, parts=lmo_parts, options=ScoringOptions(adi_of_all=True))


def true_results(dataset: BopDataset) -> Results:
    """Every annotation as an estimate."""
    images = list(dataset)
    rows = [(image, instance) for image in images for instance in image.instances]
    return Results(
        torch.tensor([image.scene_id for image, _ in rows]),
        torch.tensor([image.image_id for image, _ in rows]),
        torch.tensor([instance.object_id for _, instance in rows]),
        torch.linspace(0.9, 0.1, len(rows), dtype=torch.float64),
        torch.stack([instance.T_cam_obj for _, instance in rows]),
        torch.full((len(rows),), 0.5, dtype=torch.float64),
    )


def test_the_truth_scores_one_and_nothing_scores_zero(tmp_path):
    dataset = BopDataset(make_bop(tmp_path))
    results = true_results(dataset)
    scores = evaluate(results, dataset)
    total = scores.total
    assert (total.targets, total.estimated, total.AR_MSSD, total.AR_MSPD, total.add_s) == (12, 12, 1, 1, (1, 1, 1))
    assert (total.within_5deg_5cm, total.within_5deg_5cm_plain, scores.seconds_per_image) == (1, 1, 0.5)
    assert total.rotation.mean < 1e-5
    assert {o: row.targets for o, row in scores.per_object.items()} == {1: 4, 2: 8}
    none = evaluate(Results(*(value[:0] for value in vars(results).values())), dataset)
    assert (none.total.AR_MSSD, none.total.AR_MSPD, none.total.estimated) == (0, 0, 0)
    assert none.total.to_json()["rotation_deg"] == {"mean": None, "median": None}
    json.dumps(none.to_json(), allow_nan=False)


def test_where_a_mesh_has_its_origin_changes_no_score(tmp_path):
    dataset = BopDataset(make_bop(tmp_path))
    shift = torch.tensor([1600.0, 1400.0, 1400.0], dtype=torch.float64)  # of the mesh from its origin
    results = true_results(dataset)
    wedge, rows = dataset.parts([1], evaluation=True)[0], results.object_id == 1
    results.T_cam_obj[rows, :3, 3] += torch.tensor([2.0, -1.0, 6.0], dtype=torch.float64)
    expected = evaluate(results, dataset)
    far = Mesh(wedge.mesh.vertices + shift, wedge.mesh.faces, wedge.mesh.normals)
    save_ply(tmp_path / "models_eval" / "obj_000001.ply", far)

    def move(annotations):
        for instance in (i for image in annotations.values() for i in image if i["obj_id"] == 1):
            R = torch.tensor(instance["cam_R_m2c"], dtype=torch.float64).reshape(3, 3)
            instance["cam_t_m2c"] = (torch.tensor(instance["cam_t_m2c"]).double() - R @ shift).tolist()

    for scene in (1, 2):
        edit_json(tmp_path / "test" / f"{scene:06d}" / "scene_gt.json", move)
    results.T_cam_obj[rows, :3, 3] -= results.T_cam_obj[rows, :3, :3] @ shift
    assert (results.T_cam_obj[rows, 2, 3] < 0).any(), "an origin behind the camera"
    dataset = BopDataset(tmp_path)
    scores = evaluate(results, dataset, options=ScoringOptions(vsd=False)).per_object[1]
    before = expected.per_object[1]
    assert scores.AR_MSPD == before.AR_MSPD > 0.5
    assert scores.AR_MSSD == before.AR_MSSD
    said = check_results(results, dataset, dataset.targets(), dataset.parts(evaluation=True), "r.csv")
    assert not any("before the camera" in text for text in said)


def test_a_shifted_camera_shows_as_an_offset(tmp_path):
    dataset = BopDataset(make_bop(tmp_path))
    results = true_results(dataset)
    T_cam_obj = results.T_cam_obj.clone()
    parts = {part.object_id: part for part in dataset.parts(evaluation=True)}
    fx = float(next(iter(dataset)).camera.K[0, 0])
    for row, object_id in enumerate(results.object_id.tolist()):  # what a principal point 4 px too far left does
        depth = float(T_cam_obj[row, 2, :3] @ parts[object_id].center + T_cam_obj[row, 2, 3])
        T_cam_obj[row, 0, 3] += 4 / fx * depth
    T_cam_obj[0, 2, 3] = -T_cam_obj[0, 2, 3]  # one behind the camera does not count
    rows = evaluate(replace(results, T_cam_obj=T_cam_obj), dataset).to_json()
    for row in (rows["all"], rows["per_object"]["2"]):
        assert row["offset_right_px_median"] == pytest.approx(4, abs=1e-6)
        assert row["offset_down_px_median"] == pytest.approx(0, abs=1e-6)
    none = evaluate(Results(*(value[:0] for value in vars(results).values())), dataset)
    assert none.to_json()["all"]["offset_right_px_median"] is None


def test_symmetric_versions_of_the_truth_score_one(tmp_path):
    dataset = BopDataset(make_bop(tmp_path))
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
    results = true_results(dataset)
    scores = evaluate(replace(results, T_cam_obj=results.T_cam_obj @ half_turn), dataset)
    assert scores.per_object[2].AR_MSSD == scores.per_object[2].AR_MSPD == scores.per_object[2].add_s[0] == 1
    assert (scores.per_object[2].within_5deg_5cm, scores.per_object[2].within_5deg_5cm_plain) == (1, 0)
    assert scores.per_object[2].rotation.mean < 1e-4
    assert scores.per_object[1].AR_MSSD < 0.5
    assert scores.per_object[1].rotation.mean == pytest.approx(180, abs=1e-4)


def test_the_best_scores_count_and_the_most_visible_instances(tmp_path):
    root = make_bop(tmp_path)
    edit_json(root / "test_targets_bop19.json", lambda targets: [t.update(inst_count=1) for t in targets])
    dataset = BopDataset(root)
    results = true_results(dataset)
    scores = evaluate(results, dataset)
    assert (scores.total.targets, scores.total.AR_MSSD) == (8, 1)
    assert {e.ground_truth for e in scores.estimates if e.object_id == 2} == {1}
    # now the less visible one is scored higher: it is the one estimate that counts, and it is not the target
    swapped = evaluate(replace(results, score=1 - results.score), dataset)
    assert (swapped.per_object[1].AR_MSSD, swapped.per_object[2].AR_MSSD) == (1, 0)


def test_rows_for_no_target_are_counted_and_change_nothing(tmp_path):
    dataset = BopDataset(make_bop(tmp_path))
    results = true_results(dataset)
    plain = evaluate(results, dataset)
    more = Results(*(torch.cat((value, value[:2])) for value in vars(results).values()))
    more.image_id[-2] = 99
    more.object_id[-1] = 77
    scores = evaluate(more, dataset)
    assert scores.unused_rows == {"image": 1, "object": 1}
    assert scores.total == plain.total


def test_targets_without_ground_truth_or_mesh(tmp_path):
    root = make_bop(tmp_path)
    dataset = BopDataset(root)
    results = true_results(dataset)
    edit_json(root / "test_targets_bop19.json", lambda targets: targets[0].update(inst_count=3))
    with pytest.raises(ValueError, match="ask for 3 of object 1, but the ground truth has 1"):
        evaluate(results, dataset)
    edit_json(root / "test_targets_bop19.json", lambda targets: targets[0].update(obj_id=9))
    with pytest.raises(ValueError, match="no object 9"):
        evaluate(results, dataset)
    with pytest.raises(ValueError, match=r"objects \[9\], whose meshes are not there; there are \[1, 2\]"):
        evaluate(results, dataset, parts=dataset.parts())


def test_every_error_of_the_golden_results(reference_path, golden_scores, lmo_parts):
    """The estimates that count have the errors of the golden table."""
    golden = reference_path / "golden"
    scores = golden_scores
    with (golden / "average_recall_errors.csv").open() as file:
        expected = {int(r["row"]): r for r in csv.DictReader(file) if r["selected"] == "1" and r["is_target"] == "1"}
    assert {e.row for e in scores.estimates} == set(expected)
    diameter = {part.object_id: part.diameter for part in lmo_parts}
    for e in scores.estimates:
        row, d = expected[e.row], diameter[e.object_id]
        assert e.ground_truth == int(row["gt_id"])
        assert e.mssd * d == pytest.approx(float(row["mssd"]), abs=1e-9)
        assert e.mspd == pytest.approx(float(row["mspd"]), abs=1e-9)
        assert e.add_s * d == pytest.approx(float(row["adi" if e.object_id in (10, 11) else "add"]), abs=1e-9)
        if e.object_id not in (10, 11):
            assert e.rotation == pytest.approx(float(row["re"]), abs=1e-5)
            assert e.translation == pytest.approx(float(row["te"]), abs=1e-9)


def test_the_whole_chain_against_golden_scores(reference_path, golden_scores):
    golden = json.loads((reference_path / "golden" / "average_recall.json").read_text())
    scores = golden_scores
    total = scores.total
    assert (total.targets, total.estimated) == (golden["n_targets"], golden["n_targets_with_an_estimate"])
    assert scores.seconds_per_image == pytest.approx(golden["average_time_per_image"])
    for key, name in (("mssd", "AR_MSSD"), ("mspd", "AR_MSPD")):
        assert getattr(total, name) == pytest.approx(golden[key]["AR_total"], abs=1e-12)
        assert scores.mean_over_objects()[name] == pytest.approx(golden[key]["AR_mean_over_objects"], abs=1e-12)
        for object_id, value in golden[key]["AR_per_object"].items():
            assert getattr(scores.per_object[int(object_id)], name) == pytest.approx(value, abs=1e-12)
    assert total.mean_AR == pytest.approx(golden["mean_of_AR_MSSD_and_AR_MSPD_not_official"], abs=1e-12)
    for index, key in enumerate(("0.02d", "0.05d", "0.10d")):
        assert total.add_s[index] == pytest.approx(golden["ADD(-S)_recall"][key]["recall"], abs=1e-12)
        for object_id, value in golden["ADD(-S)_recall"][key]["obj_recalls"].items():
            assert scores.per_object[int(object_id)].add_s[index] == pytest.approx(value, abs=1e-12)


def test_golden_recalls_of_every_measure(reference_path, golden_scores):
    golden = json.loads((reference_path / "golden" / "average_recall.json").read_text())
    expected = {}
    for key, name in (
        ("ADD(-S)_recall", "ADD_S"),
        ("ADD_recall_all_objects", "ADD"),
        ("ADD-S_recall_all_objects", "ADI"),
    ):
        for threshold in ("0.02", "0.05", "0.1"):
            entry = golden[key][f"{float(threshold):.2f}d"]
            expected[f"recall_{name}_{threshold}d".replace("0.", "0p")] = entry
    for key, end in (("re_te_recall", ""), ("re_te_recall_symmetry_aware_not_in_bop_toolkit", "_symmetric")):
        for n in (2, 5, 10):
            expected[f"recall_{n}deg_{n}cm{end}"] = golden[key][f"{n}deg_{n}cm"]
    assert len(expected) == 15
    for name, entry in expected.items():
        assert golden_scores.total.measures[name] == pytest.approx(entry["recall"], abs=1e-12), name
        assert golden_scores.mean_over_objects()[name] == pytest.approx(entry["mean_obj_recall"], abs=1e-12), name
        for object_id, value in entry["obj_recalls"].items():
            assert golden_scores.per_object[int(object_id)].measures[name] == pytest.approx(value, abs=1e-12), name


def test_golden_areas_under_the_curve(reference_path, golden_scores):
    golden = json.loads((reference_path / "golden" / "average_recall.json").read_text())["AUC_100mm_not_in_bop_toolkit"]
    for key, name in (("ADD(-S)", "AUC_ADD_S_100mm"), ("ADD-S_all_objects", "AUC_ADI_100mm")):
        exact, toolbox = golden[key]["exact_area"], golden[key]["ycb_toolbox_vocap"]
        total = golden_scores.total
        assert total.measures[name] == pytest.approx(exact["total"], abs=1e-12)
        assert golden_scores.mean_over_objects()[name] == pytest.approx(exact["mean_over_objects"], abs=1e-12)
        assert total.toolbox_areas[f"{name}_ycb_toolbox"] == pytest.approx(toolbox["total"], abs=1e-12)
        for object_id, row in golden_scores.per_object.items():
            assert row.measures[name] == pytest.approx(exact["per_object"][str(object_id)], abs=1e-12)
            expected = toolbox["per_object"][str(object_id)]
            assert row.toolbox_areas[f"{name}_ycb_toolbox"] == pytest.approx(expected, abs=1e-12)


def test_golden_projection_below_five_pixels(reference_path, golden_scores):
    """The table has the errors without symmetries; those of parts without any are the same with them."""
    with (reference_path / "golden" / "average_recall_errors.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["selected"] == "1" and r["is_target"] == "1"]
    for object_id, row in golden_scores.per_object.items():
        hits = sum(float(r["proj"]) < 5 for r in rows if int(r["obj_id"]) == object_id)
        assert row.measures["recall_projection_5px"] == pytest.approx(hits / row.targets, abs=1e-12)
        symmetric = row.measures["recall_projection_5px_symmetric"]
        assert symmetric >= hits / row.targets if object_id in (10, 11) else symmetric == hits / row.targets
    assert (
        golden_scores.total.measures["recall_projection_5px_symmetric"]
        > (golden_scores.total.measures["recall_projection_5px"])
    )


@pytest.mark.parametrize(
    ("method", "file"),
    [
        ("megapose_cnosfastsam", "megapose_cnosfastsam_lmo-test.csv"),
        ("semantic_keypoints", "semantic_keypoints_lmo-test.csv"),
    ],
)
def test_published_methods_have_their_published_scores(reference_path, lmo, lmo_parts, method, file):
    published = json.loads((reference_path / "lmo_published.json").read_text())["methods"]
    name = next(key for key in published if key.startswith(method))
    found = evaluate(read_results_csv(reference_path / "csv" / file), lmo, parts=lmo_parts).to_json()
    assert set(found["per_object"]) == set(published[name]["per_object"])
    pairs = [(found["all"], published[name]["all"])]
    pairs += [(found["per_object"][key], published[name]["per_object"][key]) for key in found["per_object"]]
    for mine, theirs in pairs:
        for key, value in theirs.items():
            assert mine[key] == pytest.approx(value, abs=1e-12), key


def test_average_recalls_with_depth(tmp_path):
    """The truth has VSD 0 against rendered depth; what is pushed back by tau d and more loses by degrees."""
    root = make_bop(tmp_path, rendered_depth=True)
    dataset = BopDataset(root)
    results = true_results(dataset)
    scores = evaluate(results, dataset)
    assert (scores.no_vsd, scores.total.AR_VSD, scores.total.AR) == ("", 1, 1)
    assert all(e.vsd == 0 for e in scores.estimates)
    moved = replace(results, T_cam_obj=results.T_cam_obj.clone())
    away = moved.T_cam_obj[:, :3, 3] / moved.T_cam_obj[:, :3, 3].norm(dim=1, keepdim=True)
    moved.T_cam_obj[:, :3, 3] -= 14 * away  # towards the camera: visible still, 0.15 to 0.2 of the diameters nearer
    worse = evaluate(moved, dataset)
    measures = worse.total.measures
    assert 0.5 < measures["AR_VSD"] < 0.85
    mean = (measures["AR_VSD"] + measures["AR_MSSD"] + measures["AR_MSPD"]) / 3
    assert pytest.approx(mean) == worse.total.AR
    assert worse.to_json()["all"]["AR_VSD"] == worse.total.AR_VSD
    wide = replace(results, T_cam_obj=results.T_cam_obj.clone())
    wide.T_cam_obj[:, 0, 3] += 5000  # out of the image
    assert evaluate(wide, dataset).total.AR_VSD == 0
    behind = replace(results, T_cam_obj=results.T_cam_obj.clone())
    behind.T_cam_obj[:, :2, :3] *= -1  # with t turned about, each point projects to nearly the pixel it should
    behind.T_cam_obj[:, :3, 3] *= -1
    lost = evaluate(behind, dataset)
    assert (lost.total.AR_VSD, lost.total.AR_MSPD) == (0, 0)


def test_missing_depth_counts_as_visible_since_2019(tmp_path):
    root = make_bop(tmp_path, rendered_depth=True)
    for path in root.glob("test/*/depth/*.png"):
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(path)
    dataset = BopDataset(root)
    results = true_results(dataset)
    assert evaluate(results, dataset).total.AR_VSD == 1
    assert evaluate(results, dataset, options=ScoringOptions(visibility="bop18")).total.AR_VSD == 0


def test_without_depth_there_is_no_official_average(tmp_path):
    root = make_bop(tmp_path)
    dataset = BopDataset(root)
    results = true_results(dataset)
    assert evaluate(results, dataset, options=ScoringOptions(vsd=False)).total.AR is None
    (root / "test" / "000002" / "depth" / "000005.png").unlink()
    scores = evaluate(results, BopDataset(root))
    assert scores.no_vsd == "1 of 4 images have no depth image, the first is scene 2, image 5"
    assert (scores.total.AR_VSD, scores.total.AR) == (None, None)
    assert "AR" not in scores.to_json()["all"]
    for path in root.glob("test/*/depth/*.png"):
        path.unlink()
    assert evaluate(results, BopDataset(root)).no_vsd == "split 'test' has no depth images"


def test_command_line(tmp_path, capsys, monkeypatch):
    root = make_bop(tmp_path / "made")
    results = true_results(BopDataset(root))
    results.image_id[0] = 99
    write_results_csv(tmp_path / "r.csv", results)
    monkeypatch.setenv("BOP_PATH", str(tmp_path))
    assert main(["evaluate", str(tmp_path / "r.csv"), "--bop", "made", "--json", str(tmp_path / "s.json")]) == 0
    out, err = capsys.readouterr()
    assert "total" in out
    assert "11 of 12 targets have an estimate" in out
    assert "1 of 12 rows are for images that are not in the data set; they are left out: row 0" in err
    saved = json.loads((tmp_path / "s.json").read_text())
    assert saved["all"]["AR_MSSD"] == pytest.approx(11 / 12)
    assert saved["per_object"]["2"]["n"] == 8
    assert len(saved["estimates"]) == 11
    (tmp_path / "ours[final].csv").write_bytes((tmp_path / "r.csv").read_bytes())
    three = [str(tmp_path / name) for name in ("r.csv", "ours[final].csv", "r.csv", "r.csv")]
    assert main(["evaluate", *three, "--bop", "made"]) == 0
    out = "".join(capsys.readouterr().out.split())
    for name in ("ours[final].csv:11of12", "r.csv(2):11of12", "r.csv(3):11of12"):
        assert name in out
    assert main(["evaluate", str(tmp_path / "r.csv"), "--bop", "made", "--objects", "2"]) == 0
    out, err = capsys.readouterr()
    assert "8 of 8 targets" in out
    assert "1 of 12 rows are for images" in err  # object 1's other rows are for targets, only not asked for now


def test_many_files_break_no_number(tmp_path, capsys):
    root = make_bop(tmp_path / "made")
    write_results_csv(tmp_path / "r.csv", true_results(BopDataset(root)))
    assert main(["evaluate", *[str(tmp_path / "r.csv")] * 9, "--bop", str(root)]) == 0
    rows = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "AR MSSD" in line and not {"mean", "+0.000"} & set(line.split())
    ]
    assert sum(line.count("1.000") for line in rows) == 9


def test_rows_of_an_image_that_disagree_on_its_time_are_named(tmp_path, capsys):
    root = make_bop(tmp_path / "made")
    results = true_results(BopDataset(root))
    results.seconds[:] = 0.5
    results.seconds[1] = 0.75
    assert (results.scene_id[0], results.image_id[0]) == (results.scene_id[1], results.image_id[1])
    write_results_csv(tmp_path / "r.csv", results)
    assert main(["evaluate", str(tmp_path / "r.csv"), "--bop", str(root)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"state different times, first those of scene {results.scene_id[0]}, image {results.image_id[0]} (1 in all)"
        in said
    )


def test_command_line_errors(tmp_path, capsys):
    root = make_bop(tmp_path / "made")
    results = true_results(BopDataset(root))
    write_results_csv(tmp_path / "r.csv", results)
    base = ["evaluate", str(tmp_path / "r.csv"), "--bop", str(root)]
    assert main([*base, "--objects", "5"]) == 2
    assert "no target asks for objects [5]; the targets' objects are [1, 2]" in capsys.readouterr().err
    assert main([*base, "--split", "val"]) == 2
    assert "splits found: test" in capsys.readouterr().err
    assert main([*base, "--targets", str(tmp_path / "absent.json")]) == 2
    assert "does not exist" in capsys.readouterr().err
    write_results_csv(tmp_path / "r.csv", replace(results, T_cam_obj=results.T_cam_obj * 1e-3 + torch.eye(4) * 0.999))
    (tmp_path / "r.csv").write_text((tmp_path / "r.csv").read_text() + "1,2,3\n")
    assert main([*base, "--json", str(tmp_path / "s.json")]) == 2
    assert "has 3 columns" in capsys.readouterr().err
    assert not (tmp_path / "s.json").exists()


def test_translations_in_metres_are_noticed(tmp_path, capsys):
    root = make_bop(tmp_path / "made")
    results = true_results(BopDataset(root))
    results.T_cam_obj[:, :3, 3] /= 1000
    write_results_csv(tmp_path / "r.csv", results)
    assert main(["evaluate", str(tmp_path / "r.csv"), "--bop", str(root)]) == 0
    assert "not in metres" in capsys.readouterr().err


def test_mspd_is_of_images_of_640_pixels_width(tmp_path):
    """The same scene in twice as many pixels has the same MSPD."""
    errors = []
    for factor in (1, 2):
        root = make_bop(tmp_path / str(factor))
        for path in [root / "camera.json", *root.glob("test/*/scene_camera.json")]:
            content = json.loads(path.read_text())
            if "width" in content:
                content |= {"width": WIDTH * factor, "height": HEIGHT * factor}
                content |= {name: factor * content[name] for name in ("fx", "fy")}
            for entry in content.values():
                if isinstance(entry, dict):
                    entry["cam_K"] = [value * factor if i < 6 else value for i, value in enumerate(entry["cam_K"])]
            path.write_text(json.dumps(content))
        for path in root.glob("test/*/rgb/*.png"):
            Image.fromarray(np.zeros((HEIGHT * factor, WIDTH * factor, 3), np.uint8)).save(path)
        dataset = BopDataset(root)
        results = true_results(dataset)
        results.T_cam_obj[:, 0, 3] += 5.0
        scores = evaluate(results, dataset, options=ScoringOptions(vsd=False))
        errors.append([estimate.mspd for estimate in scores.estimates])
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)
    # 5 mm at 500 mm and 60 px focal length: 0.6 px of 64, 6 px of 640
    assert min(errors[0]) > 4

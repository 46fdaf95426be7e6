"""The page about results files: its numbers, its pictures, and what hostile or broken input does to it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bop_world import HEIGHT, WIDTH, edit_json, make_bop, small_parts
from cad2pose.cli import main
from cad2pose.data.bop import BopDataset
from cad2pose.data.results import Results, write_results_csv
from cad2pose.evaluation.bootstrap import Interval, PairedTest
from cad2pose.evaluation.headline import p_text
from cad2pose.evaluation.scored_file import Question, distinct_names, score_file
from cad2pose.geometry import make_transform, project_points
from cad2pose.pictures.outlines import ESTIMATE_COLOR, TRUTH_COLOR, draw_outlines, truth_and_estimate
from cad2pose.report import score_page
from cad2pose.report.case_pictures import _GROUND, _cut
from cad2pose.report.case_words import describe
from cad2pose.report.cases import list_cases, median, missed, most_different, worst
from cad2pose.report.plots import color_of, dash_of, marker_of, shape_of
from cad2pose.report.score_page import _estimated, _verdict
from cad2pose.report.skeleton import fixed, render_page
from cad2pose.report.timing import timing_of
from test_evaluate import true_results
from test_trust import moved

HOSTILE = "<script>alert(1)<!-- $\\frac{ & ' ünï 漢.csv"


class Page(HTMLParser):
    """Every opening tag, the text outside of scripts and styles, and the numbers in tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.inside, self.file, self.object = "", "", ""
        self.numbers: dict[tuple[str, str, str], float] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):  # type: ignore[no-untyped-def]
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        self.inside = tag
        if tag == "table":
            self.file = found.get("data-file", "")
        if tag == "tr":
            self.object = found.get("data-object", "")
        if tag == "td" and self.object and "data-value" in found:
            self.numbers[self.file, self.object, found["data-measure"]] = float(found["data-value"])

    def handle_endtag(self, tag):  # type: ignore[no-untyped-def]
        self.inside = ""

    def handle_data(self, data):  # type: ignore[no-untyped-def]
        if self.inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def pictures(text: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    files = [np.frombuffer(base64.b64decode(data), np.uint8) for data in found]
    return [np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR))[..., ::-1] for file in files]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    dataset = BopDataset(make_bop(tmp_path_factory.mktemp("report") / "made", rendered_depth=True))
    return dataset, true_results(dataset)


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    """One file that is right, and one with misses and large errors, under a hostile name."""
    dataset, results = world
    folder = tmp_path_factory.mktemp("files")
    write_results_csv(folder / "good.csv", results)
    bad = moved(results, 3000, results.image_id == 3)
    kept = torch.arange(len(results)) != 11
    write_results_csv(folder / HOSTILE, Results(*(value[kept] for value in vars(bad).values())))
    return folder / "good.csv", folder / HOSTILE


@pytest.fixture(scope="module")
def scored(world, files):
    question = Question.ask(world[0])
    return [score_file(path, path.name, question, draws=50) for path in files], question


@pytest.fixture(scope="module")
def text(scored):
    return score_page(*scored, remarks=("a remark <b>",), cases=3)


@pytest.fixture
def no_plots(monkeypatch):
    """For tests of everything else: plots take most of a page's time."""
    monkeypatch.setattr("cad2pose.report.score_plots.svg", lambda *_: "")


def test_the_page_asks_nobody_and_escapes_names(text):
    page = Page(text)
    assert "alert(1)" in page.text
    assert HOSTILE in page.text
    assert "a remark <b>" in page.text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not re.search(r"(?:https?:)?//(?!www\.w3\.org)[a-z]", re.sub(r'base64,[^"]+', "", text))
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action"):
            assert attributes.get(name, "#").startswith(("data:image/jpeg", "#")), attributes
    assert any("default-src 'none'" in a.get("content", "") for _, a in page.tags)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_every_id_is_there_once(text):
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text):
        assert target in ids


def test_numbers_of_the_page_are_the_scores(scored, text):
    files, _ = scored
    page = Page(text)
    for place, file in enumerate(files):
        for name, row in [("all", file.scores.total), *((str(o), r) for o, r in file.scores.per_object.items())]:
            for measure in ("AR", "AR_VSD", "AR_MSSD", "AR_MSPD", "recall_ADD_S_0p1d"):
                assert page.numbers[str(place), name, measure] == row.measures[measure]
    assert "11 of 12" in page.text


def test_pictures_hold_both_outlines(text):
    found = pictures(text)
    assert len(found) == 2 * (3 + 3) + 1 + 2 * 2  # worst and median of both, one missed, two that differ
    for picture in found:
        assert picture.shape == (256, 256, 3)
    near = [(np.abs(picture.astype(int) - TRUTH_COLOR).sum(-1) < 90).sum() for picture in found]
    assert min(near) > 20


def test_which_cases_are_shown(scored):
    files, question = scored
    cases = list_cases(files, question)
    assert len(cases) == 12
    assert [case.error(0) for case in cases] == [0] * 12
    (gone,) = missed(cases, 1)
    assert gone.found[1] is None
    assert all(case.error(1) > 1 for case in worst(cases, 1, 4))
    errors = sorted(case.error(1) for case in cases if case.found[1])
    assert [case.error(1) for case in median(cases, 1, 3)] == errors[4:7]
    assert len(most_different(cases, 0, 1, 8)) == 4  # only the first is ever better, and gets its half
    assert {case.image_id for case in most_different(cases, 0, 1, 8)} <= {3, gone.image_id}


def test_sentences(scored):
    files, question = scored
    cases = list_cases(files, question)
    said = [describe(case, 1, [0.1, 0.5, 0.9]) for case in cases]
    assert sum(text.startswith("At another distance: 3000 mm too far, where the part is") for text in said) >= 3
    assert sum(text.startswith("No estimate. 70% of the part is seen.") for text in said) == 1
    assert any(text.startswith("Right: 0.0° and 0 mm off.") for text in said)


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_outlines_lie_where_the_part_is(scale):
    wedge = small_parts()[0]
    T = make_transform(torch.eye(3, dtype=torch.float64), torch.tensor([0.0, 0, 400]).double())
    K = torch.tensor([[200.0 * scale, 0, 50 * scale], [0, 200 * scale, 50 * scale], [0, 0, 1]], dtype=torch.float64)
    behind, shifted = T.clone(), T.clone()
    behind[2, 3] = -400
    shifted[0, 3] += 40

    def drawn(T_found):  # type: ignore[no-untyped-def]
        canvas = np.zeros((int(100 * scale), int(100 * scale), 3), np.uint8)
        draw_outlines(canvas, K, wedge, truth_and_estimate(wedge, T, T_found))
        return canvas

    canvas = drawn(None)
    assert np.array_equal(drawn(behind), canvas)
    rows, columns = np.nonzero(canvas.max(-1) > 80)
    pixels = project_points(K, wedge.mesh.vertices.double() + T[:3, 3])
    for found, low, high in zip((columns, rows), pixels.amin(0), pixels.amax(0), strict=True):
        assert abs(found.min() - low) < 4
        assert abs(found.max() - high) < 4
    orange = np.abs(drawn(shifted).astype(int) - ESTIMATE_COLOR).sum(-1) < 60
    assert orange.any()
    assert orange.nonzero()[1].max() > columns.max() + 5 * scale
    assert not (np.abs(canvas.astype(int) - ESTIMATE_COLOR).sum(-1) < 60).any()


def test_a_photograph_that_cannot_be_read_is_named(world, tmp_path, no_plots):
    dataset, results = world
    root = tmp_path / "broken"
    shutil.copytree(dataset.root, root)
    (root / "test" / "000001" / "rgb" / "000003.png").write_bytes(b"no image")
    write_results_csv(tmp_path / "r.csv", results)
    question = Question.ask(BopDataset(root))
    page = score_page([score_file(tmp_path / "r.csv", "r", question, draws=10)], question, cases=20)
    assert "picture left out" in page
    assert "000003.png cannot be read as an image" in page
    assert len(pictures(page)) == 24


def test_large_photographs_make_no_large_page(world, tmp_path, no_plots):
    dataset, results = world
    root, factor = tmp_path / "large", 40
    shutil.copytree(dataset.root, root)
    edit_json(root / "camera.json", lambda c: c.update(width=WIDTH * factor, height=HEIGHT * factor))
    for scene in ("000001", "000002"):
        shutil.rmtree(root / "test" / scene / "depth")
        for path in (root / "test" / scene / "rgb").iterdir():
            cv2.imwrite(str(path), np.full((HEIGHT * factor, WIDTH * factor, 3), 77, np.uint8))

        def enlarge(entries):  # type: ignore[no-untyped-def]
            for entry in entries.values():
                K = np.array(entry["cam_K"]).reshape(3, 3)
                K[:2] *= factor
                entry["cam_K"] = K.flatten().tolist()

        edit_json(root / "test" / scene / "scene_camera.json", enlarge)
    write_results_csv(tmp_path / "r.csv", results)
    question = Question.ask(BopDataset(root))
    page = score_page([score_file(tmp_path / "r.csv", "r", question, draws=10)], question, cases=4)
    assert len(page) < 700_000
    assert "no depth images" in page
    assert all(np.abs(picture[128, 5].astype(int) - 77).max() < 4 for picture in pictures(page)[:2])


def test_empty_files_and_no_cases(world, tmp_path):
    dataset, results = world
    write_results_csv(tmp_path / "none.csv", Results(*(value[:0] for value in vars(results).values())))
    question = Question.ask(dataset)
    none = score_file(tmp_path / "none.csv", "none.csv", question, draws=10)
    page = Page(score_page([none], question))
    assert "no estimate, so nothing is said of the scores" in page.text
    assert "holds no rows, so every target is missed" in page.text
    assert "not stated" in page.text
    both = score_page([none, none], question, cases=0)
    assert not pictures(both)
    with pytest.raises(ValueError, match="at least one file"):
        score_page([], question)


def test_stages_come_from_the_json_file_beside(world, tmp_path):
    dataset, results = world
    write_results_csv(tmp_path / "results.csv", results)
    file = score_file(tmp_path / "results.csv", "r", Question.ask(dataset), draws=10)
    assert timing_of(file).stages == {}
    entries = [{"scene_id": s, "im_id": i, "stages": {"network": s + 0.5}} for s in (1, 2) for i in (3, 5)]
    (tmp_path / "results.json").write_text(json.dumps({"images": entries}))
    timing = timing_of(file)
    assert (timing.stages, timing.images, timing.seconds.tolist()) == ({"network": 2.0}, 4, [0.5] * 4)
    assert replace(timing, seconds=np.array([10.0, 0.1])).median == pytest.approx(5.05)
    left = {"scene_id": 9, "im_id": 1, "left_out": "broken"}
    (tmp_path / "results.json").write_text(json.dumps({"images": [left, *entries]}))
    assert timing_of(file).stages == {"network": 2.0}, "an image that was left out took none"
    for content in (json.dumps({"images": entries[:2]}), "[]", "{", json.dumps({"images": [{"scene_id": "x"}]})):
        (tmp_path / "results.json").write_text(content)
        assert timing_of(file).stages == {}


def test_the_command(world, files, tmp_path, capsys):
    dataset, results = world
    out = tmp_path / "new" / "page.html"
    base = ["--bop", str(dataset.root), "--draws", "20", "--cases", "4", "--no-check-symmetries", "--out", str(out)]
    assert main(["report", *map(str, files), *base]) == 0
    assert "page: " in capsys.readouterr().out
    assert len(pictures(out.read_text(encoding="utf-8"))) == 4 * 4 + 1 + 2 * 2
    before = out.read_bytes()
    assert main(["report", *map(str, files), *base]) == 0
    assert out.read_bytes() == before
    odd = Results(*(value.clone() for value in vars(results).values()))
    odd.object_id[1], odd.T_cam_obj[4, 2, 3] = 77, -500
    odd.T_cam_obj[5, 0, :3] *= 1.004
    write_results_csv(tmp_path / "odd.csv", odd)
    assert main(["report", str(tmp_path / "odd.csv"), *base]) == 0
    err, said = capsys.readouterr().err, Page(out.read_text(encoding="utf-8")).text
    for piece in ("objects that the data set does not have", "not before the camera", "orthonormal only to 1 %"):
        assert piece in err
        assert piece in said
    assert "The estimate lies behind the camera" in said
    write_results_csv(tmp_path / "foreign.csv", Results(**(vars(results) | {"object_id": results.object_id + 10})))
    for arguments, complaint in (
        ([], "nothing was given"),
        ([str(files[0])], "results files need --bop"),
        ([str(tmp_path / "foreign.csv"), *base], "none of the 12 rows of foreign.csv is for a target"),
        ([str(tmp_path / "absent.csv"), *base], "absent.csv does not exist"),
        ([str(files[0]), *base, "--out", str(files[0] / "x.html")], "is a file"),
        ([str(tmp_path), str(files[0]), *base], "either one folder of a training run"),
    ):
        assert main(["report", *arguments]) == 2, arguments
        assert complaint in capsys.readouterr().err


def test_undeclared_symmetries_are_on_the_page(world, files, tmp_path, no_plots, unhurried):
    dataset, _ = world
    root = tmp_path / "undeclared"
    shutil.copytree(dataset.root, root)
    edit_json(root / "models_eval" / "models_info.json", lambda infos: infos["2"].pop("symmetries_discrete"))
    out = tmp_path / "page.html"
    assert main(["report", str(files[0]), "--bop", str(root), "--draws", "5", "--cases", "0", "--out", str(out)]) == 0
    assert "obj_000002 is declared without symmetries" in out.read_text(encoding="utf-8")


def test_more_files_than_colours_are_told_apart():
    looks = [(color_of(i), dash_of(i), marker_of(i)) for i in range(36)]
    assert (
        len({(color, str(dash)) for color, dash, _ in looks}) == len({(color, mark) for color, _, mark in looks}) == 36
    )
    assert [shape_of(i) for i in range(8)] == [0, 1, 2, 3, 4, 5, 1, 2]


def test_medians_over_different_targets_have_no_better_one(scored, no_plots):
    (good, bad), question = scored
    fewer = replace(good, scores=replace(good.scores, estimates=good.scores.estimates[1:]))
    better = PairedTest(-1.0, Interval(-2.0, -0.5), 0.01)
    assert _verdict("rotation_deg_median", better, same_targets=True) == "second"
    assert _verdict("rotation_deg_median", better, same_targets=False) == ""
    assert _verdict("recall_ADD_S_0p1d", better, same_targets=False) == "first"
    assert _estimated(fewer) < _estimated(good)


def test_p_values_are_never_zero():
    assert [p_text(p) for p in (0.0002, 0.0005, 0.05, float("nan"))] == ["< 0.001", "0.001", "0.050", "-"]


def test_names_tell_files_apart():
    paths = [Path(name) for name in ("/a/one/results.csv", "/a/two/results.csv", "/a/x.csv", "/a/x.csv")]
    assert distinct_names(paths) == ["one/results.csv", "two/results.csv", "x.csv", "x.csv (2)"]
    assert distinct_names([paths[2]] * 3) == ["x.csv", "x.csv (2)", "x.csv (3)"]


def test_numbers_that_are_none():
    assert [fixed(v) for v in (None, float("nan"), float("inf"), -1.5)] == ["–", "–", "∞", "−1.500"]
    with pytest.raises(Exception, match="undefined"):
        render_page("page.html.j2")


def test_published_scores_of_two_methods(bop_path, reference_path, tmp_path, no_plots):
    """The page's numbers are those of the reference file, object by object."""
    published = json.loads((reference_path / "lmo_published.json").read_text())["methods"]
    names = {"megapose_cnosfastsam": "megapose_cnosfastsam", "semantic_keypoints": "semantic_keypoints"}
    paths = [str(reference_path / "csv" / f"{name}_lmo-test.csv") for name in names]
    out = tmp_path / "lmo.html"
    quick = ["--draws", "20", "--cases", "2", "--no-check-symmetries"]
    assert main(["report", *paths, "--bop", str(bop_path / "lmo"), "--out", str(out), *quick]) == 0
    page = Page(out.read_text(encoding="utf-8"))
    for place, name in enumerate(names.values()):
        entries = {"all": published[name]["all"], **published[name]["per_object"]}
        assert len(entries) == 9
        for object_id, entry in entries.items():
            for measure in ("n", "AR_MSSD", "AR_MSPD", "recall_ADD_S_0p1d"):
                assert page.numbers[str(place), object_id, measure] == pytest.approx(entry[measure], abs=1e-9)


def test_a_square_beside_the_photograph_is_gray():
    pixels = np.full((48, 64, 3), 200, np.uint8)
    assert (_cut(pixels, 3000.0, -20.0, 0.1) == _GROUND).all()
    assert (_cut(pixels, -20.0, 3000.0, 0.1) == _GROUND).all()
    assert (_cut(pixels, -1000.0, -1000.0, 0.1) != _GROUND).any()


def test_names_that_are_no_text_do_not_lose_the_page(world, tmp_path, no_plots):
    dataset, results = world
    write_results_csv(tmp_path / "r.csv", results)
    question = Question.ask(dataset)
    name = b"r\xe9sultats.csv".decode("utf-8", "surrogateescape")
    page = score_page([score_file(tmp_path / "r.csv", name, question, draws=10)], question, cases=0)
    assert "r?sultats.csv" in page.encode("utf-8").decode("utf-8")

"""The page of a training run, and the pictures that training leaves for it."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from cad2pose.cli import main
from cad2pose.report import training_page
from cad2pose.structures import CropBatch
from cad2pose.training import Run, train
from cad2pose.training.truth_pictures import AGAINST_TRUTH, WORST, WORST_NUMBERS, WorstBatch, save_against_truth
from small_models import SMALL, SMALL_SURFEMB, wedge
from test_report import Page, pictures
from test_training import CPU, SHORT, crops


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, and the pages that were written while it went on."""
    out, pages = tmp_path_factory.mktemp("runs") / "a <b>&", []
    train(Run([wedge()], SMALL, SHORT, CPU, others={"crops": "test"}), crops(), crops(1), out,
          judged=lambda: pages.append(training_page(out)))  # fmt: skip
    return out, pages


def test_the_page_is_made_while_the_run_goes_on(run):
    out, pages = run
    assert len(pages) == 3  # two validations and the end
    first, last = Page(pages[0]), Page(pages[-1])
    assert "There is no worst_batch.png" in first.text
    assert len(pictures(pages[0])) == 3
    assert "6 of 6 (done)" in last.text
    assert "48 of 48" in last.text
    assert out.name in last.text
    assert "rotation_deg" in last.text
    assert '"test"' in last.text
    assert "Missing" not in last.text


def test_the_worst_batch_and_predictions_against_truth(run):
    out, _ = run
    assert cv2.imread(str(out / AGAINST_TRUTH)) is not None
    numbers = json.loads((out / WORST_NUMBERS).read_text())
    assert numbers["step"] == 6
    logged = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    assert numbers["total"] == next(line["total"] for line in logged if "total" in line)
    assert f"It was that of step 6, loss {numbers['total']}" in Page(training_page(out)).text


def test_the_largest_loss_is_kept_and_forgotten(tmp_path, monkeypatch):
    shown: list[CropBatch] = []
    monkeypatch.setattr("cad2pose.training.truth_pictures.save_against_truth", lambda *a: shown.append(a[2]))
    method = SMALL.build([wedge()]).eval()
    worst, batches = WorstBatch(), [crops().batch(i, 2) for i in range(3)]
    worst.save(tmp_path, method, [wedge()])
    assert not shown
    for step, (total, batch) in enumerate(zip((1.0, 3.0, 2.0), batches, strict=True)):
        worst.see(step, total, batch)
    worst.save(tmp_path, method, [wedge()])
    assert [batch is batches[1] for batch in shown] == [True]
    assert json.loads((tmp_path / WORST_NUMBERS).read_text()) == {"step": 1, "total": 3.0}
    worst.save(tmp_path, method, [wedge()])
    assert len(shown) == 1


def test_methods_without_poses_have_pictures_too(tmp_path):
    method = SMALL_SURFEMB.build([wedge()]).eval()
    before = torch.get_rng_state()
    save_against_truth(tmp_path / "p.png", method, crops().batch(0, 3), [wedge()])
    assert torch.equal(torch.get_rng_state(), before)
    assert np.asarray(cv2.imread(str(tmp_path / "p.png"))).shape[1] > 3 * 192


def test_what_is_missing_or_broken_is_named(tmp_path, capsys):
    (tmp_path / "curves.jsonl").write_text('{"step": 50, "total": 2.5, "part <i>$x_1$/loss": 1}\n{"step": 1')
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "samples.png").write_bytes(b"no picture")
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "config.json cannot be read" in page.text
    assert "versions.json is not there" in page.text
    assert "samples.png cannot be shown" in page.text
    assert f"There is no {WORST}" in page.text
    assert "part <i>$x_1$/loss" in page.text
    assert not pictures(text)
    (tmp_path / "curves.jsonl").unlink()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "other.html")]) == 0
    assert "nothing was logged yet" in (tmp_path / "other.html").read_text(encoding="utf-8")
    capsys.readouterr()
    (tmp_path / "config.json").unlink()
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no training run: it has neither config.json nor curves.jsonl" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--bop", "lmo"]) == 2
    assert "needs no --bop" in capsys.readouterr().err
    ignored = ["--split", "val", "--cases", "3", "--draws", "10", "--as-written", "--no-check-symmetries"]
    assert main(["report", str(tmp_path), *ignored]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "needs no --split, --cases, --draws, --as-written, --no-check-symmetries; leave that out" in said

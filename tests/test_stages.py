"""How long the stages of an estimate take: each second counts once."""

from __future__ import annotations

import time

import pytest
import torch

from cad2pose.estimator import EstimatorOptions, PoseEstimator
from cad2pose.estimator.stages import Stages
from cad2pose.geometry import Camera
from cad2pose.structures import Detections
from small_models import random_model, wedge

CAMERA = Camera(torch.tensor([[300.0, 0, 79.5], [0, 300, 59.5], [0, 0, 1]]).double(), 160, 120)


def test_seconds_of_a_stage_within_another_are_not_counted_twice(monkeypatch):
    clock = iter(float(second) for second in (0, 1, 3, 4, 8, 9, 20, 21))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    stages = Stages(torch.device("cpu"))
    with stages.timed("outer"):
        with stages.timed("first"):  # 1 to 3
            pass
        with stages.timed("second"):  # 4 to 8
            pass
    with stages.timed("outer"):  # 20 to 21
        pass
    assert stages.seconds == {"first": 2.0, "second": 4.0, "outer": 9.0 - 2.0 - 4.0 + 1.0}


@pytest.mark.parametrize(
    ("options", "solved"), [({"refine": False}, False), ({"refine": True}, True), ({"solver": "sampling"}, True)]
)
def test_an_estimate_says_how_long_each_of_its_stages_took(options, solved, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", time.process_time)  # what others do meanwhile on the machine is not it
    estimator = PoseEstimator([random_model(wedge())], "cpu", EstimatorOptions(recrop=False, **options))
    count = 32  # so that the work on crops outweighs what is done once for an image
    box = torch.tensor([[40.0, 30, 60, 50]]).expand(count, 4)
    detections = Detections(torch.ones(count, dtype=torch.int64), box, torch.ones(count))
    for _ in range(2):  # the first makes what is kept for later ones
        found = estimator.estimate(torch.rand(3, 120, 160), CAMERA, detections)
    expected = {"crops", "network", "poses"} | ({"proposals", "climb", "conclusion"} if solved else set())
    assert set(found.stages) == expected
    assert 0.5 * found.seconds < sum(found.stages.values()) <= found.seconds

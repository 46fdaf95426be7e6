"""Compiled networks train as others do; without a compiler they are left as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.training import Run, TrainingConfig, compiling, train
from cad2pose.training.compiling import has_compiler
from small_models import SMALL, wedge

CPU = torch.device("cpu")
CROPS = SyntheticConfig(crop_size=32, pictures=2)


STEPS = """
import json, torch
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.training import Run, TrainingConfig, training_step
from cad2pose.training.compiling import compile_networks
from small_models import SMALL, SMALL_SURFEMB, wedge

torch.set_num_threads(1)
CPU, parts = torch.device("cpu"), [wedge(1), wedge(2, "other")]
config = TrainingConfig(batch_size=4, samples=8)
crops = SyntheticCrops(parts, SyntheticConfig(crop_size=32, pictures=2), CPU, 0)
found = []
for compiled in (False, True):
    state = Run(parts, SMALL, config, CPU).state()
    state.method.train()
    networks = compile_networks(state.method, CPU, backend="eager") if compiled else 0
    losses = [float(training_step(state, crops.batch(index, 4), config)["total"]) for index in range(2)]
    captured = state.method.encoder._compiled_call_impl is not None
    found.append({"networks": networks, "losses": losses, "names": list(state.method.state_dict()), "is": captured})
assert compile_networks(SMALL_SURFEMB.build(parts), CPU, backend="eager") == 3  # a decoder for each part
print(json.dumps(found))
"""


def test_steps_of_compiled_networks_are_those_of_others():
    """In a process of its own: annotations that tests check as they run cannot be compiled."""
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", STEPS], env=here, capture_output=True, text=True, check=True)
    assert "torch/_dynamo" not in done.stderr, done.stderr  # no network was left as it was
    plain, compiled = json.loads(done.stdout.splitlines()[-1])
    assert (plain["networks"], compiled["networks"]) == (0, 2)
    assert (plain["is"], compiled["is"]) == (False, True)
    assert plain["losses"] == pytest.approx(compiled["losses"], rel=1e-5)
    assert plain["names"] == compiled["names"]


def test_without_a_compiler_training_goes_on_as_it_would(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(compiling, "has_compiler", lambda device: False)
    crops = SyntheticCrops([wedge()], CROPS, CPU, 0)
    config = TrainingConfig(samples=4, batch_size=4, validations=1, validation_crops=2)
    with pytest.warns(UserWarning, match=r"networks are not compiled: torch.compile needs a C\+\+ compiler"):
        model = train(Run([wedge()], SMALL, config, CPU), crops, crops, tmp_path, compiled=True)
    assert model.is_file()


def test_a_compiler_that_is_not_there_is_noticed(monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/nonexistent/c++"))
    from torch._inductor.cpp_builder import cpp_compiler_search

    cpp_compiler_search.cache_clear()
    try:
        assert not has_compiler(CPU)
    finally:
        cpp_compiler_search.cache_clear()

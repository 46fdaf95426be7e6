"""Several processes that train one model: the same losses and weights as one process with the same shards."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import nn
from torch.distributed.run import get_args_parser

from cad2pose.cli import main
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.model_file import load_model
from cad2pose.training import Run, TrainingConfig, training_step
from cad2pose.training.checkpoint import CHECKPOINT
from cad2pose.training.processes import ALONE, Processes, join_processes, joined
from small_models import SMALL, wedge

STEPS = 20
CONFIG = TrainingConfig(samples=8 * STEPS, batch_size=8, shards=2, warmup_steps=2)


def losses_of(processes: Processes) -> list[float]:
    """Total losses of twenty steps."""
    torch.set_num_threads(1)
    parts = [wedge()]
    crops = SyntheticCrops(parts, SyntheticConfig(crop_size=32, pictures=4))
    state = Run(parts, SMALL, CONFIG, torch.device("cpu")).state()
    losses = joined(state.method, processes)
    state.method.train()
    found = []
    for step in range(STEPS):
        shards = [crops.batch(step * CONFIG.shards + shard, 4) for shard in processes.shards(CONFIG.shards)]
        terms = processes.mean(training_step(state, shards, CONFIG, losses, processes))
        found.append(float(terms["total"]))
    return found


def work(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes, _ = join_processes(torch.device("cpu"))
    found = losses_of(processes)
    statistics = nn.BatchNorm2d(3)
    with torch.no_grad():
        statistics.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]) * (rank + 1))  # type: ignore[union-attr]
    processes.average_statistics(statistics)
    assert statistics.running_mean is not None
    assert statistics.running_mean.tolist() == [1.5, 3.0, 4.5]
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.filterwarnings("ignore")  # of torch's own, about processes
def test_two_processes_have_the_losses_of_one(tmp_path):
    torch.multiprocessing.spawn(work, (free_port(), str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    alone = losses_of(ALONE)
    assert first == second
    assert max(abs(one - other) for one, other in zip(first, alone, strict=True)) < 1e-4
    assert alone[-1] < alone[0]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def under_torchrun(out: Path, samples: int) -> list[str]:
    """Arguments of Python that train a tiny model in two processes."""
    size = ["--model.crop-size", "32", "--model.width", "8", "--model.head-width", "8", "--model.key-width", "8"]
    arguments = ["-m", "cad2pose", "train", "nut", "--samples", str(samples), "--batch-size", "8", *size]
    arguments += ["--validations", "1", "--validation-crops", "2", "--calibration-crops", "0", "--device", "cpu"]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    return [*launch, *arguments, "--shards", "2", "--out", str(out)]


def test_the_command_trains_under_torchrun(tmp_path):
    done = subprocess.run(
        [sys.executable, *under_torchrun(tmp_path / "two", samples=16)],
        env=ONE_THREAD, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "two" / "model.safetensors").is_file()
    lines = (tmp_path / "two" / "curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 2], "one process writes, not both"


def test_torchrun_leaves_every_option_of_training_alone_but_start(capsys):
    assert main(["train", "--help"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.lstrip("│ ").startswith("-")]
    options = {option for line in lines for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", line)}
    assert {"--start", "--start-model", "--out", "--model.width"} < options
    taken = set()
    for option in options:
        try:
            known = get_args_parser().parse_args(["-m", "cad2pose", "train", "nut", option, "1"])
        except SystemExit:
            taken.add(option)
        else:
            assert known.training_script_args[-2:] == [option, "1"]
    assert taken == {"--start"}, "others need another name as well"


def test_shards_are_shared_evenly_or_refused():
    assert list(Processes(1, 2).shards(4)) == [2, 3]
    assert list(ALONE.shards(3)) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"4 processes cannot share batches of 2 shards.*--shards 4"):
        Processes(0, 4).shards(2)
    with pytest.raises(ValueError, match="shards is 3"):
        TrainingConfig(batch_size=8, shards=3)


def test_one_process_alone_joins_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    device = torch.device("cpu")
    assert join_processes(device) == (ALONE, device)
    values = {"a": torch.tensor(2.0)}
    assert ALONE.mean(values) is values
    assert ALONE.from_first(3) == 3


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 or more processes on a machine with 1 GPUs"):
        join_processes(torch.device("cuda"))


def process_of_rank(launcher: int, rank: int) -> int:
    """Number of a process that torchrun started."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.parametrize("told", ["torchrun", "the first process"])
def test_processes_stop_after_the_same_step_and_keep_what_they_learnt(tmp_path, told):
    going = subprocess.Popen(
        [sys.executable, *under_torchrun(tmp_path / "two", samples=80_000)],
        env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    curves = tmp_path / "two" / "curves.jsonl"
    while not (curves.exists() and curves.read_text()) and going.poll() is None:
        time.sleep(0.1)
    os.kill(going.pid if told == "torchrun" else process_of_rank(going.pid, 0), signal.SIGTERM)
    _, said = going.communicate(timeout=120)
    assert said.count("cad2pose: stopping after the step at hand; once more interrupts at once") == 1
    stopped = re.search(r"stopped after step (\d+) of 10000; the same command goes on", said)
    assert stopped, said[-2000:]
    step = int(stopped.group(1))
    assert step >= 50
    assert load_model(tmp_path / "two" / "model.safetensors").info["samples"] == str(8 * step)
    assert torch.load(tmp_path / "two" / CHECKPOINT, weights_only=True)["step"] == step

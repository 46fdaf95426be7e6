"""Tasks in processes: what goes wrong when they start is raised as it is, and what they warn of is said once."""

from __future__ import annotations

import warnings

import pytest
import torch

from cad2pose.data.worker_pool import run_tasks


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_at_the_start_is_raised_as_it_is(workers, capfd):
    with pytest.raises(ValueError, match="no pictures in 'here'"):
        list(run_tasks(_fail, ("here",), _name, [1, 2], workers))
    assert capfd.readouterr().err == "", "processes print nothing of their own"


def test_warnings_of_the_start_are_given_once(capfd):
    with pytest.warns(UserWarning, match="one picture is broken") as caught:
        results = list(run_tasks(_warn, (), _name, [1, 2, 3, 4], workers=2))
    assert sorted(results) == ["started 1", "started 2", "started 3", "started 4"]
    assert len(caught) == 1
    assert capfd.readouterr().err == ""


def _fail(folder: str) -> str:
    raise ValueError(f"no pictures in {folder!r}")


def _warn() -> str:
    warnings.warn("one picture is broken", stacklevel=2)
    return "started"


def _name(state: str, task: int) -> str:
    return f"{state} {task}"


def test_one_worker_sums_as_several_do():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tasks = run_tasks(torch.get_num_threads, (), lambda threads, task: threads, [0, 1], 1)
        assert list(tasks) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

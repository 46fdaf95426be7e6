"""The command line's front door: which command, what exit status, and one clear line for an error."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable

import pytest

import cad2pose
from cad2pose import cli

Install = Callable[[Callable[..., object]], None]


@pytest.fixture
def as_inspect(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a function in the place of `cad2pose inspect`."""

    def install(function: Callable[..., object]) -> None:
        module = types.ModuleType("cad2pose.cli.inspect")
        module.inspect_command = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "cad2pose.cli.inspect", module)
        monkeypatch.delenv(cli.TRACEBACK_VARIABLE, raising=False)

    return install


def command_raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize("argv", [["--help"], ["-h"]])
def test_help_lists_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    for name in ("inspect", "symmetries", "check", "train", "estimate", "view", "evaluate", "demo"):
        assert f"\n  {name} " in out


def test_no_command_is_an_error_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: cad2pose COMMAND" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cad2pose {cad2pose.__version__}\n"


def test_unknown_command_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["estimat", "--model", "x"]) == 2
    err = capsys.readouterr().err
    assert "'estimat'" in err
    assert (
        "inspect, symmetries, check, preview, render, train, compare, calibrate, estimate, view, evaluate, report, demo"
        in err
    )
    assert "did you mean estimate?" in err
    assert cli.main(["frobnicate"]) == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1), (7, 7)])
def test_arguments_are_parsed_by_the_signature_and_the_status_comes_back(
    as_inspect: Install, returned: int | None, status: int
) -> None:
    seen = []

    def command(count: int, name: str = "x", *, flag: bool = False) -> int | None:
        seen.append((count, name, flag))
        return returned

    as_inspect(command)
    assert cli.main(["inspect", "--count", "3", "--flag"]) == status
    assert seen == [(3, "x", True)]


def test_help_of_a_command_is_its_docstring(as_inspect: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def command(count: int = 5) -> None:
        """Count the things.

        Args:
            count: how many there are.
        """
        raise AssertionError("help must not run the command")

    as_inspect(command)
    assert cli.main(["inspect", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Count the things." in out
    assert "how many there are" in out
    assert "cad2pose inspect" in out


def test_wrong_options_are_the_users_error(as_inspect: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def command(count: int) -> None:
        raise AssertionError("must not run")

    as_inspect(command)
    for rest in ([], ["--count", "three"], ["--count", "3", "--more", "1"]):
        assert cli.main(["inspect", *rest]) == 2
        assert "cad2pose inspect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("box 3 has\n  no area"), "box 3 has no area"),
        (ValueError(), "ValueError"),
        (FileNotFoundError(2, "No such file or directory", "mesh.ply"), "mesh.ply: No such file or directory"),
        (FileNotFoundError("the folder x holds no model"), "the folder x holds no model"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (SystemExit("stop here"), "stop here"),
    ],
)
def test_a_users_error_is_one_line(
    as_inspect: Install, capsys: pytest.CaptureFixture[str], error: BaseException, line: str
) -> None:
    as_inspect(command_raising(error))
    assert cli.main(["inspect"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"cad2pose: error: {line}\n"
    assert captured.out == ""


def test_ctrl_c_has_its_own_status(as_inspect: Install, capsys: pytest.CaptureFixture[str]) -> None:
    as_inspect(command_raising(KeyboardInterrupt()))
    assert cli.main(["inspect"]) == 130
    assert capsys.readouterr().err == "cad2pose: error: interrupted\n"


def test_the_traceback_is_there_when_asked_for(
    as_inspect: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_inspect(command_raising(ValueError("deep down")))
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    assert cli.main(["inspect"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("cad2pose: error: deep down\n")


def test_a_programmers_error_is_not_swallowed(as_inspect: Install) -> None:
    as_inspect(command_raising(AssertionError("broken")))
    with pytest.raises(AssertionError, match="broken"):
        cli.main(["inspect"])


def test_the_module_runs_as_a_program() -> None:
    for argv, status in ((["--version"], 0), (["nonsense"], 2)):
        done = subprocess.run([sys.executable, "-m", "cad2pose", *argv], capture_output=True, check=False)
        assert done.returncode == status


@pytest.mark.parametrize("name", ["inspect", "check", "train", "estimate", "view", "evaluate", "demo"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    assert f"cad2pose {name}" in capsys.readouterr().out


def test_memory_that_is_freed_is_kept_for_the_next_batch() -> None:
    program = """
import resource
import numpy as np
from cad2pose.devices import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    maps = [np.ones(750_000) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(keep_freed_memory(), faults(), sum(faults() for _ in range(20)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    kept, first, later = done.stdout.split()
    if kept == "False":
        pytest.skip("the C library keeps memory as it likes")
    assert int(later) < int(first)  # 24 MB are 6000 pages, the first time and never again

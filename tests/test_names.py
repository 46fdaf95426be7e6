"""Names that do not exist are found without running the line; linters take the shapes in annotations for such."""

from __future__ import annotations

import builtins
import dis
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

import cad2pose

_MODULES = [module.name for module in pkgutil.walk_packages(cad2pose.__path__, "cad2pose.")]
_SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def undefined(path: Path) -> set[str]:
    """Names that functions of a file look up among its globals, and that neither it nor Python defines."""
    pieces = list(_nested(compile(path.read_text(encoding="utf-8"), str(path), "exec")))
    known = set(vars(builtins)) | {"__file__", "__name__", "__doc__", "__path__"}
    used: set[str] = set()
    for piece in pieces:
        for step in dis.get_instructions(piece):
            if step.opname == "LOAD_GLOBAL":
                used.add(str(step.argval))
            if step.opname in ("STORE_GLOBAL", "STORE_NAME"):
                known.add(str(step.argval))
    return used - known


@pytest.mark.parametrize("name", _MODULES)
def test_every_name_that_a_module_uses_is_defined(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert undefined(Path(spec.origin)) == set()


@pytest.mark.parametrize("path", _SCRIPTS, ids=lambda path: path.stem)
def test_every_name_that_a_benchmark_uses_is_defined(path: Path) -> None:
    assert undefined(path) == set()


def test_an_undefined_name_is_seen(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("import os\ndef f(x):\n    return [os.sep + y(x) for _ in range(3)]\n")
    assert undefined(tmp_path / "m.py") == {"y"}

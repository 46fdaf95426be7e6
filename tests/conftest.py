"""What every test relies on: one thread, fixed seeds, and the data sets that may or may not be there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cad2pose.estimator import pose_solver
from cad2pose.parts import Part
from cad2pose.solvers import Surface

torch.set_num_threads(1)


def _remembering(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which works out what it gives for arguments of the same content once."""
    known: dict[str, Any] = {}

    def remembered(*arguments: Any, **named: Any) -> Any:
        key = _content((*arguments, *sorted(named.items())))
        if key not in known:
            known[key] = function(*arguments, **named)
        return known[key]

    return remembered


def _content(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.cpu().contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, (tuple, list)):
        return str([_content(each) for each in value])
    if isinstance(value, Part):
        return _content((value.mesh.vertices, value.mesh.faces, value.mesh.normals, value.center, value.radius))
    if isinstance(value, Surface):
        return _content(value.points)
    return repr(value)


@pytest.fixture(autouse=True, scope="session")
def _surfaces_once() -> Iterator[None]:
    """Estimators of the same part share its surface: most tests make one of their own, and a surface takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Surface, "of_part", _remembering(Surface.of_part))
        patch.setattr(pose_solver, "key_symmetry", _remembering(pose_solver.key_symmetry))
        yield


def _folder_from_environment(variable: str, what: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder with {what}")
    folder = Path(value)
    if not folder.is_dir():
        pytest.skip(f"{variable}={value} is not a folder; it should hold {what}")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, in whatever order they run."""
    torch.manual_seed(0)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes while symmetries are looked for, however busy the machine is."""
    monkeypatch.setattr("cad2pose.cli.symmetry_remark.time", SimpleNamespace(monotonic=lambda: 0.0))


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded random generator of the test's own."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def bop_path() -> Path:
    """Folder of BOP data sets (holds `lmo/`); the test is skipped where there is none."""
    return _folder_from_environment("BOP_PATH", "BOP data sets, such as lmo/")


@pytest.fixture(scope="session")
def reference_path() -> Path:
    """Folder of published results and golden values; the test is skipped where there is none."""
    return _folder_from_environment("REFERENCE_PATH", "reference results, such as golden/ and csv/")

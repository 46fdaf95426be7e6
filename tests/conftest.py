"""What every test relies on: one thread, fixed seeds, and the data sets that may or may not be there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


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

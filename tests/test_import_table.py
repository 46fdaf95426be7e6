"""The import table of docs/architecture.md is kept, and nothing from outside is imported that is not declared."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "cad2pose"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
FREE_FOR_ALL = {
    "files",
    "settings",
    "devices",
    "cuda_kernels",
    "cpu_kernels",
    "confidence",
    "__version__",
}  # what has no room of its own, and needs none
IMPORT_NAMES = {"opencv-python-headless": "cv2", "pillow": "PIL"}


def import_table(text: str) -> dict[str, set[str]]:
    """Room -> rooms it may import, from the rows after `| room | may import |`."""
    rows = re.search(r"\| room \| may import \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", text)
    assert rows, "docs/architecture.md has no table '| room | may import |'"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1].splitlines()]
    rooms = {room.strip() for left, _ in cells for room in left.split(",")}
    table = {}
    for left, right in cells:
        names = re.sub(r"\(.*?\)", "", right).replace("nothing", "").strip()
        allowed = rooms if names == "anything" else {n.strip() for n in names.split(",") if n.strip()}
        assert allowed <= rooms, f"row {left!r} names rooms without a row of their own: {allowed - rooms}"
        for room in left.split(","):
            assert room.strip() not in table, f"room {room.strip()!r} has two rows"
            table[room.strip()] = allowed
    return table


def imports_of(source: str, filename: str = "<source>") -> list[tuple[int, str]]:
    """Line and dotted name of every import, those inside functions included; `from a import b` gives `a.b`."""
    found = []
    for node in ast.walk(ast.parse(source, filename)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{filename}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def violations(room: str, source: str, table: dict[str, set[str]], filename: str = "<source>") -> list[str]:
    """Imports of rooms that `room` may not import."""
    bad = []
    for line, name in imports_of(source, filename):
        parts = name.split(".")
        if parts[0] != "cad2pose" or len(parts) < 2:
            continue
        if parts[1] not in table[room] | FREE_FOR_ALL | {room}:
            bad.append(f"{filename}:{line}: {room} may not import {parts[1]}")
    return bad


def modules() -> list[tuple[str, Path]]:
    """(room, file) of every module; the package's own `__init__` and `__main__` belong to no room."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        first = path.relative_to(PACKAGE).parts[0]
        if first not in ("__init__.py", "__main__.py"):
            found.append((first.removesuffix(".py"), path))
    return found


def requirement_names(requirements: list[str]) -> set[str]:
    names = {re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in requirements}
    return {IMPORT_NAMES.get(name, name) for name in names}


def test_every_room_keeps_to_its_row() -> None:
    table = import_table(ARCHITECTURE.read_text(encoding="utf-8"))
    bad = [
        problem
        for room, path in modules()
        if room in table
        for problem in violations(room, path.read_text(encoding="utf-8"), table, str(path.relative_to(ROOT)))
    ]
    assert not bad, "\n".join(["imports against docs/architecture.md:", *bad])


def test_every_room_has_a_row() -> None:
    table = import_table(ARCHITECTURE.read_text(encoding="utf-8"))
    assert {room for room, _ in modules()} - set(table) == set()


def test_the_table_itself_has_no_circles() -> None:
    table = import_table(ARCHITECTURE.read_text(encoding="utf-8"))
    placed: set[str] = set()
    while remaining := {room for room in table if room not in placed}:
        ready = {room for room in remaining if table[room] - {room} <= placed}
        if not ready:
            break
        placed |= ready
    tops = {room for room in remaining if table[room] == set(table)}  # those that may import anything
    assert remaining == tops, f"rooms that import each other: {sorted(remaining - tops)}"
    for room, allowed in table.items():
        assert room in tops or not allowed & tops, f"{room} may import {sorted(allowed & tops)}, which nobody may"


def test_a_forbidden_import_is_found_wherever_it_hides() -> None:
    table = import_table("| room | may import |\n|---|---|\n| low | nothing |\n| high, top | low (not top) |\n")
    assert table == {"low": set(), "high": {"low"}, "top": {"low"}}
    assert violations("low", "import math\nimport torch\nfrom cad2pose.low.more import x\n", table) == []
    assert violations("high", "from cad2pose.low import x\nfrom cad2pose.files import y\n", table) == []
    for source in (
        "import cad2pose.high",
        "from cad2pose import high",
        "def f():\n    from cad2pose.high.deep import x",
        "if True:\n    import torch, cad2pose.high.deep",
    ):
        assert len(violations("low", source, table)) == 1, source


def test_packages_from_outside_are_declared_and_banned_ones_are_absent() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = requirement_names(project["dependencies"])
    found = {
        (name.split(".")[0], str(path.relative_to(ROOT)))
        for path in sorted(PACKAGE.rglob("*.py"))
        for _, name in imports_of(path.read_text(encoding="utf-8"), str(path))
    }
    outside = {(name, path) for name, path in found if name not in sys.stdlib_module_names | {"cad2pose"}}
    outside.discard(
        ("cuda", "src/cad2pose/cuda_kernels.py")
    )  # cuda-bindings comes with torch's CUDA wheels or not at all
    outside.discard(("matplotlib", "src/cad2pose/experiments/report.py"))  # plots where it is there
    assert not {(name, path) for name, path in outside if name not in declared}
    assert not declared & {"torchvision", "timm"}


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    explained = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    wanted = [*project["dependencies"], *(r for group in project["optional-dependencies"].values() for r in group)]
    names = {re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in wanted}
    assert {name for name in names if f"| {name} |" not in explained} == set()


@pytest.mark.parametrize("module", ["cad2pose", "cad2pose.cli"])
def test_importing_the_front_door_loads_nothing_heavy(module: str) -> None:
    """`cad2pose --help` answers at once: torch, numba and tyro are loaded by the commands that need them."""
    program = f"import sys, {module}; print(*sorted(m for m in sys.modules if '.' not in m))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numba", "numpy", "tyro", "cv2", "torchvision", "timm"} & set(out)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("numba_*.py")), ids=lambda path: path.stem)
def test_compiled_kernels_take_nothing_from_other_files(path: Path) -> None:
    """Compiled code is kept on disk until its own file changes, so a constant of another file would go stale."""
    taken = {name for _, name in imports_of(path.read_text(encoding="utf-8")) if name.startswith("cad2pose")}
    assert taken == {"cad2pose.cpu_kernels.compiled"}

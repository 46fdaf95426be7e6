"""Settings as JSON and back; folders that belong to settings: whose they are, and when they are free."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from cad2pose.methods import QueryConfig
from cad2pose.parts.fingerprint import describe_part
from cad2pose.settings import describe, folder_holds, read_settings
from small_models import SMALL, wedge

SETTINGS = {"seed": 1}


def held(folder: Path) -> bool:
    return folder_holds(folder, "config.json", SETTINGS, "training run")


def test_a_folder_holds_its_settings_or_is_another_ones(tmp_path):
    assert not held(tmp_path / "new")
    assert not held(tmp_path)
    assert not (tmp_path / "new").exists()
    (tmp_path / "config.json").write_text('{"seed": 1}')
    assert held(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": 2}')
    with pytest.raises(ValueError, match=r"another training run.*seed \(there: 2, now: 1\)"):
        held(tmp_path)


def test_leftovers_of_a_killed_writer_leave_a_folder_free(tmp_path):
    (tmp_path / ".cad2pose-config-ab12_c3d.json").write_text('{"se')
    assert not held(tmp_path)
    (tmp_path / ".cad2pose-notes.txt").touch()  # a user's
    with pytest.raises(ValueError, match="not empty and holds no training run"):
        held(tmp_path)


@dataclass(frozen=True)
class Inner:
    name: str = "x"
    pair: tuple[int, float] = (1, 2.0)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    kind: Literal["a", "b"] = "a"
    many: tuple[str, ...] = ()
    flag: bool = False
    count: int | None = None


@pytest.mark.parametrize(
    "config",
    [
        QueryConfig(), QueryConfig.full(), SMALL, Outer(),
        Outer(Inner("ü", (3, 0.1)), Inner(), "b", ("p", "q"), True, 3),
    ],
)  # fmt: skip
def test_configs_survive_json(config):
    assert read_settings(type(config), json.loads(json.dumps(describe(config)))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surplus": 1}, "unknown fields.*surplus"),
        ({"flag": 1}, "config.flag"),
        ({"count": True}, "config.count"),
        ({"kind": "c"}, "one of"),
        ({"many": "pq"}, "config.many"),
        ({"inner": {"name": "x", "pair": [1]}}, "1 entries"),
        ({"inner": {"name": "x"}}, "lacks.*pair"),
        ({"inner": None}, "config.inner"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change, message):
    content = describe(Outer())
    assert isinstance(content, dict)
    with pytest.raises(ValueError, match=message):
        read_settings(Outer, content | change)


def test_settings_of_older_files_get_what_was_before():
    content = describe(Outer(inner=Inner("y")))
    del content["inner"]["pair"], content["count"]
    before = {"Inner": {"pair": [3, 0.5]}, "Outer": {"count": 4}}
    assert read_settings(Outer, content, before=before) == Outer(inner=Inner("y", (3, 0.5)), count=4)
    with pytest.raises(ValueError, match=r"config of Outer .*lacks \['count'\]"):
        read_settings(Outer, content, before={"Inner": before["Inner"]})


def test_a_part_is_known_by_its_colours_too():
    plain = wedge()
    red, blue = (replace(plain, mesh=replace(plain.mesh, colors=color)) for color in (
        torch.tensor([1.0, 0, 0]).expand(len(plain.mesh.vertices), 3).contiguous(),
        torch.tensor([0, 0, 1.0]).expand(len(plain.mesh.vertices), 3).contiguous(),
    ))  # fmt: skip
    known = {describe_part(part)["mesh_sha256"] for part in (plain, red, blue)}
    assert len(known) == 3

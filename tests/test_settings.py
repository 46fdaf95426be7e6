"""Folders that belong to settings: whose they are, and when they are free."""

from __future__ import annotations

from pathlib import Path

import pytest

from cad2pose.settings import folder_holds

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

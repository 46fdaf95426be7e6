"""Files are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cad2pose.files import borrowed, check_file, check_folder, remove_leftovers, replacing, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_text_and_bytes_arrive_whole_in_folders_that_were_missing(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "note.txt", "Größe: 5 µm\n")
    write_bytes(tmp_path / "a" / "b" / "data.bin", bytes(range(256)))
    assert (tmp_path / "a" / "b" / "note.txt").read_text(encoding="utf-8") == "Größe: 5 µm\n"
    assert (tmp_path / "a" / "b" / "data.bin").read_bytes() == bytes(range(256))
    assert names(tmp_path / "a" / "b") == ["data.bin", "note.txt"]


def test_the_temporary_path_keeps_the_suffix_and_lies_beside(tmp_path: Path) -> None:
    with replacing(tmp_path / "picture.png") as aside:
        assert aside.suffix == ".png"
        assert aside.parent == tmp_path
        assert aside.name != "picture.png"
        assert not (tmp_path / "picture.png").exists()
        aside.write_bytes(b"png")
    assert names(tmp_path) == ["picture.png"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("before", [b"old", None])
def test_a_failure_in_the_block_leaves_what_was_there(
    tmp_path: Path, failure: BaseException, before: bytes | None
) -> None:
    target = tmp_path / "results.csv"
    if before is not None:
        target.write_bytes(before)
    with pytest.raises(type(failure)), replacing(target) as aside:
        aside.write_bytes(b"half")
        raise failure
    assert names(tmp_path) == ([] if before is None else ["results.csv"])
    assert before is None or target.read_bytes() == before


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model.safetensors"
    write_bytes(target, b"old")
    real_write = Path.write_bytes

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    def half_written(path: Path, data: bytes) -> None:
        real_write(path, data[: len(data) // 2])
        full_disk()

    if step == "write":
        monkeypatch.setattr(Path, "write_bytes", half_written)
    elif step == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    else:
        monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(target, b"new and longer")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["model.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' always full device")
def test_a_truly_full_device_raises_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"), replacing(tmp_path / "out.txt") as aside:
        aside.unlink()
        aside.symlink_to("/dev/full")
        aside.write_text("x" * 100_000)
    assert names(tmp_path) == []


def test_a_folder_in_the_way_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(IsADirectoryError, match=r"out\.csv is a folder"):
        write_text(tmp_path / "out.csv", "x")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "out.csv", "x")
    assert names(tmp_path) == ["file", "out.csv"]
    assert (tmp_path / "file").read_text() == "kept"


def test_folders_made_for_a_file_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "there" / "a" / "b" / "out.txt") as aside:
        assert aside.parent.is_dir()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["there"]
    assert names(tmp_path / "there") == []


def test_an_error_while_writing_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left: '.*results\.csv'"), replacing(tmp_path / "results.csv"):
        raise OSError(errno.ENOSPC, "No space left")


def test_a_folder_is_checked_before_there_is_anything_to_write(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "not" / "there" / "yet")
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(NotADirectoryError, match=r"file is a file, so nothing can be written into the folder"):
            check_folder(path)
    assert names(tmp_path) == ["file"]


def test_permissions_are_those_of_an_ordinary_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "ours", "x")
        (tmp_path / "ordinary").write_text("x")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "ordinary")}
    assert modes == {0o640}


def test_very_long_names_work_as_far_as_the_system_allows_them(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 250 + ".txt"), "x")
    assert len(names(tmp_path)) == 1


def test_killed_while_writing_the_old_file_survives(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint.bin"
    write_bytes(target, b"old")
    program = (
        "import os, signal, sys\n"
        "from cad2pose.files import replacing\n"
        "with replacing(sys.argv[1]) as aside:\n"
        "    aside.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["checkpoint.bin"]


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    kept = [tmp_path / "a" / "000000.png", tmp_path / ".hidden" / "b-12345678.json", tmp_path / ".gitignore"]
    kept += [tmp_path / ".photos-20240311.zip", tmp_path / "a" / ".notes-settings.json"]  # a user's
    for path in (*kept, tmp_path / "a" / ".cad2pose-000000-a1b2_c3d.png", tmp_path / ".cad2pose-config-abcdefgh"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_the_last_to_leave_a_borrowed_folder_removes_it(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "crops"
    with borrowed(folder):
        (folder / "one").write_text("1")
        with borrowed(folder):
            pass
        assert (folder / "one").is_file(), "it is still in use"
        with pytest.raises(ZeroDivisionError), borrowed(folder):
            raise ZeroDivisionError
    assert not folder.exists()
    with pytest.raises(ZeroDivisionError), borrowed(folder):
        (folder / "one").write_text("1")
        raise ZeroDivisionError
    assert (folder / "one").is_file(), "a stopped run finds it again"


def test_what_a_link_points_to_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "model.bin", tmp_path / "latest.bin"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "made" / "later")
    write_bytes(dangling, b"here")
    assert (tmp_path / "made" / "later").read_bytes() == b"here"


def test_devices_and_pipes_are_written_to_and_stay(tmp_path: Path) -> None:
    write_text("/dev/null", "nobody reads this")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    check_file(null)
    write_text(null, "nor this")
    assert null.is_symlink()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "read me")
        assert os.read(reader, 100) == b"read me"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["null", "pipe"]
    code = "from cad2pose.files import write_text; print('1'); write_text('/dev/stdout', '2'); print('3')"
    out = tmp_path / "out.txt"
    with out.open("w") as stdout:
        subprocess.run([sys.executable, "-uc", code], stdout=stdout, check=True)
    assert "3" in out.read_text(), "the file that stdout goes to was not swapped for another"


def test_files_that_cannot_be_are_found_out_early(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(IsADirectoryError, match="folder is a folder, but a file is to be written there"):
        check_file(tmp_path / "folder")
    with pytest.raises(NotADirectoryError, match="file is a file, so nothing can be written"):
        check_file(tmp_path / "file" / "deeper")
    check_file("/dev/stdout")
    check_file(tmp_path / "new" / "file")
    assert names(tmp_path) == ["file", "folder"]

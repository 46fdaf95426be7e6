"""Writing files so that nothing is ever half written: write aside, flush, then rename."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no locks of folders
    fcntl = None  # type: ignore[assignment]

_MARK = ".cad2pose-"
_OPEN, _OPEN_IN = ("/dev/stdout", "/dev/stderr"), ("/dev/fd/", "/proc/")
_ASIDE = re.compile(re.escape(_MARK) + r".*-[a-z0-9_]{8}(\.\w+)?")  # the names that `_aside` makes


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep another process out of a folder, which is made, while this one writes into it; not on Windows.

    Raises:
        ValueError: if another one is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is writing into {folder}; wait for it, or stop it") from None
        yield
    finally:
        os.close(handle)


@contextmanager
def borrowed(folder: Path) -> Iterator[None]:
    """Use a folder, which is made, together with other processes: the last to leave removes it.

    When the block raises, or where a process was killed, it stays, for the next to find. (On Windows, where folders
    have no locks, the first to leave removes it; what is in it must be such that it can be made again.)
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None and handle is not None:
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
        if fcntl is not None and handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it takes the place of `path`.

    When the block raises (a full disk, Ctrl-C), the temporary file is removed and `path` is as it was.
    The temporary name keeps the suffix, which image writers go by. Missing folders are made, and unmade on failure.
    What a link points to is replaced, not the link; devices and pipes are written to, and stay.

    Raises:
        OSError: if it cannot be written; the error names `path`.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, but a file is to be written there")
    if _is_special(path):
        with tempfile.TemporaryDirectory() as folder:
            aside = Path(folder) / f"written{path.suffix}"
            yield aside
            with aside.open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return
    path = Path(os.path.realpath(path))
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        check_folder(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _aside(path) as aside:
            yield aside
    except BaseException as error:
        for folder in made:
            with suppress(OSError):  # something else may be in it by now
                folder.rmdir()
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _is_special(path: Path) -> bool:
    """Whether it is a device, a pipe, or a name of an open file (/dev/stdout), which no other file may replace."""
    named = str(path.absolute())
    return (path.exists() and not path.is_file()) or named in _OPEN or named.startswith(_OPEN_IN)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` in the end, and is gone in any case."""
    handle, name = tempfile.mkstemp(prefix=f"{_MARK}{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with aside.open("r+b") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~umask)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def visible_files(folder: Path | str, pattern: str = "*") -> list[Path]:
    """The files of a folder that match, by name; hidden ones (of killed writers, or a Mac's) left out."""
    return sorted(path for path in Path(folder).glob(pattern) if not path.name.startswith(".") and path.is_file())


def is_leftover(path: Path) -> bool:
    """Whether a file is a temporary one, of a writer that is at it or was killed."""
    return _ASIDE.fullmatch(path.name) is not None and path.is_file()


def remove_leftovers(folder: Path | str) -> None:
    """Remove the temporary files of writers that were killed, to any depth; nobody may be writing there."""
    for path in [path for path in Path(folder).rglob(f"{_MARK}*") if is_leftover(path)]:
        path.unlink(missing_ok=True)


def check_folder(path: Path | str) -> None:
    """Find out early that results cannot be written into a folder, which need not be there yet.

    Raises:
        OSError: if a file is in its place, or it may not be written to.
    """
    path = Path(path)
    nearest = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), path)
    if not nearest.is_dir():
        raise NotADirectoryError(f"{nearest} is a file, so nothing can be written into the folder {path}")
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"{nearest} is not writable, so nothing can be written into the folder {path}")


def check_file(path: Path | str) -> None:
    """Find out early that a file cannot be written.

    Raises:
        OSError: if a folder is in its place, or its folder may not be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, but a file is to be written there")
    if not _is_special(path):
        check_folder(Path(os.path.realpath(path)).parent)


def write_text(path: Path | str, text: str) -> None:
    """Write a whole text file (UTF-8), or leave what was there."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a whole file, or leave what was there."""
    with replacing(path) as aside:
        aside.write_bytes(data)


def file_digest(path: Path) -> str:
    """What tells the content of a file from another: `sha256:...`.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()

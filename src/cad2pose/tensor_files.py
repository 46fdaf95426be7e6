"""Tensors and a header in one safetensors file, or in several where one would be too large.

Several files are named as is usual: NAME-00001-of-00003.safetensors. The first has the header; all of them name the set
that they belong to, so that files of two models cannot be mixed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from cad2pose.files import visible_files, write_bytes

_SUFFIX = ".safetensors"
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_SET = "set"
_HEADER_BYTES = 4096  # what a file has beside its tensors, at the least


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], most_bytes: int | None = None
) -> tuple[Path, ...]:
    """Write `path`, or numbered files beside it of at most so many bytes; each whole or not at all.

    Files that an earlier model of this name had, and this one has not, are removed.

    Args:
        path: NAME.safetensors.
        tensors: by name.
        metadata: the header, in the only or first file.
        most_bytes: of a file; None: one file of any size.

    Returns:
        What was written.

    Raises:
        ValueError: if a single tensor is larger than that, or `path` is one of several files.
        OSError: if something cannot be written.
    """
    if is_numbered(path):
        raise ValueError(f"{path} is one file of several; give the model's name without the numbers")
    whole = serialize(dict(tensors), dict(metadata))
    if most_bytes is None or len(whole) <= most_bytes:
        written: tuple[Path, ...] = (path,)
        write_bytes(path, whole)
    else:
        piles = _piles(tensors, most_bytes - _HEADER_BYTES - sum(map(len, metadata.values())))
        identity = hashlib.sha256(whole).hexdigest()
        stem = path.name.removesuffix(_SUFFIX)
        written = tuple(
            path.with_name(f"{stem}-{i:05d}-of-{len(piles):05d}{_SUFFIX}") for i in range(1, len(piles) + 1)
        )
        for number, (file, pile) in enumerate(zip(written, piles, strict=True)):
            write_bytes(file, serialize(pile, {**(metadata if number == 0 else {}), _SET: identity}))
    for old in (path, *numbered_files(path)):
        if old not in written:
            old.unlink(missing_ok=True)
    return written


def _piles(tensors: Mapping[str, Tensor], most_bytes: int) -> list[dict[str, Tensor]]:
    piles: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        needed = tensor.numel() * tensor.element_size() + 200  # its entry in the file's own header
        if needed > most_bytes:
            raise ValueError(f"{name} alone takes {needed:,} bytes, and files are to have {most_bytes:,} at most")
        if size + needed > most_bytes:
            piles.append({})
            size = 0
        piles[-1][name] = tensor
        size += needed
    return piles


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a file, or of all files of the set that it belongs to, whichever of them is named.

    Raises:
        FileNotFoundError: if there is no such file, or one of the set is missing.
        ValueError: if one is no safetensors file, or of another set.
    """
    files = _all_of(path)
    metadata, tensors = _read(files[0])
    for file in files[1:]:
        others, more = _read(file)
        if others.get(_SET) != metadata.get(_SET):
            raise ValueError(f"{file} and {files[0].name} are of different models; copy all files of one")
        tensors |= more
    return metadata, tensors


def is_numbered(path: Path) -> bool:
    """Whether a file is, by its name, one of several."""
    return _NUMBERED.fullmatch(path.name) is not None


def first_file(path: Path) -> Path:
    """The file that has the header: `path` itself, the first of its set, or NAME-00001-of-... where NAME is asked for.

    Raises:
        FileNotFoundError: if there is none.
    """
    return _all_of(path)[0]


def first_files(folder: Path) -> list[Path]:
    """Files of a folder that have a header of their own: single ones, and the first of every set."""
    numbers = {file: _NUMBERED.fullmatch(file.name) for file in visible_files(folder, f"*{_SUFFIX}")}
    return [file for file, match in numbers.items() if match is None or int(match[2]) == 1]


def _all_of(path: Path) -> list[Path]:
    match = _NUMBERED.fullmatch(path.name)
    if match is None and not path.is_file() and (found := numbered_files(path)):
        match = _NUMBERED.fullmatch(found[0].name)
    if match is None:
        if not path.is_file():
            raise FileNotFoundError(f"there is no model file {path}")
        return [path]
    files = [path.with_name(f"{match[1]}-{i:05d}-of-{match[3]}{_SUFFIX}") for i in range(1, int(match[3]) + 1)]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise FileNotFoundError(f"the model {path} is in {len(files)} files; missing: {', '.join(missing)}")
    return files


def numbered_files(path: Path) -> list[Path]:
    """The files of several that have a name, in their order."""
    stem = path.name.removesuffix(_SUFFIX)
    found = [(_NUMBERED.fullmatch(file.name), file) for file in visible_files(path.parent, f"*{_SUFFIX}")]
    return [file for match, file in found if match is not None and match[1] == stem]


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: the file is truncated or not a cad2pose model ({error})") from error

"""Settings: checks, to and from JSON values, what differs between two of them, and folders that belong to some."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cad2pose.files import check_folder, is_leftover

_NAMED = 5  # differences in an error
Before = Mapping[str, Mapping[str, Any]]
"""Settings of classes by their names."""


def check_positive(settings: object, *names: str) -> None:
    """Raise ValueError, by its name, for a setting that is not a positive, finite number."""
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise ValueError(f"{name} is {getattr(settings, name)}; it must be positive and finite")


def describe(settings: Any) -> Any:
    """Dataclasses, paths and tensors as plain JSON values."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {f.name: describe(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {str(key): describe(value) for key, value in settings.items()}
    if isinstance(settings, torch.Tensor):
        return settings.tolist()
    if isinstance(settings, (list, tuple)):
        return [describe(value) for value in settings]
    return settings if isinstance(settings, (str, int, float, bool, type(None))) else str(settings)


def read_settings(kind: Any, value: Any, name: str = "config", before: Before | None = None) -> Any:
    """Inverse of `describe` for dataclasses of str, int, float, bool, None, tuples of them, and each other.

    Args:
        kind: the dataclass, or the type of a field.
        value: JSON values.
        name: of the value, for errors.
        before: by the names of classes, settings that older files lack, and what was before.

    Raises:
        ValueError: for fields that are unknown or missing, and values of another type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, value, name, before or {})
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return read_settings(inner, value, name, before)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{name} is {value!r}; it must be one of {arguments}")
        return value
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise ValueError(f"{name} has {len(value)} entries; it must have {len(kinds)}")
        pairs = zip(kinds, value, strict=True)
        return tuple(read_settings(item, part, f"{name}[{i}]", before) for i, (item, part) in enumerate(pairs))
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ValueError(f"{name} is {value!r}; it must be of type {getattr(kind, '__name__', kind)}")


def _read_dataclass(kind: type, value: Any, name: str, before: Before) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}; it must have the fields of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    value = {**before.get(kind.__name__, {}), **value}
    unknown, missing = sorted(set(value) - set(fields)), sorted(set(fields) - set(value))
    if unknown or missing:
        raise ValueError(f"{name} of {kind.__name__} has unknown fields {unknown} and lacks {missing}")
    return kind(**{key: read_settings(hints[key], value[key], f"{name}.{key}", before) for key in fields})


def differences(present: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two sets of JSON values differ, and how, one line each."""
    if isinstance(present, dict) and isinstance(wanted, dict):
        keys = present.keys() | wanted.keys()
        lists = [differences(present.get(k), wanted.get(k), f"{name}.{k}" if name else k) for k in keys]
        return [text for texts in lists for text in texts]
    if present == wanted:
        return []
    return [f"{name} (there: {str(present)[:60]}, now: {str(wanted)[:60]})"]


def folder_holds(folder: Path, file: str, settings: Any, kind: str) -> bool:
    """Whether a folder holds what these settings describe; False where it is free for it. Writes nothing.

    A folder is free that is not there, or holds nothing but temporary files of writers that were killed.

    Args:
        folder: need not be there.
        file: name of the JSON file in it that has the settings.
        settings: as `describe` gives them.
        kind: what the folder holds, for errors: "training run".

    Raises:
        ValueError: if it holds one with other settings, naming what differs, or anything else.
        OSError: if it cannot be written into.
    """
    path = folder / file
    if path.is_file():
        try:
            present = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not readable JSON ({error}); give another folder") from error
        if differing := sorted(differences(present, json.loads(json.dumps(settings)))):
            raise ValueError(
                f"{folder} holds another {kind}; it differs in {'; '.join(differing[:_NAMED])}. "
                "Give the same settings to go on with it, or another folder"
            )
        return True
    check_folder(folder)
    if folder.exists() and not all(map(is_leftover, folder.iterdir())):
        raise ValueError(f"{folder} is not empty and holds no {kind}; give another folder")
    return False

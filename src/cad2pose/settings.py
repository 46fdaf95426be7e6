"""Settings: their checks, as plain JSON values, what differs between two of them, and folders that belong to some."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cad2pose.files import check_folder, is_leftover

_NAMED = 5  # differences in an error


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

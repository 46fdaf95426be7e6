"""Settings as plain JSON values, and what differs between two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch


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

"""Checks that settings of several methods share; each names the setting, what it is, and what it may be."""

from __future__ import annotations

from typing import Any, get_args


def check_named(name: str, value: object, kind: Any) -> None:
    """Raise ValueError unless a setting is one of the names that its Literal lists."""
    if value not in get_args(kind):
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, get_args(kind)))}")


def check_pad(pad: float) -> None:
    """Raise ValueError unless a crop is at least as large as its box, and finite."""
    if not 1 <= pad < float("inf"):
        raise ValueError(f"pad is {pad}; it must be at least 1 (the box must fit in the crop)")

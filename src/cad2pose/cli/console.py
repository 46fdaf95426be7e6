"""Where commands print to."""

from __future__ import annotations

from rich.console import Console


def plain_console(stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints names of files and parts as they are, whatever brackets or colons are in them."""
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False)

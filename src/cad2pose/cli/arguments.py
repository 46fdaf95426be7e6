"""Kinds of arguments that several commands take, as their help shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
ObjectIds = Annotated[tuple[int, ...], tyro.conf.arg(metavar="ID [ID ...]", help_behavior_hint="")]
Sources = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MESH... | BOP-DIR", help_behavior_hint="")
]

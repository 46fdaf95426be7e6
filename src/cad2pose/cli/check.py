"""`cad2pose check`: is a BOP folder complete?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import track

from cad2pose.cli.console import plain_console
from cad2pose.data.bop import find_dataset
from cad2pose.data.check import check_bop


def check_command(
    bop: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BOP-DIR")],
    /,
    splits: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SPLIT [SPLIT ...]", help_behavior_hint="")] = (),
) -> int:
    """Check a BOP folder and name everything in it that is missing or broken.

    Json files, cameras, annotations, models, targets; every image is decoded and its size compared with its camera.
    The exit status is 1 if there is any problem.

    Args:
        bop: folder of the BOP dataset, or the name of one in BOP_PATH.
        splits: look at these splits only (test, train_pbr, ...).
    """
    console = plain_console()
    progress = plain_console(stderr=True)

    def show(images: Sequence[int], name: str) -> Iterable[int]:
        return track(images, description=name, console=progress, transient=True, disable=not progress.is_terminal)

    folder = find_dataset(bop)
    found = check_bop(folder, splits or None, show)
    for line in found.summary:
        console.print(line, highlight=False, soft_wrap=True)
    for problem in found.problems:
        console.print(problem, style="red", highlight=False, soft_wrap=True)
    count = len(found.problems)
    verdict = f"{folder}: {count} problem{'s' * (count != 1)}" if count else f"{folder}: nothing is missing or broken"
    console.print(verdict, style="bold red" if count else "bold green", highlight=False, soft_wrap=True)
    return 1 if count else 0

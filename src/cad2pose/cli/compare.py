"""`cad2pose compare`: methods on equal terms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from cad2pose.cli.arguments import ObjectIds, OptionalPath, Sources
from cad2pose.cli.console import plain_console
from cad2pose.cli.crop_style import CropStyle
from cad2pose.cli.sources import find_parts, find_start
from cad2pose.cli.symmetry_remark import symmetry_remarks
from cad2pose.devices import device_name, pick_device, use_threads
from cad2pose.experiments import ComparisonConfig, compare, finished, write_report
from cad2pose.parts.mesh import Units

_COMPARISON, _STYLE = ComparisonConfig(), CropStyle()


def compare_command(
    source: Sources,
    /,
    out: Path,
    comparison: Annotated[ComparisonConfig, tyro.conf.arg(name="")] = _COMPARISON,
    objects: ObjectIds = (),
    units: Units = "mm",
    models_info: OptionalPath = None,
    style: Annotated[CropStyle, tyro.conf.arg(name="")] = _STYLE,
    start: OptionalPath = None,
    device: str = "auto",
    threads: int = 1,
) -> int:
    """Train methods on the same parts, crops, budget and seeds, and judge them by the same code.

    The folder gets a run for every part, contestant and seed, and comparison.md, comparison.json and plots, renewed
    after every run. The same command goes on where it was stopped; with more contestants or seeds it does only what is
    new. Several processes may share a folder, as long as no two make the same run.

    Args:
        source: mesh files, built-in parts (bracket, nut, bushing, disc; builtin for all four), or one BOP folder; every
            part gets models of its own.
        out: the folder.
        comparison: what is the same for all.
        objects: ids of the BOP folder's objects; all of them by default. For mesh files: their ids, in order.
        units: units of the mesh files.
        models_info: BOP models_info.json with the symmetries of the mesh files, by their ids.
        style: what the training crops are like; `cad2pose preview` shows it.
        start: model file, run folder or builtin, that all contestants start from, to see what differs after some
            further training.
        device: auto (CUDA where there is one), cpu, cuda, cuda:1, ...
        threads: torch threads.
    """
    use_threads(threads)
    where = pick_device(device)
    console = plain_console()
    parts = find_parts(source, objects, units, models_info)
    for remark in symmetry_remarks(parts):
        console.print(f"warning: {remark}", soft_wrap=True, highlight=False)
    compare(
        parts, comparison, out, where, style.settings(),
        lambda text: console.print(text, soft_wrap=True, highlight=False),
        lambda: write_report(finished(out), comparison, out, device_name(where)), find_start(start) if start else None,
    )  # fmt: skip
    page = write_report(finished(out), comparison, out, device_name(where))
    console.print(page.read_text(), soft_wrap=True, highlight=False)
    return 0

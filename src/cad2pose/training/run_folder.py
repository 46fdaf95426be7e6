"""The folder of a training run: settings, versions, curves."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

import cad2pose
from cad2pose.files import write_text
from cad2pose.parts.fingerprint import describe_part
from cad2pose.settings import describe, folder_holds
from cad2pose.training.run import Run

SETTINGS = "config.json"
CURVES = "curves.jsonl"
MODEL = "model.safetensors"


class RunFolder:
    """Settings are written once and must be the same when a run goes on; curves are lines of JSON."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, run: Run) -> bool:
        """Whether the folder holds this very run already; False where it is free for it. Writes nothing.

        Raises:
            ValueError: if it holds a run with other settings, naming what differs, or anything else.
            OSError: if it cannot be written into.
        """
        return folder_holds(self.path, SETTINGS, _described(run), "training run")

    def claim(self, run: Run) -> None:
        """Make the folder this run's own, or check that it already is; raises as `check`."""
        if self.check(run):
            return
        versions = {
            "cad2pose": cad2pose.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "platform": platform.platform(),
        }
        write_text(self.path / SETTINGS, json.dumps(_described(run), indent=1))
        write_text(self.path / "versions.json", json.dumps(versions, indent=1))

    def drop_curves_after(self, step: int) -> None:
        """Forget what was logged after the checkpoint a run goes on from."""
        if (self.path / CURVES).exists():
            kept = [line for line in self.curves() if line["step"] <= step]
            write_text(self.path / CURVES, "".join(json.dumps(line) + "\n" for line in kept))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to the curves."""
        with (self.path / CURVES).open("a") as stream:
            stream.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")

    def curves(self) -> list[dict[str, int | float]]:
        """All lines logged so far; one that was cut short by a kill is left out."""
        file = self.path / CURVES
        lines = []
        for text in file.read_text().splitlines() if file.exists() else ():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "step" in line:
                lines.append(line)
        return lines

    def last_validation(self) -> dict[str, float]:
        """Figures of the last validation, by their names in there; nothing before the first."""
        begin = "validation/"
        for line in reversed(self.curves()):
            if found := {name.removeprefix(begin): value for name, value in line.items() if name.startswith(begin)}:
                return found
        return {}


def _described(run: Run) -> dict[str, Any]:
    """Settings that change nothing and that older runs lack are left out, so that those go on."""
    described = {"parts": [describe_part(part) for part in run.parts], **describe(run.settings())}
    if not run.training.curriculum:
        described["training"] = {k: v for k, v in described["training"].items() if k != "curriculum"}
    return described

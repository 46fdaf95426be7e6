"""Checkpoints from which a run goes on exactly where it was."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from cad2pose.files import replacing
from cad2pose.methods import Method
from cad2pose.training.processes import Processes

CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint_previous.pt"


def _check_sums(path: Path) -> None:
    """Raise ValueError for a file whose content is not what was written, which torch does not look at."""
    with zipfile.ZipFile(path) as whole:
        if damaged := whole.testzip():
            raise ValueError(f"{damaged} is damaged")


def _on_host(record: Any) -> Any:
    if isinstance(record, torch.Tensor):
        return record.cpu()
    if isinstance(record, dict):
        return {key: _on_host(value) for key, value in record.items()}
    return [_on_host(value) for value in record] if isinstance(record, (list, tuple)) else record


@dataclass
class TrainingState:
    """Everything that changes while training; data and random draws follow from the step alone.

    Attributes:
        method, average, optimizer: what learns, the average of its weights, and what moves them.
        fresh: modules that the model which the run starts from has no weights for, where there is one.
        step, seconds: how far it is.
    """

    method: Method
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    fresh: tuple[str, ...] = ()
    step: int = 0
    seconds: float = 0.0

    def save(self, folder: Path) -> None:
        """Write `checkpoint.pt`; the one before it is kept as `checkpoint_previous.pt`."""
        whole = io.BytesIO()  # torch itself answers a full disk with an obscure RuntimeError
        torch.save(self._record(), whole)
        with replacing(folder / CHECKPOINT) as aside:
            aside.write_bytes(whole.getbuffer())
            if (folder / CHECKPOINT).exists():
                (folder / CHECKPOINT).replace(folder / PREVIOUS)

    def restore(self, folder: Path) -> bool:
        """Take up the newest readable checkpoint of a run folder, on whatever device; False where there is none.

        It is read on the host, from where everything goes to where it is used.

        Raises:
            ValueError: if checkpoints are there but none can be read.
        """
        failures = []
        for name in (CHECKPOINT, PREVIOUS):
            path = folder / name
            if not path.exists():
                continue
            try:
                _check_sums(path)
                record: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                self._take(record)
                return True
            except Exception as error:  # what a damaged pickle raises is anybody's guess
                failures.append(f"{name}: {error}")
        if failures:
            raise ValueError(
                f"no checkpoint in {folder} can be read ({'; '.join(failures)}); train into another folder"
            )
        return False

    def share(self, processes: Processes) -> None:
        """Take over the first process's state in all of them."""
        if processes.size > 1:
            # on the host, or all processes of a machine would put it where the first one has its own
            record = processes.from_first(_on_host(self._record()) if processes.first else None)
            if not processes.first:
                self._take(record)

    def _record(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "method": self.method.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _take(self, record: dict[str, Any]) -> None:
        self.method.load_state_dict(record["method"])
        self.average.load_state_dict(record["average"])
        self.optimizer.load_state_dict(record["optimizer"])
        self.step, self.seconds = int(record["step"]), float(record["seconds"])

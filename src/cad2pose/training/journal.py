"""What is kept of a run while it goes on: curves, pictures, checkpoints, the model file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from cad2pose.devices import device_name
from cad2pose.methods import Method
from cad2pose.model_file import DEPTH_ERRORS, IMAGES, load_model, save_model
from cad2pose.structures import CropBatch, CropSource
from cad2pose.training.checkpoint import TrainingState
from cad2pose.training.run import Run
from cad2pose.training.run_folder import MODEL, RunFolder
from cad2pose.training.run_pictures import save_predictions
from cad2pose.training.truth_pictures import AGAINST_TRUTH, WorstBatch, save_against_truth
from cad2pose.training.validation import validate

_LOG_EVERY = 50
_SHOWN = 12


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows."""

    step: int
    steps: int
    crops_per_second: float
    losses: Mapping[str, float]
    errors: Mapping[str, float]


class Journal:
    """Kept by the first process, one entry after every step. Left without an exception, it ends with a checkpoint.

    Args:
        run: what is trained.
        state: how far it is.
        out: the run folder.
        crops: what the averaged weights are judged on.
        last: step after which this call stops.
        report: called every 50 steps and after the last.
        judged: called after every validation and at the end, when curves and pictures are written.
    """

    def __init__(
        self,
        run: Run,
        state: TrainingState,
        out: Path,
        crops: CropSource,
        last: int,
        report: Callable[[Progress], None],
        judged: Callable[[], None],
    ) -> None:
        self.run, self.state, self.folder, self.crops, self.last = run, state, RunFolder(out), crops, last
        self.report, self.judged = report, judged
        self.worst = WorstBatch()
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=state.step + 1)
        self._validate_every = max(1, run.training.steps // max(1, run.training.validations))
        self._saved = self._logged = time.monotonic()
        self._begun, self._counted = self._saved - state.seconds, state.step
        self._first = state.step
        self._errors: dict[str, float] = {}

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            if self.state.step > self._first or self._crops_of_model() != self._crops_seen():
                self._save()  # a finished run's model stays as it is, and what was learnt of its scores since
            self.judged()

    def entry(self, terms: Mapping[str, Tensor], batch: CropBatch, stopping: bool = False) -> None:
        """After a step: its losses, and crops that it learnt from; what takes long is left out when it is stopping."""
        step, training, now = self.state.step, self.run.training, time.monotonic()
        self.state.seconds = now - self._begun
        if step % _LOG_EVERY == 0 or step == self.last:
            values = {name: float(term) for name, term in terms.items()}
            rate = (step - self._counted) * training.batch_size / (now - self._logged)
            self._logged, self._counted = now, step
            self._log(values | {"crops_per_second": rate, "seconds": self.state.seconds})
            self._check_finite()
            self.report(Progress(step, training.steps, rate, values, self._errors))
            self.worst.see(step, values["total"], batch)
        if (step % self._validate_every == 0 and not stopping) or step == training.steps:
            self._errors = self._judge()
            self._log({f"validation/{name}": error for name, error in self._errors.items()})
            self.judged()
        if now - self._saved > 60 * training.checkpoint_minutes and not stopping:
            self._save()
            self._saved = time.monotonic()

    def _check_finite(self) -> None:
        """Raise ValueError before weights that are no numbers take the place of those of the last checkpoint."""
        tensors = [*self.state.method.parameters(), *self.state.method.buffers()]
        fractions = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
        norms = torch._foreach_norm(fractions)  # pyright: ignore[reportPrivateImportUsage]
        if bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all()):
            return
        raise ValueError(
            f"the network is no longer made of finite numbers after step {self.state.step}; {self.folder.path} still "
            "has the checkpoint and the model of before. Train into another folder with lower rates (--learning-rate, "
            "--key-learning-rate), and look whether the crops are as they should be (cad2pose preview)"
        )

    def _judge(self) -> dict[str, float]:
        """Validate, and show what the averaged weights say."""
        self._check_finite()
        method, parts, out = self._averaged(), self.run.parts, self.folder.path
        figures = validate(method, self.crops, self.run.training.validation_crops * len(parts), self.run.training)
        shown = self.crops.batch(0, _SHOWN)
        save_predictions(out / "predictions.png", method, shown)
        save_against_truth(out / AGAINST_TRUTH, method, shown, parts)
        self.worst.save(out, method, parts)
        values = figures.medians()
        if len(parts) > 1:
            for index, part in enumerate(parts):
                values |= {f"{part.name}/{name}": value for name, value in figures.medians(index).items()}
        return values

    def _log(self, values: Mapping[str, float]) -> None:
        self.folder.log(self.state.step, values)
        for name, value in values.items():
            self._writer.add_scalar(name if "/" in name else f"training/{name}", value, self.state.step)

    def _save(self) -> None:
        """Model file, then checkpoint: a run that ends in between renews both."""
        self._check_finite()
        info = {
            "samples": str(self._crops_seen()),
            "seconds": f"{self.state.seconds:.0f}",
            "device": device_name(self.run.device),
        }
        before, depth = self.run.samples_before(), self._depth_errors()
        if before is not None:
            info["samples_before"] = str(before)
        if images := self.run.images_seen():
            info[IMAGES] = images
        if depth:
            info[DEPTH_ERRORS] = " ".join(f"{error:.2f}" for error in depth)
        save_model(self.folder.path / MODEL, self._averaged(), self.run.parts, info)
        self.state.save(self.folder.path)

    def _crops_seen(self) -> int:
        return self.state.step * self.run.training.batch_size

    def _crops_of_model(self) -> int | None:
        """What the model file that is there has seen; None where there is none that can be read."""
        try:
            return int(load_model(self.folder.path / MODEL, beside=False).info["samples"])
        except (OSError, ValueError):
            return None

    def _depth_errors(self) -> list[float]:
        """Median depth error of every part's regressed poses when last validated, %; none where none was judged."""
        parts = self.run.parts
        names = [f"{part.name}/depth_percent" for part in parts] if len(parts) > 1 else ["depth_percent"]
        keys = [f"validation/{name}" for name in names]
        judged = [line for line in self.folder.curves() if line.keys() >= set(keys)]  # a part may have had no crop
        return [float(judged[-1][key]) for key in keys] if judged else []

    def _averaged(self) -> Method:
        averaged = self.state.average.module
        assert isinstance(averaged, Method)
        return averaged

"""What a training run is: of what, with which settings, from where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cad2pose.files import file_digest
from cad2pose.methods import MethodConfig
from cad2pose.model_file import IMAGES, Model
from cad2pose.parts import Part
from cad2pose.training.checkpoint import TrainingState
from cad2pose.training.config import TrainingConfig
from cad2pose.training.optim import MovingAverage, make_optimizer
from cad2pose.training.warm_start import check_frozen, fresh_modules, load_backbone, warm_start


@dataclass(frozen=True)
class Run:
    """A model of some parts, to be trained.

    Attributes:
        parts: what the model will know.
        method: settings of the method.
        training: settings of the training.
        device: where it is trained.
        start: model to take weights from (see `warm_start`), or file of an encoder's weights
            (`ResNetEncoder.load_pretrained`); it must be given again when the run goes on.
        others: further settings that identify the run (those of the crops).
    """

    parts: Sequence[Part]
    method: MethodConfig
    training: TrainingConfig
    device: torch.device
    start: Model | Path | None = None
    others: Mapping[str, object] = field(default_factory=dict)

    def settings(self) -> dict[str, object]:
        """Everything by which a run folder knows its run, but for the parts."""
        start = self.start
        lent = {"encoder": file_digest(start)} if isinstance(start, Path) else dict(start.info) if start else None
        return {"method": self.method, "training": self.training, "start": lent, **self.others}

    def state(self) -> TrainingState:
        """Before the first step: fresh weights (by the seed), or those of `start` where they fit.

        Raises:
            ValueError: if the method's networks are frozen and `start` has none for them, or a file has no encoder's.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            method = self.method.build(self.parts)
        check_frozen(method, self.parts, None if isinstance(self.start, Path) else self.start)
        left = []
        if isinstance(self.start, Path):
            left = load_backbone(method, self.start)
        elif self.start is not None:
            left = warm_start(method, self.parts, self.start)
        fresh = tuple(fresh_modules(method, left))
        method = method.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = MovingAverage(method, self.training.ema_decay)
        return TrainingState(method, average, make_optimizer(method, self.training), fresh)

    def samples_before(self) -> int | None:
        """All crops that went into the model it starts from, those of earlier ones included; None where it has none."""
        if not isinstance(self.start, Model):
            return None
        return sum(int(self.start.info.get(name, 0)) for name in ("samples", "samples_before"))

    def images_seen(self) -> str:
        """Labelled images it learns from, as FOLDER/SPLIT, and those that the model it starts from had learnt from."""
        before = self.start.info.get(IMAGES, "") if isinstance(self.start, Model) else ""
        images = self.others.get("images")
        now = "/".join(Path(str(images)).parts[-2:]) if images else ""
        return ", ".join(dict.fromkeys(name for name in (*before.split(", "), now) if name))

"""Training and judging all contestants, one run folder for all; what is there already is not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cad2pose.data.curriculum import crops_to_learn
from cad2pose.data.recorded import RecordedCrops
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.experiments.contestants import CONTESTANTS, Size, chosen
from cad2pose.experiments.finished_runs import JUDGED, Comparison, read_judged
from cad2pose.experiments.judging import JUDGE, judge
from cad2pose.experiments.photographs import Photographs
from cad2pose.files import alone, borrowed, file_digest, remove_leftovers, write_text
from cad2pose.model_file import Model, load_model
from cad2pose.parts import Part
from cad2pose.settings import describe, folder_holds
from cad2pose.training import Run, TrainingConfig, train
from cad2pose.training.optim import has_fast_bfloat16
from cad2pose.training.run_folder import MODEL, RunFolder

_SETTINGS = "comparison_settings.json"
_VALIDATION_SEED = 1_000_000


@dataclass(frozen=True)
class ComparisonConfig:
    """What is the same for all.

    Attributes:
        contestants: any of flagship, end-to-end, detached, coarse, coarse-smaller-crops,
            coarse-larger-crops, coarse-wide, coarse-annealed, coarse-eased, coarse-flat, coarse-unaveraged,
            coarse-strong-colours, coarse-wilder-boxes, coarse-nce, coarse-light-mask, coarse-heavy-mask,
            one-chart, queries+coordinates, no-symmetry, surfemb, gdrnet, gdrnet-no-symmetry, gdrnpp,
            coordinates, e2e.all, e2e.pose, e2e.plain, e2e.group, e2e.patch-pnp, pre.q, pre.q.plain, pre.c,
            raw-crop, without-tables, without-shadows, without-openness, without-metal, without-recolouring,
            without-neighbours, without-photographs, without-blur, without-grain, without-processing,
            without-colour-effects, without-holes, without-box-errors, without-light; comparison.md says
            what they are.
        samples: training crops of every run.
        batch_size: crops per step.
        learning_rate, key_learning_rate: peak rates, of those contestants that have none of their own.
        seeds: of the runs; all contestants see the same crops under the same seed.
        size: of the networks: tiny, small or full.
        judged: fresh crops per run that errors are measured on, the same for all.
        validations: points of the curves of error against crops.
        photographs: BOP data set (or its name in BOP_PATH) whose objects the parts are: models are judged on its images
            as well, from one look at the surest box of every instance. None is trained on.
        detections: boxes in the photographs; needed with these.
        split: of the photographs.
        record_crops: make the crops of a part and seed once, for all contestants, and keep them in the run folder until
            these are done: 200 kB each at 128 px. Worth it where making a crop takes as long as learning from it.
    """

    contestants: tuple[str, ...] = ("flagship", "gdrnet", "surfemb", "e2e.all")
    samples: int = 40_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    key_learning_rate: float = 3e-4
    seeds: tuple[int, ...] = (0,)
    size: Size = "small"
    judged: int = 200
    validations: int = 8
    record_crops: bool = False
    photographs: Path | None = None
    detections: Path | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        chosen(self.contestants)
        if (self.photographs is None) != (self.detections is None):
            there = "photographs" if self.detections is None else "detections"
            raise ValueError(f"{there} is given alone; photographs and detections, their boxes, go together")
        if self.size not in Size.__args__:
            raise ValueError(f"size is {self.size!r}; it must be one of {', '.join(Size.__args__)}")
        for name in ("samples", "batch_size", "judged", "validations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds is {self.seeds}; give one or more, each once, none negative")


def compare(
    parts: Sequence[Part],
    config: ComparisonConfig,
    out: Path,
    device: torch.device,
    crops: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda text: None,
    after: Callable[[], object] = lambda: None,
    start: Model | None = None,
) -> list[Comparison]:
    """Train and judge every contestant on every part under every seed.

    Args:
        parts: one model is trained for each.
        config: what is the same for all.
        out: the run folder: `PART/CONTESTANT/SEED` with the run and `judged.json`.
        device: where.
        crops: changes of `SyntheticConfig`, such as prior, camera, backgrounds and roll.
        report: told what is being done.
        after: called after every run.
        start: model that those contestants start from that do not start from another's.

    Raises:
        ValueError: if `out` holds runs with other settings, or the photographs show no such part.
    """
    found: list[Comparison] = []
    photographs = None
    if config.photographs is not None and config.detections is not None:
        photographs = Photographs(config.photographs, config.detections, config.split, parts)
    _claim(out, config, dict(crops or {}), start)
    for part in parts:
        for seed in config.seeds:
            with borrowed(_recorded(out / part.name) / str(seed)) if config.record_crops else nullcontext():
                for name in chosen(config.contestants):
                    folder = out / part.name / name / str(seed)
                    report(f"{part.name}: {name}, seed {seed}")
                    found += _run(part, name, seed, config, folder, device, dict(crops or {}), start)
                    if photographs is not None:
                        photographs.judge_once(folder / MODEL, CONTESTANTS[name].ways, device)
                    after()
        with suppress(OSError):  # none was there, or other processes have theirs in it
            _recorded(out / part.name).rmdir()
    return found


def _claim(out: Path, config: ComparisonConfig, crops: dict[str, Any], start: Model | None) -> None:
    """Write what all runs of a folder share, or find that it is so; what calls may add is not among it."""
    added = ("contestants", "seeds", "record_crops", "photographs", "detections", "split")
    shared = {name: value for name, value in describe(config).items() if name not in added}
    settings = {"config": shared, "crops": describe(crops), "start": None if start is None else dict(start.info)}
    if (out / _SETTINGS).is_file():
        folder_holds(out, _SETTINGS, settings, "comparison")
    else:  # the folder may hold runs of before there was such a file
        write_text(out / _SETTINGS, json.dumps(settings, indent=1))


def _recorded(part: Path) -> Path:
    return part / "crops"


def _run(
    part: Part,
    name: str,
    seed: int,
    config: ComparisonConfig,
    folder: Path,
    device: torch.device,
    crops: dict[str, Any],
    start: Model | None,
) -> list[Comparison]:
    contestant = CONTESTANTS[name]
    method = contestant.method(config.size)
    training = TrainingConfig(**{
        "samples": config.samples, "batch_size": config.batch_size, "seed": seed, "validations": config.validations,
        "learning_rate": config.learning_rate, "key_learning_rate": config.key_learning_rate,
        "mixed_precision": "on" if has_fast_bfloat16(device) else "off",  # "auto" would hide what it was
        **dict(contestant.training),
    })  # fmt: skip
    size = {"crop_size": method.crop_size, "pad": method.pad}
    if contestant.start is not None:
        start = load_model(folder.parent.parent / contestant.start / str(seed) / MODEL, beside=False)
    style = contestant.crops(SyntheticConfig(**size, **crops))
    judged = SyntheticConfig(**size, **crops).judging()
    run, there = Run([part], method, training, device, start, {"crops": style}), RunFolder(folder)
    trained = there.check(run) and (folder / MODEL).is_file()
    if not trained or int(load_model(folder / MODEL).info["samples"]) < config.samples:
        seen = crops_to_learn([part], style, device, seed, training.easing)
        if config.record_crops:
            kind = hashlib.sha256(f"{style!r}{training.easing or ''}".encode()).hexdigest()[:12]
            seen = RecordedCrops(seen, _recorded(folder.parent.parent) / str(seed) / kind, device)
            seen.record(training.steps, training.batch_size)  # so that no run's minutes hold the making of all's crops
        fresh = SyntheticCrops([part], judged, device, _VALIDATION_SEED)
        with alone(folder):
            remove_leftovers(folder)
            train(run, seen, fresh, folder)
    record = folder / JUDGED
    wanted = {
        "judged": config.judged, "ways": list(contestant.ways), "judge": JUDGE, "style": describe(judged),
        "model": file_digest(folder / MODEL),
    }  # fmt: skip
    if not record.is_file() or json.loads(record.read_text())["settings"] != wanted:
        rows = judge(load_model(folder / MODEL, device), part, judged, config.judged, contestant.ways, device)
        curve = _curve(there, config.batch_size)
        write_text(record, json.dumps({"settings": wanted, "rows": rows, "curve": curve}))
    return read_judged(record, part.name, name, seed)


def _curve(run: RunFolder, batch_size: int) -> tuple[tuple[float, float, float], ...]:
    lines = run.curves()
    keys = ("validation/rotation_deg", "validation/translation_percent")
    return tuple((float(line["step"] * batch_size), line[keys[0]], line[keys[1]]) for line in lines if keys[0] in line)

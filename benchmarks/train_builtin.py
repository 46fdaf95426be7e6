"""Trains the shipped model of the built-in parts (src/cad2pose/weights/builtin.safetensors), or others for them.

One small shared model, all of SO(3), light clutter and the blur and noise of an ordinary camera. Stopped, it goes on
when called again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from cad2pose.data.augmentation import AugmentationConfig
from cad2pose.data.occluders import ClutterConfig
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.devices import keep_freed_memory
from cad2pose.experiments import CONTESTANTS
from cad2pose.methods import GdrNetConfig, MethodConfig, QueryConfig, SurfEmbConfig
from cad2pose.model_file import load_model
from cad2pose.parts.builtin import BUILTIN_PARTS, builtin_part
from cad2pose.training import Progress, Run, TrainingConfig, train

VALIDATION_SEED = 7_000_003


def main(
    out: Path,
    method: Literal["query", "surfemb", "gdrnet"] = "query",
    positives_from: Literal["full", "visible"] = "full",
    samples: int = 296_000,
    crop_size: int = 96,
    batch_size: int = 32,
    device: str = "cpu",
    start: Path | None = None,
    learning_rate: float = 1e-3,
    key_learning_rate: float = 3e-4,
    flat_share: float = 0.3,
    seed: int = 0,
) -> None:
    """Train, or go on.

    Args:
        out: run folder.
        method: query is the shipped model's; gdrnet is as published, but with maps for each of the four parts.
        positives_from: pixels that the contrastive loss draws, as in the method's settings; gdrnet has none.
        samples: crops in all.
        crop_size: side of the crops in pixels.
        batch_size: crops a step.
        device: cpu, cuda, ...
        start: model file to start from.
        learning_rate, key_learning_rate, flat_share: as of `TrainingConfig`.
        seed: of the crops; another one where `start` has seen those of this.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    where = torch.device(device)
    parts = [builtin_part(name) for name in BUILTIN_PARTS]
    config = TrainingConfig(
        samples=samples, batch_size=batch_size, learning_rate=learning_rate, key_learning_rate=key_learning_rate,
        flat_share=flat_share,
    )  # fmt: skip
    method_config: MethodConfig
    if method == "gdrnet":
        method_config = GdrNetConfig(crop_size=crop_size, class_aware=True)
        config = replace(config, **dict(CONTESTANTS["gdrnet"].training))
    else:
        kind = QueryConfig if method == "query" else SurfEmbConfig
        method_config = kind(crop_size=crop_size, positives_from=positives_from)
    crops = SyntheticConfig(
        crop_size=crop_size,
        clutter=ClutterConfig(
            occluders=1, occluded_share=0.5, deepest=0.4, others=4, blob_share=0.05, min_visibility=0.5
        ),
        augmentation=AugmentationConfig.modest(),
    )
    judged = SyntheticConfig.evaluation(crop_size=crop_size)

    def report(progress: Progress) -> None:
        errors = {name: round(value, 2) for name, value in progress.errors.items() if "/" not in name}
        print(f"{progress.step}/{progress.steps} {progress.crops_per_second:.0f} crops/s {errors}", flush=True)

    model = load_model(start) if start else None
    source, judge = (SyntheticCrops(parts, c, where, s) for c, s in ((crops, seed), (judged, VALIDATION_SEED)))
    print(train(Run(parts, method_config, config, where, model, {"crops": crops}), source, judge, out, report))


if __name__ == "__main__":
    tyro.cli(main)

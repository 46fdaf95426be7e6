"""How long images took: from the time column, and by stage where results.json beside the file has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cad2pose.data.results import Results
from cad2pose.evaluation.scored_file import ScoredFile


@dataclass(frozen=True)
class Timing:
    """Of one file.

    Args:
        seconds: `(N,)` of every image that states it.
        images: how many images have rows.
        stages: median seconds by stage; empty where it is not known.
    """

    seconds: np.ndarray
    images: int
    stages: dict[str, float]

    @property
    def median(self) -> float:
        """Of the seconds."""
        return _median(self.seconds)


def timing_of(file: ScoredFile) -> Timing:
    """What is known of a file's times."""
    results = file.results
    images = set(zip(results.scene_id.tolist(), results.image_id.tolist(), strict=True))
    seconds = np.array([stated[-1] for stated in results.stated_seconds().values()])
    return Timing(seconds, len(images), _stages(file.path.with_suffix(".json"), results))


def _stages(path: Path, results: Results) -> dict[str, float]:
    """Medians over the images of the json file beside the csv file, if it is about the same images."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["images"]
        there = {(int(e["scene_id"]), int(e["im_id"])) for e in entries}
        if not set(zip(results.scene_id.tolist(), results.image_id.tolist(), strict=True)) <= there:
            return {}
        found: dict[str, list[float]] = {}
        for entry in entries:
            for name, seconds in entry.get("stages", {}).items():  # an image that was left out has none
                found.setdefault(str(name), []).append(float(seconds))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # another file of that name, or none
    return {name: _median(values) for name, values in found.items()}


def _median(values: Sequence[float] | np.ndarray) -> float:
    return float(np.median(values))

"""What the run folder of a comparison holds: errors of all that was trained and judged, by whichever calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cad2pose.experiments.contestants import CONTESTANTS
from cad2pose.experiments.judging import JUDGE
from cad2pose.experiments.photographs import PHOTOGRAPHS_JUDGE, RECORD, PhotographScores, read_pixels, read_scores
from cad2pose.experiments.pixel_matches import PixelScores
from cad2pose.files import file_digest
from cad2pose.training.run_folder import MODEL

JUDGED = "judged.json"
"""In a run's folder: its errors on rendered crops, and what they were measured by."""
_PICTURES = ("photographs", "split", "boxes")  # which of them, in the settings of a run's record


@dataclass(frozen=True)
class Comparison:
    """One way of one contestant on one part under one seed.

    Attributes:
        part, contestant, way, seed: which.
        rotation, translation: errors of every crop, degrees modulo symmetry and % of the distance.
        network_ms, pose_ms: time a crop of the network, and of what makes a pose of its output.
        parameters: of the network.
        minutes: of training.
        curve: (crops, median rotation error, median translation error) at the validations.
        trained_on, judged_on: devices of the times; "" in records of before they were kept.
    """

    part: str
    contestant: str
    way: str
    seed: int
    rotation: tuple[float, ...]
    translation: tuple[float, ...]
    network_ms: float
    pose_ms: float
    parameters: int
    minutes: float
    curve: tuple[tuple[float, float, float], ...]
    trained_on: str = ""
    judged_on: str = ""


def finished(out: Path) -> list[Comparison]:
    """All that was trained and judged in a run folder so far, by whichever calls of `compare`; see `outdated`."""
    return [row for run in _judged_runs(out, JUDGED) for row in read_judged(run[0] / JUDGED, *run[1:])]


def on_photographs(out: Path) -> list[PhotographScores]:
    """The same of photographs: of those pictures and boxes that the run was judged on that was judged last."""
    return [row for run in _judged_runs(out, RECORD) for row in read_scores(run[0] / RECORD, *run[1:])]


def pixels_of_photographs(out: Path) -> list[PixelScores]:
    """The same of the photographs' pixels."""
    return [row for run in _judged_runs(out, RECORD) for row in read_pixels(run[0] / RECORD, *run[1:])]


def outdated(out: Path) -> list[str]:
    """Runs whose figures were measured by other rules, on other photographs or boxes than the last ones, or of a model
    that is no longer there: they cannot stand beside the others. `compare` judges them anew when it is asked for them.
    """
    left: dict[tuple[Path, str, str, int], None] = {}
    for record in (JUDGED, RECORD):
        judged = _judged_runs(out, record)
        left |= dict.fromkeys(run for run in _finished_runs(out, record) if run not in judged)
    return [f"{part}: {contestant}, seed {seed}" for _, part, contestant, seed in left]


def _finished_runs(out: Path, record: str) -> list[tuple[Path, str, str, int]]:
    """Folder, part, contestant and seed of every run that has this record of what it was judged by."""
    found: list[tuple[Path, str, str, int]] = []
    for file in out.glob(f"*/*/*/{record}"):
        name, seed = file.parent.parent.name, file.parent.name
        if name in CONTESTANTS and seed.isdigit():
            found.append((file.parent, file.parent.parent.parent.name, name, int(seed)))
    order = list(CONTESTANTS)
    return sorted(found, key=lambda run: (run[1], order.index(run[2]), run[3]))


def _judged_runs(out: Path, record: str) -> list[tuple[Path, str, str, int]]:
    """Those of them that were judged by the same rules, of the model that is there."""
    runs = _finished_runs(out, record)
    known = {run: json.loads((run[0] / record).read_text())["settings"] for run in runs}
    by_rules = [run for run in runs if known[run].get("judge") == (JUDGE if record == JUDGED else PHOTOGRAPHS_JUDGE)]
    models = {run: run[0] / MODEL for run in by_rules}
    current = [run for run, file in models.items() if file.is_file() and known[run].get("model") == file_digest(file)]
    if record == JUDGED or not current:
        return current
    last = known[max(current, key=lambda run: (run[0] / record).stat().st_mtime_ns)]
    return [run for run in current if all(known[run].get(name) == last.get(name) for name in _PICTURES)]


def read_judged(record: Path, part: str, contestant: str, seed: int) -> list[Comparison]:
    """What a run's record says of every way to a pose."""
    known = json.loads(record.read_text())
    curve = tuple(map(tuple, known["curve"]))
    return [Comparison(part, contestant, seed=seed, curve=curve, **_tuples(row)) for row in known["rows"]]


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def as_json(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """All of it as plain values."""
    return [asdict(one) for one in found]


def from_json(rows: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """What `as_json` gave."""
    return [Comparison(**{**_tuples(row), "curve": tuple(map(tuple, row["curve"]))}) for row in rows]

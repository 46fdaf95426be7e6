"""Scores of a results file against a BOP dataset: average recalls, ADD(-S), 5 deg 5 cm, and mean errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_files import BopTarget
from cad2pose.data.results import Results
from cad2pose.evaluation.pairs import PairErrors, Problem, count_unused_rows, pair_errors, pose_problems
from cad2pose.evaluation.recall import Recall, TargetErrors, compute_recall, match_greedily
from cad2pose.parts.part import Part

ADD_THRESHOLDS = (0.02, 0.05, 0.10)
"""Shares of the diameter."""

_MSSD_THRESHOLDS = tuple(i / 20 for i in range(1, 11))
_MSPD_THRESHOLDS = tuple(float(5 * i) for i in range(1, 11))


@dataclass(frozen=True)
class Spread:
    """Mean and median of an error over the targets that have an estimate; nan where there is none."""

    mean: float
    median: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of the values."""
        return cls(statistics.fmean(values), statistics.median(values)) if values else cls(math.nan, math.nan)


@dataclass(frozen=True)
class EstimateError:
    """One estimate that counts, paired with its ground truth (the nearest by MSSD where there are several).

    Args:
        row: row of the results, header not counted.
        ground_truth: place among the image's annotations.
        mssd: share of the diameter.
        mspd: px in an image of 640 px width.
        add_s: ADD, or ADI for objects with symmetries; share of the diameter.
        rotation: degrees, of the symmetric version of the true pose with the lowest.
        frobenius: the same as norm of the matrices' difference.
        translation: mm.
    """

    scene_id: int
    image_id: int
    object_id: int
    row: int
    ground_truth: int
    score: float
    mssd: float
    mspd: float
    add_s: float
    rotation: float
    frobenius: float
    translation: float


@dataclass(frozen=True)
class ScoreRow:
    """Scores over a set of targets.

    Args:
        targets: instances asked for.
        estimated: how many of them have an estimate; the mean errors are over these, the recalls over all.
        AR_MSSD, AR_MSPD: BOP's average recalls.
        add_s: ADD(-S) recall at each of ADD_THRESHOLDS.
        within_5deg_5cm: share within 5 degrees and 5 cm of any symmetric version of the true pose.
        within_5deg_5cm_plain: the same of the true pose itself.
        rotation, frobenius, translation: degrees, norm of the matrices' difference, mm; symmetry-aware.
    """

    targets: int
    estimated: int
    AR_MSSD: float
    AR_MSPD: float
    add_s: tuple[float, ...]
    within_5deg_5cm: float
    within_5deg_5cm_plain: float
    rotation: Spread
    frobenius: Spread
    translation: Spread

    @property
    def mean_AR(self) -> float:
        """Mean of AR_MSSD and AR_MSPD; not BOP's AR, which has VSD too and needs depth."""
        return (self.AR_MSSD + self.AR_MSPD) / 2

    def to_json(self) -> dict[str, Any]:
        """As json values; null where there is no estimate."""
        entry: dict[str, Any] = {"n": self.targets, "n_estimated": self.estimated}
        entry |= {"AR_MSSD": self.AR_MSSD, "AR_MSPD": self.AR_MSPD, "mean_AR_MSSD_MSPD": self.mean_AR}
        for threshold, value in zip(ADD_THRESHOLDS, self.add_s, strict=True):
            entry["recall_ADD_S_" + f"{threshold:g}".replace(".", "p") + "d"] = value
        entry["recall_5deg_5cm_symmetric"] = self.within_5deg_5cm
        entry["recall_5deg_5cm"] = self.within_5deg_5cm_plain
        errors = {
            "rotation_deg": self.rotation,
            "rotation_frobenius": self.frobenius,
            "translation_mm": self.translation,
        }
        for name, spread in errors.items():
            entry[name] = {"mean": _finite_or_none(spread.mean), "median": _finite_or_none(spread.median)}
        return entry


@dataclass(frozen=True)
class Scores:
    """Everything `evaluate` finds.

    Args:
        total: over all targets pooled, BOP's rule.
        per_object: by object id.
        estimates: every estimate that counts, with its errors.
        rows: number of rows in the results.
        unused_rows: how many are for no target, by why ("image": another image, "object": not asked for in it).
        seconds_per_image: mean over the images that state it, None where none does.
    """

    total: ScoreRow
    per_object: Mapping[int, ScoreRow]
    estimates: tuple[EstimateError, ...]
    rows: int
    unused_rows: Mapping[str, int]
    seconds_per_image: float | None

    def mean_over_objects(self) -> dict[str, float]:
        """Plain means of the objects' recalls (not BOP's total, which pools the targets)."""
        rows = list(self.per_object.values())
        names = ("AR_MSSD", "AR_MSPD", "mean_AR", "within_5deg_5cm", "within_5deg_5cm_plain")
        means = {name: statistics.fmean(getattr(row, name) for row in rows) for name in names}
        for index, threshold in enumerate(ADD_THRESHOLDS):
            means[f"add_s_{threshold:g}"] = statistics.fmean(row.add_s[index] for row in rows)
        return means

    def to_json(self) -> dict[str, Any]:
        """As json values."""
        return {
            "all": self.total.to_json(),
            "per_object": {str(object_id): row.to_json() for object_id, row in self.per_object.items()},
            "mean_over_objects": self.mean_over_objects(),
            "rows": self.rows,
            "unused_rows": dict(self.unused_rows),
            "seconds_per_image": self.seconds_per_image,
            "estimates": [
                {key: _finite_or_none(value) if isinstance(value, float) else value for key, value in vars(e).items()}
                for e in self.estimates
            ],
        }


def evaluate(
    results: Results,
    dataset: BopDataset,
    targets: Sequence[BopTarget] | None = None,
    parts: Sequence[Part] | None = None,
) -> Scores:
    """Score results against a dataset's ground truth.

    Args:
        results: as `read_results_csv` gives them.
        dataset: the split they are for.
        targets: what is asked for; the dataset's own targets by default.
        parts: the objects, with the meshes to score with; the dataset's `models_eval` by default.

    Raises:
        FileNotFoundError, ValueError: if ground truth or meshes of a target are missing, or there is no target.
    """
    targets = dataset.targets() if targets is None else targets
    if not targets:
        raise ValueError("there is no target to score")
    wanted = sorted({t.object_id for t in targets})
    parts = dataset.parts(wanted, evaluation=True) if parts is None else parts
    by_id = {part.object_id: part for part in parts}
    if missing := [object_id for object_id in wanted if object_id not in by_id]:
        raise ValueError(f"the targets name objects {missing}, whose meshes are not there; there are {sorted(by_id)}")
    problems = pose_problems(results, dataset, targets)
    by_object = {object_id: [p for p in problems if p.target.object_id == object_id] for object_id in wanted}
    errors = {object_id: pair_errors(results, group, by_id[object_id]) for object_id, group in by_object.items()}
    paired = tuple(e for object_id, group in by_object.items() for e in _estimate_errors(group, errors[object_id]))
    recalls = _Recalls.of(by_object, errors)
    return Scores(
        total=recalls.row(None, paired),
        per_object={object_id: recalls.row(object_id, paired) for object_id in wanted},
        estimates=paired,
        rows=len(results),
        unused_rows=dict(count_unused_rows(results, targets)),
        seconds_per_image=_seconds_per_image(results),
    )


@dataclass(frozen=True)
class _Recalls:
    """The recalls by measure, each over all its thresholds."""

    mssd: Recall
    mspd: Recall
    add_s: Recall
    symmetric_5deg_5cm: Recall
    plain_5deg_5cm: Recall

    @classmethod
    def of(cls, by_object: Mapping[int, Sequence[Problem]], errors: Mapping[int, PairErrors]) -> _Recalls:
        def recall(names: Sequence[str], thresholds: Sequence[Sequence[float]]) -> Recall:
            cut: list[TargetErrors] = []
            for object_id, group in by_object.items():
                table = torch.stack([getattr(errors[object_id], name) for name in names], dim=1)
                cut += _cut(object_id, group, table)
            return compute_recall(cut, torch.tensor(thresholds, dtype=torch.float64))

        return cls(
            recall(["mssd"], [[threshold] for threshold in _MSSD_THRESHOLDS]),
            recall(["mspd"], [[threshold] for threshold in _MSPD_THRESHOLDS]),
            recall(["add_s"], [[threshold] for threshold in ADD_THRESHOLDS]),
            recall(["symmetric_5deg_5cm"], [[1.0]]),
            recall(["rotation", "translation"], [[5.0, 50.0]]),
        )

    def row(self, object_id: int | None, estimates: Sequence[EstimateError]) -> ScoreRow:
        """Scores of one object, or of all targets."""
        mine = [e for e in estimates if object_id in (None, e.object_id)]
        counts = self.mssd.targets

        def values(recall: Recall) -> Float[Tensor, "k"]:
            return recall.total if object_id is None else recall.of_object(object_id)

        return ScoreRow(
            targets=sum(counts.values()) if object_id is None else counts[object_id],
            estimated=len(mine),
            AR_MSSD=float(values(self.mssd).mean()),
            AR_MSPD=float(values(self.mspd).mean()),
            add_s=tuple(values(self.add_s).tolist()),
            within_5deg_5cm=float(values(self.symmetric_5deg_5cm)),
            within_5deg_5cm_plain=float(values(self.plain_5deg_5cm)),
            rotation=Spread.of([e.rotation for e in mine]),
            frobenius=Spread.of([e.frobenius for e in mine]),
            translation=Spread.of([e.translation for e in mine]),
        )


def _cut(object_id: int, problems: Sequence[Problem], table: Float[Tensor, "p c"]) -> list[TargetErrors]:
    """The table of all pairs of an object -> one block (E, G, C) per problem."""
    sizes = [p.shape[0] * p.shape[1] for p in problems]
    blocks = table.split(sizes)
    return [
        TargetErrors(object_id, p.score, block.reshape(*p.shape, table.shape[1]))
        for p, block in zip(problems, blocks, strict=True)
    ]


def _estimate_errors(problems: Sequence[Problem], errors: PairErrors) -> list[EstimateError]:
    """Pair every estimate that counts with a ground truth, greedily by MSSD without a threshold."""
    names = ("mssd", "mspd", "add_s", "symmetric_rotation", "symmetric_frobenius", "symmetric_translation")
    table = torch.stack([getattr(errors, name) for name in names], dim=1)
    unlimited = torch.tensor([torch.inf], dtype=torch.float64)
    found = []
    for problem, cut in zip(problems, _cut(0, problems, table), strict=True):
        target = problem.target
        for match in match_greedily(problem.score, cut.errors[..., :1], unlimited):
            values = cut.errors[match.estimate, match.ground_truth].tolist()
            found.append(
                EstimateError(
                    target.scene_id, target.image_id, target.object_id, int(problem.rows[match.estimate]),
                    problem.truths[match.ground_truth].index, float(problem.score[match.estimate]), *values,
                )
            )  # fmt: skip
    return found


def _seconds_per_image(results: Results) -> float | None:
    images = zip(results.scene_id.tolist(), results.image_id.tolist(), strict=True)
    times = {image: seconds for image, seconds in zip(images, results.seconds.tolist(), strict=True) if seconds >= 0}
    return statistics.fmean(times.values()) if times else None


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None

"""Scores of a results file against a BOP dataset: recalls, average recalls, average precision, areas, mean errors."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_files import BopTarget
from cad2pose.data.results import Results
from cad2pose.evaluation.average_precision import Outcomes, PrecisionTable, outcomes
from cad2pose.evaluation.credits import ADD_THRESHOLDS, object_credits
from cad2pose.evaluation.depth_errors import missing_depth, vsd_of_problems
from cad2pose.evaluation.estimate_errors import EstimateError, paired_estimates
from cad2pose.evaluation.pair_errors import pair_errors, surface_errors
from cad2pose.evaluation.pairs import Annotations, count_unused_rows, detection_problems, pose_problems
from cad2pose.evaluation.score_row import ScoreRow, finite_or_none
from cad2pose.evaluation.target_table import TargetTable, describe_targets
from cad2pose.evaluation.visible_surface import VisibilityMode
from cad2pose.parts.part import Part


@dataclass(frozen=True)
class ScoringOptions:
    """What is computed.

    Args:
        vsd: VSD and BOP's AR, where the split has depth images.
        visibility: what a pixel without depth means to VSD: visible (BOP since 2019), or not (2018).
        adi_of_all: ADI for objects without symmetries, too (slow).
    """

    vsd: bool = True
    visibility: VisibilityMode = "bop19"
    adi_of_all: bool = False


@dataclass(frozen=True)
class Scores:
    """Everything `evaluate` finds.

    Args:
        total: over all targets pooled, BOP's rule.
        per_object: by object id.
        estimates: every estimate that counts, with its errors.
        table: what each target earned.
        precision: what each estimate became when everything is a detection.
        rows: number of rows in the results.
        unused_rows: how many are for no target, by why ("image": another image, "object": not asked for in it).
        seconds_per_image: mean over the images that state it, None where none does.
        no_vsd: why there is no VSD, and so no AR of BOP's; empty where there is.
    """

    total: ScoreRow
    per_object: Mapping[int, ScoreRow]
    estimates: tuple[EstimateError, ...]
    table: TargetTable
    precision: PrecisionTable
    rows: int
    unused_rows: Mapping[str, int]
    seconds_per_image: float | None
    no_vsd: str

    def mean_over_objects(self) -> dict[str, float]:
        """Plain means of the objects' recalls (not BOP's total, which pools the targets)."""
        rows = list(self.per_object.values())
        means = {name: statistics.fmean(row.measures[name] for row in rows) for name in self.total.measures}
        names = ("mean_AR", "within_5deg_5cm", "within_5deg_5cm_plain")
        means |= {name: statistics.fmean(getattr(row, name) for row in rows) for name in names}
        for index, threshold in enumerate(ADD_THRESHOLDS):
            means[f"add_s_{threshold:g}"] = statistics.fmean(row.add_s[index] for row in rows)
        return means

    def average_precision(self) -> dict[str, float | None]:
        """BOP'24's mAP: AP_MSSD, AP_MSSD_mm, AP_MSPD, and AP, the mean of the first and the last."""
        found = self.precision.mean_over_objects(torch.ones(1, len(self.table.images), dtype=torch.float64))
        return {name: finite_or_none(float(value)) for name, value in found.items()}

    def to_json(self) -> dict[str, Any]:
        """As json values."""
        every = torch.ones(1, len(self.table.images), dtype=torch.float64)
        per_object = {}
        for object_id, row in self.per_object.items():
            precision = self.precision.of_object(object_id, every)
            per_object[str(object_id)] = row.to_json() | {n: finite_or_none(float(v)) for n, v in precision.items()}
        return {
            "all": self.total.to_json() | self.average_precision(),
            "per_object": per_object,
            "mean_over_objects": self.mean_over_objects(),
            "images": len(self.table.images),
            "rows": self.rows,
            "unused_rows": dict(self.unused_rows),
            "seconds_per_image": self.seconds_per_image,
            "no_vsd": self.no_vsd or None,
            "estimates": [estimate.to_json() for estimate in self.estimates],
        }


def evaluate(
    results: Results,
    dataset: BopDataset,
    targets: Sequence[BopTarget] | None = None,
    parts: Sequence[Part] | None = None,
    options: ScoringOptions | None = None,
) -> Scores:
    """Score results against a dataset's ground truth.

    Args:
        results: as `read_results_csv` gives them.
        dataset: the split they are for.
        targets: what is asked for; the dataset's own targets by default.
        parts: the objects, with the meshes to score with; the dataset's `models_eval` by default.
        options: what is computed.

    Raises:
        FileNotFoundError, ValueError: if ground truth or meshes of a target are missing, or there is no target.
    """
    options = options or ScoringOptions()
    targets = dataset.targets() if targets is None else targets
    if not targets:
        raise ValueError("there is no target to score")
    by_id = _parts_of(targets, dataset, parts)
    images = list({(t.scene_id, t.image_id): None for t in targets})
    place = {key: index for index, key in enumerate(images)}
    annotated = Annotations(dataset)
    problems = pose_problems(results, annotated, targets)
    detections = detection_problems(results, annotated, targets)
    no_vsd = missing_depth(dataset, images) if options.vsd else "it was not asked for"
    vsd = None if no_vsd else vsd_of_problems(results, problems, by_id, dataset, options.visibility)
    tables: list[TargetTable] = []
    estimates: list[EstimateError] = []
    precision: dict[int, Mapping[str, Outcomes]] = {}
    for object_id, part in by_id.items():
        asked = [p for p in problems if p.target.object_id == object_id]
        detected = [p for p in detections if p.target.object_id == object_id]
        surface = surface_errors(results, [*asked, *detected], part)
        errors = pair_errors(results, asked, part, surface, options.adi_of_all)
        credit, error = object_credits(asked, errors, part.diameter, vsd, options.adi_of_all)
        tables.append(describe_targets(asked, images, credit, error))
        estimates += paired_estimates(asked, errors, vsd)
        precision[object_id] = outcomes(detected, surface, part.diameter, place)
    table = TargetTable.join(tables)
    return Scores(
        total=ScoreRow.of(table),
        per_object={object_id: ScoreRow.of(mine) for object_id, mine in zip(by_id, tables, strict=True)},
        estimates=tuple(estimates),
        table=table,
        precision=PrecisionTable(precision),
        rows=len(results),
        unused_rows=dict(count_unused_rows(results, targets)),
        seconds_per_image=_seconds_per_image(results),
        no_vsd=no_vsd,
    )


def _parts_of(targets: Sequence[BopTarget], dataset: BopDataset, parts: Sequence[Part] | None) -> dict[int, Part]:
    """The objects that the targets ask for, in order of their ids."""
    wanted = sorted({t.object_id for t in targets})
    parts = dataset.parts(wanted, evaluation=True) if parts is None else parts
    by_id = {part.object_id: part for part in parts}
    if missing := [object_id for object_id in wanted if object_id not in by_id]:
        raise ValueError(f"the targets name objects {missing}, whose meshes are not there; there are {sorted(by_id)}")
    return {object_id: by_id[object_id] for object_id in wanted}


def _seconds_per_image(results: Results) -> float | None:
    times = [stated[-1] for stated in results.stated_seconds().values()]
    return statistics.fmean(times) if times else None

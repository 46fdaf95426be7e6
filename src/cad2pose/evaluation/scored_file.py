"""One results file: read, checked, scored, and how far its scores can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_files import BopTarget
from cad2pose.data.results import Results, read_results_csv
from cad2pose.evaluation.headline import DRAWS
from cad2pose.evaluation.result_checks import check_asked_for, check_results, orthonormalized
from cad2pose.evaluation.scores import Scores, ScoringOptions, evaluate
from cad2pose.evaluation.trust import Trust, trust
from cad2pose.parts.part import Part


@dataclass(frozen=True)
class ScoredFile:
    """A results file with all that is known of it.

    Args:
        name: by which it is called.
        path: where it lies.
        results: its rows, as they were scored.
        scores: of them.
        trust: intervals, groups and what the estimates' own scores are worth.
        warnings: what is odd about it, a sentence each.
    """

    name: str
    path: Path
    results: Results
    scores: Scores
    trust: Trust
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """What files are scored for.

    Args:
        dataset: the split.
        every: all of its targets.
        wanted: those that count.
        parts: their objects, with the meshes to score with.
    """

    dataset: BopDataset
    every: tuple[BopTarget, ...]
    wanted: tuple[BopTarget, ...]
    parts: tuple[Part, ...]

    @classmethod
    def ask(cls, dataset: BopDataset, targets: Path | None = None, objects: Sequence[int] = ()) -> Question:
        """All targets of a split, or those of some objects.

        Args:
            dataset: the split.
            targets: a targets file in place of the split's own.
            objects: their ids; none for all.

        Raises:
            ValueError: for an object that no target asks for; otherwise as `BopDataset.targets` and `parts`.
        """
        every = dataset.targets(targets)
        known = {t.object_id for t in every}
        if unknown := sorted(set(objects) - known):
            raise ValueError(f"no target asks for objects {unknown}; the targets' objects are {sorted(known)}")
        wanted = tuple(t for t in every if not objects or t.object_id in objects)
        parts = dataset.parts(sorted({t.object_id for t in wanted}), evaluation=True)
        return cls(dataset, every, wanted, tuple(parts))


def score_file(
    path: Path,
    name: str,
    question: Question,
    options: ScoringOptions | None = None,
    as_written: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> ScoredFile:
    """Read, check and score one file.

    Args:
        path: of the file.
        name: by which it is called.
        question: what it should answer.
        options: what is computed.
        as_written: score rotations that are orthonormal only to 1 % as they are, and not the nearest ones.
        draws, seed: of the bootstrap.

    Raises:
        FileNotFoundError, ValueError: as `read_results_csv`, `check_results`, `check_asked_for` and `evaluate`.
    """
    table = read_results_csv(path)
    warnings = check_results(table, question.dataset, question.every, question.parts, name, as_written)
    check_asked_for(table, question.wanted, name)
    table = table if as_written else orthonormalized(table)
    scores = evaluate(table, question.dataset, question.wanted, question.parts, options)
    return ScoredFile(name, path, table, scores, trust(scores, draws, seed), tuple(warnings))


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file: as much of the end of its path as tells it from the others; the same file given twice
    gets a number."""
    names: list[str] = []
    for place, path in enumerate(paths):
        pieces = path.absolute().parts
        for length in range(1, len(pieces) + 1):
            name = "/".join(pieces[-length:])
            if sum("/".join(other.absolute().parts[-length:]) == name for other in paths) == 1:
                break
        else:
            name = path.name
        before = sum(other.absolute() == path.absolute() for other in paths[:place])
        names.append(f"{name} ({before + 1})" if before else name)
    return names

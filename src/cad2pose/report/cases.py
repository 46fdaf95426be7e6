"""Single targets to look at: the worst, the median, the missed, and those on which two files differ most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cad2pose.data.bop import BopDataset
from cad2pose.data.bop_files import BopInstance
from cad2pose.evaluation.estimate_errors import EstimateError
from cad2pose.evaluation.pairs import Annotations, pose_problems
from cad2pose.evaluation.scored_file import Question, ScoredFile
from cad2pose.parts.part import Part

_MISSED = 4
_LARGEST = 1.0  # diameters; beyond it, errors are equally bad when two files are compared


@dataclass(frozen=True)
class Case:
    """One target, with what every file says of it.

    Args:
        scene_id, image_id: where it is.
        truth: the annotation.
        part: the object.
        found: the estimate of each file that stands against it, None where there is none.
        poses: `(4, 4)` each, mm, of the same.
    """

    scene_id: int
    image_id: int
    truth: BopInstance
    part: Part
    found: tuple[EstimateError | None, ...]
    poses: tuple[Float[Tensor, "4 4"] | None, ...]

    @property
    def key(self) -> tuple[int, int, int]:
        """Scene, image, and place of the annotation."""
        return self.scene_id, self.image_id, self.truth.index

    def error(self, file: int) -> float:
        """MSSD in diameters, inf without an estimate."""
        found = self.found[file]
        return math.inf if found is None else found.mssd


def list_cases(files: Sequence[ScoredFile], question: Question) -> list[Case]:
    """Every target that counts.

    Args:
        files: scored for the question.
        question: what was asked.
    """
    dataset: BopDataset = question.dataset
    parts = {part.object_id: part for part in question.parts}
    found = [{(e.scene_id, e.image_id, e.ground_truth): e for e in file.scores.estimates} for file in files]
    cases = []
    for problem in pose_problems(files[0].results, Annotations(dataset), question.wanted):
        for truth in problem.truths:
            errors = tuple(each.get((*problem.image, truth.index)) for each in found)
            poses = tuple(
                None if error is None else file.results.T_cam_obj[error.row].double()
                for file, error in zip(files, errors, strict=True)
            )
            cases.append(Case(*problem.image, truth, parts[truth.object_id], errors, poses))
    return cases


def worst(cases: Sequence[Case], file: int, count: int) -> list[Case]:
    """Estimates of the largest errors, the worst first."""
    there = [case for case in cases if case.found[file] is not None]
    return sorted(there, key=lambda case: -case.error(file))[:count]


def median(cases: Sequence[Case], file: int, count: int) -> list[Case]:
    """Estimates about the median error, the better first."""
    there = sorted((case for case in cases if case.found[file] is not None), key=lambda case: case.error(file))
    first = max(0, (len(there) - count + 1) // 2)
    return there[first : first + count]


def missed(cases: Sequence[Case], file: int, count: int = _MISSED) -> list[Case]:
    """Targets without an estimate, those that are seen best first."""
    there = [case for case in cases if case.found[file] is None]
    return sorted(there, key=lambda case: -(case.truth.visible_fraction or 0))[:count]


def most_different(cases: Sequence[Case], first: int, second: int, count: int) -> list[Case]:
    """Targets on which one file is far better than the other: half where the first is, then where the second is.

    Errors beyond a diameter count as one, and so do missing estimates.
    """

    def gap(case: Case) -> float:
        return min(case.error(second), _LARGEST) - min(case.error(first), _LARGEST)

    ordered = sorted((case for case in cases if gap(case) != 0), key=gap)
    better = [case for case in ordered[::-1] if gap(case) > 0][: count - count // 2]
    worse = [case for case in ordered if gap(case) < 0][: count // 2]
    return better + worse

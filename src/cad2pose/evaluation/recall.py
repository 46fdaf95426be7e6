"""From pose errors to recall: greedy matching of estimates to ground truths, and averages over thresholds.

BOP challenge 2019: estimates in order of falling score each take the free ground truth with the lowest error, if that
is strictly below the threshold; the recall is the share of all targets that were taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Match:
    """An estimate and the ground truth that it took (their places in the lists)."""

    estimate: int
    ground_truth: int


@dataclass(frozen=True)
class TargetErrors:
    """Errors of the estimates of one object in one image.

    Args:
        object_id: of the object.
        score: `(E,)` of the estimates, in the order of the file.
        errors: `(E, G, C)` of each estimate against each ground truth that is a target; C > 1 for measures of several
            elements, such as rotation and translation.
    """

    object_id: int
    score: Float[Tensor, "e"]
    errors: Float[Tensor, "e g c"]

    @property
    def target_count(self) -> int:
        """How many instances are asked for."""
        return self.errors.shape[1]


@dataclass(frozen=True)
class Recall:
    """Recall at each of several thresholds.

    Args:
        hits: matched targets at each threshold, by object.
        targets: how many targets there are, by object.
    """

    hits: dict[int, Int[Tensor, "k"]]
    targets: dict[int, int]

    def of_object(self, object_id: int) -> Float[Tensor, "k"]:
        """Recalls of one object."""
        return self.hits[object_id].double() / self.targets[object_id]

    @property
    def total(self) -> Float[Tensor, "k"]:
        """Recalls over all targets pooled (not the mean over objects)."""
        hits = torch.stack(list(self.hits.values()))
        return hits.sum(0).double() / sum(self.targets.values())

    @property
    def mean_over_objects(self) -> Float[Tensor, "k"]:
        """Plain mean of the objects' recalls."""
        return torch.stack([self.of_object(object_id) for object_id in self.hits]).mean(0)


def best_scored(score: Float[Tensor, "e"], count: int) -> Int[Tensor, "m"]:
    """Indices of the `count` highest scores, highest first; of equal ones the first listed goes first."""
    return torch.sort(score, descending=True, stable=True).indices[:count]


def match_greedily(
    score: Float[Tensor, "e"],
    errors: Float[Tensor, "e g c"],
    thresholds: Float[Tensor, "c"],
    max_estimates: int | None = None,
    valid: Bool[Tensor, "g"] | None = None,
) -> list[Match]:
    """Match estimates to ground truths.

    Args:
        score: `(E,)`, higher goes first; of equal ones the first listed.
        errors: `(E, G, C)`; a ground truth is better than another only if all C elements are strictly lower.
        thresholds: `(C,)`; every element must be strictly lower than its threshold.
        max_estimates: only so many of the best scores take part; all by default.
        valid: `(G,)` ground truths that may be matched; all by default.

    Returns:
        Matches in the order in which they were made.
    """
    order = best_scored(score, len(score) if max_estimates is None else max_estimates)
    free = [g for g in range(errors.shape[1]) if valid is None or bool(valid[g])]
    return match_tables(order.tolist(), errors.tolist(), thresholds.tolist(), free)


def match_tables(
    order: Sequence[int], table: Sequence[Sequence[Sequence[float]]], limits: Sequence[float], free: Sequence[int]
) -> list[Match]:
    """The matching itself, on plain lists: the tables are tiny and there are many of them.

    Args:
        order: estimates, the one that chooses first in front.
        table: errors by estimate, ground truth and element.
        limits: threshold of each element.
        free: ground truths that may be taken.
    """
    free = list(free)
    matches = []
    for estimate in order:
        best, best_error = -1, limits
        for candidate in free:
            error = table[estimate][candidate]
            if all(e < b for e, b in zip(error, best_error, strict=True)):
                best, best_error = candidate, error
        if best >= 0:
            free.remove(best)
            matches.append(Match(estimate, best))
    return matches


def compute_recall(problems: Sequence[TargetErrors], thresholds: Float[Tensor, "k c"]) -> Recall:
    """Recall at each of K thresholds; as many estimates count per problem as there are targets in it."""
    hits: dict[int, Int[Tensor, "k"]] = {}
    targets: dict[int, int] = {}
    for problem in sorted(problems, key=lambda p: p.object_id):
        count = problem.target_count
        order, table = best_scored(problem.score, count).tolist(), problem.errors.tolist()
        found = [len(match_tables(order, table, limits, list(range(count)))) for limits in thresholds.tolist()]
        hits[problem.object_id] = hits.get(problem.object_id, 0) + torch.tensor(found)
        targets[problem.object_id] = targets.get(problem.object_id, 0) + count
    return Recall(hits, targets)


def target_credits(problems: Sequence[TargetErrors], thresholds: Float[Tensor, "k c"]) -> Float[Tensor, "n"]:
    """Share of the K thresholds at which each target is taken: problem after problem, ground truth by ground truth.

    Their mean is the average recall over these targets, pooled.
    """
    limits = thresholds.tolist()
    simple = [place for place, p in enumerate(problems) if p.errors.shape[:2] == (1, 1)]
    shares = {}
    if simple:
        errors = torch.stack([problems[place].errors[0, 0] for place in simple])
        below = (errors[:, None] < thresholds).all(-1).double().mean(1)
        shares = dict(zip(simple, below.tolist(), strict=True))
    credits: list[float] = []
    for place, problem in enumerate(problems):
        credits += [shares[place]] if place in shares else _shares(problem, limits)
    return torch.tensor(credits, dtype=torch.float64)


def target_errors(problems: Sequence[TargetErrors]) -> Float[Tensor, "n c"]:
    """Errors of the estimate that takes each target where there is no threshold, by the lowest first element.

    Ordered as `target_credits`; inf for a target that no estimate takes.
    """
    columns = problems[0].errors.shape[2] if problems else 1
    found = []
    for problem in problems:
        count = problem.target_count
        errors = torch.full((count, columns), math.inf, dtype=torch.float64)
        order, table = best_scored(problem.score, count).tolist(), problem.errors[..., :1].tolist()
        for match in match_tables(order, table, [math.inf], range(count)):
            errors[match.ground_truth] = problem.errors[match.estimate, match.ground_truth].double()
        found.append(errors)
    return torch.cat(found) if found else torch.zeros(0, columns, dtype=torch.float64)


def _shares(problem: TargetErrors, limits: Sequence[Sequence[float]]) -> list[float]:
    count = problem.target_count
    order, table = best_scored(problem.score, count).tolist(), problem.errors.tolist()
    hits = [0] * count
    for limit in limits:
        for match in match_tables(order, table, limit, range(count)):
            hits[match.ground_truth] += 1
    return [hit / len(limits) for hit in hits]

"""Settings of the whole solver, and what it may be given to start from."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from cad2pose.settings import check_positive
from cad2pose.solvers.distinct import Gap
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.refine import RefineOptions
from cad2pose.solvers.sampling import SamplingOptions
from cad2pose.solvers.score import ScoreOptions
from cad2pose.solvers.search import SearchOptions


@dataclass(frozen=True)
class Level:
    """One climb.

    Attributes:
        side: maps are averaged by the largest whole factor that leaves them at least so many pixels a side.
        sharpness: factor on the queries (see `ScoreOptions`).
        points: surface samples.
        iterations: most steps tried.
    """

    side: int
    sharpness: float
    points: int
    iterations: int

    def __post_init__(self) -> None:
        check_positive(self, "side", "sharpness", "points")
        if self.iterations < 0:
            raise ValueError(f"iterations is {self.iterations}; it must be 0 or more")


@dataclass(frozen=True)
class SolverOptions:
    """Settings of `solve`.

    Attributes:
        proposals: sampled correspondences, or the search.
        propose_side: maps are averaged to about so many pixels a side for proposals and their rough scores.
        distinct: most distinct proposals that are refined.
        starts: most distinct poses that are refined, of those given to start from.
        coarse: climbs of all of these.
        modes: most distinct results of the coarse climbs that go on.
        fine: climb of those.
        refine: climb at all; if not, the best proposal is the pose.
        alternatives: most distinct poses that are reported.
        likely: alternatives less probable than this are not.
        gap: what counts as distinct.
        independent: a crop's pixels count as so many independent ones, in probabilities and covariances.
        covariance_factor: what covariances are multiplied with, fitted on crops of known pose.
        score: of the score.
        climb: of the climbs.
    """

    proposals: SamplingOptions | SearchOptions = field(default_factory=SamplingOptions)
    propose_side: int = 74
    distinct: int = 24
    starts: int = 12
    coarse: tuple[Level, ...] = (Level(56, 0.1, 256, 4), Level(56, 0.2, 256, 4), Level(56, 0.4, 256, 4))
    modes: int = 12
    fine: tuple[Level, ...] = (Level(112, 1.0, 1024, 8), Level(224, 1.0, 1024, 16))
    refine: bool = True
    alternatives: int = 24
    likely: float = 0.01
    gap: Gap = field(default_factory=Gap)
    independent: float = 30.0
    covariance_factor: float = 1.8
    score: ScoreOptions = field(default_factory=ScoreOptions)
    climb: RefineOptions = field(default_factory=RefineOptions)

    def __post_init__(self) -> None:
        check_positive(
            self, "propose_side", "distinct", "starts", "modes", "alternatives", "independent", "covariance_factor"
        )
        if not self.fine:
            raise ValueError("fine is empty; give one level or more")
        if not 0 <= self.likely <= 1:
            raise ValueError(f"likely is {self.likely}; it is a probability between 0 and 1")


@dataclass(frozen=True)
class Start:
    """Poses that are known from elsewhere, to be refined in place of proposals.

    Args:
        poses: the poses; of those of a crop the one that is believed in most first.
        log_probability: `(N,)` what is thought of them before.
        depth_sigma: relative standard deviation of their depth, which is believed that far; None: not at all.
    """

    poses: Hypotheses
    log_probability: Float[Tensor, "n"]
    depth_sigma: float | None = None

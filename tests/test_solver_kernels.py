"""The solver's kernels, those for CUDA run on the CPU: they compute what the torch operations compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

import cuda_emulation
from cad2pose import cuda_kernels
from cad2pose.geometry import geodesic_distance, random_rotations
from cad2pose.parts import builtin_part
from cad2pose.solvers import (
    SamplingOptions,
    ScoreOptions,
    SearchOptions,
    SolverOptions,
    Surface,
    key_symmetry,
    solve,
)
from cad2pose.solvers import kernels as solver_kernels
from cad2pose.solvers.distinct import Gap, distinct
from cad2pose.solvers.hypotheses import Hypotheses
from cad2pose.solvers.p3p import p3p
from cad2pose.solvers.quick_score import QuickScore
from cad2pose.solvers.refine import DepthPrior, RefineOptions, refine
from cad2pose.solvers.sampling import _correspondences, _solved
from cad2pose.solvers.score import PoseScore
from cad2pose.solvers.search import placed_by_mask
from planted_queries import Planted, plant

emulated = pytest.mark.skipif(cuda_emulation.missing() is not None, reason=str(cuda_emulation.missing()))


@contextmanager
def kernels() -> Iterator[None]:
    """CUDA's kernels, for tensors on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_kernels, "find_kernel", cuda_emulation.find_emulated)
        yield


@contextmanager
def numba() -> Iterator[None]:
    """What CPUs have by themselves."""
    yield


@contextmanager
def torch_alone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver_kernels, "climbed_on_cpu", lambda *scene: None)
        patch.setattr(solver_kernels, "distinct_on_cpu", lambda *poses: None)
        patch.setattr(solver_kernels, "log_sums_on_cpu", lambda *products: None)
        yield


Kind = Callable[[], AbstractContextManager[None]]
both = pytest.mark.parametrize("kind", [numba, pytest.param(kernels, marks=emulated)])


@pytest.fixture(scope="module")
def scene() -> tuple[Surface, Planted, Hypotheses]:
    """A part in three crops, and poses near the true ones."""
    part = builtin_part("bracket")
    surface = Surface.of_part(part, 8000)
    planted = plant(part, surface, 3, 64, width=0.06, seed=5)
    row = torch.tensor([0, 0, 1, 1, 2, 2])
    generator = torch.Generator().manual_seed(3)
    turn = random_rotations(6, generator, torch.float64)
    near = torch.matrix_exp(0.1 * (turn - turn.transpose(1, 2))).float()
    position = planted.position[row] * (1 + 0.03 * torch.randn(6, 1, generator=generator))
    return surface, planted, Hypotheses(row, near @ planted.rotation[row], position)


@both
def test_scores_and_derivatives(scene: tuple[Surface, Planted, Hypotheses], kind: Kind) -> None:
    surface, planted, poses = scene
    for options in (ScoreOptions(), ScoreOptions(points=256, sharpness=0.3, mask_weight=0.5, outliers=0.1)):
        found = []
        for context in (torch_alone, kind):
            with context():
                score = PoseScore(surface, planted.keys, planted.maps, options)
                found.append((score, score.linearize(poses.row, poses.rotation, poses.position)))
                assert torch.allclose(score(poses.row, poses.rotation, poses.position), found[-1][1].value)
        (plain, expected), (other, fused_found) = found
        torch.testing.assert_close(other.maps, plain.maps, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.sums, plain.sums, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(fused_found.value, expected.value, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fused_found.gradient, expected.gradient, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(fused_found.information, expected.information, rtol=1e-3, atol=1e-2)


@both
@pytest.mark.parametrize("with_prior", [False, True])
def test_climbs(scene: tuple[Surface, Planted, Hypotheses], kind: Kind, with_prior: bool) -> None:
    surface, planted, poses = scene
    prior = DepthPrior(1.02 * poses.position[:, 2], 0.02, torch.full((6,), 30.0)) if with_prior else None
    options = RefineOptions(iterations=12)
    ends = []
    for context in (torch_alone, kind):
        with context():
            score = PoseScore(surface, planted.keys, planted.maps)
            begun = score(poses.row, poses.rotation, poses.position)
            ends.append(refine(score, poses.row, poses.rotation, poses.position, options, prior))
    plain, other = ends
    assert (other.score > begun).all() or with_prior
    assert (other.accepted > 2).all()
    torch.testing.assert_close(other.score, plain.score, rtol=1e-3, atol=2e-3)
    turned = geodesic_distance(other.rotation.double(), plain.rotation.double()).rad2deg()
    assert turned.median() < 0.02
    assert turned.max() < 1  # where the score is flat, rounding decides
    assert ((other.position - plain.position).norm(dim=1) / plain.position.norm(dim=1)).max() < 2e-3
    eye = torch.eye(3).expand(6, 3, 3)
    torch.testing.assert_close(other.rotation @ other.rotation.transpose(1, 2), eye, rtol=0, atol=1e-5)


@both
def test_no_steps_leave_poses_as_they_are(scene: tuple[Surface, Planted, Hypotheses], kind: Kind) -> None:
    surface, planted, poses = scene
    with kind():
        score = PoseScore(surface, planted.keys, planted.maps)
        found = refine(score, poses.row, poses.rotation, poses.position, RefineOptions(iterations=0))
    assert torch.equal(found.rotation, poses.rotation)
    assert not found.accepted.any()


def test_threads_share_the_poses(scene: tuple[Surface, Planted, Hypotheses], monkeypatch: pytest.MonkeyPatch) -> None:
    surface, planted, poses = scene
    score = PoseScore(surface, planted.keys, planted.maps)
    prior = DepthPrior(1.02 * poses.position[:, 2], 0.02, torch.full((6,), 30.0))
    ends = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        ends.append(refine(score, poses.row, poses.rotation, poses.position, RefineOptions(), prior))
    one, four = ends
    assert torch.equal(one.rotation, four.rotation)
    assert torch.equal(one.score, four.score)
    assert len(refine(score, poses.row[:0], poses.rotation[:0], poses.position[:0]).score) == 0


@emulated
def test_quick_scores(scene: tuple[Surface, Planted, Hypotheses]) -> None:
    surface, planted, poses = scene
    generator = torch.Generator().manual_seed(1)
    row = torch.arange(3).repeat_interleave(40)
    rotation = random_rotations(120, generator, torch.float32)
    position = planted.position[row] * (1 + 0.1 * torch.randn(120, 1, generator=generator))
    expected = QuickScore(surface, planted.keys, planted.maps)(row, rotation, position)
    with kernels():
        found = QuickScore(surface, planted.keys, planted.maps)(row, rotation, position)
    # a point between two pixels may fall on either
    assert (found - expected).abs().median() < 1e-4
    assert (found - expected).abs().max() < 0.05


@emulated
def test_poses_placed_by_the_mask(scene: tuple[Surface, Planted, Hypotheses]) -> None:
    surface, planted, poses = scene
    away = Hypotheses(poses.row, poses.rotation, 1.1 * poses.position)
    expected = placed_by_mask(surface, planted.maps, away)
    with kernels():
        found = placed_by_mask(surface, planted.maps, away)
    torch.testing.assert_close(found.position, expected.position, rtol=1e-4, atol=1e-4)
    off = (found.position - planted.position[poses.row]).norm(dim=1)
    assert off.median() < 0.3 * (away.position - planted.position[poses.row]).norm(dim=1).median()


@both
def test_distinct_poses(kind: Kind) -> None:
    generator = torch.Generator().manual_seed(2)
    row = torch.tensor([0] * 70 + [2] * 50 + [3])  # crop 1 has none
    base = random_rotations(12, generator, torch.float32)
    rotation = base[torch.randint(12, (121,), generator=generator)]
    position = torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, 6.0]])[torch.randint(2, (121,), generator=generator)]
    values = torch.randn(121, generator=generator)
    values[::9] = -torch.inf
    values[5] = torch.nan
    poses = Hypotheses(row, rotation, position)
    with torch_alone():
        expected = distinct(poses, values, 4, 15, Gap())
    with kind():
        found = distinct(poses, values, 4, 15, Gap())
    assert torch.equal(found, expected)
    assert (found[0] >= 0).sum() > 5
    assert (found[1] == -1).all()


@emulated
def test_p3p() -> None:
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(2000, 3, 3, generator=generator, dtype=torch.float64)
    points[:200, 2] = 0.5 * (points[:200, 0] + points[:200, 1]) + 1e-4 * points[:200, 2]  # almost on a line
    points[200:210, 2] = points[200:210, 0]  # no triangle
    rotation = random_rotations(2000, generator, torch.float64)
    seen = points @ rotation.transpose(1, 2) + torch.tensor([0.2, -0.1, 6.0], dtype=torch.float64)
    expected = p3p(points, seen)
    with kernels():
        found = p3p(points, seen)
    assert (found.valid == expected.valid).float().mean() > 0.999
    both = found.valid & expected.valid
    assert not found.valid[200:210].any()
    assert both.sum() > 3000
    angle = geodesic_distance(found.rotation[both], expected.rotation[both])
    assert (angle < 1e-6).float().mean() > 0.995
    truth = (
        geodesic_distance(found.rotation, rotation[:, None].expand(-1, 4, 3, 3)).masked_fill(~found.valid, 9).amin(1)
    )
    assert (truth[210:] < 1e-6).float().mean() > 0.999


@emulated
def test_sampled_poses(scene: tuple[Surface, Planted, Hypotheses]) -> None:
    surface, planted, _ = scene
    options = SamplingOptions(samples=1500, kept=400)
    pixel, point, some = _correspondences(planted.keys, planted.maps, options)
    assert some.all()
    expected = _solved(surface, planted.maps, pixel, point, options)
    with kernels():
        found = _solved(surface, planted.maps, pixel, point, options)
    both = expected[2] & found[2]
    assert both.sum() > 300
    assert (expected[2] ^ found[2]).sum() <= 3, "but for those on the very bounds"
    torch.testing.assert_close(found[0][both].float(), expected[0][both].float(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1][both].float(), expected[1][both].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("proposals", [SamplingOptions(samples=1500, kept=300), SearchOptions(directions=32)])
@emulated
def test_the_whole_solver(
    scene: tuple[Surface, Planted, Hypotheses], proposals: SamplingOptions | SearchOptions
) -> None:
    surface, planted, _ = scene
    symmetry = key_symmetry(surface, planted.keys)
    options = SolverOptions(proposals=proposals, distinct=8)
    expected = solve(surface, planted.keys, planted.maps, options, symmetry=symmetry)
    with kernels():
        found = solve(surface, planted.keys, planted.maps, options, symmetry=symmetry)
    assert (geodesic_distance(found.rotation[:, 0], planted.rotation).rad2deg() < 4).all()
    assert geodesic_distance(found.rotation[:, 0], expected.rotation[:, 0]).rad2deg().median() < 0.1
    torch.testing.assert_close(found.score[:, 0], expected.score[:, 0], rtol=0, atol=0.01)
    assert torch.isfinite(found.covariance).all()


@pytest.mark.parametrize(("pixels", "size", "count"), [(5, 12, 4096), (1, 3, 70), (0, 12, 64), (9, 5, 1), (7, 1, 63)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 40.0])
def test_log_sums(pixels: int, size: int, count: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(pixels)
    queries, keys = (torch.randn(number, size, generator=generator) for number in (pixels, count))
    true = torch.logsumexp((scale * queries.double()) @ keys.double().T, 1)
    found = solver_kernels.log_sums(scale * queries, keys)
    assert found is not None
    torch.testing.assert_close(found.double(), true, rtol=2e-6, atol=2e-5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared_out = solver_kernels.log_sums(scale * queries, keys)
    assert shared_out is not None
    assert torch.equal(shared_out, found)
    assert solver_kernels.log_sums(queries.double(), keys) is None  # computed by torch


@emulated
def test_kernels_refuse_what_is_not_contiguous() -> None:
    with pytest.raises(ValueError, match="strides"):
        cuda_kernels.packed((torch.zeros(3, 4).T,))


@emulated
def test_there_are_none_for_the_cpu() -> None:
    with kernels():
        pass
    assert cuda_kernels.find_kernel(cuda_emulation.Path(__file__), "none", torch.device("cpu")) is None

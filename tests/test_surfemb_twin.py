"""The published solver finds planted poses, and each of its steps does what it says."""

from __future__ import annotations

import importlib
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook
from scipy.spatial import KDTree
from torch import Tensor

from cad2pose.evaluation.pose_error import symmetric_errors
from cad2pose.geometry import make_transform, project_points, random_rotations, rotation_from_axis_angle
from cad2pose.parts import Part, builtin_part, sample_surface
from cad2pose.rendering import MeshSet, render

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
with install_import_hook("surfemb_twin", "beartype.beartype"):
    twin = importlib.import_module("surfemb_twin")
sys.path.pop(0)

POINTS, DISTANCE, SHARPNESS = 2000, 500.0, 48.0
OPTIONS = twin.TwinOptions(samples=300, scored=100, batch=40)
TURN = (2.2, 0.9, 0.3)


@dataclass(frozen=True, eq=False)
class World:
    """A crop of a part whose queries are the keys of the surface seen there."""

    part: Part
    R: Tensor
    t: Tensor
    depth: Tensor
    crop: dict[str, Any]

    @property
    def surface(self) -> Any:
        return twin.Surface(*(self.crop[name].float() for name in ("points", "normals", "keys")))

    @property
    def K(self) -> Tensor:
        return self.crop["K"].double()

    def distribution(self) -> Any:
        return twin.correspondence_distribution(
            self.crop["mask_logits"], self.crop["queries"], self.crop["keys"], self.K
        )

    def errors(self, rotation: Tensor, translation: Tensor) -> tuple[float, float]:
        """Degrees, and mm at the part's centre, from the nearest symmetric version of the true pose."""
        centred = (make_transform(R, t + R @ self.part.center) for R, t in ((rotation, translation), (self.R, self.t)))
        estimated, true = centred
        angles, _, shifts = symmetric_errors(estimated[None], true[None], self.part.symmetries.transforms())
        return float(angles.min()), float(shifts[0, angles.argmin()])

    def moved(self, degrees: float, millimetres: float) -> tuple[Tensor, Tensor]:
        """The true pose turned about the part's centre, and shifted."""
        R = rotation_from_axis_angle(math.radians(degrees) * torch.tensor([0.6, -0.64, 0.48]).double()) @ self.R
        shift = millimetres * torch.tensor([0.36, 0.48, 0.8]).double()
        return R, self.t + (self.R - R) @ self.part.center + shift


def embed(part: Part, points: Tensor) -> Tensor:
    """Keys of points: Fourier features, all of one length, of coordinates that no symmetry of the part changes."""
    x, y, z = part.normalize(points.double()).unbind(-1)
    if part.name == "nut":
        radius, angle = torch.hypot(x, y), 6 * torch.atan2(y, x)
        invariants = torch.stack((2 * radius, 4 * z**2, 0.5 * radius * angle.cos(), 2 * z * angle.sin()), dim=-1)
    else:
        invariants = torch.stack((x, y, z), dim=-1)
    generator = torch.Generator().manual_seed(1)
    phases = 3 * invariants @ torch.randn(invariants.shape[-1], 8, generator=generator, dtype=torch.float64)
    return (math.sqrt(SHARPNESS / 8) * torch.cat((phases.cos(), phases.sin()), dim=-1)).float()


def planted(name: str, turn: tuple[float, float, float] = TURN, side: int = 74) -> World:
    part = builtin_part(name)
    samples = sample_surface(part.mesh, POINTS)
    R = rotation_from_axis_angle(torch.tensor(turn, dtype=torch.float64))
    t = torch.tensor([8.0, -5.0, DISTANCE], dtype=torch.float64) - R @ part.center
    focal = side / 2 / 1.3 * DISTANCE / part.radius
    K = torch.tensor([[focal, 0.0, side / 2 - 1.5], [0.0, focal, side / 2], [0.0, 0.0, 1.0]])
    seen = depicted(part, R, t, K, side)
    mask = seen.mask[0]
    inside = mask.nonzero()  # around the silhouette a network goes on as at its edge; so do these queries
    _, nearest = KDTree(inside.numpy()).query(torch.ones_like(mask).nonzero().numpy())
    v, u = inside[torch.from_numpy(nearest)].unbind(-1)
    queries = embed(part, seen.coordinates[0, :, v, u].T).T.reshape(-1, side, side)
    crop = {
        "mask_logits": torch.where(mask, 6.0, -6.0), "queries": queries, "points": samples.points,
        "normals": samples.normals, "keys": embed(part, samples.points), "K": K, "diameter": part.diameter,
    }  # fmt: skip
    return World(part, R, t, seen.depth[0], crop)


def depicted(part: Part, R: Tensor, t: Tensor, K: Tensor, side: int) -> Any:
    meshes, index = MeshSet.from_meshes([part.mesh]), torch.zeros(1, 1, dtype=torch.int64)
    return render(meshes, index, make_transform(R, t)[None, None], K[None], side, side)


@pytest.fixture(scope="module")
def bracket() -> World:
    return planted("bracket")


@pytest.mark.parametrize("turn", [TURN, (-0.4, 1.9, -1.1), (0.7, -0.5, 2.0)])
@pytest.mark.parametrize(("name", "samples"), [("bracket", 300), ("nut", 3000)])
def test_finds_the_planted_pose(name: str, samples: int, turn: tuple[float, float, float]) -> None:
    world = planted(name, turn)
    result = twin.estimate_pose(**world.crop, options=replace(OPTIONS, samples=samples, scored=300))
    degrees, millimetres = world.errors(result.rotation, result.translation)
    assert degrees < 4
    assert millimetres < 0.03 * DISTANCE
    assert result.reason is None
    assert result.score == pytest.approx(result.mask_score + result.coord_score, abs=1e-6)


def test_counts_and_stages(bracket: World) -> None:
    counts = (result := twin.estimate_pose(**bracket.crop, options=OPTIONS)).counts
    assert (counts["pixels"], counts["points"], counts["samples"]) == (24 * 24, POINTS, 300)
    left = [counts[name] for name in ("samples", "solved", "spread", "distance", "facing", "scored")]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 100
    assert left[-2] > 100
    assert counts["evaluations"] > 5
    assert tuple(result.seconds) == twin.STAGES


def test_the_seed_decides(bracket: World) -> None:
    first, again, other = (
        twin.estimate_pose(**bracket.crop, options=replace(OPTIONS, seed=seed, refine=False)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.rotation, again.rotation)
    assert torch.equal(first.translation, again.translation)
    assert not torch.equal(first.translation, other.translation)


def test_any_cad_frame_will_do(bracket: World) -> None:
    offset = torch.tensor([1500.0, -800.0, 4000.0], dtype=torch.float64)
    here = twin.estimate_pose(**bracket.crop, options=replace(OPTIONS, refine=False))
    there = twin.estimate_pose(
        **bracket.crop | {"points": bracket.crop["points"] + offset}, options=replace(OPTIONS, refine=False)
    )
    assert torch.allclose(there.rotation, here.rotation, atol=1e-6)
    assert torch.allclose(there.translation + there.rotation @ offset, here.translation, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask_logits": torch.full((74, 74), -1.0)}, "no pixel has a mask probability"),
        ({"diameter": 1.0}, "none of 300 samples passed"),
        ({"diameter": 1e5}, "none of 300 samples passed"),
    ],
)
def test_no_pose_has_a_reason(bracket: World, changes: dict[str, Any], reason: str) -> None:
    result = twin.estimate_pose(**bracket.crop | changes, options=OPTIONS)
    assert result.rotation is None
    assert result.translation is None
    assert result.score == -math.inf
    assert reason in result.reason
    assert tuple(result.seconds) == twin.STAGES


def test_points_must_face_the_camera(bracket: World) -> None:
    outward = twin.estimate_pose(**bracket.crop, options=OPTIONS).counts
    inward = twin.estimate_pose(**bracket.crop | {"normals": -bracket.crop["normals"]}, options=OPTIONS).counts
    assert inward["distance"] == outward["distance"]
    assert inward["facing"] < 0.5 * outward["facing"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queries": torch.full((16, 74, 74), math.nan)}, "queries"),
        ({"diameter": 0.0}, "diameter"),
        ({"mask_logits": torch.ones(2, 2), "queries": torch.ones(16, 2, 2)}, "at least 3 pixels"),
        ({name: torch.ones(3, 3) for name in ("points", "normals")} | {"keys": torch.ones(3, 16)}, "at least 4 points"),
    ],
)
def test_refuses_what_cannot_be(bracket: World, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        twin.estimate_pose(**bracket.crop | changes, options=OPTIONS)


@pytest.mark.parametrize("changes", [{"samples": 0}, {"scored": -1}, {"alpha": 0.0}, {"downsample": 0}, {"seed": -1}])
def test_options_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        twin.TwinOptions(**changes)


def test_coarse_pixels_are_means_of_cells(generator: torch.Generator) -> None:
    mask_logits, queries = torch.randn(7, 7, generator=generator), torch.randn(4, 7, 7, generator=generator)
    keys, K = torch.randn(9, 4, generator=generator), torch.tensor([[90.0, 0, 3.2], [0, 80, 2.7], [0, 0, 1]]).double()
    crop = twin.correspondence_distribution(mask_logits, queries, keys, K)
    assert crop.side == 2
    cell = (slice(0, 3), slice(3, 6))  # the second; row and column 6 are left over
    probability = torch.softmax(keys @ queries[:, *cell].mean(dim=(1, 2)), dim=0)
    assert torch.allclose(crop.log_points[1].exp(), probability, atol=1e-6)
    assert torch.allclose(crop.log_mask[1].exp(), torch.sigmoid(mask_logits[cell].mean()), atol=1e-6)
    assert torch.allclose(crop.log_mask.exp() + crop.log_background.exp(), torch.ones(4), atol=1e-6)
    points = torch.tensor([[3.0, -2.0, 50.0], [-1.0, 4.0, 70.0]]).double()
    assert torch.allclose(project_points(crop.K, points), (project_points(K, points) + 0.5) / 3 - 0.5)


@pytest.mark.parametrize("double_sum", [True, False])
def test_samples_follow_the_weights(generator: torch.Generator, double_sum: bool) -> None:
    log_points = torch.log_softmax(torch.randn(4, 5, generator=generator), dim=1)
    log_mask = torch.tensor([0.9, 0.5, 0.1, 0.7]).log()
    crop = twin.Distribution(log_mask, log_mask, log_points, torch.eye(3).double(), 2)
    pixels, points = twin.sample_correspondences(
        crop, twin.TwinOptions(samples=20_000, double_sum=double_sum), generator
    )
    assert pixels.shape == points.shape == (20_000, 4)
    expected = (log_mask[:, None].exp() * log_points.exp()) ** 1.5
    for corner in range(4):
        share = torch.bincount(pixels[:, corner] * 5 + points[:, corner], minlength=20).view(4, 5) / 20_000
        assert torch.allclose(share, expected / expected.sum(), atol=0.012)


def test_p3p_solutions_pass_through_three_points(generator: torch.Generator) -> None:
    count, K = 200, torch.tensor([[200.0, 0, 36], [0, 200, 37], [0, 0, 1]]).double()
    points = 30 * torch.randn(count, 4, 3, generator=generator)
    points[:50] = points[:50, :1]  # a single point, four times: no solution, or none that matters
    R = random_rotations(count, generator, torch.float64)
    t = torch.tensor([10.0, 20.0, 300.0]).double().expand(count, 3)
    pixels = project_points(K.expand(count, 3, 3), points.double() @ R.mT + t[:, None])
    wrong = pixels + torch.tensor([0.0, 0.0, 0.0, 5.0])[:, None]  # the fourth pair only orders the solutions
    for image, root in ((pixels, 0.0), (wrong, 0.99), (wrong, 0.5)):
        roots = torch.full((count,), root, dtype=torch.float64)
        solved, rotations, translations = twin.solve_p3p(image, points, K, roots)
        kept = solved >= 50
        assert kept.sum() > 145
        solved, rotations, translations = solved[kept], rotations[kept], translations[kept]
        again = project_points(
            K.expand(len(solved), 3, 3), points[solved].double() @ rotations.mT + translations[:, None]
        )
        off = (again - pixels[solved])[:, :3].norm(dim=-1).amax(dim=1)
        assert (off < 1e-3).double().mean() > 0.97
        right = (rotations - R[solved]).flatten(1).norm(dim=1) < 1e-3
        assert (right.double().mean() > 0.95) == (root == 0)


@pytest.mark.parametrize("max_pool", [True, False])
def test_scores_are_the_formula(bracket: World, max_pool: bool) -> None:
    crop, points, side = bracket.distribution(), bracket.surface.points, 24
    R, t = bracket.moved(10, 12)
    nearest: dict[tuple[int, int], tuple[float, int]] = {}
    there = points.double() @ R.T + t
    for index, ((u, v), depth) in enumerate(
        zip(project_points(crop.K, there).round().long().tolist(), there[:, 2].tolist(), strict=True)
    ):
        if 0 <= u < side and 0 <= v < side and depth < nearest.get((v, u), (math.inf, 0))[0]:
            nearest[v, u] = (depth, index)

    def at(rows: Tensor, v: int, u: int) -> float:
        reach = range(-1, 2) if max_pool else range(1)
        around = [(v + i, u + j) for i in reach for j in reach if 0 <= v + i < side and 0 <= u + j < side]
        return max(float(rows[a * side + b]) for a, b in around)

    mask = 0.0
    for v in range(side):
        for u in range(side):
            mask += at(crop.log_mask if (v, u) in nearest else crop.log_background, v, u)
    mask /= side * side * math.log(2)
    found = [at(crop.log_points[:, index], v, u) for (v, u), (_, index) in nearest.items()]
    coord = sum(found) / len(found) / math.log(POINTS)
    scores = twin.score_poses(crop, points, R[None], t[None], 7, max_pool)
    assert torch.cat(scores).tolist() == pytest.approx([mask + coord, mask, coord], abs=2e-3)


def test_the_true_pose_scores_best(bracket: World) -> None:
    poses = [bracket.moved(*by) for by in ((0, 0), (25, 0), (0, 40), (90, 0), (180, 0), (0, 3000))]
    R, t = (torch.stack(values) for values in zip(*poses, strict=True))
    for max_pool in (True, False):
        score, mask_score, coord_score = twin.score_poses(
            bracket.distribution(), bracket.surface.points, R, t, 4, max_pool
        )
        assert score.argmax() == 0
        assert mask_score[0] > -0.4
        assert (coord_score[1:] < coord_score[0] - 0.1).all()
        assert score[-1] == -math.inf


def test_nearest_point_of_each_pixel() -> None:
    K = torch.tensor([[10.0, 0, 1], [0, 10, 1], [0, 0, 1]]).double()
    points = torch.tensor(
        [[0.0, 0, 20], [0.1, 0, 10], [0, 0.1, 10], [0, 0, -5], [10, 0, 10], [1.0, 1.4, 10], [0, 0, 0]]
    )
    seen = twin.nearest_points(torch.stack((points, points.flip(0))), K, 3).view(2, 3, 3)
    wanted = torch.full((2, 3, 3), -1)
    wanted[0, 1, 1], wanted[0, 2, 2] = 1, 5
    wanted[1, 1, 1], wanted[1, 2, 2] = 4, 1
    assert torch.equal(seen, wanted)


@pytest.mark.parametrize("name", ["bracket", "nut"])
def test_visible_points_lie_on_the_rendered_surface(name: str) -> None:
    world = planted(name)
    visible = twin.visible_points(world.surface, world.K, world.R, world.t, 74)
    there = world.surface.points[visible].double() @ world.R.T + world.t
    u, v = project_points(world.K, there).round().long().T
    depth = world.depth[v, u]
    assert (depth > 0).double().mean() > 0.93
    assert ((there[:, 2] - depth)[depth > 0].abs() < 0.06 * world.part.diameter).double().mean() > 0.98
    assert len(visible.unique()) == len(visible) > 0.2 * (world.depth > 0).sum()


def test_refinement_lowers_its_objective(bracket: World, generator: torch.Generator) -> None:
    start = bracket.moved(8, 15)
    refined = twin.refine_pose(bracket.crop["queries"], bracket.surface, bracket.K, *start, generator)
    assert refined.after < refined.before - 0.5
    before, after = bracket.errors(*start), bracket.errors(refined.rotation, refined.translation)
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.7 * before[1]
    away = (bracket.R, bracket.t + torch.tensor([3000.0, 0, 0]).double())
    with pytest.raises(ValueError, match="shows no surface point"):
        twin.refine_pose(bracket.crop["queries"], bracket.surface, bracket.K, *away, generator)


def test_depth_moves_the_pose_along_its_ray(bracket: World) -> None:
    mask_logits, queries, K = (bracket.crop[name] for name in ("mask_logits", "queries", "K"))
    center = bracket.t + bracket.R @ bracket.part.center
    pushed = bracket.t + 0.06 * center
    rendered = depicted(bracket.part, bracket.R, pushed, K, 74).depth[0]
    measured = bracket.depth.clone()
    measured[:37] = 0  # half of the pixels have none
    moved = twin.depth_refine(pushed, mask_logits, queries, measured, rendered, K)
    assert (pushed - bracket.t).norm() > 25
    assert (moved - bracket.t).norm() < 6
    unchanged = twin.depth_refine(pushed, mask_logits, queries, torch.zeros_like(measured), rendered, K)
    assert torch.equal(unchanged, pushed)

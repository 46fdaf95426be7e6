"""SurfEmb's published pose solver, step by step: what faster solvers are held against, on the same queries.

    from surfemb_twin import TwinOptions, estimate_pose
    result = estimate_pose(mask_logits, queries, points, normals, keys, K, diameter, TwinOptions(seed=1))

Haugaard and Buch, "SurfEmb: Dense and Continuous Correspondence Distributions for Object Pose Estimation with Learnt
Surface Embeddings", CVPR 2022. Samples of four correspondences from the whole distribution, P3P in a loop with one root
taken at random, three prunes, scores of the first survivors, BFGS from the best; a depth image may follow. What the
publication does at once is done at once here, and where it loops there is a loop. Tensors stay on their device, P3P and
BFGS run on the CPU.

Four things differ. The cumulative sum of the sampling weights is float64 by default, since float32 cannot tell 10^8
entries apart (`TwinOptions.double_sum`). The full-size picture that refinement starts from is made of the surface
points, not by rendering the mesh (`visible_points`). Inside, the middle of the points' box is the origin, as in the
frames of BOP's models, so that any CAD frame works. And a crop without one coarse pixel of mask probability above 1/2
has no pose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, logsigmoid, max_pool2d

from cad2pose.geometry import (
    axis_angle_from_rotation,
    project_points,
    resized_intrinsics,
    rotation_from_axis_angle,
    unproject_pixels,
)
from stopwatch import Stopwatch

STAGES = ("distribution", "sampling", "p3p", "pruning", "scoring", "refinement")
SPREAD = 0.1  # two of a sample's first three pixels are at least this share of the crop's side apart
SIZES = (0.5, 20.0)  # apparent diameter of the part, in sides of the crop
DENOMINATOR_KEYS = 4096
COVERED = 0.05  # in diagonals of the points' box; so far behind a neighbouring pixel's point, a point is hidden


@dataclass(frozen=True)
class TwinOptions:
    """The published values.

    Raises:
        ValueError: for a number that is not positive, or a negative seed.
    """

    samples: int = 10_000
    """Samples of four correspondences."""

    scored: int = 1000
    """Poses scored: the first ones that pass the prunes."""

    batch: int = 500
    """Poses scored at a time."""

    alpha: float = 1.5
    """Exponent of the sampling weights."""

    downsample: int = 3
    """Side in pixels of the cells that are averaged first; what is left over on the right and below is dropped."""

    max_pool: bool = True
    """Score with the largest log-probability of the 3 x 3 cells around each."""

    refine: bool = True
    """Refine the best pose."""

    double_sum: bool = True
    """Cumulative sum and draws in float64; False: in float32, as published."""

    seed: int = 0
    """Of samples, roots, and the keys of the refinement's denominator."""

    def __post_init__(self) -> None:
        for name in ("samples", "scored", "batch", "alpha", "downsample"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")


@dataclass(frozen=True, eq=False)
class TwinResult:
    """What came out, or why nothing did.

    Args:
        rotation: `(3, 3)` rotation from the frame of the points to the crop's camera, on the CPU; None without a pose.
        translation: `(3,)` mm, likewise.
        score: mask_score + coord_score of the best hypothesis, before it is refined; -inf without a pose.
        mask_score: mean log-likelihood of the silhouette, over ln 2.
        coord_score: mean log-likelihood of the visible points, over ln m.
        seconds: per stage (`STAGES`), by `Stopwatch`'s clock; 0 for stages that were not reached.
        counts: coarse pixels, points and samples; solved samples, and those left after each prune (spread, distance,
            facing); scored poses; evaluations of the refinement's objective. As far as it got.
        reason: why there is no pose.
    """

    rotation: Float64[Tensor, "3 3"] | None = None
    translation: Float64[Tensor, "3"] | None = None
    score: float = -math.inf
    mask_score: float = -math.inf
    coord_score: float = -math.inf
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Surface:
    """`points` (m, 3) in mm, outward `normals` (m, 3) and `keys` (m, E), all float32."""

    points: Float[Tensor, "m 3"]
    normals: Float[Tensor, "m 3"]
    keys: Float[Tensor, "m e"]


@dataclass(frozen=True, eq=False)
class Distribution:
    """What a crop says of its n = side x side coarse pixels, row by row.

    Args:
        log_mask: `(n,)` log-probability of the part.
        log_background: `(n,)` log-probability of anything else.
        log_points: `(n, m)` log-probability of each surface point, given the part.
        K: `(3, 3)` intrinsics of the coarse pixels.
        side: of the coarse crop.
    """

    log_mask: Float[Tensor, "n"]
    log_background: Float[Tensor, "n"]
    log_points: Float[Tensor, "n m"]
    K: Float64[Tensor, "3 3"]
    side: int


@dataclass(frozen=True, eq=False)
class Refined:
    """Outcome of `refine_pose`: the pose (CPU, mm), the objective before and after, and how often it was evaluated."""

    rotation: Float64[Tensor, "3 3"]
    translation: Float64[Tensor, "3"]
    before: float
    after: float
    evaluations: int


class _NoPoseError(Exception):
    """Its message is the reason."""


class _Run:
    """What one estimate draws from and writes down."""

    def __init__(self, options: TwinOptions, device: torch.device) -> None:
        self.options = options
        self.watch = Stopwatch(device)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.counts: dict[str, int] = {}

    def seconds(self) -> dict[str, float]:
        return {stage: self.watch.seconds[stage] for stage in STAGES}


def estimate_pose(
    mask_logits: Float[Tensor, "r r"],
    queries: Float[Tensor, "e r r"],
    points: Float[Tensor, "m 3"],
    normals: Float[Tensor, "m 3"],
    keys: Float[Tensor, "m e"],
    K: Float[Tensor, "3 3"],
    diameter: float,
    options: TwinOptions | None = None,
) -> TwinResult:
    """Pose of the part in one crop, as published.

    Args:
        mask_logits: `(r, r)` of the crop.
        queries: `(E, r, r)`.
        points: `(m, 3)` surface samples, mm.
        normals: `(m, 3)` outward normals there.
        keys: `(m, E)` embeddings of the points.
        K: `(3, 3)` intrinsics of the crop, pixel centres at integers.
        diameter: of the part, mm.
        options: by default the published ones.

    Raises:
        ValueError: for numbers that are not finite, a diameter that is not positive, fewer than four points, or a crop
            smaller than one cell.
    """
    options = TwinOptions() if options is None else options
    _check({"mask_logits": mask_logits, "queries": queries, "points": points, "normals": normals, "keys": keys, "K": K})
    if len(points) < 4 or not diameter > 0 or len(mask_logits) < options.downsample:
        raise ValueError(
            f"{len(points)} points, diameter {diameter} mm, crop of {len(mask_logits)} pixels a side: there must be at "
            f"least 4 points, a positive diameter, and a crop of at least {options.downsample} pixels"
        )
    origin = (points.amin(dim=0) + points.amax(dim=0)) / 2
    surface = Surface((points - origin).float(), normals.float(), keys.float())
    mask_logits, queries, K = mask_logits.float(), queries.float(), K.double()
    run = _Run(options, queries.device)
    try:
        rotation, translation, *scores = _best_hypothesis(mask_logits, queries, surface, K, diameter, run)
    except _NoPoseError as error:
        return TwinResult(seconds=run.seconds(), counts=run.counts, reason=str(error))
    if options.refine:
        with run.watch.stage("refinement"):
            refined = refine_pose(queries, surface, K, rotation, translation, run.generator)
        rotation, translation, run.counts["evaluations"] = refined.rotation, refined.translation, refined.evaluations
    translation = translation - rotation @ origin.cpu().double()
    return TwinResult(rotation, translation, *scores, seconds=run.seconds(), counts=run.counts)


def _check(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} has entries that are not finite")


def _best_hypothesis(
    mask_logits: Float[Tensor, "r r"],
    queries: Float[Tensor, "e r r"],
    surface: Surface,
    K: Float64[Tensor, "3 3"],
    diameter: float,
    run: _Run,
) -> tuple[Float64[Tensor, "3 3"], Float64[Tensor, "3"], float, float, float]:
    """Rotation and translation (on the CPU), score, mask score and coordinate score of the best pose sampled."""
    options, watch = run.options, run.watch
    with watch.stage("distribution"):
        crop = correspondence_distribution(mask_logits, queries, surface.keys, K, options.downsample)
    run.counts |= {"pixels": len(crop.log_mask), "points": len(surface.points), "samples": options.samples}
    if not bool((crop.log_mask > crop.log_background).any()):
        raise _NoPoseError("no pixel has a mask probability above 1/2")
    with watch.stage("sampling"):
        cells, chosen = sample_correspondences(crop, options, run.generator)
    with watch.stage("p3p"):
        pixels = torch.stack((cells % crop.side, cells // crop.side), dim=-1).double()
        roots = torch.rand(len(cells), generator=run.generator, dtype=torch.float64)
        solved, rotations, translations = solve_p3p(pixels, surface.points[chosen], crop.K, roots)
    with watch.stage("pruning"):
        kept = _prune(pixels[solved], chosen[solved], surface, rotations, translations, crop, diameter, run.counts)
        rotations, translations = rotations[kept[: options.scored]], translations[kept[: options.scored]]
    run.counts["scored"] = len(rotations)
    if not len(rotations):
        raise _NoPoseError(f"none of {options.samples} samples passed the prunes")
    with watch.stage("scoring"):
        scores = score_poses(crop, surface.points, rotations, translations, options.batch, options.max_pool)
        best = int(scores[0].argmax())
        score, mask_score, coord_score = (float(values[best]) for values in scores)
    if not math.isfinite(score):
        raise _NoPoseError("no sampled pose shows any of the part in the crop")
    return rotations[best].cpu(), translations[best].cpu(), score, mask_score, coord_score


def correspondence_distribution(
    mask_logits: Float[Tensor, "r r"],
    queries: Float[Tensor, "e r r"],
    keys: Float[Tensor, "m e"],
    K: Float64[Tensor, "3 3"],
    downsample: int = 3,
) -> Distribution:
    """Average the crop over cells; then the softmax over all keys, held in memory whole."""
    mask = avg_pool2d(mask_logits[None], downsample)[0].flatten()
    rows = avg_pool2d(queries[None], downsample)[0].flatten(1).T
    K = resized_intrinsics(K, 1 / downsample)
    log_points = torch.log_softmax(rows @ keys.T, dim=1)
    return Distribution(logsigmoid(mask), logsigmoid(-mask), log_points, K, len(mask_logits) // downsample)


def sample_correspondences(
    crop: Distribution, options: TwinOptions, generator: torch.Generator
) -> tuple[Int[Tensor, "s 4"], Int[Tensor, "s 4"]]:
    """Coarse pixels and surface points, four per sample, by inversion of one flat cumulative sum.

    A pair has the weight [p(part at u) p(c | u)]^alpha.
    """
    weights = (crop.log_points + crop.log_mask[:, None]).mul_(options.alpha).exp_().flatten()
    steps = weights.cumsum(0, dtype=torch.float64) if options.double_sum else weights.cumsum_(0)
    draws = torch.rand(4 * options.samples, generator=generator, dtype=steps.dtype).to(steps.device) * steps[-1]
    pairs = torch.searchsorted(steps, draws, right=True).clamp_(max=len(steps) - 1).view(-1, 4)
    points = crop.log_points.shape[1]
    return pairs // points, pairs % points


def solve_p3p(
    pixels: Float64[Tensor, "s 4 2"],
    points: Float[Tensor, "s 4 3"],
    K: Float64[Tensor, "3 3"],
    roots: Float64[Tensor, "s"],
) -> tuple[Int[Tensor, "k"], Float64[Tensor, "k 3 3"], Float64[Tensor, "k 3"]]:
    """AP3P sample by sample: which samples have a solution, and the rotation and translation of one.

    Of a sample's up to four solutions number floor(root * solutions) is taken, whatever the fourth pair says.
    """
    image, world, intrinsics = pixels.cpu().numpy(), points.double().cpu().numpy(), K.cpu().numpy()
    solved, poses = [], []
    for sample, root in enumerate(roots.tolist()):
        count, turns, shifts = cv2.solveP3P(world[sample], image[sample], intrinsics, None, cv2.SOLVEPNP_AP3P)
        if count:
            solved.append(sample)
            poses.append(np.concatenate((turns[int(root * count)], shifts[int(root * count)])).ravel())
    vectors = torch.from_numpy(np.array(poses).reshape(-1, 6)).to(pixels.device)
    index = torch.tensor(solved, dtype=torch.long, device=pixels.device)
    return index, rotation_from_axis_angle(vectors[:, :3]), vectors[:, 3:]


def _prune(
    pixels: Float64[Tensor, "k 4 2"],
    chosen: Int[Tensor, "k 4"],
    surface: Surface,
    rotations: Float64[Tensor, "k 3 3"],
    translations: Float64[Tensor, "k 3"],
    crop: Distribution,
    diameter: float,
    counts: dict[str, int],
) -> Int[Tensor, "kept"]:
    """Poses whose first three pixels lie apart, whose distance is sensible, and whose three points face the camera."""
    spread = torch.cdist(pixels[:, :3], pixels[:, :3]).amax(dim=(1, 2)) >= SPREAD * crop.side
    nearest, farthest = (crop.K[0, 0] * diameter / (size * crop.side) for size in reversed(SIZES))
    distance = (translations[:, 2] > nearest) & (translations[:, 2] < farthest)
    points, normals = (values[chosen[:, :3]].double() @ rotations.mT for values in (surface.points, surface.normals))
    facing = ((normals * (points + translations[:, None])).sum(dim=-1) < 0).all(dim=1)
    counts["solved"] = len(pixels)
    counts["spread"] = int(spread.sum())
    counts["distance"] = int((spread & distance).sum())
    kept = (spread & distance & facing).nonzero()[:, 0]
    counts["facing"] = len(kept)
    return kept


def score_poses(
    crop: Distribution,
    points: Float[Tensor, "m 3"],
    rotations: Float64[Tensor, "b 3 3"],
    translations: Float64[Tensor, "b 3"],
    batch: int = 500,
    max_pool: bool = True,
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Score, mask score and coordinate score of poses, the latter two over their largest entropies.

    All points are drawn into a z-buffer per pose. A pose that shows no point in the crop has score -inf.
    """
    maps = (crop.log_mask[:, None], crop.log_background[:, None], crop.log_points)
    mask, background, log_points = (_pooled(rows, crop.side) if max_pool else rows for rows in maps)
    rows = torch.arange(len(mask), device=mask.device)
    scores = []
    for R, t in zip(rotations.float().split(batch), translations.float().split(batch), strict=True):
        seen = nearest_points(points @ R.mT + t[:, None], crop.K, crop.side)
        hit = seen >= 0
        mask_score = torch.where(hit, mask[:, 0], background[:, 0]).mean(dim=1) / math.log(2)
        found = torch.where(hit, log_points[rows, seen.clamp(min=0)], 0).sum(dim=1)
        coord_score = found / hit.sum(dim=1).clamp(min=1) / math.log(len(points))
        coord_score = torch.where(hit.any(dim=1), coord_score, -math.inf)
        scores.append(torch.stack((mask_score + coord_score, mask_score, coord_score)))
    score, mask_score, coord_score = torch.cat(scores, dim=1)
    return score, mask_score, coord_score


def _pooled(rows: Float[Tensor, "n c"], side: int) -> Float[Tensor, "n c"]:
    """The largest of the 3 x 3 pixels around each."""
    maps = rows.T.unflatten(1, (side, side))[None]
    return max_pool2d(maps, 3, stride=1, padding=1)[0].flatten(1).T


def nearest_points(camera_points: Float[Tensor, "b m 3"], K: Float64[Tensor, "3 3"], side: int) -> Int[Tensor, "b n"]:
    """Which point is the nearest of those that round to each pixel of a square crop, row by row; -1: none."""
    batch, count, _ = camera_points.shape
    depth, size = camera_points[..., 2], side * side
    pixel = project_points(K.to(camera_points).expand(batch, 3, 3), camera_points).round()
    inside = (depth > 0) & (pixel >= 0).all(dim=-1) & (pixel < side).all(dim=-1)
    cell = torch.where(inside, pixel[..., 1] * side + pixel[..., 0], size).long()
    buffer = depth.new_full((batch, size + 1), math.inf).scatter_reduce_(1, cell, depth, "amin")
    cell = torch.where(depth == buffer.gather(1, cell), cell, size)
    index = torch.arange(count, device=cell.device).expand(batch, -1)
    nearest = cell.new_full((batch, size + 1), count).scatter_reduce_(1, cell, index, "amin")[:, :size]
    return torch.where(nearest < count, nearest, -1)


def visible_points(
    surface: Surface, K: Float64[Tensor, "3 3"], R: Float64[Tensor, "3 3"], t: Float64[Tensor, "3"], side: int
) -> Int[Tensor, "v"]:
    """One visible surface point for each pixel that has any, at the crop's full size.

    There are about as many points as pixels, so a z-buffer alone would show the far side through its gaps. Points must
    face the camera too, and not lie far behind the nearest point of the 3 x 3 pixels around theirs.
    """
    there = surface.points.double() @ R.mT + t
    facing = ((surface.normals.double() @ R.mT * there).sum(dim=-1) < 0).nonzero()[:, 0]
    depth = there[facing, 2]
    seen = nearest_points(there[facing].float()[None], K, side)
    buffer = torch.where(seen >= 0, depth[seen.clamp(min=0)], math.inf)
    front = -_pooled(-buffer.T, side).T
    extent = surface.points.amax(dim=0) - surface.points.amin(dim=0)
    return facing[seen[(seen >= 0) & (buffer <= front + COVERED * extent.norm())]]


def refine_pose(
    queries: Float[Tensor, "e r r"],
    surface: Surface,
    K: Float64[Tensor, "3 3"],
    rotation: Float64[Tensor, "3 3"],
    translation: Float64[Tensor, "3"],
    generator: torch.Generator,
) -> Refined:
    """BFGS over (rotation vector, translation in mm) from one pose, on the crop at its full size.

    Minimised is -1/2 mean_i [q(x_i) . k_i - lse(x_i)] over the points that are visible at the start. q is bilinear at
    their projections; so is lse, the log-sum-exp of each pixel's query times up to 4096 random keys, computed once.
    SciPy's defaults, gradient by autograd.

    Raises:
        ValueError: if the pose shows no point in the crop.
    """
    device, side = queries.device, queries.shape[-1]
    visible = visible_points(surface, K, rotation.to(device), translation.to(device), side)
    if not len(visible):
        raise ValueError("the pose to refine shows no surface point in the crop; start from one that does")
    points, keys = surface.points[visible].double(), surface.keys[visible]
    some = torch.randperm(len(surface.keys), generator=generator)[:DENOMINATOR_KEYS].to(device)
    lse = torch.logsumexp(queries.flatten(1).T @ surface.keys[some].T, dim=1).view(1, side, side)
    maps = torch.cat((queries, lse))[None]

    def objective(pose: np.ndarray) -> tuple[float, np.ndarray]:
        variables = torch.from_numpy(pose).to(device).requires_grad_()
        there = points @ rotation_from_axis_angle(variables[:3]).T + variables[3:]
        grid = ((project_points(K, there) + 0.5) * (2 / side) - 1).to(maps.dtype)
        found = grid_sample(maps, grid[None, None], "bilinear", "border", align_corners=False)[0, :, 0].T
        loss = -0.5 * ((found[:, :-1] * keys).sum(dim=1) - found[:, -1]).double().mean()
        (gradient,) = torch.autograd.grad(loss, variables)
        return float(loss.detach()), gradient.cpu().numpy()

    start = torch.cat((axis_angle_from_rotation(rotation), translation)).numpy()
    before, _ = objective(start)
    end = minimize(objective, start, jac=True, method="BFGS")
    pose = torch.from_numpy(end.x)
    return Refined(rotation_from_axis_angle(pose[:3]), pose[3:], before, float(end.fun), int(end.nfev) + 1)


def depth_refine(
    translation: Float[Tensor, "3"],
    mask_logits: Float[Tensor, "r r"],
    queries: Float[Tensor, "e r r"],
    depth: Float[Tensor, "r r"],
    rendered_depth: Float[Tensor, "r r"],
    K: Float[Tensor, "3 3"],
) -> Float[Tensor, "3"]:
    """The translation in mm, moved along one ray by what a depth image says; the rotation stays.

    The shift is the median difference where the weight |query| p(part) exceeds 0.8 of its largest value; the ray goes
    through the weighted mean pixel. Unchanged where no pixel is both rendered and measured.

    Args:
        translation: `(3,)` of the pose.
        mask_logits: `(r, r)` of the crop.
        queries: `(E, r, r)`; their norm is their certainty.
        depth: `(r, r)` measured z in the crop's camera, mm; 0 where there is none.
        rendered_depth: `(r, r)` z of the part in that pose, mm; 0 where it is not.
        K: `(3, 3)` intrinsics of the crop.
    """
    valid = (depth > 0) & (rendered_depth > 0)
    weight = (queries.norm(dim=0) * torch.sigmoid(mask_logits) * valid).double()
    if not float(weight.sum()) > 0:
        return translation
    strong = weight > 0.8 * weight.max()
    shift = (depth - rendered_depth)[strong].double().quantile(0.5)
    v, u = torch.meshgrid(*(torch.arange(side, device=weight.device) for side in weight.shape), indexing="ij")
    pixel = (weight * torch.stack((u, v))).sum(dim=(1, 2)) / weight.sum()
    ray = unproject_pixels(K.double(), pixel[None])[0]
    return translation + (shift * ray).to(translation)

"""How far an estimated pose is from the true one, by the field's measures; batched, float64.

Poses are used as they are: some true rotations of LM-O are orthonormal to 1 % only, so the inverse of a rotation is the
inverse of the matrix, not its transpose. Symmetries act on the model's side: T_cam_obj @ T_obj_obj'. Definitions:
Hodan et al., "BOP Challenge 2020" (MSSD, MSPD), and Hinterstoisser et al. 2012 (ADD, ADI).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from cad2pose.geometry.intrinsics import project_points
from cad2pose.geometry.transform import transform_points
from cad2pose.parts.bounds import extreme_points, hull_indices

_CHUNK = 2_000_000  # points at a time: about 50 MB
_FEW = 128  # directions; the farthest points along them bound a maximum from below
_EXACT = 1e-13  # of R^T R - I: what rounding leaves of a rotation
_TURNS = 100_000  # symmetric versions of poses at a time: about 40 MB
_SOME = 256  # points of which the symmetries to be compared are chosen
_COMPARED = 8  # symmetries whose mean is taken over all points

OFFSETS = {"right": "px", "down": "px", "farther": "percent"}
"""What `offsets` gives, and its units."""


def rotation_error(R_est: Float[Tensor, "*batch 3 3"], R_gt: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Angle of R_est R_gt^-1 in degrees: arccos((trace - 1) / 2), clamped to [0, 180]."""
    trace = (R_est @ torch.linalg.inv(R_gt)).diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))


def frobenius_error(R_est: Float[Tensor, "*batch 3 3"], R_gt: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Frobenius norm of R_est - R_gt; 2 sqrt(2) sin(angle / 2) for exact rotations."""
    return torch.linalg.matrix_norm(R_est - R_gt)


def translation_error(t_est: Float[Tensor, "*batch 3"], t_gt: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Distance of the translations, mm."""
    return torch.linalg.vector_norm(t_est - t_gt, dim=-1)


def add_error(
    T_est: Float[Tensor, "batch 4 4"], T_gt: Float[Tensor, "batch 4 4"], points: Float[Tensor, "n 3"]
) -> Float[Tensor, "batch"]:
    """ADD: mean over the model's points of the distance between their two images, mm."""
    difference = T_est - T_gt
    columns = points.T.contiguous()
    means = [_lengths(_moved(difference[part], columns)).mean(-1) for part in _parts(len(T_est), points)]
    return torch.cat(means) if means else T_est.new_zeros(0)


def adi_error(
    T_est: Float[Tensor, "batch 4 4"], T_gt: Float[Tensor, "batch 4 4"], points: Float[Tensor, "n 3"]
) -> Float[Tensor, "batch"]:
    """ADI (ADD-S): mean over the points in the true pose of the distance to the nearest point in the estimated one.

    A rotation keeps distances, so one tree of the model's own points serves all estimates that are exactly rotated;
    the others have a tree of their own.
    """
    model = KDTree(points.numpy()) if len(T_est) else None
    errors = []
    for estimated, true in zip(T_est, T_gt, strict=True):
        R, moved = estimated[:3, :3], transform_points(true, points)
        if model is not None and float((R.T @ R - torch.eye(3, dtype=R.dtype)).abs().amax()) < _EXACT:
            distance, _ = model.query(((moved - estimated[:3, 3]) @ R).numpy(), workers=-1)
        else:
            distance, _ = KDTree(transform_points(estimated, points).numpy()).query(moved.numpy(), workers=-1)
        errors.append(float(np.mean(distance)))
    return T_est.new_tensor(errors)


def mssd_error(
    T_est: Float[Tensor, "batch 4 4"],
    T_gt: Float[Tensor, "batch 4 4"],
    points: Float[Tensor, "n 3"],
    symmetries: Float[Tensor, "k 4 4"],
) -> Float[Tensor, "batch"]:
    """MSSD: maximum surface distance, minimised over the symmetries, mm.

    Only vertices of the convex hull are visited. That is exact: |A x + b| is a convex function of x, so its maximum
    over the points lies on a vertex of their hull.
    """
    hull = points[hull_indices(points)]
    few = extreme_points(hull, _FEW).T.contiguous()
    hull = hull.T.contiguous()
    pairs = zip(T_est, T_gt, strict=True)
    errors = [_least_maximum(partial(_distance, est), true @ symmetries, few, hull) for est, true in pairs]
    return T_est.new_tensor(errors)


def mspd_error(
    T_est: Float[Tensor, "batch 4 4"],
    T_gt: Float[Tensor, "batch 4 4"],
    K: Float[Tensor, "batch 3 3"],
    points: Float[Tensor, "n 3"],
    symmetries: Float[Tensor, "k 4 4"],
) -> Float[Tensor, "batch"]:
    """MSPD: maximum projected distance, minimised over the symmetries, px."""
    few, columns = extreme_points(points, _FEW).T.contiguous(), points.T.contiguous()
    errors = []
    for est, true, camera in zip(T_est, T_gt, K, strict=True):
        distance = partial(_projected_distance, camera, est)
        errors.append(_least_maximum(distance, true @ symmetries, few, columns))
    return T_est.new_tensor(errors)


def projection_error(
    T_est: Float[Tensor, "batch 4 4"],
    T_gt: Float[Tensor, "batch 4 4"],
    K: Float[Tensor, "batch 3 3"],
    points: Float[Tensor, "n 3"],
) -> Float[Tensor, "batch"]:
    """Mean distance of the projected points, px; no symmetries."""
    columns = points.T.contiguous()
    pairs = zip(T_est, T_gt, K, strict=True)
    errors = [float(_projected_distance(camera, est, true[None], columns).mean()) for est, true, camera in pairs]
    return T_est.new_tensor(errors)


def symmetric_projection_error(
    T_est: Float[Tensor, "batch 4 4"],
    T_gt: Float[Tensor, "batch 4 4"],
    K: Float[Tensor, "batch 3 3"],
    points: Float[Tensor, "n 3"],
    symmetries: Float[Tensor, "k 4 4"],
) -> Float[Tensor, "batch"]:
    """Mean distance of the projected points, minimised over the symmetries, px.

    Exact for up to 8 symmetries; of more, the 8 that are best over some of the points are compared over all.
    """
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))  # meshes are regular
    some, columns = points[order[:_SOME]].T.contiguous(), points.T.contiguous()
    errors = []
    for est, true, camera in zip(T_est, T_gt, K, strict=True):
        versions = true @ symmetries
        if len(versions) > _COMPARED:
            rough = _projected_distance(camera, est, versions, some).mean(-1)
            versions = versions[rough.argsort()[:_COMPARED]]
        errors.append(float(_projected_distance(camera, est, versions, columns).mean(-1).amin()))
    return T_est.new_tensor(errors)


def symmetric_errors(
    T_est: Float[Tensor, "batch 4 4"], T_gt: Float[Tensor, "batch 4 4"], symmetries: Float[Tensor, "k 4 4"]
) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    """Rotation (deg), Frobenius and translation (mm) errors against each symmetric version of the true pose."""
    true = T_gt[:, None] @ symmetries
    estimated = T_est[:, None].expand_as(true)
    R_est, R_gt = estimated[..., :3, :3], true[..., :3, :3]
    translation = translation_error(estimated[..., :3, 3], true[..., :3, 3])
    return rotation_error(R_est, R_gt), frobenius_error(R_est, R_gt), translation


def nearest_symmetric_errors(
    T_est: Float[Tensor, "batch 4 4"], T_gt: Float[Tensor, "batch 4 4"], symmetries: Float[Tensor, "k 4 4"]
) -> Float[Tensor, "batch 4"]:
    """Rotation (deg), Frobenius and translation (mm) errors where the rotation's is least, and n deg n cm's n.

    The last is the least over the symmetries of the larger one of the rotation error in deg and the translation error
    in cm.
    """
    found = []
    each = max(1, _TURNS // len(symmetries))
    for est, true in zip(T_est.split(each), T_gt.split(each), strict=True):
        rotation, frobenius, translation = symmetric_errors(est, true, symmetries)
        nearest = rotation.argmin(1, keepdim=True)
        errors = [values.gather(1, nearest)[:, 0] for values in (rotation, frobenius, translation)]
        found.append(torch.stack([*errors, torch.maximum(rotation, translation / 10).amin(1)], dim=1))
    return torch.cat(found) if len(T_est) else T_est.new_zeros(0, 4)


def offsets(
    T_est: Float[Tensor, "*batch 4 4"],
    T_gt: Float[Tensor, "*batch 4 4"],
    K: Float[Tensor, "*batch 3 3"],
    center: Float[Tensor, "3"],
) -> Float[Tensor, "*batch 3"]:
    """How far a part's centre is off in the image, to the right and down (px), and away from the camera (%), signed.

    Errors of chance have either sign; what is left in the median over many estimates is systematic: of the camera's K,
    where pixels begin, how images were cut or scaled, or of the annotations.

    Args:
        T_est, T_gt: poses.
        K: intrinsics.
        center: of the part, in the mesh file's frame; symmetries leave it where it is.
    """
    found, true = (transform_points(T, center.expand(*T.shape[:-2], 1, 3)) for T in (T_est, T_gt))
    across = (project_points(K, found) - project_points(K, true))[..., 0, :]
    distance = true[..., 0, :].norm(dim=-1)
    return torch.cat((across, (100 * (found[..., 0, :].norm(dim=-1) / distance - 1))[..., None]), dim=-1)


def _least_maximum(
    distance: Callable[[Tensor, Tensor], Tensor],
    versions: Float[Tensor, "k 4 4"],
    few: Float[Tensor, "3 m"],
    points: Float[Tensor, "3 n"],
) -> float:
    """min over the versions of the true pose of the max over the points of distance(versions, points).

    The maximum over a few of the points bounds each from below; all points are visited in order of the bounds until a
    bound reaches the best so far. Exact, and with hundreds of versions a hundred times as fast as all of them.
    """
    if len(versions) == 1:
        return float(distance(versions, points).amax())
    bounds = distance(versions, few).amax(-1)
    best = math.inf
    for index in bounds.argsort().tolist():
        if float(bounds[index]) >= best:
            break
        best = min(best, float(distance(versions[index : index + 1], points).amax()))
    return best


# Below, points are columns: a product of 3 x 3 and 3 x n is several times as fast as one of n x 3 and 3 x 3.


def _moved(transforms: Float[Tensor, "k 4 4"], points: Float[Tensor, "3 n"]) -> Float[Tensor, "k 3 n"]:
    return transforms[:, :3, :3] @ points + transforms[:, :3, 3:]


def _distance(
    T_est: Float[Tensor, "4 4"], T_gt: Float[Tensor, "k 4 4"], points: Float[Tensor, "3 n"]
) -> Float[Tensor, "k n"]:
    return _lengths(_moved(T_est - T_gt, points))


def _lengths(vectors: Float[Tensor, "k 3 n"]) -> Float[Tensor, "k n"]:
    x, y, z = vectors.unbind(1)
    return (x * x + y * y + z * z).sqrt()  # several times as fast as a norm along the middle axis


def _projected_distance(
    K: Float[Tensor, "3 3"], T_est: Float[Tensor, "4 4"], T_gt: Float[Tensor, "k 4 4"], points: Float[Tensor, "3 n"]
) -> Float[Tensor, "k n"]:
    estimated, true = K @ _moved(T_est[None], points), K @ _moved(T_gt, points)
    u, v = (true[:, axis] / true[:, 2] - estimated[:, axis] / estimated[:, 2] for axis in (0, 1))
    return torch.nan_to_num(torch.hypot(u, v), nan=math.inf, posinf=math.inf)


def _parts(count: int, points: Float[Tensor, "n 3"]) -> Iterator[slice]:
    """Slices of a batch that keep batch x points bounded."""
    step = max(1, _CHUNK // max(1, len(points)))
    return (slice(start, start + step) for start in range(0, count, step))

"""The pose of a camera from three points and their rays (P3P), for whole batches at once.

The scheme is that of Lambda Twist (Persson and Nordberg, ECCV 2018) and of Ding et al. (CVPR 2023): the depths lie
where two conics meet, one real root of a cubic gives the two lines through the four meeting points, and what remains
is quadratic. The conics are set up anew here, so that triangles that are tiny in the image, or nearly a line in space,
keep their digits.

Let r1, r2, r3 be unit rays and d1, d2, d3 the depths along them, A = X2 - X1 an edge of the triangle in the camera
frame and W = X3 - X1 - foot A the altitude upon it, with `foot` known from the object. For unknowns k, p, q that stand
for d1 / sharpness, d2 - d1 and d3 - d1 - foot (d2 - d1), in units of the edge,

    A = k a + p r2            with a = sharpness (r2 - r1),
    W = k e + p g + q r3      with e = sharpness (r3 - r1 - foot (r2 - r1)) and g = foot (r3 - r2),

where differences are taken of rays, which are known, and not of depths, which are not. Edge and altitude are
orthogonal and `height` is the ratio of their lengths: A.W = 0 and W.W = height^2 A.A are two conics in (k : p : q).
The length of the edge then fixes the scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, addcmul

from cad2pose.solvers.kernels import p3p_roots

Vector = tuple[Tensor, Tensor, Tensor]  # x, y and z, each of them contiguous over rows, or over roots and rows
Frame = tuple[Vector, Vector, Vector]
Conic = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # entries 00, 01, 02, 11, 12 of a symmetric matrix

_BLOCK = 5000  # rows that a CPU solves at a time, so that what lies between the steps stays in its cache
_CUBIC_STEPS = 5
_POLISH_STEPS = 2
_ROUNDING = 32  # epsilons of the input's type within which three points are on a line, or two rays are one
_DOUBLE_ROOT = 1e-11  # discriminants down to minus this, relative, are those of double roots blurred by rounding
_NEAR_SINGULAR = 1e-8  # with a determinant far below this a root (a double one) is not polished
_RESIDUAL = 1e-8  # largest relative error of the altitude, in angle and length, that a root may have
_TINY = 1e-60  # in place of a zero that would be divided by


@dataclass(frozen=True)
class P3PRoots:
    """Up to four poses a row. The other slots have valid == False, and finite numbers without meaning.

    Args:
        rotation: `(batch, 4, 3, 3)` R of X_cam = R X_obj + t, orthonormal, determinant +1.
        translation: `(batch, 4, 3)` t in the unit of the points.
        valid: `(batch, 4)` which slots hold a root; a double root fills two of them.
    """

    rotation: Float64[Tensor, "batch 4 3 3"]
    translation: Float64[Tensor, "batch 4 3"]
    valid: Bool[Tensor, "batch 4"]


@torch.no_grad()
def p3p(points: Float[Tensor, "batch 3 3"], rays: Float[Tensor, "batch 3 3"]) -> P3PRoots:
    """All poses that put three points onto their three rays, at positive depths.

    Everything is computed in double precision, whatever the type of the input, and without gradients. No row affects
    another, and neither shapes nor the host wait for a value, so that on CUDA this is a queue of kernels. A row has no
    root where points coincide or lie on a line, where rays coincide, or where a number is not finite.

    Args:
        points: `(batch, 3, 3)` three points a row, in the object's frame, in any unit.
        rays: `(batch, 3, 3)` their directions in the camera frame, z > 0, of any length.
    """
    batch = len(points)
    found = p3p_roots(points, rays, _ROUNDING * max(torch.finfo(points.dtype).eps, torch.finfo(rays.dtype).eps))
    if found is not None:
        return P3PRoots(*found)
    numbers = torch.empty(12, 4, batch, dtype=torch.float64, device=points.device)
    valid = torch.empty(4, batch, dtype=torch.bool, device=points.device)
    block = _BLOCK if points.device.type == "cpu" else max(batch, 1)
    for start in range(0, batch, block):
        rows = slice(start, start + block)
        _solve(points[rows], rays[rows], numbers[..., rows], valid[:, rows])
    rotation = numbers[:9].unflatten(0, (3, 3)).permute(3, 2, 0, 1)
    return P3PRoots(rotation, numbers[9:].permute(2, 1, 0), valid.T)


@torch.no_grad()
def choose_by_fourth(
    roots: P3PRoots, fourth_point: Float[Tensor, "batch 3"], fourth_ray: Float[Tensor, "batch 3"]
) -> tuple[Float64[Tensor, "batch 3 3"], Float64[Tensor, "batch 3"], Bool[Tensor, "batch"], Float64[Tensor, "batch"]]:
    """In each row, the root that shows a fourth point closest to its ray.

    Args:
        roots: what `p3p` found.
        fourth_point: `(batch, 3)` in the object's frame, in the unit of the translations.
        fourth_ray: `(batch, 3)` its direction in the camera frame, of any length.

    Returns rotation, translation, whether the row has a root at all, and the angle in radians between the point, as
    that root shows it, and the ray; it is infinite in a row without roots, or without a finite fourth pair.
    """
    point, ray = _columns(fourth_point[:, None]), _columns(fourth_ray[:, None])
    shown = tuple(_dot(_columns(roots.rotation[..., i, :]), point) + roots.translation[..., i] for i in range(3))
    seen = (shown[0], shown[1], shown[2])
    across = _cross(seen, ray)
    sine, cosine = _dot(across, across).sqrt_(), _dot(seen, ray)
    size = sine + cosine.abs()
    usable = roots.valid & (size > 0) & size.isfinite()
    error, best = torch.where(usable, torch.atan2(sine, cosine), torch.inf).min(1)
    row = torch.arange(len(best), device=best.device)
    return roots.rotation[row, best], roots.translation[row, best], error.isfinite(), error


def _solve(
    points: Float[Tensor, "batch 3 3"],
    rays: Float[Tensor, "batch 3 3"],
    numbers: Float64[Tensor, "12 4 batch"],
    valid: Bool[Tensor, "4 batch"],
) -> None:
    """Fill `numbers` (R row by row, then t) and `valid` for one block."""
    triangle = _Triangle.of(points)
    bundle = _Bundle.of(rays, triangle.foot)
    orthogonal, ratio = _conics(bundle, triangle.height2)
    t, offset, slope, real_lines = _line_pair(orthogonal, ratio)
    roots, real_roots = _meeting_points(orthogonal, ratio, t, offset, slope)
    roots, edge = bundle.in_front(roots)
    roots, edge, altitude = _polished(bundle, triangle.height2, orthogonal, ratio, roots, edge)
    right = _write_poses(triangle, bundle, roots, edge, altitude, numbers)
    torch.logical_and(right & real_roots, real_lines & triangle.proper & bundle.distinct, out=valid)


@dataclass(frozen=True)
class _Triangle:
    """Three points of the object; tensors are `(batch,)`."""

    origin: Vector  # the first point
    length: Tensor  # |A|
    foot: Tensor  # the altitude stands on X1 + foot A
    height2: Tensor  # (|W| / |A|)^2
    axes: Frame  # unit vectors along A, along W and across both
    proper: Tensor  # it has an area

    @staticmethod
    def of(points: Float[Tensor, "batch 3 3"]) -> _Triangle:
        first, second, third = _rows(points)
        edge, side = _difference(second, first), _difference(third, first)
        square = _dot(edge, edge)
        foot = _dot(edge, side) / square
        axes, scale, height2 = _frame(edge, _add_(side, -foot, edge))
        blur = _ROUNDING * torch.finfo(points.dtype).eps
        proper = height2 * square > blur**2 * _dot(first, first).add_(square)
        return _Triangle(first, scale.reciprocal_(), foot, height2, axes, proper)


@dataclass(frozen=True)
class _Bundle:
    """Three rays, and the vectors that A and W are made of; tensors are `(batch,)`."""

    rays: Frame
    a: Vector
    e: Vector
    g: Vector
    foot: Tensor
    sharpness: Tensor  # 1 / the larger one of |r2 - r1| and |r3 - r1|
    distinct: Tensor  # no two rays coincide

    @staticmethod
    def of(rays: Float[Tensor, "batch 3 3"], foot: Float64[Tensor, "batch"]) -> _Bundle:
        r1, r2, r3 = (_scaled(_dot(ray, ray).sqrt_().reciprocal_(), ray) for ray in _rows(rays))
        r12, r13, r23 = _difference(r2, r1), _difference(r3, r1), _difference(r3, r2)
        s12, s13, s23 = _dot(r12, r12), _dot(r13, r13), _dot(r23, r23)
        blur = _ROUNDING * torch.finfo(rays.dtype).eps
        distinct = torch.minimum(torch.minimum(s12, s13), s23) > blur**2
        sharpness = torch.maximum(s12, s13).sqrt_().reciprocal_()
        e = _scaled(sharpness, _add_(r13, -foot, r12))
        return _Bundle((r1, r2, r3), _scaled(sharpness, r12), e, _scaled(foot, r23), foot, sharpness, distinct)

    def in_front(self, roots: Vector) -> tuple[Vector, Vector]:
        """(k : p : q) scaled to |A| = 1, with the sign that makes the sum of the depths positive; and A."""
        k, p, q = roots
        edge = _add_(_scaled(k, self.a), p, self.rays[1])
        depths = addcmul(q, p, self.foot + 1).addcmul_(k, 3 * self.sharpness)
        scale = torch.copysign(_dot(edge, edge).sqrt_().reciprocal_(), depths)
        return _scaled(scale, roots), _scaled(scale, edge)


def _conics(bundle: _Bundle, height2: Tensor) -> tuple[Conic, Conic]:
    """2 A.W and W.W - height2 A.A as quadratic forms in (k, p, q). Their entries 22 are 0 and 1."""
    a, e, g, (_, r2, r3) = bundle.a, bundle.e, bundle.g, bundle.rays
    orthogonal = (2 * _dot(a, e), _dot(a, g).add_(_dot(r2, e)), _dot(a, r3), 2 * _dot(r2, g), _dot(r2, r3))
    ratio = (
        _dot(e, e).addcmul_(height2, _dot(a, a), value=-1),
        _dot(e, g).addcmul_(height2, _dot(a, r2), value=-1),
        _dot(e, r3),
        _dot(g, g).sub_(height2),
        _dot(g, r3),
    )
    return orthogonal, ratio


def _line_pair(x: Conic, y: Conic) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A degenerate conic D = t x + y of the pencil: t, its lines q = offset k + slope p, and whether they are real.

    As its entry 22 is 1, D(k, p, q) = (q + d02 k + d12 p)^2 - (u k^2 + 2 w k p + v p^2) with u = d02^2 - d00,
    v = d12^2 - d11, w = d02 d12 - d01: a pair of lines if u v = w^2. These are quadratic in t, and u v - w^2 is cubic.
    Offset and slope are `(2, batch)`.
    """
    (x00, x01, x02, x11, x12), (y00, y01, y02, y11, y12) = x, y
    u0, u1, u2 = addcmul(-y00, y02, y02), addcmul(-x00, x02, y02, value=2), x02 * x02
    v0, v1, v2 = addcmul(-y11, y12, y12), addcmul(-x11, x12, y12, value=2), x12 * x12
    w0, w1, w2 = addcmul(-y01, y02, y12), addcmul(-x01, x02, y12).addcmul_(x12, y02), x02 * x12
    c0 = (u0 * v0).addcmul_(w0, w0, value=-1)
    c1 = (u0 * v1).addcmul_(u1, v0).addcmul_(w0, w1, value=-2)
    c2 = (u0 * v2).addcmul_(u1, v1).addcmul_(u2, v0).addcmul_(w0, w2, value=-2).addcmul_(w1, w1, value=-1)
    c3 = (u1 * v2).addcmul_(u2, v1).addcmul_(w1, w2, value=-2)
    t = _isolated_root(c0, c1, c2, c3)

    d00, d01, d02, d11, d12 = (addcmul(right, t, left) for left, right in zip(x, y, strict=True))
    u, v, w = addcmul(u0, t, addcmul(u1, t, u2)), addcmul(v0, t, addcmul(v1, t, v2)), addcmul(w0, t, addcmul(w1, t, w2))
    larger = torch.maximum(u, v)  # its root is taken; that of the other one, with its sign, is w over it
    root = larger.clamp_min(_TINY).sqrt_()
    other, is_u = torch.clamp(w / root, -root, root), (u > v).to(w.dtype)
    root_u, root_v = torch.lerp(other, root, is_u), torch.lerp(root, other, is_u)
    sign = torch.copysign(torch.ones_like(w), (d02 * root_u).addcmul_(d12, root_v))
    root_u, root_v = root_u.mul_(sign), root_v.mul_(sign)
    far = -(d02 + root_u), -(d12 + root_v)
    # The other line loses its digits in such a sum where the first one is steep. It then comes from the products:
    # d00 and d11 are those of the offsets and of the slopes, and 2 d01 is the sum of the mixed ones.
    square = (far[0] * far[0]).addcmul_(far[1], far[1])
    steep, excess = (square > 1).to(w.dtype), d00 - d11
    near_offset = torch.lerp(root_u - d02, addcmul(2 * far[1] * d01, far[0], excess).div_(square), steep)
    near_slope = torch.lerp(root_v - d12, addcmul(2 * far[0] * d01, far[1], excess, value=-1).div_(square), steep)
    real = larger >= -_DOUBLE_ROOT * (d02 * d02).addcmul_(d12, d12).add_(1)
    return t, torch.stack((far[0], near_offset)), torch.stack((far[1], near_slope)), real


def _isolated_root(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor) -> Tensor:
    """The real root of c3 t^3 + c2 t^2 + c1 t + c0 that is farthest from the two others, complex or not.

    With t = s - c2 / (3 c3) this is s^3 + m s + n = 0. That root has the sign of -n, and its absolute value is the
    largest root of s^3 + m s - |n|, on which Newton's method falls from above, from sqrt(max(-m, 0) + |n|^(2/3)).
    """
    c3 = torch.copysign(c3.abs().clamp_min_(_TINY), c3)
    shift, c, d = c2 / (3 * c3), c1 / c3, c0 / c3
    m = addcmul(c, shift, shift, value=-3)
    n = addcmul(d, shift, addcmul(c, shift, shift, value=-2), value=-1)
    size = n.abs()
    s = (-m).clamp_min_(0).add_(size.log().mul_(2 / 3).exp_()).sqrt_()
    for _ in range(_CUBIC_STEPS):
        s = addcmul(size, s, s * s, value=2).div_(addcmul(m, s, s, value=3).clamp_min_(_TINY))
    return torch.copysign(s, -n).sub_(shift)


def _meeting_points(x: Conic, y: Conic, t: Tensor, offset: Tensor, slope: Tensor) -> tuple[Vector, Tensor]:
    """Where the lines meet the conic x - t y, the one of the pencil that is least like the line pair.

    Returns homogeneous (k, p, q) and whether they are real, `(4, batch)`. On lines so steep that q would depend too
    much on p, the two change places.
    """
    m00, m01, m02, m11, m12 = (addcmul(left, t, right, value=-1) for left, right in zip(x, y, strict=True))
    m22, steep = -t, (slope.abs() > 1).to(slope.dtype)
    m01, m02 = torch.lerp(m01, m02, steep), torch.lerp(m02, m01, steep)
    m11, m22 = torch.lerp(m11, m22, steep), torch.lerp(m22, m11, steep)
    slope = slope / (slope * slope).clamp_min_(1)
    offset = torch.lerp(offset, -offset * slope, steep)
    # alpha p^2 + 2 beta p k + gamma k^2 = 0 along a line
    alpha = torch.add(slope * m22, m12, alpha=2).mul_(slope).add_(m11)
    beta = addcmul(m01, m12, offset).addcmul_(addcmul(m02, m22, offset), slope)
    gamma = torch.add(offset * m22, m02, alpha=2).mul_(offset).add_(m00)
    discriminant = (beta * beta).addcmul_(alpha, gamma, value=-1)
    root = torch.copysign(discriminant.clamp_min(0).sqrt_(), beta).add_(beta).neg_()
    real = discriminant >= -_DOUBLE_ROOT * (alpha * alpha).addcmul_(beta, beta).addcmul_(gamma, gamma)
    k, p = torch.stack((alpha, root)), torch.stack((root, gamma))
    q = (offset * k).addcmul_(slope, p)
    p, q = torch.lerp(p, q, steep), torch.lerp(q, p, steep)
    return (k.flatten(0, 1), p.flatten(0, 1), q.flatten(0, 1)), real.repeat(2, 1)


def _polished(
    bundle: _Bundle, height2: Tensor, x: Conic, y: Conic, roots: Vector, edge: Vector
) -> tuple[Vector, Vector, Vector]:
    """Newton's method on A.W = 0 and W.W = height2 A.A, with k held: improved roots, A and W.

    The residuals are those of the vectors: from the conics they would lose digits where W is small. The derivatives,
    which need fewer, are those of the conics, and are taken once.
    """
    k, p, q = roots
    altitude = _add_(_add_(_scaled(k, bundle.e), p, bundle.g), q, bundle.rays[2])
    angle_p = (x[1] * k).addcmul_(x[3], p).addcmul_(x[4], q)
    angle_q = (x[2] * k).addcmul_(x[4], p)
    excess_p = (y[1] * k).addcmul_(y[3], p).addcmul_(y[4], q)
    excess_q = addcmul(q, y[2], k).addcmul_(y[4], p)
    determinant = (angle_p * excess_q).addcmul_(angle_q, excess_p, value=-1)
    inverse = determinant / addcmul(_NEAR_SINGULAR**2 * height2, determinant, determinant)
    half_inverse = 0.5 * inverse  # the derivatives of W.W - height2 A.A are twice those above
    for _ in range(_POLISH_STEPS):
        angle = _dot(edge, altitude).mul_(inverse)
        excess = _dot(altitude, altitude).addcmul_(height2, _dot(edge, edge), value=-1).mul_(half_inverse)
        step_p = (angle_q * excess).addcmul_(excess_q, angle, value=-1)
        step_q = (excess_p * angle).addcmul_(angle_p, excess, value=-1)
        p, q = p + step_p, q + step_q
        edge = _add_(edge, step_p, bundle.rays[1])
        altitude = _add_(_add_(altitude, step_p, bundle.g), step_q, bundle.rays[2])
    return (k, p, q), edge, altitude


def _write_poses(
    triangle: _Triangle,
    bundle: _Bundle,
    roots: Vector,
    edge: Vector,
    altitude: Vector,
    numbers: Float64[Tensor, "12 4 batch"],
) -> Bool[Tensor, "4 batch"]:
    """The motions from the triangle in the object's frame to that of the camera; which are right, and in front."""
    frame, scale, height2 = _frame(edge, altitude)
    first, second = _row(0, frame, triangle.axes), _row(1, frame, triangle.axes)
    rotation = (first, second, _cross(first, second))
    angle = _dot(edge, altitude).abs_().mul_(scale * scale)  # times the height
    wrong = torch.maximum(angle.mul_(triangle.height2.sqrt()), height2.sub_(triangle.height2).abs_())

    k, p, q = roots
    depth = k * bundle.sharpness
    nearest = torch.minimum(torch.minimum(depth + p, addcmul(depth, bundle.foot, p).add_(q)), depth)
    depth = depth.mul_(scale).mul_(triangle.length)
    for i, (row, ray) in enumerate(zip(rotation, bundle.rays[0], strict=True)):
        shift = (depth * ray).sub_(_dot(row, triangle.origin))
        for slot, values in zip((3 * i, 3 * i + 1, 3 * i + 2, 9 + i), (*row, shift), strict=True):
            torch.nan_to_num(values, 0.0, 0.0, 0.0, out=numbers[slot])
    return torch.minimum(nearest, _RESIDUAL * triangle.height2 - wrong) > 0


def _frame(edge: Vector, altitude: Vector) -> tuple[Frame, Tensor, Tensor]:
    """Unit vectors along the edge, along the altitude and across both; 1 / |edge|, and (|altitude| / |edge|)^2."""
    scale = _dot(edge, edge).sqrt_().reciprocal_()
    along = _scaled(scale, edge)
    normal = _scaled(scale, _cross(along, altitude))
    height2 = _dot(normal, normal)
    normal = _scaled(height2.sqrt().reciprocal_(), normal)
    return (along, _cross(normal, along), normal), scale, height2


def _row(i: int, frame: Frame, axes: Frame) -> Vector:
    """Row i of the rotation that takes `axes` to `frame`."""
    return _add_(_add_(_scaled(frame[0][i], axes[0]), frame[1][i], axes[1]), frame[2][i], axes[2])


def _rows(x: Float[Tensor, "batch 3 3"]) -> Frame:
    """The three vectors of each item, in double precision."""
    first, second, third = x.double().permute(1, 2, 0).contiguous().unbind(0)
    return _columns(first.T), _columns(second.T), _columns(third.T)


def _columns(x: Float[Tensor, "*batch 3"]) -> Vector:
    return x[..., 0], x[..., 1], x[..., 2]


def _dot(a: Vector, b: Vector) -> Tensor:
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])


def _cross(a: Vector, b: Vector) -> Vector:
    return (
        (a[1] * b[2]).addcmul_(a[2], b[1], value=-1),
        (a[2] * b[0]).addcmul_(a[0], b[2], value=-1),
        (a[0] * b[1]).addcmul_(a[1], b[0], value=-1),
    )


def _difference(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _scaled(s: Tensor, a: Vector) -> Vector:
    return s * a[0], s * a[1], s * a[2]


def _add_(a: Vector, s: Tensor, b: Vector) -> Vector:
    """a + s b, in the memory of a."""
    return a[0].addcmul_(s, b[0]), a[1].addcmul_(s, b[1]), a[2].addcmul_(s, b[2])

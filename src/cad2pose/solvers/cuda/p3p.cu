// P3P, and poses from sampled correspondences, for CUDA: a thread solves a sample. p3p.py explains the formulas.

#define CUBIC_STEPS 5
#define POLISH_STEPS 2
#define ROUNDING 32
#define DOUBLE_ROOT 1e-11
#define NEAR_SINGULAR 1e-8
#define RESIDUAL 1e-8
#define TINY 1e-60

struct Vector {
    double x, y, z;
};

__device__ Vector operator+(Vector a, Vector b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
__device__ Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
__device__ Vector operator*(double s, Vector a) { return {s * a.x, s * a.y, s * a.z}; }
__device__ double dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
__device__ Vector cross(Vector a, Vector b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

struct Conic {  // entries of a symmetric matrix
    double e00, e01, e02, e11, e12;
};

struct Frame {  // unit vectors along an edge, along the altitude upon it, and across both
    Vector along, altitude, across;
    double scale, height2;  // 1 / |edge|, (|altitude| / |edge|)^2
};

struct Root {
    double R[9], t[3];
    bool valid;
};

__device__ Frame frame_of(Vector edge, Vector altitude) {
    Frame f;
    f.scale = 1 / sqrt(dot(edge, edge));
    f.along = f.scale * edge;
    Vector normal = f.scale * cross(f.along, altitude);
    f.height2 = dot(normal, normal);
    f.across = (1 / sqrt(f.height2)) * normal;
    f.altitude = cross(f.across, f.along);
    return f;
}

// The real root of c3 t^3 + c2 t^2 + c1 t + c0 that is farthest from the two others.
__device__ double isolated_root(double c0, double c1, double c2, double c3) {
    c3 = copysign(fmax(fabs(c3), TINY), c3);
    double shift = c2 / (3 * c3), c = c1 / c3, d = c0 / c3;
    double m = c - 3 * shift * shift, n = d - shift * (c - 2 * shift * shift), size = fabs(n);
    double s = sqrt(fmax(-m, 0.0) + exp(2.0 / 3.0 * log(size)));
    for (int i = 0; i < CUBIC_STEPS; i++) s = (size + 2 * s * s * s) / fmax(m + 3 * s * s, TINY);
    return copysign(s, -n) - shift;
}

__device__ void solve(const Vector* X, const Vector* directions, double blur, Root* roots) {
    Vector r[3];
    for (int i = 0; i < 3; i++) r[i] = (1 / sqrt(dot(directions[i], directions[i]))) * directions[i];

    Vector edge = X[1] - X[0], side = X[2] - X[0];
    double square = dot(edge, edge), foot = dot(edge, side) / square;
    Frame object = frame_of(edge, side - foot * edge);
    double length = 1 / object.scale, height2 = object.height2;
    bool proper = height2 * square > blur * blur * (dot(X[0], X[0]) + square);

    Vector r12 = r[1] - r[0], r13 = r[2] - r[0], r23 = r[2] - r[1];
    double s12 = dot(r12, r12), s13 = dot(r13, r13), s23 = dot(r23, r23);
    proper = proper && fmin(fmin(s12, s13), s23) > blur * blur;
    double sharpness = 1 / sqrt(fmax(s12, s13));
    Vector a = sharpness * r12, e = sharpness * (r13 - foot * r12), g = foot * r23;

    Conic x = {2 * dot(a, e), dot(a, g) + dot(r[1], e), dot(a, r[2]), 2 * dot(r[1], g), dot(r[1], r[2])};
    Conic y = {dot(e, e) - height2 * dot(a, a), dot(e, g) - height2 * dot(a, r[1]), dot(e, r[2]),
               dot(g, g) - height2, dot(g, r[2])};

    // The degenerate conic t x + y and its two lines q = offset k + slope p.
    double u0 = y.e02 * y.e02 - y.e00, u1 = 2 * x.e02 * y.e02 - x.e00, u2 = x.e02 * x.e02;
    double v0 = y.e12 * y.e12 - y.e11, v1 = 2 * x.e12 * y.e12 - x.e11, v2 = x.e12 * x.e12;
    double w0 = y.e02 * y.e12 - y.e01, w1 = x.e02 * y.e12 + x.e12 * y.e02 - x.e01, w2 = x.e02 * x.e12;
    double t = isolated_root(
        u0 * v0 - w0 * w0, u0 * v1 + u1 * v0 - 2 * w0 * w1, u0 * v2 + u1 * v1 + u2 * v0 - 2 * w0 * w2 - w1 * w1,
        u1 * v2 + u2 * v1 - 2 * w1 * w2
    );
    double d00 = y.e00 + t * x.e00, d01 = y.e01 + t * x.e01, d02 = y.e02 + t * x.e02, d11 = y.e11 + t * x.e11;
    double d12 = y.e12 + t * x.e12;
    double u = u0 + t * (u1 + t * u2), v = v0 + t * (v1 + t * v2), w = w0 + t * (w1 + t * w2);
    double larger = fmax(u, v), root = sqrt(fmax(larger, TINY)), other = fmin(fmax(w / root, -root), root);
    double root_u = u > v ? root : other, root_v = u > v ? other : root;
    double sign = copysign(1.0, d02 * root_u + d12 * root_v);
    root_u *= sign, root_v *= sign;
    double offset[2] = {-(d02 + root_u), 0}, slope[2] = {-(d12 + root_v), 0};
    double far = offset[0] * offset[0] + slope[0] * slope[0];
    if (far > 1) {
        offset[1] = (offset[0] * (d00 - d11) + 2 * slope[0] * d01) / far;
        slope[1] = (2 * offset[0] * d01 - slope[0] * (d00 - d11)) / far;
    } else {
        offset[1] = root_u - d02;
        slope[1] = root_v - d12;
    }
    bool real_lines = larger >= -DOUBLE_ROOT * (d02 * d02 + d12 * d12 + 1);

    for (int line = 0; line < 2; line++) {
        // Where the line meets x - t y; on a steep one, p and q change places.
        double m00 = x.e00 - t * y.e00, m01 = x.e01 - t * y.e01, m02 = x.e02 - t * y.e02, m11 = x.e11 - t * y.e11;
        double m12 = x.e12 - t * y.e12, m22 = -t, b = slope[line], o = offset[line];
        bool steep = fabs(b) > 1;
        if (steep) {
            double held = m01;
            m01 = m02, m02 = held, held = m11, m11 = m22, m22 = held;
            b = 1 / b, o = -o * b;
        }
        double alpha = (2 * m12 + b * m22) * b + m11, beta = m01 + m12 * o + (m02 + m22 * o) * b;
        double gamma = (2 * m02 + o * m22) * o + m00, discriminant = beta * beta - alpha * gamma;
        double both = -(copysign(sqrt(fmax(discriminant, 0.0)), beta) + beta);
        bool real = discriminant >= -DOUBLE_ROOT * (alpha * alpha + beta * beta + gamma * gamma);
        for (int number = 0; number < 2; number++) {
            double k = number ? both : alpha, p = number ? gamma : both, q = o * k + b * p;
            if (steep) {
                double held = p;
                p = q, q = held;
            }
            // |A| = 1, and the sum of the depths positive
            Vector A = k * a + p * r[1];
            double scale = copysign(1 / sqrt(dot(A, A)), q + p * (foot + 1) + 3 * k * sharpness);
            k *= scale, p *= scale, q *= scale, A = scale * A;
            Vector W = k * e + p * g + q * r[2];
            double angle_p = x.e01 * k + x.e11 * p + x.e12 * q, angle_q = x.e02 * k + x.e12 * p;
            double excess_p = y.e01 * k + y.e11 * p + y.e12 * q, excess_q = q + y.e02 * k + y.e12 * p;
            double determinant = angle_p * excess_q - angle_q * excess_p;
            double inverse = determinant / (NEAR_SINGULAR * NEAR_SINGULAR * height2 + determinant * determinant);
            for (int i = 0; i < POLISH_STEPS; i++) {
                double angle = dot(A, W) * inverse;
                double excess = (dot(W, W) - height2 * dot(A, A)) * 0.5 * inverse;
                double step_p = angle_q * excess - excess_q * angle, step_q = excess_p * angle - angle_p * excess;
                p += step_p, q += step_q;
                A = A + step_p * r[1];
                W = W + step_p * g + step_q * r[2];
            }
            Frame camera = frame_of(A, W);
            Vector row[3];
            row[0] = camera.along.x * object.along + camera.altitude.x * object.altitude + camera.across.x * object.across;
            row[1] = camera.along.y * object.along + camera.altitude.y * object.altitude + camera.across.y * object.across;
            row[2] = cross(row[0], row[1]);
            double wrong = fabs(dot(A, W)) * camera.scale * camera.scale * sqrt(height2);
            wrong = fmax(wrong, fabs(camera.height2 - height2));
            double depth = k * sharpness, nearest = fmin(fmin(depth + p, depth + foot * p + q), depth);
            depth *= camera.scale * length;
            double ray[3] = {r[0].x, r[0].y, r[0].z};
            Root* out = roots + 2 * number + line;
            bool finite = true;
            for (int i = 0; i < 3; i++) {
                double values[4] = {row[i].x, row[i].y, row[i].z, depth * ray[i] - dot(row[i], X[0])};
                for (int j = 0; j < 4; j++) {
                    finite = finite && isfinite(values[j]);
                    (j < 3 ? out->R[3 * i + j] : out->t[i]) = isfinite(values[j]) ? values[j] : 0;
                }
            }
            out->valid = finite && proper && real_lines && real && nearest > 0 && RESIDUAL * height2 - wrong > 0;
        }
    }
}

// All roots: rotation (n, 4, 3, 3), translation (n, 4, 3), valid (n, 4).
extern "C" __global__ void __launch_bounds__(128) all_roots(
    const double* points, const double* rays, int count, double blur, double* rotation, double* translation,
    unsigned char* valid
) {
    for (int n = blockIdx.x * blockDim.x + threadIdx.x; n < count; n += gridDim.x * blockDim.x) {
        Root roots[4];
        solve((const Vector*)points + 3 * n, (const Vector*)rays + 3 * n, blur, roots);
        for (int root = 0; root < 4; root++) {
            int at = 4 * n + root;
            for (int i = 0; i < 9; i++) rotation[9LL * at + i] = roots[root].R[i];
            for (int i = 0; i < 3; i++) translation[3LL * at + i] = roots[root].t[i];
            valid[at] = roots[root].valid;
        }
    }
}

// The pose of one sample of four pixels u, v and points X with their rays: false where it is not kept (see sampling.py).
__device__ bool pose_of(
    const Vector* X, const Vector* rays, const float* normals, const long long* drawn, double focal, double nearest,
    double farthest, Root* found
) {
    Root roots[4];
    solve(X, rays, ROUNDING * 2.220446049250313e-16, roots);
    int best = -1;
    double least = 0;
    for (int i = 0; i < 4; i++) {
        if (!roots[i].valid) continue;
        const double* R = roots[i].R;
        Vector x = X[3], seen = {R[0] * x.x + R[1] * x.y + R[2] * x.z + roots[i].t[0],
                                 R[3] * x.x + R[4] * x.y + R[5] * x.z + roots[i].t[1],
                                 R[6] * x.x + R[7] * x.y + R[8] * x.z + roots[i].t[2]};
        Vector across = cross(seen, rays[3]);
        double angle = atan2(sqrt(dot(across, across)), dot(seen, rays[3]));
        if (isfinite(angle) && (best < 0 || angle < least)) best = i, least = angle;
    }
    if (best < 0) return false;
    *found = roots[best];
    const double *R = found->R, *t = found->t;
    double apparent = 2 * focal / fmax(t[2], 1e-6);
    bool good = apparent > nearest && apparent < farthest;
    for (int i = 0; i < 3 && good; i++) {
        const float* normal = normals + 3 * drawn[i];
        double facing = 0;
        for (int j = 0; j < 3; j++) {
            double x = R[3 * j] * X[i].x + R[3 * j + 1] * X[i].y + R[3 * j + 2] * X[i].z + t[j];
            facing += x * (R[3 * j] * normal[0] + R[3 * j + 1] * normal[1] + R[3 * j + 2] * normal[2]);
        }
        good = facing < 0;
    }
    return good;
}

// Poses of samples of four pixels with their surface points, and whether they are kept.
extern "C" __global__ void __launch_bounds__(128) propose(
    const float* points, const float* normals, const long long* pixel, const long long* drawn, const float* K,
    int samples, int count, int width, double spread, double nearest, double farthest, float* rotation,
    float* position, unsigned char* kept
) {
    for (int n = blockIdx.x * blockDim.x + threadIdx.x; n < count; n += gridDim.x * blockDim.x) {
        const float* camera = K + 9 * (n / samples);
        Vector X[4], rays[4];
        double u[4], v[4], apart = 0;
        for (int i = 0; i < 4; i++) {
            const float* point = points + 3 * drawn[4LL * n + i];
            X[i] = {point[0], point[1], point[2]};
            u[i] = pixel[4LL * n + i] % width, v[i] = pixel[4LL * n + i] / width;
            rays[i] = {(u[i] - camera[2]) / camera[0], (v[i] - camera[5]) / camera[4], 1};
        }
        for (int i = 0; i < 3; i++) {
            double across = u[i] - u[(i + 1) % 3], down = v[i] - v[(i + 1) % 3];
            apart = fmax(apart, across * across + down * down);
        }
        Root root;
        kept[n] = sqrt(apart) >= spread * width &&
                  pose_of(X, rays, normals, drawn + 4LL * n, camera[0] / width, nearest, farthest, &root);
        for (int i = 0; i < 9; i++) rotation[9LL * n + i] = kept[n] ? root.R[i] : 0;
        for (int i = 0; i < 3; i++) position[3LL * n + i] = kept[n] ? root.t[i] : 0;
    }
}

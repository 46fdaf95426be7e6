// The score with its derivatives (score.py), and the climb to its maxima (refine.py), fused for CUDA: a block climbs
// from a pose, from the first step to the last.

#include "pose.cuh"

#define HELD 8  // numbers kept of every point between the two passes
#define STEP 6
#define CURVATURE 21
#define TAIL 8.0f  // as in refine.py

struct Scene {  // see PoseScore
    const float *points, *normals, *keys, *areas;
    int count;
    const unsigned char* visible;
    int stride;
    const float* directions;
    int viewpoints;
    const float* maps;
    int height, width;
    float focal[2], centre[2], background, expected, pixels, outliers, weight;
    long long crop;
};

struct Found {
    float value, gradient[STEP], information[CURVATURE];  // the lower triangle, row by row
};

struct Shared {
    float partial[STEP + CURVATURE][MOST_WARPS], sums[STEP + CURVATURE];
    Seen seen;
    Pose now, next;
    Found here, there;
    double damping;
    int going, accepted;
};

// Mask logit, c and share inside the image at a pixel of the padded maps, and the slopes of the first two.
__device__ void sample(const Scene& scene, const float* key, float x, float y, float* held, float* inside) {
    x = fminf(fmaxf(x + 1, 0), scene.width - 1.001f);
    y = fminf(fmaxf(y + 1, 0), scene.height - 1.001f);
    int column = x, row = y;
    float u = x - column, v = y - row, likely[4], logit[4], within[4];
    const float* first = scene.maps + ((scene.crop * scene.height + row) * scene.width + column) * CHANNELS;
    for (int corner = 0; corner < 4; corner++) {
        const float* map = first + ((corner / 2) * scene.width + corner % 2) * CHANNELS;
        float ratio = map[EMBEDDING];
        for (int e = 0; e < EMBEDDING; e++) ratio += map[e] * key[e];
        likely[corner] = expf(fminf(fmaxf(ratio, -LARGEST_RATIO), LARGEST_RATIO));
        logit[corner] = map[EMBEDDING + 1];
        within[corner] = map[EMBEDDING + 2];
    }
    float a = likely[1] - likely[0], b = likely[3] - likely[2], top = likely[0] + u * a, bottom = likely[2] + u * b;
    float density = (1 - scene.outliers) * (top + v * (bottom - top)) + scene.outliers;
    float factor = (1 - scene.outliers) / density;
    held[1] = logf(density);
    held[4] = factor * (a + v * (b - a));
    held[5] = factor * (bottom - top);
    a = logit[1] - logit[0], b = logit[3] - logit[2], top = logit[0] + u * a, bottom = logit[2] + u * b;
    held[0] = top + v * (bottom - top);
    held[2] = a + v * (b - a);
    held[3] = bottom - top;
    top = within[0] + u * (within[1] - within[0]), bottom = within[2] + u * (within[3] - within[2]);
    *inside = top + v * (bottom - top);
}

// The score of a pose, and its derivatives where asked for. `scratch` holds HELD x count numbers of this block.
__device__ void linearize(
    const Scene& scene, const Pose& pose, bool derivatives, float* scratch, Shared* shared, Found* found
) {
    nearest_viewpoints(pose, scene.directions, scene.viewpoints, &shared->seen);
    __syncthreads();
    const Seen& seen = shared->seen;
    float weight[3], whole = 0;
    for (int k = 0; k < 3; k++) weight[k] = seen.weight[k] - seen.weight[3], whole += weight[k];
    float sum[STEP + CURVATURE] = {0};
    for (int i = threadIdx.x; i < scene.count; i += blockDim.x) {
        float x[3], normal[3], held[HELD], inside, shown = 0;
        turn(pose.R, scene.points + 3 * i, x);
        turn(pose.R, scene.normals + 3 * i, normal);
        for (int k = 0; k < 3; k++) {
            x[k] += pose.p[k];
            shown += weight[k] * scene.visible[(long long)seen.index[k] * scene.stride + i];
        }
        shown /= fmaxf(whole, 1e-9f);
        float depth = fmaxf(x[2], 1e-3f), facing = -(normal[0] * x[0] + normal[1] * x[1] + normal[2] * x[2]);
        float column = x[0] / depth * scene.focal[0] + scene.centre[0];
        float row = x[1] / depth * scene.focal[1] + scene.centre[1];
        sample(scene, scene.keys + EMBEDDING * i, column, row, held, &inside);
        held[7] = facing > 0 ? scene.areas[i] * shown * scene.focal[0] * scene.focal[1] * inside : 0;
        held[6] = held[7] * facing / (depth * depth * depth);
        sum[0] += held[6];
        sum[1] += held[6] * held[1];
        sum[2] += held[6] * held[0];
        if (derivatives) {
            for (int k = 0; k < HELD; k++) scratch[k * scene.count + i] = held[k];
        }
    }
    block_sum(sum, 3, shared->sums, shared->partial);
    float total = fmaxf(shared->sums[0], 1e-6f), mean = shared->sums[1] / total, share = scene.expected / total;
    float value = (scene.weight * (scene.background + shared->sums[2]) + scene.expected * mean) / scene.pixels;
    __syncthreads();
    if (threadIdx.x == 0) found->value = value;
    if (!derivatives) {
        __syncthreads();
        return;
    }
    for (int k = 0; k < 3; k++) sum[k] = 0;
    for (int i = threadIdx.x; i < scene.count; i += blockDim.x) {
        float turned[3], normal[3], x[3], held[HELD], step[STEP], growth[STEP], closer[STEP];
        for (int k = 0; k < HELD; k++) held[k] = scratch[k * scene.count + i];
        turn(pose.R, scene.points + 3 * i, turned);
        turn(pose.R, scene.normals + 3 * i, normal);
        for (int k = 0; k < 3; k++) x[k] = turned[k] + pose.p[k];
        float depth = fmaxf(x[2], 1e-3f), gain = scene.weight * held[0] + share * (held[1] - mean);
        step[3] = (scene.weight * held[2] + share * held[4]) * scene.focal[0] / depth;
        step[4] = (scene.weight * held[3] + share * held[5]) * scene.focal[1] / depth;
        step[5] = -(step[3] * x[0] + step[4] * x[1]) / depth;
        cross(turned, step + 3, step);
        closer[0] = turned[1], closer[1] = -turned[0], closer[2] = closer[3] = closer[4] = 0, closer[5] = 1;
        cross(normal, pose.p, growth);
        for (int k = 0; k < 3; k++) growth[3 + k] = normal[k];
        float tilt = -held[7] / (depth * depth * depth), nearer = 3 * held[6] / depth;
        for (int k = 0, at = STEP; k < STEP; k++) {
            sum[k] += held[6] * step[k] + gain * (tilt * growth[k] - nearer * closer[k]);
            for (int j = 0; j <= k; j++) sum[at++] += held[6] * step[k] * step[j];
        }
    }
    block_sum(sum, STEP + CURVATURE, shared->sums, shared->partial);
    for (int k = threadIdx.x; k < STEP + CURVATURE; k += blockDim.x) {
        float one = shared->sums[k] / scene.pixels;
        if (k < STEP) found->gradient[k] = one;
        else found->information[k - STEP] = one;
    }
    __syncthreads();
}

// What was known of the depth before; one thread.
__device__ void add_prior(Found* found, float z, float depth, float sigma, float samples) {
    float off = logf(z / depth) / sigma, weight = (TAIL + 1) / (TAIL + off * off) / samples;
    found->value -= (TAIL + 1) / 2 * log1pf(off * off / TAIL) / samples;
    found->gradient[5] -= weight * off / (sigma * z);
    found->information[CURVATURE - 1] += weight / (sigma * sigma * z * z);
}

// The damped step, by Cholesky's decomposition; zeros where there is none. Returns its largest part. The last unknown is
// a share of the position p (see refine.py).
__device__ float damped_step(const Found& at, const float* p, double damping, float largest, float* step) {
    double L[CURVATURE], y[STEP], I[CURVATURE], floor = 0, most = 0, scale = 0, slope = 0;
    for (int k = 0; k < CURVATURE; k++) I[k] = at.information[k];
    for (int j = 0; j < 5; j++) {  // the last row; of the packed lower triangle, row i begins at i (i + 1) / 2
        double sum = 0;
        for (int k = 3; k < STEP; k++) {
            sum += (double)p[k - 3] * at.information[k > j ? k * (k + 1) / 2 + j : j * (j + 1) / 2 + k];
        }
        I[15 + j] = sum;
    }
    for (int k = 3; k < STEP; k++) {
        slope += (double)p[k - 3] * at.gradient[k];
        for (int j = 3; j < STEP; j++) {
            scale += (double)p[k - 3] * p[j - 3] * at.information[k > j ? k * (k + 1) / 2 + j : j * (j + 1) / 2 + k];
        }
    }
    I[20] = scale;
    for (int k = 0, d = 0; k < STEP; k++, d += k + 1) floor += I[d] / 6.0;
    floor = fmax(floor, 1e-9);
    bool proper = true;
    for (int i = 0, row = 0; i < STEP; row += ++i) {
        for (int j = 0, other = 0; j <= i; other += ++j) {
            double value = I[row + j];
            if (i == j) value += 0.1 * value + 1e-2 * floor;
            value *= damping;
            for (int k = 0; k < j; k++) value -= L[row + k] * L[other + k];
            if (i == j) {
                proper = proper && value > 0;
                L[row + j] = sqrt(fmax(value, 1e-300));
            } else {
                L[row + j] = value / L[other + j];
            }
        }
        y[i] = i < 5 ? (double)at.gradient[i] : slope;
        for (int k = 0; k < i; k++) y[i] -= L[row + k] * y[k];
        y[i] /= L[row + i];
    }
    for (int i = STEP - 1; i >= 0; i--) {
        for (int k = i + 1; k < STEP; k++) y[i] -= L[k * (k + 1) / 2 + i] * y[k];
        y[i] /= L[i * (i + 1) / 2 + i];
    }
    for (int k = 0; k < STEP; k++) {
        if (!proper || !isfinite(y[k])) y[k] = 0;
        most = fmax(most, fabs(y[k]));
    }
    double factor = largest / fmax(most, (double)largest);
    for (int k = 0; k < 5; k++) step[k] = y[k] * factor;
    step[5] = 0;
    for (int k = 0; k < 3; k++) step[3 + k] += p[k] * y[5] * factor;
    return most * factor;
}

// R <- exp(w) R, t <- t + d
__device__ void perturb(const Pose& from, const float* step, Pose* to) {
    double x = step[0], y = step[1], z = step[2], square = x * x + y * y + z * z, angle = sqrt(square);
    double a = angle < 1e-4 ? 1 - square / 6 : sin(angle) / angle;
    double b = angle < 1e-4 ? 0.5 - square / 24 : (1 - cos(angle)) / square;
    double E[9] = {1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y,
                   b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x,
                   b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y)};
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) {
            to->R[3 * i + j] = E[3 * i] * from.R[j] + E[3 * i + 1] * from.R[3 + j] + E[3 * i + 2] * from.R[6 + j];
        }
        to->p[i] = from.p[i] + step[3 + i];
    }
}

// Rotations and positions are replaced by those reached. With prior_sigma <= 0 there is no prior; with derivatives 0
// and no iterations, gradient and information stay as they are.
extern "C" __global__ void __launch_bounds__(256) climb(
    const float* points, const float* normals, const float* keys, const float* areas, int count,
    const unsigned char* visible, int stride, const float* directions, int viewpoints, const float* maps, int height,
    int width, const float* K, const float* sums, double outliers, double mask_weight, const long long* row,
    const float* prior_depth, double prior_sigma, const float* prior_samples, int iterations, int derivatives,
    double damping, double tolerance, double largest_step, float* scratch, float* rotation, float* position,
    float* value, long long* accepted, float* gradient, float* information
) {
    __shared__ Shared shared;
    int n = blockIdx.x;
    const float* camera = K + 9 * row[n];
    const float* sum = sums + 3 * row[n];
    Scene scene = {points, normals, keys, areas, count, visible, stride, directions, viewpoints, maps, height, width,
                   {camera[0], camera[4]}, {camera[2], camera[5]}, sum[0], sum[1], sum[2], (float)outliers,
                   (float)mask_weight, row[n]};
    float* held = scratch + (long long)n * HELD * count;
    bool prior = prior_sigma > 0, curved = derivatives || iterations > 0;
    if (threadIdx.x == 0) {
        for (int k = 0; k < 9; k++) shared.now.R[k] = rotation[9 * n + k];
        for (int k = 0; k < 3; k++) shared.now.p[k] = position[3 * n + k];
        shared.damping = damping;
        shared.going = 1;
        shared.accepted = 0;
    }
    __syncthreads();
    linearize(scene, shared.now, curved, held, &shared, &shared.here);
    if (threadIdx.x == 0 && prior) {
        add_prior(&shared.here, shared.now.p[2], prior_depth[n], prior_sigma, prior_samples[n]);
    }
    for (int iteration = 0; iteration < iterations && shared.going; iteration++) {
        __syncthreads();
        if (threadIdx.x == 0) {
            float step[STEP];
            shared.going = damped_step(shared.here, shared.now.p, shared.damping, largest_step, step) >= tolerance;
            perturb(shared.now, step, &shared.next);
        }
        __syncthreads();
        linearize(scene, shared.next, true, held, &shared, &shared.there);
        if (threadIdx.x == 0) {
            if (prior) add_prior(&shared.there, shared.next.p[2], prior_depth[n], prior_sigma, prior_samples[n]);
            bool better = shared.there.value > shared.here.value;
            if (better) {
                shared.here = shared.there;
                shared.now = shared.next;
                shared.accepted++;
            }
            shared.damping = fmin(fmax(shared.damping * (better ? 0.4 : 4.0), 1e-3), 1e3);
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        for (int k = 0; k < 9; k++) rotation[9 * n + k] = shared.now.R[k];
        for (int k = 0; k < 3; k++) position[3 * n + k] = shared.now.p[k];
        value[n] = shared.here.value;
        accepted[n] = shared.accepted;
        for (int i = 0, at = 0; curved && i < STEP; i++) {
            gradient[STEP * n + i] = shared.here.gradient[i];
            for (int j = 0; j <= i; j++, at++) {
                float one = shared.here.information[at];
                information[36 * n + STEP * i + j] = information[36 * n + STEP * j + i] = one;
            }
        }
    }
}

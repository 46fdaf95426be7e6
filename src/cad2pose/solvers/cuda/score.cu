// What the score of poses is made of, and the quick score (score.py, quick_score.py), fused for CUDA.

#include "pose.cuh"

// Padded maps, with chance = log(contrast keys) - log sum exp(query . key) where the mask counts; a warp for a pixel.
extern "C" __global__ void prepare(
    const float* queries, const float* logits, const float* valid, const float* contrast, int keys, int crops,
    int height, int width, double sharpness, double least_mask, double largest_logit, float* maps
) {
    int warp = (blockIdx.x * blockDim.x + threadIdx.x) / warpSize, lane = threadIdx.x % warpSize;
    int warps = gridDim.x * blockDim.x / warpSize, area = height * width;
    float least = logf((float)least_mask / (1 - (float)least_mask)), limit = largest_logit;
    for (int pixel = warp; pixel < crops * area; pixel += warps) {
        int crop = pixel / area, place = pixel % area;
        float inside = valid[pixel] >= 0.5f;
        bool counts = inside > 0 && logits[pixel] >= least;
        float q[EMBEDDING];
        for (int e = 0; e < EMBEDDING; e++) {
            q[e] = counts ? (float)sharpness * queries[(crop * EMBEDDING + e) * area + place] : 0;
        }
        float chance = 0;
        if (counts) {
            float top = -1e30f, sum = 0;
            for (int k = lane; k < keys; k += warpSize) {
                float product = 0;
                for (int e = 0; e < EMBEDDING; e++) product += q[e] * contrast[e * keys + k];
                if (product > top) {
                    sum = sum * __expf(top - product) + 1;
                    top = product;
                } else {
                    sum += __expf(product - top);
                }
            }
            float largest = top;
            for (int offset = warpSize / 2; offset > 0; offset /= 2) {
                largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, offset));
            }
            chance = logf((float)keys) - largest - logf(warp_sum(sum * __expf(top - largest)));
        }
        long long start = ((long long)crop * (height + 2) + place / width + 1) * (width + 2) + place % width + 1;
        float* out = maps + start * CHANNELS;
        for (int e = lane; e < CHANNELS; e += warpSize) {
            float value = e == EMBEDDING ? chance : inside;
            if (e < EMBEDDING) value = counts ? (float)sharpness * queries[(crop * EMBEDDING + e) * area + place] : 0;
            if (e == EMBEDDING + 1) value = fminf(fmaxf(logits[pixel], -limit), limit);
            out[e] = value;
        }
    }
}

// Of a crop: sum of log(1 - p) and of p over the pixels inside the image, and their number; a block for a crop.
extern "C" __global__ void mask_sums(
    const float* logits, const float* valid, int area, double largest_logit, float* sums
) {
    __shared__ float partial[3][MOST_WARPS], total[3];
    float sum[3] = {0, 0, 0}, limit = largest_logit;
    for (int i = threadIdx.x; i < area; i += blockDim.x) {
        int pixel = blockIdx.x * area + i;
        if (!(valid[pixel] >= 0.5f)) continue;
        float logit = fminf(fmaxf(logits[pixel], -limit), limit);
        sum[0] -= log1pf(expf(logit));
        sum[1] += 1 / (1 + expf(-logit));
        sum[2] += 1;
    }
    block_sum(sum, 3, total, partial);
    if (threadIdx.x < 1) {
        for (int i = 0; i < 3; i++) sums[3 * blockIdx.x + i] = i == 2 ? fmaxf(total[i], 1) : total[i];
    }
}

// Scores of many poses: at the nearest pixel, no interpolation, the nearest viewpoint; a block for a pose.
extern "C" __global__ void __launch_bounds__(256) quick(
    const float* points, const float* normals, const float* keys, const float* areas, int count,
    const unsigned char* visible, int stride, const float* directions, int viewpoints, const float* maps, int height,
    int width, const float* K, const float* sums, double outliers, double mask_weight, const long long* row,
    const float* rotation, const float* position, float* value
) {
    __shared__ float partial[3][MOST_WARPS], total[3];
    __shared__ Seen seen;
    int n = blockIdx.x;
    long long crop = row[n];
    Pose pose;
    for (int i = 0; i < 9; i++) pose.R[i] = rotation[9 * n + i];
    for (int i = 0; i < 3; i++) pose.p[i] = position[3 * n + i];
    nearest_viewpoints(pose, directions, viewpoints, &seen);
    __syncthreads();
    const float* camera = K + 9 * crop;
    float sum[3] = {0, 0, 0}, share = outliers;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        if (!visible[(long long)seen.index[0] * stride + i]) continue;
        float x[3], normal[3];
        turn(pose.R, points + 3 * i, x);
        turn(pose.R, normals + 3 * i, normal);
        for (int k = 0; k < 3; k++) x[k] += pose.p[k];
        float depth = fmaxf(x[2], 1e-3f);
        float u = rintf(x[0] / depth * camera[0] + camera[2]), v = rintf(x[1] / depth * camera[4] + camera[5]);
        if (!(u >= 0 && v >= 0 && u < width - 2 && v < height - 2)) continue;
        const float* map = maps + ((crop * height + (int)v + 1) * width + (int)u + 1) * CHANNELS;
        float facing = -(normal[0] * x[0] + normal[1] * x[1] + normal[2] * x[2]);
        float covered = areas[i] * camera[0] * camera[4] * fmaxf(facing, 0) / (depth * depth * depth);
        covered *= map[EMBEDDING + 2];
        float ratio = map[EMBEDDING];
        for (int e = 0; e < EMBEDDING; e++) ratio += map[e] * keys[EMBEDDING * i + e];
        ratio = fminf(fmaxf(ratio, -LARGEST_RATIO), LARGEST_RATIO);
        sum[0] += covered;
        sum[1] += covered * logf((1 - share) * expf(ratio) + share);
        sum[2] += covered * map[EMBEDDING + 1];
    }
    block_sum(sum, 3, total, partial);
    if (threadIdx.x < 1) {
        float mean = total[1] / fmaxf(total[0], 1e-6f);
        value[n] = ((float)mask_weight * (sums[3 * crop] + total[2]) + sums[3 * crop + 1] * mean) / sums[3 * crop + 2];
    }
}

// Positions moved so that the silhouette has the mask's area and centroid (search.py); a block for a pose.
extern "C" __global__ void __launch_bounds__(256) place(
    const float* points, const float* normals, const float* areas, int count, const unsigned char* visible, int stride,
    const float* directions, int viewpoints, const float* K, const float* total, const float* centroid, int moves,
    double least, double most, const long long* row, const float* rotation, float* position
) {
    __shared__ float partial[3][MOST_WARPS], sums[3];
    __shared__ Seen seen;
    int n = blockIdx.x;
    long long crop = row[n];
    if (!(total[crop] >= 1)) return;
    const float* camera = K + 9 * crop;
    Pose pose;
    for (int i = 0; i < 9; i++) pose.R[i] = rotation[9 * n + i];
    for (int i = 0; i < 3; i++) pose.p[i] = position[3 * n + i];
    for (int move = 0; move < moves; move++) {
        nearest_viewpoints(pose, directions, viewpoints, &seen);
        __syncthreads();
        float sum[3] = {0, 0, 0};
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            if (!visible[(long long)seen.index[0] * stride + i]) continue;
            float x[3], normal[3];
            turn(pose.R, points + 3 * i, x);
            turn(pose.R, normals + 3 * i, normal);
            for (int k = 0; k < 3; k++) x[k] += pose.p[k];
            float depth = fmaxf(x[2], 1e-3f);
            float weight = fmaxf(-(normal[0] * x[0] + normal[1] * x[1] + normal[2] * x[2]), 0) * areas[i];
            weight /= depth * depth * depth;
            sum[0] += weight;
            sum[1] += weight * x[0] / depth;
            sum[2] += weight * x[1] / depth;
        }
        block_sum(sum, 3, sums, partial);
        float area = fmaxf(sums[0], 1e-9f), z = pose.p[2];
        float factor = sqrtf(area * camera[0] * camera[0] / fmaxf(total[crop], 1e-3f));
        z *= fminf(fmaxf(factor, (float)least), (float)most);
        for (int k = 0; k < 2; k++) {
            float wanted = (centroid[2 * crop + k] - camera[3 * k + 2]) / camera[0];
            pose.p[k] = (pose.p[k] / pose.p[2] + wanted - sums[1 + k] / area) * z;
        }
        pose.p[2] = z;
        __syncthreads();
    }
    for (int i = threadIdx.x; i < 3; i += blockDim.x) position[3 * n + i] = pose.p[i];
}

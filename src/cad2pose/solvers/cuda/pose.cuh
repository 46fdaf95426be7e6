// What the solver's kernels share. EMBEDDING, the keys' numbers, is given when they are compiled.
//
// Maps are padded by one pixel: (crop, row, column) holds EMBEDDING query numbers, then `chance`, the mask's logit, and
// whether the pixel lies inside the image.

#define CHANNELS (EMBEDDING + 3)
#define FULL 0xffffffffu
#define MOST_WARPS 32
#define NEAREST 4
#define LARGEST_RATIO 12.0f

struct Pose {
    float R[9], p[3];
};

struct Seen {  // by nearest viewpoints
    int index[NEAREST];
    float weight[NEAREST];
};

__device__ float warp_sum(float value) {
    for (int offset = warpSize / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(FULL, value, offset);
    return value;
}

// Sums of `count` numbers over the block's threads, for all of them to read in `result`.
__device__ void block_sum(const float* values, int count, float* result, float (*partial)[MOST_WARPS]) {
    int warp = threadIdx.x / warpSize, warps = (blockDim.x + warpSize - 1) / warpSize;
    for (int i = 0; i < count; i++) {
        float sum = warp_sum(values[i]);
        if (threadIdx.x % warpSize == 0) partial[i][warp] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        float sum = 0;
        for (int w = 0; w < warps; w++) sum += partial[i][w];
        result[i] = sum;
    }
    __syncthreads();
}

__device__ void turn(const float* R, const float* x, float* y) {
    for (int i = 0; i < 3; i++) y[i] = R[3 * i] * x[0] + R[3 * i + 1] * x[1] + R[3 * i + 2] * x[2];
}

__device__ void cross(const float* a, const float* b, float* c) {
    c[0] = a[1] * b[2] - a[2] * b[1];
    c[1] = a[2] * b[0] - a[0] * b[2];
    c[2] = a[0] * b[1] - a[1] * b[0];
}

// The NEAREST viewpoints to where a pose is seen from, nearest first, found by the first warp; cosines in `weight`.
__device__ void nearest_viewpoints(const Pose& pose, const float* directions, int count, Seen* seen) {
    if (threadIdx.x >= warpSize) return;
    float v[3], length = 0;
    for (int i = 0; i < 3; i++) {
        v[i] = -(pose.R[i] * pose.p[0] + pose.R[3 + i] * pose.p[1] + pose.R[6 + i] * pose.p[2]);
        length += v[i] * v[i];
    }
    length = rsqrtf(fmaxf(length, 1e-24f));
    float best[NEAREST];
    int place[NEAREST];
    for (int k = 0; k < NEAREST; k++) best[k] = -2, place[k] = 0;
    for (int d = threadIdx.x; d < count; d += warpSize) {
        const float* x = directions + 3 * d;
        float along = (v[0] * x[0] + v[1] * x[1] + v[2] * x[2]) * length;
        if (!(along > best[NEAREST - 1])) continue;
        int k = NEAREST - 1;
        for (; k > 0 && along > best[k - 1]; k--) best[k] = best[k - 1], place[k] = place[k - 1];
        best[k] = along, place[k] = d;
    }
    for (int k = 0; k < NEAREST; k++) {  // the best of the lanes' best, which its owner then gives up
        float top = best[0];
        int index = place[0];
        for (int offset = warpSize / 2; offset > 0; offset /= 2) {
            float other = __shfl_xor_sync(FULL, top, offset);
            int where = __shfl_xor_sync(FULL, index, offset);
            if (other > top || (other == top && where < index)) top = other, index = where;
        }
        if (place[0] == index && best[0] == top) {
            for (int j = 0; j + 1 < NEAREST; j++) best[j] = best[j + 1], place[j] = place[j + 1];
            best[NEAREST - 1] = -2;
        }
        if (threadIdx.x == 0) seen->index[k] = index, seen->weight[k] = top;
    }
}

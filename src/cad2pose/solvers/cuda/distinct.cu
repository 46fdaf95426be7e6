// The best poses of every crop that differ from each other (distinct.py), for CUDA: a block for a crop.

#define MOST_THREADS 256
#define NOTHING __int_as_float(0xff800000)  // minus infinity

__device__ int first_of(const long long* row, int count, int crop) {
    int low = 0, high = count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (row[middle] < crop) low = middle + 1;
        else high = middle;
    }
    return low;
}

// `left` holds a number for every pose, which is lost; `chosen` (crops, wanted) gets indices of poses, or -1.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) distinct(
    const long long* row, const float* rotation, const float* position, const float* values, int count, int wanted,
    double alike, double apart, float* left, long long* chosen
) {
    __shared__ float best[MOST_THREADS];
    __shared__ int place[MOST_THREADS], first, last;
    int crop = blockIdx.x;
    if (threadIdx.x == 0) {
        first = first_of(row, count, crop);
        last = first_of(row, count, crop + 1);
    }
    __syncthreads();
    for (int i = first + threadIdx.x; i < last; i += blockDim.x) left[i] = isfinite(values[i]) ? values[i] : NOTHING;
    for (int number = 0; number < wanted; number++) {
        float top = NOTHING;
        int index = -1;
        for (int i = first + threadIdx.x; i < last; i += blockDim.x) {
            if (left[i] > top) top = left[i], index = i;
        }
        best[threadIdx.x] = top;
        place[threadIdx.x] = index;
        __syncthreads();
        for (int step = MOST_THREADS / 2; step > 0; step /= 2) {
            int other = threadIdx.x + step;
            if (threadIdx.x < step && other < blockDim.x) {
                bool higher = best[other] > best[threadIdx.x];
                bool earlier = best[other] == best[threadIdx.x] && place[other] >= 0 && place[other] < place[threadIdx.x];
                if (higher || earlier) best[threadIdx.x] = best[other], place[threadIdx.x] = place[other];
            }
            __syncthreads();
        }
        index = place[0];
        __syncthreads();
        if (threadIdx.x == 0) chosen[(long long)crop * wanted + number] = index;
        if (index < 0) continue;
        const float *R = rotation + 9LL * index, *p = position + 3LL * index;
        for (int i = first + threadIdx.x; i < last; i += blockDim.x) {
            float trace = 0, far = 0;
            for (int k = 0; k < 9; k++) trace += R[k] * rotation[9LL * i + k];
            for (int k = 0; k < 3; k++) far += (p[k] - position[3LL * i + k]) * (p[k] - position[3LL * i + k]);
            if (i == index || (trace > (float)alike && far < (float)apart)) left[i] = NOTHING;
        }
    }
}

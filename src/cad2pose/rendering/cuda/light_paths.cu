// Shadows and openness for CUDA (light_paths.py says the same in torch operations); a thread for each pixel.

#define TAPS 16
#define EDGE_ON 0.2f
#define GOLDEN 2.39996322972865332f  // angle between two taps of the disc
#define FULL_TURN 6.28318530717958648f

__device__ float fraction(float x) { return x - floorf(x); }

// An angle for each pixel that differs much between neighbours (interleaved gradient noise).
__device__ float turn_of(int u, int v) {
    return FULL_TURN * fraction(52.9829189f * fraction(0.06711056f * u + 0.00583715f * v));
}

// Offset of a tap, on a disc of radius 1.
__device__ void tap_of(int tap, float turn, float* u, float* v) {
    float radius = sqrtf((tap + 0.5f) / TAPS), angle = turn + tap * GOLDEN;
    *u = radius * cosf(angle);
    *v = radius * sinf(angle);
}

__device__ float look_up(const float* map, int height, int width, float u, float v) {
    int column = (int)floorf(u + 0.5f), row = (int)floorf(v + 0.5f);
    return column < 0 || row < 0 || column >= width || row >= height ? 0.0f : map[row * width + column];
}

// Share of a light that reaches each pixel. settings: focal length, middle, tangent of the light's radius,
// and in mm: a texel, how far surfaces are lifted, how far before their planes what hides them lies.
extern "C" __global__ void shadow_shares(
    const float* depth, const float* normals, const float* K, const float* T_light_cam, const float* settings,
    const float* seen, int scenes, int height, int width, int side, float* lit
) {
    long long pixels = (long long)height * width, all = scenes * pixels, threads = (long long)gridDim.x * blockDim.x;
    for (long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x; n < all; n += threads) {
        long long scene = n / pixels, pixel = n % pixels;
        int row = (int)(pixel / width), column = (int)(pixel % width);
        float d = depth[n];
        lit[n] = 1;
        if (!(d > 0)) continue;
        const float *k = K + 9 * scene, *T = T_light_cam + 12 * scene, *s = settings + 6 * scene;
        const float* map = seen + scene * side * side;
        float focal = s[0], middle = s[1], spread = s[2], texel = s[3], lift = s[4], leave = s[5];
        float most = 0.12f * side;
        float up = (row - k[5]) / k[4], normal[3], at[3], faced[3];
        float place[3] = {(column - k[2] - k[1] * up) / k[0] * d, up * d, d};
        for (int i = 0; i < 3; i++) {
            normal[i] = normals[(3 * scene + i) * pixels + pixel];
            place[i] += lift * normal[i];
        }
        for (int i = 0; i < 3; i++) {
            at[i] = T[4 * i] * place[0] + T[4 * i + 1] * place[1] + T[4 * i + 2] * place[2] + T[4 * i + 3];
            faced[i] = T[4 * i] * normal[0] + T[4 * i + 1] * normal[1] + T[4 * i + 2] * normal[2];
        }
        float u = focal * at[0] / at[2] + middle, v = focal * at[1] / at[2] + middle, z = at[2];
        float facing = fminf(faced[2], -EDGE_ON), slope_x = -faced[0] / facing, slope_y = -faced[1] / facing;
        float search = fminf(fmaxf(spread * 0.06f * z / texel, 1), most), turn = turn_of(column, row), total = 0;
        int blockers = 0, open = 0;
        for (int tap = 0; tap < TAPS; tap++) {
            float du, dv;
            tap_of(tap, turn, &du, &dv);
            float at_u = floorf(u + search * du + 0.5f), at_v = floorf(v + search * dv + 0.5f);
            float found = look_up(map, side, side, at_u, at_v);
            if (found > 0 && found < z + texel * (slope_x * (at_u - u) + slope_y * (at_v - v)) - leave)
                blockers++, total += found;
        }
        if (blockers == 0) continue;
        float blur = fminf(fmaxf(spread * (z - total / blockers) / texel, 0.5f), most);
        for (int tap = 0; tap < TAPS; tap++) {
            float du, dv;
            tap_of(tap, turn, &du, &dv);
            float at_u = floorf(u + blur * du + 0.5f), at_v = floorf(v + blur * dv + 0.5f);
            float found = look_up(map, side, side, at_u, at_v);
            if (found <= 0 || found >= z + texel * (slope_x * (at_u - u) + slope_y * (at_v - v)) - leave) open++;
        }
        lit[n] = (float)open / TAPS;
    }
}

// Share of the light from everywhere that reaches each pixel past what stands within `reach` of it.
extern "C" __global__ void open_shares(
    const float* depth, const float* normals, const float* K, const float* reach, int scenes, int height, int width,
    float* share
) {
    long long pixels = (long long)height * width, all = scenes * pixels, threads = (long long)gridDim.x * blockDim.x;
    for (long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x; n < all; n += threads) {
        long long scene = n / pixels, pixel = n % pixels;
        int row = (int)(pixel / width), column = (int)(pixel % width);
        float d = depth[n];
        share[n] = 1;
        if (!(d > 0)) continue;
        const float *k = K + 9 * scene, *map = depth + scene * pixels;
        float far = reach[scene], up = (row - k[5]) / k[4];
        float x = (column - k[2] - k[1] * up) / k[0] * d, y = up * d;
        const float* normal = normals + 3 * scene * pixels + pixel;
        float extent = fminf(fmaxf(far * k[0] / d, 2), 0.25f * width), turn = turn_of(column, row), hidden = 0;
        for (int tap = 0; tap < TAPS; tap++) {
            float du, dv;
            tap_of(tap, turn, &du, &dv);
            float u = floorf(column + extent * du + 0.5f), v = floorf(row + extent * dv + 0.5f);
            float found = look_up(map, height, width, u, v);
            if (!(found > 0)) continue;
            float over = (v - k[5]) / k[4], a = (u - k[2] - k[1] * over) / k[0] * found - x;
            float b = over * found - y, c = found - d;
            float distance = fmaxf(sqrtf(a * a + b * b + c * c), 1e-6f);
            float rise = (a * normal[0] + b * normal[pixels] + c * normal[2 * pixels]) / distance - 0.1f;
            if (rise > 0 && distance < far) hidden += rise * (1 - distance / far);
        }
        share[n] = fminf(fmaxf(1 - 2.5f * hidden / TAPS, 0.1f), 1);
    }
}

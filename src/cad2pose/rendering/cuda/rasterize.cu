// The rasteriser for CUDA (torch_backend.py says the same in torch operations).

#define LANES 8  // threads that share the pixels of a triangle
#define NOTHING 0x7fffffffffffffffLL

struct Corner {
    float u, v, w;  // pixel, and 1 / z; 0 before the near plane
};

__device__ Corner project(const double* P, const float* x, double near) {
    double depth = P[8] * x[0] + P[9] * x[1] + P[10] * x[2] + P[11], inverse = 1 / depth;
    Corner corner;
    corner.u = (float)((P[0] * x[0] + P[1] * x[1] + P[2] * x[2] + P[3]) * inverse);
    corner.v = (float)((P[4] * x[0] + P[5] * x[1] + P[6] * x[2] + P[7]) * inverse);
    corner.w = depth >= near ? (float)inverse : 0;
    return corner;
}

// The smallest (farness, slot, face) at every pixel, packed into 63 bits; `keys` starts with NOTHING everywhere.
extern "C" __global__ void draw(
    const float* vertices, const int* faces, const long long* face_start, const long long* mesh_index, const double* P,
    int scenes, int slots, int longest, int height, int width, double near, long long* keys
) {
    int lane = threadIdx.x % LANES, step = LANES < blockDim.x ? LANES : 1;
    if (step == 1) lane = 0;
    long long all = (long long)scenes * slots * longest, groups = (long long)gridDim.x * (blockDim.x / step);
    for (long long n = (long long)blockIdx.x * (blockDim.x / step) + threadIdx.x / step; n < all; n += groups) {
        long long row = n / longest, face = n % longest, mesh = mesh_index[row];
        if (mesh < 0 || face >= face_start[mesh + 1] - face_start[mesh]) continue;
        const int* corners = faces + 3 * (face_start[mesh] + face);
        Corner at[3];
        for (int i = 0; i < 3; i++) at[i] = project(P + 12 * row, vertices + 3LL * corners[i], near);
        if (!(at[0].w > 0 && at[1].w > 0 && at[2].w > 0)) continue;
        float left = ceilf(fmaxf(fminf(fminf(at[0].u, at[1].u), at[2].u), 0));
        float top = ceilf(fmaxf(fminf(fminf(at[0].v, at[1].v), at[2].v), 0));
        float right = floorf(fminf(fmaxf(fmaxf(at[0].u, at[1].u), at[2].u), width - 1));
        float bottom = floorf(fminf(fmaxf(fmaxf(at[0].v, at[1].v), at[2].v), height - 1));
        if (!(left <= right && top <= bottom)) continue;
        int across = (int)right - (int)left + 1, pixels = across * ((int)bottom - (int)top + 1);
        // In double, where products of differences of floats are exact: triangles that share an edge leave no gap.
        double u[3], v[3], w[3];
        for (int i = 0; i < 3; i++) u[i] = at[i].u, v[i] = at[i].v, w[i] = at[i].w;
        double area = (u[1] - u[0]) * (v[2] - v[0]) - (v[1] - v[0]) * (u[2] - u[0]);
        long long order = (row % slots) * longest + face, scene = row / slots;
        for (int i = lane; i < pixels; i += step) {
            int x = (int)left + i % across, y = (int)top + i / across;
            double inverse = 0;
            bool inside = true;
            for (int a = 0; a < 3; a++) {
                int b = (a + 1) % 3, c = (a + 2) % 3;
                double weight = ((u[c] - u[b]) * (y - v[b]) - (v[c] - v[b]) * (x - u[b])) / area;
                inside = inside && weight >= 0;
                inverse += weight * w[a];
            }
            if (!inside) continue;
            long long farness = 0x7fffffff - __float_as_int((float)inverse);
            atomicMin(keys + (scene * height + y) * width + x, farness << 32 | order);
        }
    }
}

// What the keys say: depth, slot, face and perspective-correct weights, as in Fragments.
extern "C" __global__ void resolve(
    const float* vertices, const int* faces, const long long* face_start, const long long* mesh_index, const double* P,
    int scenes, int slots, int longest, int height, int width, double near, const long long* keys, float* depth,
    int* slot, int* face, float* barycentric
) {
    long long area = (long long)height * width, all = scenes * area;
    for (long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x; n < all;
         n += (long long)gridDim.x * blockDim.x) {
        long long key = keys[n];
        if (key == NOTHING) {
            depth[n] = 0, slot[n] = face[n] = -1;
            for (int i = 0; i < 3; i++) barycentric[3 * n + i] = 0;
            continue;
        }
        long long order = key & 0xffffffffLL, row = n / area * slots + order / longest;
        long long index = face_start[mesh_index[row]] + order % longest;
        depth[n] = 1 / __int_as_float(0x7fffffff - (int)(key >> 32));
        slot[n] = (int)(order / longest);
        face[n] = (int)index;
        double u[3], v[3], weight[3], whole = 0;
        Corner at[3];
        for (int i = 0; i < 3; i++) {
            at[i] = project(P + 12 * row, vertices + 3LL * faces[3 * index + i], near);
            u[i] = at[i].u - (double)(n % width);
            v[i] = at[i].v - (double)(n % area / width);
        }
        for (int a = 0; a < 3; a++) {
            int b = (a + 1) % 3, c = (a + 2) % 3;
            weight[a] = (u[b] * v[c] - v[b] * u[c]) * at[a].w;
            whole += weight[a];
        }
        for (int a = 0; a < 3; a++) barycentric[3 * n + a] = (float)(weight[a] / whole);
    }
}

// Object coordinates, normals in the camera's frame on the side it sees, and colours; maps are (scene, 3, h, w).
extern "C" __global__ void interpolate(
    const float* vertices, const int* faces, const float* vertex_normals, const float* vertex_colors, const float* T,
    int scenes, int slots, int height, int width, const int* slot, const int* face, const float* barycentric,
    float* coordinates, float* normals, float* colors
) {
    long long area = (long long)height * width, all = scenes * area;
    for (long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x; n < all;
         n += (long long)gridDim.x * blockDim.x) {
        long long first = n / area * 3 * area + n % area;
        if (face[n] < 0) {
            for (int i = 0; i < 3; i++) coordinates[first + i * area] = normals[first + i * area] = colors[first + i * area] = 0;
            continue;
        }
        const int* corners = faces + 3LL * face[n];
        float x[3] = {0}, normal[3] = {0}, color[3] = {0}, side[2][3], flat[3];
        for (int a = 0; a < 3; a++) {
            float weight = barycentric[3 * n + a];
            long long at = 3LL * corners[a];
            for (int i = 0; i < 3; i++) {
                x[i] += weight * vertices[at + i];
                normal[i] += weight * vertex_normals[at + i];
                color[i] += weight * vertex_colors[at + i];
                if (a) side[a - 1][i] = vertices[at + i] - vertices[3LL * corners[0] + i];
            }
        }
        for (int i = 0; i < 3; i++) {
            int j = (i + 1) % 3, k = (i + 2) % 3;
            flat[i] = side[0][j] * side[1][k] - side[0][k] * side[1][j];
        }
        // The flat normal decides the side, as an interpolated one may lean past a silhouette.
        float agrees = normal[0] * flat[0] + normal[1] * flat[1] + normal[2] * flat[2];
        const float* pose = T + 16 * (n / area * slots + slot[n]);
        float ray[3], turned[3], length = 0, facing = 0, away = 0;
        for (int i = 0; i < 3; i++) {
            const float* R = pose + 4 * i;
            ray[i] = R[0] * x[0] + R[1] * x[1] + R[2] * x[2] + R[3];
            turned[i] = R[0] * normal[0] + R[1] * normal[1] + R[2] * normal[2];
            facing += (R[0] * flat[0] + R[1] * flat[1] + R[2] * flat[2]) * ray[i];
            length += ray[i] * ray[i];
        }
        length = sqrtf(length);
        for (int i = 0; i < 3; i++) {
            ray[i] /= fmaxf(length, 1e-12f);
            if (agrees * (facing / fmaxf(length, 1e-12f)) > 0) turned[i] = -turned[i];
            away += turned[i] * ray[i];
        }
        length = 0;
        for (int i = 0; i < 3; i++) {
            turned[i] -= fmaxf(away, 0) * ray[i];
            length += turned[i] * turned[i];
        }
        length = sqrtf(length);
        for (int i = 0; i < 3; i++) {
            coordinates[first + i * area] = x[i];
            normals[first + i * area] = turned[i] / fmaxf(length, 1e-10f);
            colors[first + i * area] = color[i];
        }
        if (length < 1e-10f) normals[first + 2 * area] = -1;  // a null normal looks at the camera
    }
}

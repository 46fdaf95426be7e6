// From base64 to typed arrays, and the arithmetic of queries and keys.

const HALVES = (() => {  // every half-precision number by its bits
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
    table[bits] = exponent === 0 ? sign * fraction * 2 ** -24
      : exponent === 31 ? (fraction ? NaN : sign * Infinity)
      : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return table;
})();

function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

// Assumes a little-endian machine, as every one with a browser is.
function decode(array) {
  if (!array) return null;
  const bytes = bytesOf(array.data);
  if (array.kind === "u8") return bytes;
  if (array.kind === "i8") return new Int8Array(bytes.buffer);
  if (array.kind === "u32") return new Uint32Array(bytes.buffer);
  const words = new Uint16Array(bytes.buffer);
  if (array.kind === "u16" && !array.low) return words;
  const out = new Float32Array(words.length);
  if (array.kind === "f16") {
    for (let i = 0; i < words.length; i++) out[i] = HALVES[words[i]];
    return out;
  }
  for (let i = 0; i < words.length; i++) out[i] = array.low[i % 3] + array.step[i % 3] * words[i];
  return out;
}

// p(point | pixel) = exp(query . key - log Z) into `out`; returns the largest, where, and the entropy in nats.
function distribution(queries, pixel, size, keys, logPartition, out) {
  const q = queries.subarray(pixel * size, (pixel + 1) * size), n = out.length;
  let largest = 0, at = 0, total = 0, weighted = 0;
  for (let i = 0, k = 0; i < n; i++) {
    let dot = -logPartition;
    for (let e = 0; e < size; e++) dot += q[e] * keys[k++];
    const p = Math.exp(dot);
    out[i] = p;
    total += p;
    weighted += p * dot;
    if (p > largest) { largest = p; at = i; }
  }
  return { largest, at, total, entropy: -weighted };
}

// Density of the point, in every pixel, times the mask: mask * exp(query . key - log Z), into `out`.
function likelihood(queries, size, key, logPartition, mask, out) {
  let largest = 0, at = 0;
  for (let i = 0, k = 0; i < out.length; i++) {
    let dot = -logPartition[i];
    for (let e = 0; e < size; e++) dot += queries[k++] * key[e];
    const p = Math.exp(dot) * mask[i] / 255;
    out[i] = p;
    if (p > largest) { largest = p; at = i; }
  }
  return { largest, at };
}

// The pixel with the longest query in the mask: the one that knows best.
function surestPixel(queries, size, mask) {
  let best = -1, at = mask.length >> 1;
  for (let i = 0; i < mask.length; i++) {
    if (mask[i] < 128) continue;
    let square = 0;
    for (let e = 0; e < size; e++) square += queries[i * size + e] ** 2;
    if (square > best) { best = square; at = i; }
  }
  return at;
}

// The points about every point that lie on its side of the surface, some dozen: index lists, one after the other.
function neighboursOf(points, normals, area, wanted = 32) {
  const count = points.length / 3, reach = Math.sqrt(wanted * area / Math.PI), cells = new Map();
  const low = [0, 1, 2].map((k) => { let least = Infinity; for (let i = k; i < points.length; i += 3) least = Math.min(least, points[i]); return least; });
  const place = (i, k) => Math.floor((points[3 * i + k] - low[k]) / reach);
  const key = (x, y, z) => (x + 1) + 2048 * ((y + 1) + 2048 * (z + 1));
  for (let i = 0; i < count; i++) {
    const at = key(place(i, 0), place(i, 1), place(i, 2));
    if (cells.has(at)) cells.get(at).push(i); else cells.set(at, [i]);
  }
  const starts = new Uint32Array(count + 1), most = reach * reach;
  let list = new Uint32Array(2 * wanted * count), end = 0;
  for (let i = 0; i < count; i++) {
    const x = place(i, 0), y = place(i, 1), z = place(i, 2), j = 3 * i;
    for (let a = -1; a < 2; a++) for (let b = -1; b < 2; b++) for (let c = -1; c < 2; c++) {
      for (const other of cells.get(key(x + a, y + b, z + c)) || []) {
        const k = 3 * other, dx = points[k] - points[j], dy = points[k + 1] - points[j + 1], dz = points[k + 2] - points[j + 2];
        if (dx * dx + dy * dy + dz * dz > most) continue;
        if (normals[j] * normals[k] + normals[j + 1] * normals[k + 1] + normals[j + 2] * normals[k + 2] <= 0) continue;
        if (end === list.length) { const longer = new Uint32Array(2 * end); longer.set(list); list = longer; }
        list[end++] = other;
      }
    }
    starts[i + 1] = end;
  }
  return { starts, list: list.slice(0, end) };
}

function smoothed(values, { starts, list }, out) {
  for (let i = 0; i < out.length; i++) {
    let sum = 0;
    for (let k = starts[i]; k < starts[i + 1]; k++) sum += values[list[k]];
    out[i] = sum / (starts[i + 1] - starts[i]);
  }
  return out;
}

function nearestPoint(points, normals, where, normal) {
  let best = Infinity, at = -1;
  for (let i = 0, j = 0; j < points.length; i++, j += 3) {
    const dx = points[j] - where.x, dy = points[j + 1] - where.y, dz = points[j + 2] - where.z;
    const square = dx * dx + dy * dy + dz * dz;
    if (square < best && normals[j] * normal.x + normals[j + 1] * normal.y + normals[j + 2] * normal.z > 0) {
      best = square;
      at = i;
    }
  }
  return at;
}

function multiply(a, b, n = 3) {  // square matrices, row by row
  const out = new Array(n * n).fill(0);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) for (let k = 0; k < n; k++) out[i * n + j] += a[i * n + k] * b[k * n + j];
  return out;
}

function rotationOf(pose) { return [0, 1, 2].flatMap((i) => pose.slice(4 * i, 4 * i + 3)); }

function turned(R, pose) {  // of a 3 x 3 and a 4 x 4, row by row
  const wide = [R[0], R[1], R[2], 0, R[3], R[4], R[5], 0, R[6], R[7], R[8], 0, 0, 0, 0, 1];
  return multiply(wide, pose, 4);
}

function placed(pose, point) {
  return [0, 1, 2].map((i) => pose[4 * i] * point[0] + pose[4 * i + 1] * point[1] + pose[4 * i + 2] * point[2] + pose[4 * i + 3]);
}

function rotationVector(R) {  // in degrees; through the quaternion, which is safe near half turns
  const m = new THREE.Matrix4().set(R[0], R[1], R[2], 0, R[3], R[4], R[5], 0, R[6], R[7], R[8], 0, 0, 0, 0, 1);
  const q = new THREE.Quaternion().setFromRotationMatrix(m);
  if (q.w < 0) q.set(-q.x, -q.y, -q.z, -q.w);
  const sine = Math.hypot(q.x, q.y, q.z), angle = 2 * Math.atan2(sine, q.w) * 180 / Math.PI;
  return sine < 1e-12 ? [0, 0, 0] : [q.x, q.y, q.z].map((v) => (v / sine) * angle);
}

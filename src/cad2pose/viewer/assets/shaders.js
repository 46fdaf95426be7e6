// Materials. They write display colours directly, so what a colour means never depends on colour management.

// Under a colour map, light adds a little: dark blue times anything is dark, and the shape would be lost.
const LIGHT = "vec3 lit(vec3 color, float light) { return color * mix(light, 1.0, 0.5) + 0.22 * (light - 0.42); } float shade(vec3 n) { return 0.42 + 0.58 * pow(clamp(abs(dot(normalize(n), normalize(vec3(0.25, 0.45, 1.0)))), 0.0, 1.0), 1.2); }";

function meshMaterial(hasColors) {
  return new THREE.ShaderMaterial({
    side: THREE.DoubleSide,
    uniforms: {
      mode: { value: 0 }, near: { value: 0 }, far: { value: 1 }, table: { value: null },
      tint: { value: new THREE.Vector3(0.62, 0.64, 0.67) }, painted: { value: hasColors ? 1 : 0 }, alpha: { value: 1 },
    },
    vertexShader: `
      attribute vec3 paint; varying vec3 vNormal; varying vec3 vPaint; varying float vDepth;
      void main() {
        vec4 seen = modelViewMatrix * vec4(position, 1.0);
        vNormal = normalMatrix * normal; vPaint = paint; vDepth = -seen.z;
        gl_Position = projectionMatrix * seen;
      }`,
    fragmentShader: `
      uniform int mode; uniform float near; uniform float far; uniform float painted; uniform float alpha;
      uniform vec3 tint; uniform sampler2D table;
      varying vec3 vNormal; varying vec3 vPaint; varying float vDepth;
      ${LIGHT}
      void main() {
        vec3 n = normalize(vNormal); if (n.z < 0.0) n = -n;
        vec3 color = mix(tint, vPaint, painted) * shade(n);
        if (mode == 1) color = texture2D(table, vec2((vDepth - near) / (far - near), 0.5)).rgb;
        if (mode == 2) color = 0.5 + 0.5 * vec3(n.x, -n.y, -n.z);
        if (mode == 3) color = lit(tint, shade(n));
        gl_FragColor = vec4(color, alpha);
      }`,
  });
}

// Round splats that lie in the surface: discs about the sampled points, seen in perspective.
function splatMaterial() {
  return new THREE.ShaderMaterial({
    uniforms: {
      table: { value: null }, radius: { value: 1 }, pixels: { value: 1 }, mode: { value: 0 }, decades: { value: 0 }, lift: { value: 0 },
    },
    vertexShader: `
      attribute float level; attribute vec3 paint; attribute vec3 facing;
      uniform float radius; uniform float pixels; uniform float lift;
      varying float vLevel; varying vec3 vPaint; varying vec3 vNormal; varying vec3 vAt; varying float vSize;
      void main() {
        vNormal = normalize(normalMatrix * facing);
        vec4 seen = modelViewMatrix * vec4(position + lift * facing, 1.0);
        vLevel = level; vPaint = paint; vAt = seen.xyz;
        vSize = radius;
        gl_Position = projectionMatrix * seen;
        gl_PointSize = max(2.0, 2.0 * radius * pixels / -seen.z);
        if (dot(vNormal, seen.xyz) >= 0.0) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
      }`,
    fragmentShader: `
      uniform sampler2D table; uniform int mode; uniform float decades;
      varying float vLevel; varying vec3 vPaint; varying vec3 vNormal; varying vec3 vAt; varying float vSize;
      ${LIGHT}
      void main() {
        vec2 place = 2.0 * gl_PointCoord - 1.0; place.y = -place.y;
        // The disc in the surface, seen aslant: offset in depth where the tangent plane is, cut where it is too far.
        float slant = max(0.15, abs(vNormal.z));
        float away = -(vNormal.x * place.x + vNormal.y * place.y) / slant;
        if (dot(place, place) + away * away > 1.0) discard;
        vec3 color = vPaint;
        if (mode == 0) {
          float v = decades > 0.0 ? 1.0 + log(max(vLevel, 1e-6)) / (2.302585 * decades) : vLevel;
          color = texture2D(table, vec2(clamp(v, 0.0, 1.0) * 255.0 / 256.0 + 0.5 / 256.0, 0.5)).rgb;
        }
        float light = shade(vNormal);
        gl_FragColor = vec4(mode == 0 ? lit(color, light) : color * light, 1.0);
      }`,
  });
}

function tableTexture(bytes) {
  const rgba = new Uint8Array(1024);
  for (let i = 0; i < 256; i++) rgba.set([bytes[3 * i], bytes[3 * i + 1], bytes[3 * i + 2], 255], 4 * i);
  const texture = new THREE.DataTexture(rgba, 256, 1);
  texture.magFilter = texture.minFilter = THREE.LinearFilter;
  texture.needsUpdate = true;
  return texture;
}

// OpenCV's camera (x right, y down, z forward, pixel centres at whole numbers) as a clip matrix; `width` and `height`
// in the pixels of K.
function projectionOf(K, width, height, near, far) {
  const [fx, s, cx, , fy, cy] = K;
  return new THREE.Matrix4().set(
    2 * fx / width, -2 * s / width, 1 - 2 * (cx + 0.5) / width, 0,
    0, 2 * fy / height, 2 * (cy + 0.5) / height - 1, 0,
    0, 0, -(far + near) / (far - near), -2 * far * near / (far - near),
    0, 0, -1, 0);
}

function geometryOf(part) {
  const geometry = new THREE.BufferGeometry();
  geometry.setAttribute("position", new THREE.BufferAttribute(part.vertices, 3));
  geometry.setAttribute("normal", new THREE.BufferAttribute(part.normals, 3, true));
  const paint = part.colors || new Uint8Array(part.vertices.length).fill(160);
  geometry.setAttribute("paint", new THREE.BufferAttribute(paint, 3, true));
  geometry.setIndex(new THREE.BufferAttribute(part.faces, 1));
  return geometry;
}

// x right, y up, z towards us: three.js' axes from OpenCV's.
function modelMatrix(pose, origin = [0, 0, 0]) {
  const p = pose;
  return new THREE.Matrix4().set(
    p[0], p[1], p[2], p[3] - origin[0],
    -p[4], -p[5], -p[6], -(p[7] - origin[1]),
    -p[8], -p[9], -p[10], -(p[11] - origin[2]),
    0, 0, 0, 1);
}

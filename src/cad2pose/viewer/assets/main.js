// The page: its state, and what the mouse, fingers and keys do to it.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("payload").textContent);
const state = { scene: 0, pixel: null, point: -1, pose: 0, ms: {}, distribution: null, likelihood: null, peak: 0, spread: 0 };
const tables = Object.fromEntries(Object.entries(data.colours).map(([name, array]) => [name, decode(array)]));
const textures = Object.fromEntries(Object.entries(tables).map(([name, bytes]) => [name, tableTexture(bytes)]));
const parts = {};
const mark = (name) => { state.ms[name] = performance.now(); };
mark("parsed");
let scene = null, part = null, images = null, speaking = 0, drawing = false, stale = false;

let view = null;  // made after the first pictures: starting WebGL takes longer than all the rest
let overlay = null;  // made when a pose is first drawn over a picture
const crops = new CropView((row, column) => showPixel(row, column));

function partOf(objectId) {
  if (!parts[objectId]) {
    const raw = data.parts[objectId], made = { ...raw };
    for (const name of ["vertices", "normals", "colors", "faces", "points", "pointNormals", "keys", "keyColors"]) made[name] = decode(raw[name]);
    made.count = made.points.length / 3;
    made.geometry = geometryOf(made);
    parts[objectId] = made;
  }
  return parts[objectId];
}

function sceneOf(index) {
  const raw = data.scenes[index];
  if (!raw.ready) {
    if (raw.query) for (const name of ["queries", "mask"]) raw.query[name] = decode(raw.query[name]);
    raw.virtual = raw.poses.map((pose) => turned(raw.R, pose));
    raw.ready = true;
  }
  return raw;
}

async function showScene(index) {
  scene = sceneOf(index);
  Object.assign(state, { scene: index, pixel: null, point: -1, pose: 0, likelihood: null });
  if (scene.query) state.likelihood = new Float32Array(scene.query.width * scene.query.height);
  const wanted = scene;
  const [photo, crop, query] = await Promise.all([
    images ? images.photo : loadImage(data.photograph.source), loadImage(scene.crop), scene.query && loadImage(scene.query.picture),
  ]);
  if (scene !== wanted) return; // another one was chosen meanwhile
  images = { photo, crop, query };
  byId("part-name").textContent = data.parts[scene.objectId].name;
  crops.setScene(scene, data.photograph, images);
  if (scene.query) {
    const at = surestPixel(scene.query.queries, scene.query.size, scene.query.mask);
    crops.cursor = { row: Math.floor(at / scene.query.width), column: at % scene.query.width };
  }
  if (!view) {
    crops.draw(null, {}, "shaded", null);
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 0)));
    mark("pictures");
    view = new SurfaceView(byId("surface-frame"), byId("surface"), byId("labels"), showPoint);
  }
  part = partOf(scene.objectId);
  state.distribution = part.keys && new Float32Array(part.count);
  if (overlay) overlay.setPart(part);
  view.setPart(part);
  fillPoseTable(scene, (i) => { state.pose = i; if (+byId("opacity").value === 0) byId("opacity").value = 0.6; redraw(); });
  document.body.classList.toggle("without-queries", !scene.query);
  document.body.classList.toggle("without-pose", !scene.poses.length);
  document.body.classList.toggle("without-alternatives", scene.poses.length < 2);
  const notice = byId("notice");
  notice.textContent = [
    scene.query ? "" : "The model of this part has no query image (it regresses coordinates or poses), so there is no distribution to show; its pose is below and over the pictures.",
    scene.poses.length ? "" : `No pose was found for this box: ${scene.reason || "no reason is known"}.`,
  ].filter(Boolean).join(" ");
  notice.hidden = !notice.textContent;
  byId("opacity").value = scene.query ? 0 : 0.6;
  recolour();
  view.setPoses(scene.virtual, scene.probability);
  view.showGhosts(byId("ghosts").checked);
  if (scene.query) {
    showPixel(crops.cursor.row, crops.cursor.column);
    showPoint(-1);
  }
  describe();
  update();
  view.render();
  if (part.keys && !part.neighbours) setTimeout(() => smoothen(part), 0);
}

function smoothen(one) {
  const begun = performance.now();
  one.neighbours = neighboursOf(one.points, one.pointNormals, one.area);
  one.levels = new Float32Array(one.count);
  state.ms.neighbours = performance.now() - begun;
  if (one === part) showLevels();
}

function describe() {
  const { full, width, height } = data.photograph, thinned = part.faces.length / 3 < part.triangles;
  byId("photo-note").textContent = width < full[0] ? `scaled down from ${full[0]} × ${full[1]} to ${width} × ${height}; the crop is not` : `${width} × ${height}`;
  byId("about").textContent = `${part.name}: ${(part.faces.length / 3).toLocaleString("en")} triangles${thinned ? ` of ${part.triangles.toLocaleString("en")}` : ""}` +
    (part.keys ? `, ${part.count.toLocaleString("en")} surface points with keys of ${scene.query.size} numbers; the distributions are computed here, from ${scene.query.width} × ${scene.query.height} queries.` : ".");
}

function showPixel(row, column) {
  if (!scene || !scene.query) return;
  const { queries, size, width, logPartition, mask } = scene.query, pixel = row * width + column;
  const begun = performance.now();
  const found = distribution(queries, pixel, size, part.keys, logPartition[pixel], state.distribution);
  state.ms.distribution = performance.now() - begun;
  const spread = Math.exp(found.entropy) / part.count;
  Object.assign(state, { pixel: { row, column }, peak: found.largest, peakPoint: found.at, spread, total: found.total });
  crops.cursor = { row, column };
  stale = true;
  redraw();
  const text = `Pixel ${column}, ${row}: ${percent(mask[pixel] / 255)} to show the part; if it does, its place is spread over ${shareText(spread)} of the surface, ` +
    `densest ${found.largest * part.count >= 10 ? Math.round(found.largest * part.count) : (found.largest * part.count).toFixed(1)} times the even density.`;
  speak("pixel-text", text);
}

// What is drawn is the mean over a point's neighbours: keys also wave finely, in ways that no query can follow.
function showLevels() {
  stale = false;
  const levels = part.neighbours ? smoothed(state.distribution, part.neighbours, part.levels) : state.distribution;
  state.levels = levels;
  view.setLevels(levels);
}

function shareText(share) { return share >= 0.1 ? `${Math.round(100 * share)} %` : `${(100 * share).toPrecision(2)} %`; }

function showPoint(index) {
  if (!scene || !scene.query) return;
  state.point = index;
  view.mark(index);
  if (index < 0) {
    crops.heat = null;
    speak("point-text", "Mouse on the part: the likelihood of that point over the crop.");
  } else {
    const { queries, size, logPartition, mask, width } = scene.query, begun = performance.now();
    const found = likelihood(queries, size, part.keys.subarray(index * size, (index + 1) * size), logPartition, mask, state.likelihood);
    state.ms.likelihood = performance.now() - begun;
    crops.heat = { values: state.likelihood, largest: found.largest };
    const at = [0, 1, 2].map((k) => part.points[3 * index + k].toFixed(1)).join(", ");
    speak("point-text", `Point ${at} mm: likeliest in pixel ${found.at % width}, ${Math.floor(found.at / width)}, there ${(found.largest * part.count).toPrecision(2)} times as dense as by chance.`);
  }
  byId("crop-note").textContent = index < 0 ? "" : "with the likelihood of the point";
  redraw();
}

// A screen reader is told when the cursor rests; the text itself is always up to date.
function speak(id, text) {
  const element = byId(id);
  element.setAttribute("aria-busy", "true");
  element.textContent = text;
  clearTimeout(speaking);
  speaking = setTimeout(() => ["pixel-text", "point-text"].forEach((each) => byId(each).setAttribute("aria-busy", "false")), 350);
}

function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; update(); });
}

function update() {
  const begun = performance.now();
  if (stale) showLevels();
  paintCrops();
  state.ms.update = performance.now() - begun;
}

function paintCrops() {
  const opacity = +byId("opacity").value, ghosts = byId("ghosts").checked, chosen = state.pose;
  const shown = (poses) => (!poses.length ? [] : ghosts && opacity > 0 && scene.probability
    ? poses.map((pose, i) => ({ pose, opacity: opacity * (i === chosen ? 1 : scene.probability[i]) })).sort((a, b) => a.opacity - b.opacity)
    : [{ pose: poses[chosen], opacity }]);
  if (opacity > 0 && !overlay) makeOverlay();
  crops.draw(overlay, { crop: shown(scene.virtual), photo: shown(scene.poses) }, byId("style").value, tables[byId("colours").value]);
}

function makeOverlay() {
  overlay = new Overlay();
  overlay.setPart(part);
  overlay.table = textures[byId("colours").value];
  return overlay;
}

function recolour() {
  const mode = byId("colouring").value, log = byId("scaling").value === "log", table = byId("colours").value;
  if (overlay) overlay.table = textures[table];
  view.setColouring(mode, log ? 3 : 0, textures[table]);
  const bar = byId("bar").getContext("2d"), image = bar.createImageData(256, 1);
  for (let i = 0; i < 256; i++) image.data.set([...tables[table].subarray(3 * i, 3 * i + 3), 255], 4 * i);
  bar.putImageData(image, 0, 0);
  byId("scale").hidden = mode !== "distribution";
  byId("scale-low").textContent = log ? "1/1000" : "0";
  byId("scale-name").textContent = "probability density";
  redraw();
}

function cycle(id) {
  const select = byId(id);
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change"));
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const actions = {
    g: () => byId("ghosts").click(), s: () => cycle("scaling"), c: () => cycle("colouring"), h: () => byId("home").click(),
    o: () => { byId("opacity").value = +byId("opacity").value > 0 ? 0 : 0.6; redraw(); }, Escape: () => showPoint(-1),
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action) action();
}

function onCropKey(event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!step || !scene.query) return;
  event.preventDefault();
  const far = event.shiftKey ? 4 : 1, keep = (value, count) => Math.min(count - 1, Math.max(0, value));
  const { row, column } = state.pixel;
  showPixel(keep(row + far * step[0], scene.query.height), keep(column + far * step[1], scene.query.width));
}

async function begin() {
  const choice = byId("scene");
  data.scenes.forEach((one, i) => choice.add(new Option(`${i + 1}: ${data.parts[one.objectId].name}${one.poses.length ? `, score ${one.score.toFixed(2)}` : ", no pose"}`, i)));
  byId("scene-choice").hidden = data.scenes.length < 2;
  choice.addEventListener("change", () => showScene(+choice.value));
  for (const id of ["colouring", "scaling", "colours"]) byId(id).addEventListener("change", recolour);
  for (const id of ["opacity", "style"]) byId(id).addEventListener("input", redraw);
  byId("ghosts").addEventListener("change", () => { view.showGhosts(byId("ghosts").checked); redraw(); });
  byId("home").addEventListener("click", () => view.home());
  byId("crop-frame").addEventListener("keydown", onCropKey);
  document.addEventListener("keydown", onKey);
  try {
    await showScene(0);
  } catch (error) {
    byId("notice").textContent = `The part in 3D cannot be drawn (${error.message}). It needs WebGL 2; see the browser's settings for hardware acceleration.`;
    byId("notice").hidden = false;
    throw error;
  }
  mark("first");  // with the part in 3D
}

window.cad2pose = {
  state, update,
  points: () => part.points,
  silhouette: (pose = 0) => (overlay || makeOverlay()).silhouette({ K: scene.K, width: scene.side, height: scene.side }, scene.virtual[pose]),
  showPixel, showPoint, showScene,
  ready: begin(),
};

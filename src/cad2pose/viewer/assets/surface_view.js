// The part in 3D: its surface with the distribution on it, the alternatives as ghosts, and the mouse on it.

const GHOSTS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];  // Okabe and Ito

class SurfaceView {
  constructor(frame, canvas, labels, onPoint) {
    Object.assign(this, { frame, canvas, labels, onPoint, ghosts: [], tips: [], waiting: false });
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.renderer.setPixelRatio(Math.min(2, window.devicePixelRatio || 1));
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(30, 1, 1, 1000);
    this.controls = new THREE.OrbitControls(this.camera, canvas);
    this.controls.enablePan = false;
    this.controls.addEventListener("change", () => this.draw());
    this.caster = new THREE.Raycaster();
    this.body = new THREE.Group();
    this.body.matrixAutoUpdate = false;
    this.marker = new THREE.Mesh(new THREE.SphereGeometry(1, 16, 12), new THREE.MeshBasicMaterial({ color: 0xd62828 }));
    this.marker.visible = false;
    this.scene.add(this.body);
    new ResizeObserver(() => this.resize()).observe(frame);
    this.listen();
  }

  setPart(part) {
    this.part = part;
    if (this.splats) this.splats.geometry.dispose();
    this.body.clear();
    this.mesh = new THREE.Mesh(part.geometry, meshMaterial(Boolean(part.colors)));
    this.body.add(this.mesh);
    this.splats = null;
    if (part.keys) {
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(part.points, 3));
      geometry.setAttribute("facing", new THREE.BufferAttribute(part.pointNormals, 3, true));
      geometry.setAttribute("paint", new THREE.BufferAttribute(part.keyColors, 3, true));
      geometry.setAttribute("level", new THREE.BufferAttribute(new Float32Array(part.count), 1));
      geometry.boundingSphere = new THREE.Sphere(new THREE.Vector3(...part.center), part.radius);
      this.splats = new THREE.Points(geometry, splatMaterial());
      this.splats.material.uniforms.radius.value = 2.9 * Math.sqrt(part.area / Math.PI);
      this.splats.material.uniforms.lift.value = 0.004 * part.radius;
      this.body.add(this.splats);
    }
    this.marker.scale.setScalar(0.022 * part.radius);
    this.body.add(this.marker);
    this.marker.visible = false;
  }

  // Poses in the crop camera; the part stands as the first shows it, or upright where there is none.
  setPoses(poses, probability) {
    this.pose = poses[0] || [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 6 * this.part.radius, 0, 0, 0, 1];
    this.origin = placed(this.pose, this.part.center);
    this.body.matrix.copy(modelMatrix(this.pose, this.origin));
    for (const ghost of this.ghosts) this.scene.remove(ghost);
    this.labels.replaceChildren();
    this.ghosts = [];
    this.tips = [];
    poses.forEach((pose, i) => this.addGhost(pose, i, probability && probability[i]));
    this.home();
  }

  addGhost(pose, i, probability) {
    const color = GHOSTS[i % GHOSTS.length], group = new THREE.Group(), R = this.part.radius;
    group.matrixAutoUpdate = false;
    group.matrix.copy(modelMatrix(pose, this.origin));
    if (i > 0) {
      const material = meshMaterial(false);
      material.transparent = true;
      material.depthWrite = false;
      material.uniforms.alpha.value = 0.06 + 0.6 * (probability || 0.2);
      material.uniforms.tint.value.set(...new THREE.Color().setStyle(color, THREE.LinearSRGBColorSpace).toArray());
      group.add(new THREE.Mesh(this.part.geometry, material));
    }
    // The part's own x axis, long, and its z axis, short: where the part that looks the same has been turned to.
    const c = this.part.center, ends = [[1.3, 0, 0], [0, 0, 0.9]].flatMap((d) => [...c, ...c.map((v, k) => v + R * d[k])]);
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(ends), 3));
    group.add(new THREE.LineSegments(geometry, new THREE.LineBasicMaterial({ color: new THREE.Color().setStyle(color, THREE.LinearSRGBColorSpace) })));
    group.visible = false;
    this.scene.add(group);
    this.ghosts.push(group);
    const label = document.createElement("span");
    label.textContent = `${i + 1}` + (probability === null || probability === undefined ? "" : `: ${percent(probability)}`);
    label.style.borderColor = color;
    label.hidden = true;
    this.labels.append(label);
    this.tips.push({ label, at: new THREE.Vector3(c[0] + 1.36 * R, c[1], c[2]).applyMatrix4(group.matrix) });
  }

  showGhosts(shown) {
    this.ghostsShown = shown;
    for (const ghost of this.ghosts) ghost.visible = shown;
    this.draw();
  }

  home() {
    const R = this.part.radius, direction = new THREE.Vector3(0, 0, 1);
    if (this.pose) direction.set(-this.origin[0], this.origin[1], this.origin[2]).normalize();
    this.controls.target.set(0, 0, 0);
    this.camera.up.set(0, 1, 0);
    this.camera.position.copy(direction.multiplyScalar(4.9 * R));
    Object.assign(this.camera, { near: 0.05 * R, far: 60 * R });
    this.controls.minDistance = 1.2 * R;
    this.controls.maxDistance = 40 * R;
    this.controls.update();
    this.resize();
  }

  // Values on the points, drawn as shares of the largest.
  setLevels(levels) {
    let largest = 0;
    for (let i = 0; i < levels.length; i++) if (levels[i] > largest) largest = levels[i];
    const attribute = this.splats.geometry.getAttribute("level"), scale = largest > 0 ? 1 / largest : 0;
    for (let i = 0; i < levels.length; i++) attribute.array[i] = levels[i] * scale;
    attribute.needsUpdate = true;
    this.draw();
  }

  setColouring(mode, decades, table) {
    const uniforms = this.mesh.material.uniforms, dark = mode === "distribution" && this.splats;
    uniforms.mode.value = dark ? 3 : 0;  // gaps between the splats look like the lowest value
    if (dark) uniforms.tint.value.set(...table.image.data.subarray(0, 3)).divideScalar(255);
    else uniforms.tint.value.set(0.62, 0.64, 0.67);
    if (this.splats) {
      this.splats.visible = mode !== "plain";
      Object.entries({ mode: mode === "keys" ? 1 : 0, decades, table }).forEach(([name, value]) => { this.splats.material.uniforms[name].value = value; });
    }
    this.draw();
  }

  mark(index) {
    this.marker.visible = index >= 0;
    if (index >= 0) this.marker.position.fromArray(this.part.points, 3 * index);
    this.draw();
  }

  pick(x, y) {
    this.caster.setFromCamera(new THREE.Vector2(x, y), this.camera);
    const [hit] = this.caster.intersectObject(this.mesh, false);
    if (!hit || !this.part.keys) return -1;
    const inside = this.body.matrixWorld.clone().invert();
    const at = hit.point.clone().applyMatrix4(inside), normal = hit.face.normal.clone();
    if (normal.dot(this.camera.position.clone().applyMatrix4(inside).sub(at)) < 0) normal.negate();
    return nearestPoint(this.part.points, this.part.pointNormals, at, normal);
  }

  listen() {
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [2 * (event.clientX - box.left) / box.width - 1, 1 - 2 * (event.clientY - box.top) / box.height];
    };
    this.canvas.addEventListener("pointermove", (event) => { if (!event.buttons) this.onPoint(this.pick(...place(event))); });
    this.canvas.addEventListener("pointerdown", (event) => { if (event.pointerType !== "mouse") this.onPoint(this.pick(...place(event))); });
    this.canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") this.onPoint(-1); });
    this.frame.addEventListener("keydown", (event) => {
      const turns = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      const zoom = { "+": 1 / 1.15, "=": 1 / 1.15, "-": 1.15 }[event.key];
      if (event.key === "Enter") this.onPoint(this.pick(0, 0));
      else if (turns) this.orbit(turns[0] * 0.12, turns[1] * 0.12, 1);
      else if (zoom) this.orbit(0, 0, zoom);
      else return;
      event.preventDefault();
    });
  }

  orbit(around, over, zoom) {
    const s = new THREE.Spherical().setFromVector3(this.camera.position);
    s.theta += around;
    s.phi = Math.min(Math.PI - 0.01, Math.max(0.01, s.phi + over));
    s.radius = Math.min(this.controls.maxDistance, Math.max(this.controls.minDistance, s.radius * zoom));
    this.camera.position.setFromSpherical(s);
    this.controls.update();
    this.draw();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.frame;
    if (!width || !height || !this.part) return;
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.fov = width >= height ? 30 : 2 * Math.atan(Math.tan(Math.PI / 12) * height / width) * 180 / Math.PI;
    this.camera.updateProjectionMatrix();
    if (this.splats) {
      const buffer = this.renderer.getDrawingBufferSize(new THREE.Vector2());
      this.splats.material.uniforms.pixels.value = buffer.y / (2 * Math.tan(this.camera.fov * Math.PI / 360));
    }
    this.render();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.render(); });
  }

  render() {
    if (!this.part) return;
    this.renderer.render(this.scene, this.camera);
    const taken = [];  // labels that would cover another go below it
    for (const { label, at } of this.tips) {
      label.hidden = !this.ghostsShown;
      if (label.hidden) continue;
      const seen = at.clone().project(this.camera), x = ((seen.x + 1) / 2) * this.frame.clientWidth;
      let y = ((1 - seen.y) / 2) * this.frame.clientHeight;
      while (taken.some((other) => Math.abs(other.x - x) < 66 && Math.abs(other.y - y) < 22)) y += 6;
      taken.push({ x, y });
      label.style.transform = `translate(-50%, -50%) translate(${x}px, ${y}px)`;
    }
  }
}

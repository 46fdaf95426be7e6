// The part in its poses, drawn over pictures with the camera's intrinsics.

class Overlay {
  constructor() {
    this.renderer = new THREE.WebGLRenderer({ alpha: true, antialias: true });
    this.renderer.setClearColor(0, 0);
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera();
    this.camera.matrixAutoUpdate = false;
    this.mesh = null;
    this.table = null;
  }

  setPart(part) {
    if (this.mesh) this.scene.remove(this.mesh);
    this.mesh = new THREE.Mesh(part.geometry, meshMaterial(Boolean(part.colors)));
    this.mesh.matrixAutoUpdate = false;
    this.mesh.frustumCulled = false;
    this.scene.add(this.mesh);
    this.part = part;
  }

  // Renders one pose into the overlay's own canvas; `view` has K, width and height in the pixels of K.
  render(view, pose, style, width, height) {
    const depth = placed(pose, this.part.center)[2], radius = this.part.radius;
    const near = Math.max(depth - 1.01 * radius, 1e-3 * radius), far = Math.max(depth + 1.01 * radius, 2 * near);
    this.camera.projectionMatrix.copy(projectionOf(view.K, view.width, view.height, near, far));
    this.camera.projectionMatrixInverse.copy(this.camera.projectionMatrix).invert();
    this.mesh.matrix.copy(modelMatrix(pose));
    this.mesh.matrixWorldNeedsUpdate = true;
    const uniforms = this.mesh.material.uniforms;
    uniforms.mode.value = { shaded: 0, depth: 1, normals: 2 }[style];
    uniforms.near.value = depth - radius;
    uniforms.far.value = depth + radius;
    uniforms.table.value = this.table;
    if (this.renderer.domElement.width !== width || this.renderer.domElement.height !== height) {
      this.renderer.setSize(width, height, false);
    }
    this.renderer.render(this.scene, this.camera);
    return this.renderer.domElement;
  }

  paint(context, view, poses, style) {
    const { width, height } = context.canvas;
    for (const { pose, opacity } of poses) {
      if (!(opacity > 0.004)) continue;
      context.globalAlpha = Math.min(1, opacity);
      context.drawImage(this.render(view, pose, style, width, height), 0, 0);
    }
    context.globalAlpha = 1;
  }

  // Which pixels of the picture the pose covers, 0 or 1, row by row.
  silhouette(view, pose) {
    const canvas = document.createElement("canvas");
    canvas.width = view.width;
    canvas.height = view.height;
    const context = canvas.getContext("2d");
    context.drawImage(this.render(view, pose, "shaded", view.width, view.height), 0, 0);
    const data = context.getImageData(0, 0, view.width, view.height).data;
    return Array.from({ length: view.width * view.height }, (_, i) => (data[4 * i + 3] >= 128 ? 1 : 0));
  }
}

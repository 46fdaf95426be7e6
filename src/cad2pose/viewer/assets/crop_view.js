// The crop, its query image and mask, and the photograph: pictures with a pixel cursor, poses and likelihoods on them.

const FINE = 512;  // pixels of a canvas along the side of a crop

class CropView {
  constructor(onPixel) {
    this.canvases = Object.fromEntries(["crop", "query", "mask", "photo"].map((name) => [name, document.getElementById(name)]));
    this.onPixel = onPixel;
    this.cursor = null;
    this.heat = null;
    for (const name of ["crop", "query", "mask"]) {
      const canvas = this.canvases[name];
      canvas.width = canvas.height = FINE;
      const report = (event) => {
        if (!this.size) return;
        const box = canvas.getBoundingClientRect(), { height, width } = this.size;
        const column = Math.floor((event.clientX - box.left) / box.width * width), row = Math.floor((event.clientY - box.top) / box.height * height);
        this.onPixel(Math.min(height - 1, Math.max(0, row)), Math.min(width - 1, Math.max(0, column)), event.type === "pointerdown");
      };
      canvas.addEventListener("pointermove", report);
      canvas.addEventListener("pointerdown", report);
    }
  }

  setScene(scene, photograph, images) {
    this.scene = scene;
    this.photograph = photograph;
    this.images = images;
    this.size = scene.query && { height: scene.query.height, width: scene.query.width };
    this.cursor = this.heat = null;
    const photo = this.canvases.photo;
    photo.width = photograph.width;
    photo.height = photograph.height;
    if (scene.query) this.maskImage = grayImage(scene.query.mask, scene.query.width, scene.query.height);
  }

  // Where the crop camera's picture ends in the photograph.
  outline() {
    const { K, R, side } = this.scene, P = this.photograph.K, out = [];
    for (const [u, v] of [[-0.5, -0.5], [side - 0.5, -0.5], [side - 0.5, side - 0.5], [-0.5, side - 0.5]]) {
      const ray = [(u - K[2]) / K[0], (v - K[5]) / K[4], 1];
      const [x, y, z] = [0, 1, 2].map((i) => R[i] * ray[0] + R[3 + i] * ray[1] + R[6 + i] * ray[2]);
      if (z <= 0) return [];
      out.push([(P[0] * x + P[1] * y) / z + P[2] + 0.5, P[4] * y / z + P[5] + 0.5]);
    }
    return out;
  }

  draw(overlay, shown, style, table) {
    const { scene, photograph, images } = this;
    const paint = (name, image, smooth) => {
      const canvas = this.canvases[name], context = canvas.getContext("2d");
      context.imageSmoothingEnabled = smooth;
      context.imageSmoothingQuality = "high";
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      return context;
    };
    const crop = paint("crop", images.crop, true);
    if (overlay) overlay.paint(crop, { K: scene.K, width: scene.side, height: scene.side }, shown.crop, style);
    const photo = paint("photo", images.photo, true);
    if (overlay) overlay.paint(photo, photograph, shown.photo, style);
    this.drawOutline(photo);
    if (scene.query) {
      if (this.heat) this.drawHeat(crop, table);
      const contexts = [crop, paint("query", images.query, false), paint("mask", this.maskImage, false)];
      if (this.cursor) contexts.forEach((context) => this.drawCursor(context));
    }
  }

  drawOutline(context) {
    const corners = this.outline(), line = Math.max(1.5, context.canvas.width / 400);
    if (!corners.length) return;
    for (const [width, color] of [[2.2 * line, "rgba(0,0,0,.7)"], [line, "#f0e442"]]) {
      context.lineWidth = width;
      context.strokeStyle = color;
      context.beginPath();
      corners.forEach(([x, y]) => context.lineTo(x, y));
      context.closePath();
      context.stroke();
    }
  }

  drawHeat(context, table) {
    const { width, height } = this.size, { values, largest } = this.heat;
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const small = canvas.getContext("2d"), image = small.createImageData(width, height);
    for (let i = 0; i < values.length; i++) {
      const level = Math.round(255 * (largest > 0 ? values[i] / largest : 0));
      image.data.set([table[3 * level], table[3 * level + 1], table[3 * level + 2], 120 + level / 2], 4 * i);
    }
    small.putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(canvas, 0, 0, context.canvas.width, context.canvas.height);
  }

  drawCursor(context) {
    const step = context.canvas.width / this.size.width, least = Math.max(step, 10);
    const x = (this.cursor.column + 0.5) * step, y = (this.cursor.row + 0.5) * step;
    for (const [width, color] of [[6, "rgba(0,0,0,.75)"], [2.5, "#fff"]]) {
      context.lineWidth = width;
      context.strokeStyle = color;
      context.strokeRect(x - least / 2, y - least / 2, least, least);
    }
  }
}

function grayImage(values, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  values.forEach((v, i) => image.data.set([v, v, v, 255], 4 * i));
  context.putImageData(image, 0, 0);
  return canvas;
}

async function loadImage(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}

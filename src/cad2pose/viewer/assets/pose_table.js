// The table of poses, which is also how one chooses the pose that is drawn.

function percent(p) {
  if (p === null || p === undefined) return "not known";
  return p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : `${(100 * p).toFixed(1)} %`;
}

function fillPoseTable(scene, onChoice) {
  const table = document.querySelector("#poses table"), body = table.tBodies[0];
  body.replaceChildren();
  if (!scene.poses.length) {
    table.caption.textContent = `No pose was found: ${scene.reason || "no reason is known"}`;
    return;
  }
  const many = scene.poses.length - 1;
  const others = scene.probability ? (many ? `, and ${many} ${many === 1 ? "alternative" : "alternatives"} that the picture allows` : ", the only one that the picture allows") : "; alternatives were not looked for (poses were not refined)";
  const axis = scene.freeAxis ? ` About the axis ${scene.freeAxis.map((v) => v.toFixed(2)).join(", ")} the part may turn unseen; such turns are not listed.` : "";
  const sure = scene.confidence === null ? "" : `, ${Math.round(100 * scene.confidence)} % likely right (no point off by a tenth of the diameter)`;
  table.caption.textContent = `The pose found, score ${scene.score.toFixed(3)}${sure}${others}.${axis} Camera frame: x right, y down, z forward.`;
  scene.poses.forEach((pose, i) => {
    const row = body.insertRow(), R = rotationOf(pose), first = rotationOf(scene.poses[0]);
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "pose", checked: i === 0 });
    radio.setAttribute("aria-label", `draw pose ${i + 1}`);
    radio.addEventListener("change", () => onChoice(i));
    row.insertCell().append(radio);
    const head = document.createElement("th");
    head.scope = "row";
    const swatch = document.createElement("i");
    swatch.style.background = GHOSTS[i % GHOSTS.length];
    head.append(swatch, `${i + 1}`);
    row.append(head);
    const trace = first.reduce((sum, value, k) => sum + value * R[k], 0);
    const angle = Math.acos(Math.min(1, Math.max(-1, (trace - 1) / 2))) * 180 / Math.PI;
    const cells = [
      scene.probability ? percent(scene.probability[i]) : "not known", i ? `${angle.toFixed(1)}°` : "–",
      rotationVector(R).map((v) => v.toFixed(1)).join(", "), [3, 7, 11].map((k) => pose[k].toFixed(1)).join(", "),
    ];
    cells.forEach((text) => { row.insertCell().textContent = text; });
    row.addEventListener("click", () => { if (!radio.checked) { radio.checked = true; onChoice(i); } });
  });
}

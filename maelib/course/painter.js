// The front end of maelib.course.widgets.PatchPainter: click, drag, or arrow keys and space hide patches and show them again.
const SIDE = 336; // width of the canvas in CSS pixels

function render({ model, el }) {
  const rows = model.get("rows"), cols = model.get("cols");
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "Facade under a grid of patches. Arrow keys move, space hides or shows a patch.");
  canvas.width = SIDE;
  canvas.height = Math.round((SIDE * rows) / cols);
  canvas.style.cssText = "display: block; cursor: crosshair; touch-action: none";
  const clear = document.createElement("button");
  clear.className = "jupyter-button";
  clear.textContent = "Show all patches";
  el.append(canvas, clear);

  const picture = new Image();
  const pen = canvas.getContext("2d");
  const width = canvas.width / cols, height = canvas.height / rows;
  let mask = [...model.get("mask")];
  let hiding = null; // what the drag does: true hides, false shows, null: no drag
  let cursor = 0;

  const draw = () => {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (picture.complete) pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    for (let i = 0; i < mask.length; i++) {
      const x = (i % cols) * width, y = Math.floor(i / cols) * height;
      pen.fillStyle = "#808080";
      if (mask[i]) pen.fillRect(x, y, width, height);
      pen.strokeStyle = "#ffffff80";
      pen.strokeRect(x, y, width, height);
    }
    if (document.activeElement !== canvas) return;
    pen.strokeStyle = "#d55e00";
    pen.lineWidth = 3;
    pen.strokeRect((cursor % cols) * width, Math.floor(cursor / cols) * height, width, height);
    pen.lineWidth = 1;
  };
  const send = () => {
    model.set("mask", [...mask]);
    model.save_changes();
  };
  const patchUnder = (event) => {
    const box = canvas.getBoundingClientRect();
    const place = (at, low, length, count) => Math.min(count - 1, Math.max(0, Math.floor(((at - low) / length) * count)));
    return place(event.clientY, box.top, box.height, rows) * cols + place(event.clientX, box.left, box.width, cols);
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    cursor = patchUnder(event);
    hiding = !mask[cursor];
    mask[cursor] = hiding;
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (hiding === null) return;
    cursor = patchUnder(event);
    mask[cursor] = hiding;
    draw();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      if (hiding !== null) send();
      hiding = null;
    });
  }
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -cols, ArrowDown: cols };
    const next = cursor + (steps[event.key] ?? 0);
    if (event.key === " ") {
      mask[cursor] = !mask[cursor];
      send();
    } else if (!(event.key in steps)) return;
    else if (next >= 0 && next < mask.length) cursor = next;
    event.preventDefault();
    event.stopPropagation(); // the notebook has shortcuts of its own on these keys
    draw();
  });
  for (const change of ["focus", "blur"]) canvas.addEventListener(change, draw);
  clear.addEventListener("click", () => {
    mask.fill(false);
    send();
    draw();
  });

  const showMask = () => {
    mask = [...model.get("mask")];
    draw();
  };
  const showPicture = () => {
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(new Blob([model.get("image")], { type: "image/png" }));
  };
  picture.addEventListener("load", draw);
  model.on("change:mask", showMask);
  model.on("change:image", showPicture);
  showPicture();
  return () => {
    model.off("change:mask", showMask);
    model.off("change:image", showPicture);
    URL.revokeObjectURL(picture.src);
  };
}

export default { render };

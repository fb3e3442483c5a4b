// The front end of maelib.course.photo_painter.PhotoPainter: choose a photo, paint the hole, repair, compare, save.
const PART = 1 << 20; // bytes of a file that one message carries

const PAGE = `
<style>
  .maelib-photo { background: var(--jp-layout-color1, Canvas); color: var(--jp-content-font-color1, CanvasText);
    font: 14px/1.5 system-ui, sans-serif; padding: 12px; }
  .maelib-photo [hidden] { display: none !important; }
  .maelib-photo .row, .maelib-photo label, .maelib-photo .panels { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; }
  .maelib-photo .row { gap: 8px 16px; margin: 8px 0; }
  .maelib-photo .panels { align-items: flex-start; gap: 16px; }
  .maelib-photo section { flex: 1 1 300px; max-width: 640px; min-width: 0; }
  .maelib-photo button, .maelib-photo .file, .maelib-photo select { font: inherit; color: inherit; padding: 4px 12px;
    min-height: 32px; box-sizing: border-box; border: 1px solid; border-radius: 4px; cursor: pointer;
    background: color-mix(in srgb, currentColor 8%, transparent); }
  .maelib-photo select { max-width: 100%; } .maelib-photo option { background: Canvas; color: CanvasText; }
  .maelib-photo .strong { background: #005b8f; border-color: #005b8f; color: #fff; }
  .maelib-photo input { accent-color: #0072b2; margin: 0; }
  .maelib-photo input[type=file] { position: absolute; opacity: 0; width: 1px; height: 1px; }
  .maelib-photo input[type=checkbox] { width: 18px; height: 18px; }
  .maelib-photo :focus-visible, .maelib-photo .file:focus-within { outline: 3px solid #d55e00; outline-offset: 2px; }
  .maelib-photo .picture { position: relative; overflow: hidden; margin: 0 auto; }
  .maelib-photo .picture :is(img, canvas) { display: block; width: 100%; height: auto; margin: 0; max-width: none; }
  .maelib-photo .picture canvas, .maelib-photo .after { position: absolute; inset: 0; height: 100% !important; }
  .maelib-photo canvas { cursor: crosshair; opacity: 0.75; touch-action: pinch-zoom; }
  .maelib-photo canvas:focus-visible { outline-offset: -3px; opacity: 0.85; }
  .maelib-photo .brush { position: absolute; aspect-ratio: 1; border-radius: 50%; transform: translate(-50%, -50%);
    border: 2px solid #fff; outline: 2px solid #000; pointer-events: none; box-sizing: border-box; }
  .maelib-photo .compare { touch-action: pan-y; cursor: ew-resize; }
  .maelib-photo .line { position: absolute; top: 0; bottom: 0; width: 2px; background: #fff; outline: 1px solid #000; }
  .maelib-photo .wide { flex: 1; min-width: 120px; } .maelib-photo p { margin: 8px 0; overflow-wrap: anywhere; }
  .maelib-photo .problem { border-left: 4px solid #d55e00; padding-left: 8px; font-weight: 600; }
  .maelib-photo progress { display: block; width: 100%; max-width: 640px; accent-color: #0072b2; }
  .maelib-photo progress[hidden] { display: block !important; visibility: hidden; }
  .maelib-photo .news { position: sticky; top: 0; z-index: 1; background: inherit; padding-bottom: 4px; }
  .maelib-photo.busy :is(button, .file, select) { opacity: 0.5; cursor: progress; }
  @media (pointer: coarse) {
    .maelib-photo :is(button, .file, select, label, input[type=range]) { min-height: 44px; }
    .maelib-photo .file { display: inline-flex; }
  }
</style>
<div class="row">
  <label class="file">Choose a photo<input name="file" type="file" accept="image/*,.npy,.tif,.tiff"></label>
  <label class="listed" hidden>or one of yours <select name="listed"></select></label>
</div>
<div class="news">
  <p role="status">Choose a photo of a facade: JPEG, PNG, WebP, TIFF, BMP or a NumPy array.</p>
  <progress aria-label="Progress" hidden></progress>
</div>
<div class="panels" hidden>
  <section aria-label="Paint the hole">
    <div class="picture paint">
      <img class="photo" alt="">
      <canvas tabindex="0" role="application"
        aria-label="Photo to paint on. Arrow keys move the brush; hold space to paint."></canvas>
      <span class="brush" hidden></span>
    </div>
    <div class="row">
      <label>Brush size <input name="size" type="range" min="1" max="30" value="6"></label>
      <label><input name="erase" type="checkbox"> Eraser</label>
      <button name="undo">Undo</button>
      <button name="clear">Clear</button>
    </div>
    <div class="row">
      <label>Detail <input name="detail" type="range" min="0" max="1" step="0.05" value="1"></label>
      <output></output>
      <button name="repair" class="strong">Repair</button>
    </div>
  </section>
  <section aria-label="Compare and save" class="result" hidden>
    <div class="picture compare"><img class="before" alt="The photo before the repair"><img class="after"
      alt="The photo after the repair"><span class="line"></span></div>
    <div class="row">
      <label class="wide">Before <input name="split" class="wide" type="range" min="0" max="100" value="50"
        aria-label="Share of the picture that shows the photo before the repair, from the left"> After</label>
    </div>
    <div class="row">
      <button name="save" class="strong">Save repair and mask</button>
      <button name="repaired" hidden>Download the repair</button>
      <button name="mask" hidden>Download the mask</button>
    </div>
  </section>
</div>`;

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "maelib-photo";
  root.dataset.lmSuppressShortcuts = "true"; // the notebook has shortcuts of its own on many keys
  root.innerHTML = PAGE;
  el.append(root);
  const find = (what) => root.querySelector(what), named = (name) => find(`[name=${name}]`);
  const canvas = find("canvas"), brush = find(".brush"), status = find("[role=status]"), bar = find("progress");
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  let busy = false, painting = "", told = Promise.resolve(), file = [];
  let strokes = [], stroke = null, kept = null; // kept: what had been painted before this page was loaded
  let cursor = [0, 0];

  const say = (text, problem = false) => {
    status.textContent = (problem ? "Problem: " : "") + text;
    status.classList.toggle("problem", problem);
  };
  const work = (now) => {
    busy = now;
    root.classList.toggle("busy", now);
    if (!now) bar.hidden = true;
  };
  const ask = (step, text) => {
    if (busy) return;
    work(true);
    if (text) say(text);
    told = told.then(() => model.send(step)); // after the mask
  };

  // ------------------------------------------------------------------------------------------------ choose a photo
  const upload = async (chosen) => {
    if (busy || !chosen) return;
    work(true);
    say(`Reading ${chosen.name} ...`);
    for (let start = 0; start === 0 || start < chosen.size; start += PART) {
      const part = await chosen.slice(start, start + PART).arrayBuffer();
      const place = { first: start === 0, last: start + PART >= chosen.size };
      model.send({ do: "upload", name: chosen.name, ...place }, undefined, [part]);
    }
  };
  named("file").addEventListener("change", async ({ target }) => {
    await upload(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
  named("listed").addEventListener("change", ({ target }) => {
    if (target.value) ask({ do: "choose", name: target.value }, `Reading ${target.value} ...`);
    target.value = "";
  });

  // ------------------------------------------------------------------------------------------------ paint the hole
  const setUp = () => {
    const hatch = document.createElement("canvas").getContext("2d");
    hatch.canvas.width = hatch.canvas.height = 12;
    hatch.fillStyle = "#0072b2";
    hatch.fillRect(0, 0, 12, 12);
    hatch.strokeStyle = "#fff";
    hatch.lineWidth = 2.5;
    for (const x of [-12, 0, 12]) hatch.stroke(new Path2D(`M${x - 3} 15 l18 -18`));
    pen.strokeStyle = pen.createPattern(hatch.canvas, "repeat");
    pen.lineCap = pen.lineJoin = "round";
  };
  const draw = ({ clear, erase, width, points }, from = 0) => {
    if (clear) return pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(...points[Math.max(0, from - 1)]);
    for (const [x, y] of points.slice(from)) pen.lineTo(x + 0.01, y); // a line of no length would not be drawn
    pen.stroke();
  };
  const redraw = () => {
    pen.globalCompositeOperation = "source-over";
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (kept) pen.drawImage(kept, 0, 0);
    for (const past of strokes) draw(past);
  };
  const tell = () => {
    const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 3; i < data.length; i += 4) count += data[i] > 127;
    const share = (100 * count) / (canvas.width * canvas.height);
    if (!busy) say(count ? `${share < 1 ? share.toFixed(1) : Math.round(share)}% of the photo is painted.` : "Nothing is painted.");
    const png = new Promise((resolve) => canvas.toBlob(resolve));
    told = told.then(async () => model.send({ do: "paint" }, undefined, [await (await png).arrayBuffer()]));
  };
  const width = () => (named("size").value / 100) * Math.max(canvas.width, canvas.height);
  const move = (x, y) => {
    cursor = [Math.min(canvas.width, Math.max(0, x)), Math.min(canvas.height, Math.max(0, y))];
    brush.style.left = `${(100 * cursor[0]) / canvas.width}%`;
    brush.style.top = `${(100 * cursor[1]) / canvas.height}%`;
    brush.style.width = `${(100 * width()) / canvas.width}%`;
    if (!stroke) return;
    stroke.points.push(cursor);
    draw(stroke, stroke.points.length - 1);
  };
  const begin = (by) => {
    painting = by;
    stroke = { erase: named("erase").checked, width: width(), points: [cursor] };
    strokes.push(stroke);
    draw(stroke);
  };
  const end = (by) => {
    if (!stroke || painting !== by) return;
    stroke = null;
    tell();
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    return [x * canvas.width, y * canvas.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary || stroke) return;
    canvas.setPointerCapture(event.pointerId);
    move(...under(event));
    begin("pointer");
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!event.isPrimary || (stroke && painting !== "pointer")) return;
    brush.hidden = false;
    move(...under(event));
  });
  canvas.addEventListener("pointerup", () => end("pointer"));
  canvas.addEventListener("pointercancel", () => { // two fingers zoom the page: what the first has painted goes
    if (!stroke) return;
    stroke = null;
    strokes.pop();
    redraw();
  });
  const leave = () => (brush.hidden = document.activeElement !== canvas);
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("focus", leave);
  canvas.addEventListener("blur", () => {
    end("space");
    leave();
  });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key], length = Math.max(1, width() / 4);
    if (event.key === " ") {
      if (!stroke) begin("space");
    } else if (!step) return;
    else move(cursor[0] + step[0] * length, cursor[1] + step[1] * length);
    event.preventDefault();
    event.stopPropagation();
  });
  canvas.addEventListener("keyup", (event) => {
    if (event.key === " ") end("space");
  });
  named("size").addEventListener("input", () => {
    brush.hidden = false;
    move(...cursor);
  });
  named("size").addEventListener("change", leave);
  named("undo").addEventListener("click", () => {
    if (!strokes.pop()) return say("There is nothing to undo.");
    redraw();
    tell();
  });
  named("clear").addEventListener("click", () => {
    strokes.push({ clear: true }); // undo brings back what was painted
    redraw();
    tell();
  });

  // ------------------------------------------------------------------------------------- repair, compare and save
  const showDetail = () => {
    const share = Number(named("detail").value);
    const means = { 0: " (the model alone, blurred)", 1: " (as sharp as the photo)" };
    find("output").textContent = share.toFixed(2) + (means[share] ?? "");
  };
  named("detail").addEventListener("input", showDetail);
  showDetail();
  named("repair").addEventListener("click", () => {
    if (!strokes.length && !kept) return say("Paint over what is to be repaired first.", true);
    ask({ do: "repair", detail: Number(named("detail").value) }, "Repairing ...");
  });
  const compare = () => {
    const split = named("split").value;
    find(".after").style.clipPath = `inset(0 0 0 ${split}%)`;
    find(".line").style.left = `calc(${split}% - 1px)`;
    named("split").setAttribute("aria-valuetext", `${split}% before`);
  };
  named("split").addEventListener("input", compare);
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = find(".compare").getBoundingClientRect();
    named("split").value = (100 * (event.clientX - box.left)) / box.width;
    compare();
    event.preventDefault(); // the browser would drag the picture away
  };
  for (const kind of ["pointerdown", "pointermove"]) find(".compare").addEventListener(kind, drag);
  for (const picture of root.querySelectorAll("img")) picture.draggable = false;
  named("save").addEventListener("click", () => ask({ do: "save" }, "Saving ..."));
  ["repaired", "mask"].forEach((name, which) => {
    named(name).addEventListener("click", () => ask({ do: "download", which }, "Downloading ..."));
  });

  // --------------------------------------------------------------------------------------------- what Python answers
  const show = (picture, data) => {
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(new Blob([data], { type: "image/png" }));
    return picture.decode();
  };
  const answers = {
    ready: () => work(false),
    progress: ({ text, share }) => {
      bar.hidden = false;
      bar.value = share;
      say(text);
    },
    problem: ({ text }) => say(text, true),
    note: ({ text }) => say(`${status.textContent} Note: ${text}.`),
    listed: ({ names }) => {
      named("listed").replaceChildren(new Option("", ""), ...names.map((name) => new Option(name, name)));
      find(".listed").hidden = !names.length;
    },
    photo: async ({ name, width, height }, data) => {
      const photo = find(".photo");
      await show(photo, data);
      await show(find(".before"), data);
      [canvas.width, canvas.height] = [photo.naturalWidth, photo.naturalHeight];
      for (const picture of root.querySelectorAll(".picture")) {
        picture.style.maxWidth = `${(560 * canvas.width) / canvas.height}px`;
        picture.style.aspectRatio = canvas.width / canvas.height;
      }
      setUp();
      [strokes, stroke, kept] = [[], null, null];
      find(".panels").hidden = false;
      find(".result").hidden = true;
      photo.alt = `The photo ${name}`;
      move(canvas.width / 2, canvas.height / 2);
      say(`${name}, ${width} x ${height} px. Paint over what is to be repaired.`);
    },
    mask: async (_, data) => {
      kept = new Image();
      await show(kept, data);
      redraw();
    },
    repaired: async (_, data) => {
      await show(find(".after"), data);
      find(".result").hidden = false;
      named("repaired").hidden = named("mask").hidden = true;
      compare();
      if (busy) find(".result").scrollIntoView({ block: "nearest", behavior: "smooth" });
      say("Repaired. Compare before and after, then save.");
    },
    saved: ({ names, folder }) => {
      named("repaired").hidden = named("mask").hidden = false;
      say(`Saved ${names.join(" and ")} in ${folder}.`);
    },
    file: ({ name, last }, data) => {
      if (!busy) return; // another view of this widget asked
      file.push(data);
      if (!last) return;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(file));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      file = [];
      say(`Downloaded ${name}.`);
    },
  };
  let answered = Promise.resolve(); // one answer after the other, since pictures take a moment to decode
  const listen = (content, buffers) => {
    answered = answered.then(() => answers[content.kind](content, buffers[0])).catch((error) => say(error, true));
  };
  model.on("msg:custom", listen);
  model.send({ do: "show" });
  return () => {
    model.off("msg:custom", listen);
    for (const picture of root.querySelectorAll("img")) URL.revokeObjectURL(picture.src);
  };
}

export default { render };

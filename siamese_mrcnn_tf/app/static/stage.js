// The large image: zoom, pan, the box that is drawn by dragging, the finds.

import { contains, drawExample, drawFind, drawLabel, fitted } from "./drawing.js";

const MARGIN = 14; // CSS pixels around an image that fits
const MAX_ZOOM = 40; // of the size that fits
const MIN_DRAG = 4; // CSS pixels; less is a click
const MIN_LABELLED = 34; // CSS pixels; narrower finds show their score under the mouse only

export class Stage {
  /** `onBox(box)` gets a drawn box (y1, x1, y2, x2) in pixels of the image; `layers()` tells what to draw. */
  constructor(canvas, { onBox, layers }) {
    Object.assign(this, { canvas, onBox, layers, image: null, bitmap: null, shown: true, color: "#2563eb" });
    Object.assign(this, { zoom: 1, shiftX: 0, shiftY: 0, draft: null, pan: null, mouse: null });
    this.pointers = new Map();
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Show an image {id, width, height} with its bitmap, which may still be loading. */
  show(image, bitmap) {
    if (image?.id !== this.image?.id) this.cancel();
    if (image?.id !== this.image?.id) Object.assign(this, { zoom: 1, shiftX: 0, shiftY: 0 });
    Object.assign(this, { image, bitmap });
    if (bitmap && !bitmap.complete) bitmap.addEventListener("load", () => this.draw(), { once: true });
    this.draw();
  }

  /** Scale and place of the image on the canvas, in CSS pixels. */
  frame() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const fit = Math.min((width - 2 * MARGIN) / this.image.width, (height - 2 * MARGIN) / this.image.height);
    const scale = Math.max(fit, 0.001) * this.zoom;
    const left = (width - this.image.width * scale) / 2 + this.shiftX;
    return { scale, left, top: (height - this.image.height * scale) / 2 + this.shiftY };
  }

  /** A place of the mouse in pixels of the image, inside it. */
  place({ offsetX, offsetY }) {
    const { scale, left, top } = this.frame();
    const clip = (value, end) => Math.min(Math.max(value, 0), end);
    return [clip((offsetX - left) / scale, this.image.width), clip((offsetY - top) / scale, this.image.height)];
  }

  zoomBy(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    if (!this.image) return;
    const before = this.frame();
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), MAX_ZOOM);
    if (this.zoom === 1) Object.assign(this, { shiftX: 0, shiftY: 0 });
    else {
      const after = this.frame();
      this.shiftX += x - after.left - ((x - before.left) / before.scale) * after.scale;
      this.shiftY += y - after.top - ((y - before.top) / before.scale) * after.scale;
    }
    this.draw();
  }

  fit() {
    Object.assign(this, { zoom: 1, shiftX: 0, shiftY: 0 });
    this.draw();
  }

  // ---- pointers ---------------------------------------------------------------------------------------------------
  press(event) {
    if (!this.image) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size > 1) this.draft = null; // two fingers zoom
    else if (event.button === 0 && !event.shiftKey) {
      const start = this.place(event);
      this.draft = { start, end: start, from: [event.offsetX, event.offsetY] };
    } else this.pan = [event.offsetX, event.offsetY];
    this.canvas.classList.toggle("panning", this.pan !== null);
  }

  move(event) {
    if (!this.image) return;
    if (this.pointers.size > 1 && this.pointers.has(event.pointerId)) this.pinch(event);
    else if (this.pan) {
      this.shiftX += event.offsetX - this.pan[0];
      this.shiftY += event.offsetY - this.pan[1];
      this.pan = [event.offsetX, event.offsetY];
      this.draw();
    } else if (this.draft) {
      this.draft.end = this.place(event);
      this.draw();
    } else this.hover(event);
  }

  pinch(event) {
    const other = [...this.pointers.entries()].find(([id]) => id !== event.pointerId)[1];
    const last = this.pointers.get(event.pointerId);
    const distance = ({ offsetX, offsetY }) => Math.hypot(offsetX - other.offsetX, offsetY - other.offsetY);
    const [x, y] = [(event.offsetX + other.offsetX) / 2, (event.offsetY + other.offsetY) / 2];
    this.shiftX += (event.offsetX - last.offsetX) / 2;
    this.shiftY += (event.offsetY - last.offsetY) / 2;
    this.pointers.set(event.pointerId, event);
    this.zoomBy(distance(event) / Math.max(distance(last), 1), x, y);
  }

  release(event) {
    const draft = this.draft;
    this.pointers.delete(event.pointerId);
    Object.assign(this, { draft: null, pan: null });
    this.canvas.classList.remove("panning");
    if (draft && Math.hypot(event.offsetX - draft.from[0], event.offsetY - draft.from[1]) >= MIN_DRAG) {
      this.onBox(boxOf(draft.start, this.place(event)));
    }
    this.draw();
  }

  cancel() {
    this.pointers.clear();
    Object.assign(this, { draft: null, pan: null });
    this.draw();
  }

  wheel(event) {
    if (!this.image) return;
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), event.offsetX, event.offsetY);
  }

  hover(event) {
    this.mouse = event && this.image ? this.place(event) : null;
    this.draw();
  }

  // ---- drawing ----------------------------------------------------------------------------------------------------
  draw() {
    const { context, width } = fitted(this.canvas);
    if (!this.image) return;
    const { scale, left, top } = this.frame();
    context.save();
    context.translate(left, top);
    if (this.bitmap?.complete && this.bitmap.naturalWidth) {
      context.imageSmoothingEnabled = scale < 6;
      context.imageSmoothingQuality = "high";
      context.drawImage(this.bitmap, 0, 0, this.image.width * scale, this.image.height * scale);
    }
    const labels = this.shown ? this.drawFinds(context, scale) : [];
    context.restore();
    for (const { text, x, y, color } of labels) drawLabel(context, text, left + x * scale, top + y * scale, color, width);
    if (this.draft) this.drawDraft(context, { scale, left, top, width });
  }

  /** Draw all layers; the labels to draw on top of them. */
  drawFinds(context, scale) {
    const { finds, examples } = this.layers();
    const under = this.mouse && !this.draft ? finds.findLast(({ outlines }) => contains(outlines, ...this.mouse)) : null;
    for (const one of finds) drawFind(context, one.outlines, one.color, scale, { fill: one.example ? 0.16 : 0.3 });
    for (const { box, color } of examples) drawExample(context, box, color, scale);
    if (under) drawFind(context, under.outlines, under.color, scale, { strong: true });
    const wide = ({ box, example }) => !example && (box[3] - box[1]) * scale >= MIN_LABELLED;
    const labels = finds.filter((one) => one !== under && wide(one)).map((one) => label(one, one.score.toFixed(2)));
    labels.push(...examples.map((one) => label(one, "example")));
    if (under) labels.push(label(under, `${under.name} ${under.score.toFixed(2)}${under.example ? " (example)" : ""}`));
    return labels;
  }

  drawDraft(context, { scale, left, top, width }) {
    const box = boxOf(this.draft.start, this.draft.end);
    context.save();
    context.translate(left, top);
    drawExample(context, box, this.color, scale);
    context.restore();
    const size = `${Math.round(box[3]) - Math.round(box[1])} × ${Math.round(box[2]) - Math.round(box[0])}`;
    drawLabel(context, size, left + box[1] * scale, top + box[0] * scale, this.color, width);
  }
}

const label = ({ box, color }, text) => ({ text, x: box[1], y: box[0], color });

/** The box (y1, x1, y2, x2) between two places (x, y). */
function boxOf([x1, y1], [x2, y2]) {
  return [Math.min(y1, y2), Math.min(x1, x2), Math.max(y1, y2), Math.max(x1, x2)];
}

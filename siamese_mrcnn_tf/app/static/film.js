// Thumbnails of all images with their finds and counts.

import { drawFind, fitted } from "./drawing.js";

export class Film {
  /** `layers(image)` has the finds in an image, `summary(image)` their counts; `onChoose` and `onClose` get its id. */
  constructor(element, { source, layers, summary, onChoose, onClose }) {
    Object.assign(this, { element, source, layers, summary, onChoose, onClose });
    this.cells = new Map();
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const cell = this.cells.get(Number(target.dataset.image));
        if (!cell) continue;
        cell.visible = isIntersecting;
        if (isIntersecting) this.drawCell(cell);
      }
    }, { root: element });
    new ResizeObserver(() => this.draw(true)).observe(element);
  }

  /** Show these images. */
  update(images) {
    const ids = new Set(images.map(({ id }) => id));
    for (const [id, { cell }] of this.cells) {
      if (ids.has(id)) continue;
      cell.remove();
      this.cells.delete(id);
    }
    for (const image of images) if (!this.cells.has(image.id)) this.add(image);
  }

  add(image) {
    const cell = document.createElement("div");
    cell.className = "cell";
    cell.dataset.image = image.id;
    cell.innerHTML = `<button type="button" class="frame"><canvas></canvas></button><div class="badges"></div>
      <button type="button" class="close" aria-label="Close the image" title="Close the image">&times;</button>`;
    const [frame, close] = cell.querySelectorAll("button");
    frame.title = image.name;
    frame.setAttribute("aria-label", image.name);
    frame.addEventListener("click", () => this.onChoose(image.id));
    close.addEventListener("click", () => this.onClose(image.id));
    const bitmap = new Image();
    const entry = { image, cell, frame, bitmap, canvas: cell.querySelector("canvas"), visible: false, drawn: null, counted: null };
    bitmap.addEventListener("load", () => this.drawCell(entry));
    bitmap.src = this.source(image.id);
    this.cells.set(image.id, entry);
    this.element.append(cell);
    this.observer.observe(cell);
  }

  /** Mark the image that is shown large, and bring it into view. */
  choose(id) {
    for (const [other, { frame }] of this.cells) frame.classList.toggle("current", other === id);
    const cell = this.cells.get(id)?.cell;
    if (!cell) return;
    const [box, view] = [cell.getBoundingClientRect(), this.element.getBoundingClientRect()];
    if (box.top < view.top || box.bottom > view.bottom) this.element.scrollTop += box.top - view.top;
    if (box.left < view.left || box.right > view.right) this.element.scrollLeft += box.left - view.left;
  }

  /** Show the counts of all, and draw those in view whose finds have changed. */
  draw(anew = false) {
    for (const cell of this.cells.values()) {
      const { counts, searching, key } = this.summary(cell.image);
      cell.frame.classList.toggle("searching", searching);
      this.showCounts(cell, counts);
      if (cell.visible && (anew || cell.drawn !== key)) this.drawCell(cell);
    }
  }

  showCounts(entry, counts) {
    const text = JSON.stringify(counts);
    if (text === entry.counted) return;
    entry.counted = text;
    const badges = counts.map(({ name, count, color }) => {
      const badge = document.createElement("span");
      badge.className = count ? "badge" : "badge none";
      badge.style.setProperty("--tint", color);
      badge.title = `${name}: ${count}`;
      badge.textContent = count;
      return badge;
    });
    entry.cell.querySelector(".badges").replaceChildren(...badges);
  }

  drawCell(cell) {
    const { image, canvas, bitmap } = cell;
    cell.drawn = this.summary(image).key;
    const { context, width, height } = fitted(canvas);
    if (!bitmap.complete || !bitmap.naturalWidth) return;
    const scale = Math.min(width / image.width, height / image.height);
    context.translate((width - image.width * scale) / 2, (height - image.height * scale) / 2);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, image.width * scale, image.height * scale);
    for (const { outlines, color } of this.layers(image).finds) {
      drawFind(context, outlines, color, scale, { width: 1.5, fill: 0.35 });
    }
  }
}

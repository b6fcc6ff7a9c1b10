// The side panel: a card for each category with its references, threshold and count.

import { cropAddress } from "./api.js";
import { fitted } from "./drawing.js";

const template = document.getElementById("category-template");

const MAX_STACK = 5; // marks above each other

/** A card; `on` has functions choose, rename, remove, removeReference, threshold (while it moves) and settle (after). */
export function makeCard(category, color, on) {
  const card = template.content.firstElementChild.cloneNode(true);
  const part = (selector) => card.querySelector(selector);
  card.dataset.category = category.id;
  card.style.setProperty("--tint", color);
  card.addEventListener("click", () => on.choose(category.id));
  const [name, slider] = [part(".name"), part("input[type=range]")];
  name.addEventListener("change", () => on.rename(category.id, name.value));
  name.addEventListener("keydown", (event) => event.key === "Enter" && name.blur());
  slider.addEventListener("input", () => on.threshold(category.id, Number(slider.value)));
  slider.addEventListener("change", () => on.settle(category.id));
  part(".head .close").addEventListener("click", (event) => {
    event.stopPropagation();
    on.remove(category.id);
  });
  return card;
}

/** Show the state of a category on its card. */
export function updateCard(card, category, { active, minimum, on }) {
  card.classList.toggle("active", active);
  const name = card.querySelector(".name");
  if (document.activeElement !== name) name.value = category.name;
  const slider = card.querySelector("input[type=range]");
  slider.min = Math.floor(minimum * 100) / 100;
  if (Number(slider.value) !== category.threshold) slider.value = category.threshold;
  card.querySelector(".threshold").hidden = !category.references.length;
  const holder = card.querySelector(".references");
  const shown = category.references.map(({ id }) => id).join();
  if (holder.dataset.shown === shown) return;
  holder.dataset.shown = shown;
  const crops = category.references.map((reference) => makeCrop(category, reference, on));
  const hint = document.createElement("p");
  hint.className = "faint";
  hint.textContent = ["Draw a box around one object.", "Draw another box to add a reference."][Math.min(crops.length, 1)];
  holder.replaceChildren(...crops, ...(crops.length < 3 ? [hint] : []));
}

function makeCrop(category, reference, on) {
  const crop = document.createElement("div");
  crop.className = "reference";
  const image = new Image();
  image.alt = `reference of ${category.name}`;
  image.src = cropAddress(category.id, reference.id);
  const close = document.createElement("button");
  Object.assign(close, { type: "button", className: "close", title: "Remove the reference", textContent: "×" });
  close.setAttribute("aria-label", "Remove the reference");
  close.addEventListener("click", (event) => {
    event.stopPropagation();
    on.removeReference(category.id, reference.id);
  });
  crop.append(image, close);
  return crop;
}

/** Show how many were found, the threshold, and a mark for each find at its score. */
export function updateCounts(card, category, { scores, found, color, minimum }) {
  card.querySelector(".count").textContent = found;
  card.querySelector(".count").title = `${found} found in all images`;
  card.querySelector(".value").textContent = category.threshold.toFixed(2);
  const canvas = card.querySelector(".scores");
  if (!canvas.clientWidth) return;
  const { context, width, height } = fitted(canvas);
  const thumb = 8; // half the width of the slider's thumb, which stays inside the track
  const x = (score) => thumb + ((score - minimum) / (1 - minimum)) * (width - 2 * thumb);
  context.fillStyle = "#8a93a555";
  context.fillRect(thumb, height - 1, width - 2 * thumb, 1);
  const columns = new Map(); // finds of nearly the same score are stacked
  for (const score of scores) {
    const column = Math.round(x(score) / 5);
    const row = columns.get(column) ?? 0;
    columns.set(column, row + 1);
    if (row >= MAX_STACK) continue;
    context.fillStyle = score >= category.threshold ? color : "#8a93a580";
    context.beginPath();
    context.arc(column * 5, height - 4.5 - row * 5, 2.2, 0, 2 * Math.PI);
    context.fill();
  }
}

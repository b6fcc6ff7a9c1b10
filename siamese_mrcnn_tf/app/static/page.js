// The page: opens images, sends boxes, asks for finds of all images one after another, and filters them by thresholds.

import * as api from "./api.js";
import { makeCard, updateCard, updateCounts } from "./cards.js";
import { Film } from "./film.js";
import { Stage } from "./stage.js";

const COLORS = ["#2563eb", "#ea580c", "#0f9d58", "#c026d3", "#0891b2", "#b45309", "#7c3aed", "#e11d48"];
const MAX_MESSAGES = 4;
const KEPT_BITMAPS = 8;

const by = (id) => document.getElementById(id);
const state = { images: [], categories: [], limits: {}, minimum: 0, current: null, active: null, busy: 0 };
Object.assign(state, { opening: null, pending: null, searched: null }); // a file, a box {image, box}, an image id: at work on it
const finds = new Map(); // "category/image" -> {version, boxes, scores, outlines, examples} or {version, error}
const cards = new Map();
const bitmaps = new Map();
let settling = Promise.resolve(); // thresholds that are being sent
let isSearching = false;

const color = ({ id }) => COLORS[(id - 1) % COLORS.length];
const findCategory = (id) => state.categories.find((one) => one.id === id);
const withReferences = () => state.categories.filter(({ references }) => references.length);

// ---- finds --------------------------------------------------------------------------------------------------------
/** The finds of a category in an image if they are of its present references, else null. */
function known(category, image) {
  const record = finds.get(`${category.id}/${image.id}`);
  return record?.version === category.version ? record : null;
}

/** The count of each category in an image, whether it is being searched, and a key of what is drawn on it. */
function summaryOf(image) {
  const summary = { counts: [], searching: image.id === state.searched, key: "" };
  for (const category of withReferences()) {
    const record = known(category, image);
    if (!record || record.error) continue;
    const count = record.scores.filter((score, index) => !record.examples[index] && score >= category.threshold).length;
    summary.counts.push({ name: category.name, count, color: color(category) });
    summary.key += `${category.id}:${category.version}:${count} `;
  }
  return summary;
}

/** What to draw on an image, lowest scores first. */
function layersOf(image) {
  const layers = { finds: [], examples: [] };
  if (state.pending?.image === image.id) layers.examples.push({ box: state.pending.box, color: stage.color });
  for (const category of withReferences()) {
    const [record, tint] = [known(category, image), color(category)];
    const examples = category.references.filter((one) => one.image === image.id);
    layers.examples.push(...examples.map(({ box }) => ({ box, color: tint })));
    if (!record || record.error) continue;
    record.scores.forEach((score, index) => {
      const example = record.examples[index];
      if (!example && score < category.threshold) return;
      const [outlines, box] = [record.outlines[index], record.boxes[index]];
      layers.finds.push({ outlines, box, score, example, color: tint, name: category.name });
    });
  }
  layers.finds.reverse();
  return layers;
}

function nextSearch() {
  const first = state.images.filter(({ id }) => id === state.current);
  for (const image of [...first, ...state.images]) {
    for (const category of withReferences()) if (!known(category, image)) return { category, image };
  }
  return null;
}

/** Ask for all finds that are missing, the image that is shown first. */
async function search() {
  if (isSearching) return;
  isSearching = true;
  for (let next = nextSearch(); next; next = nextSearch()) {
    const { category, image } = next;
    const version = category.version;
    state.searched = image.id;
    showFinds();
    try {
      finds.set(`${category.id}/${image.id}`, await api.findObjects(category.id, image.id));
    } catch (error) {
      finds.set(`${category.id}/${image.id}`, { version, error: error.message });
      if (findCategory(category.id)?.version === version) showError(error);
    }
    showFinds();
  }
  isSearching = false;
  state.searched = null;
  showFinds();
}

// ---- showing ------------------------------------------------------------------------------------------------------
function showError(error) {
  const message = document.createElement("div");
  message.className = "message";
  const text = document.createElement("span");
  text.textContent = error.message;
  const close = document.createElement("button");
  Object.assign(close, { type: "button", className: "close", textContent: "×" });
  close.setAttribute("aria-label", "Close the message");
  close.addEventListener("click", () => message.remove());
  message.append(text, close);
  by("messages").append(message);
  while (by("messages").children.length > MAX_MESSAGES) by("messages").firstElementChild.remove();
}

function showStatus() {
  const pairs = withReferences().flatMap((category) => state.images.map((image) => known(category, image)));
  const done = pairs.filter(Boolean).length;
  const waiting = state.busy > 0 || done < pairs.length;
  by("status").classList.toggle("busy", waiting);
  for (const button of document.querySelectorAll("[data-export]")) button.disabled = waiting || !pairs.length;
  by("add-category").disabled = !state.images.length;
  let text = state.images.length ? "Draw a box around one object" : "Open images to begin";
  if (state.opening) text = `Opening ${state.opening}`;
  else if (state.pending) text = "Looking at the example";
  else if (done < pairs.length) text = `Searching, ${done} of ${pairs.length} done`;
  else if (pairs.length) {
    const counts = state.images.map((image) => summaryOf(image).counts.reduce((sum, { count }) => sum + count, 0));
    const total = counts.reduce((sum, count) => sum + count, 0);
    text = `${total} found in ${counts.filter(Boolean).length} of ${counts.length} images`;
  }
  by("status").textContent = text;
}

/** Show counts and finds after a search or a move of a threshold. */
function showFinds() {
  for (const category of state.categories) {
    const scores = state.images.flatMap((image) => {
      const record = known(category, image);
      return record && !record.error ? record.scores.filter((_, index) => !record.examples[index]) : [];
    });
    const found = scores.filter((score) => score >= category.threshold).length;
    updateCounts(cards.get(category.id), category, { scores, found, color: color(category), minimum: state.minimum });
  }
  stage.draw();
  film.draw();
  showStatus();
}

/** Show everything anew. */
function show() {
  if (!state.images.some(({ id }) => id === state.current)) state.current = state.images[0]?.id ?? null;
  if (!findCategory(state.active)) state.active = state.categories.at(-1)?.id ?? null;
  const image = state.images.find(({ id }) => id === state.current) ?? null;
  by("empty").hidden = image !== null;
  by("tools").hidden = by("caption").hidden = image === null;
  by("caption").textContent = image ? `${image.name} · ${image.width} × ${image.height}` : "";
  by("examples").hidden = !state.examples;
  for (const [id, card] of cards) {
    if (findCategory(id)) continue;
    card.remove();
    cards.delete(id);
  }
  for (const category of state.categories) {
    if (!cards.has(category.id)) {
      cards.set(category.id, makeCard(category, color(category), actions));
      by("categories").append(cards.get(category.id));
    }
    const look = { active: category.id === state.active, minimum: state.minimum, on: actions };
    updateCard(cards.get(category.id), category, look);
  }
  stage.color = color(findCategory(state.active) ?? { id: 1 });
  stage.show(image, image && bitmapOf(image));
  film.update(state.images);
  film.choose(state.current);
  showFinds();
}

function bitmapOf({ id }) {
  const bitmap = bitmaps.get(id) ?? Object.assign(new Image(), { src: api.imageAddress(id, "view") });
  bitmaps.delete(id);
  bitmaps.set(id, bitmap);
  if (bitmaps.size > KEPT_BITMAPS) bitmaps.delete(bitmaps.keys().next().value);
  return bitmap;
}

// ---- doing --------------------------------------------------------------------------------------------------------
/** Run a change; an error is shown as text. */
async function attempt(change) {
  state.busy += 1;
  showStatus();
  try {
    await settling;
    await change();
  } catch (error) {
    showError(error);
  }
  state.busy -= 1;
  show();
  search();
}

const replaceCategory = (record) => {
  const index = state.categories.findIndex(({ id }) => id === record.id);
  if (index < 0) state.categories.push(record);
  else state.categories[index] = { ...record, threshold: state.categories[index].threshold };
};

/** Open an array of files; one that is refused does not stop the others. */
const openFiles = (all) =>
  attempt(async () => {
    const { limits } = state;
    for (const [index, file] of all.entries()) {
      state.opening = all.length > 1 ? `${index + 1} of ${all.length}` : file.name;
      showStatus();
      try {
        if (file.size > limits.upload_bytes) {
          const size = (file.size / 2 ** 20).toFixed(1);
          throw new Error(`${file.name}: the file has ${size} MB, at most ${limits.upload_mb} MB can be opened`);
        }
        const image = await api.upload(file);
        state.images.push(image);
        if (state.images.length === 1) state.current = image.id;
        show();
      } catch (error) {
        showError(error);
      }
    }
    state.opening = null;
  });

const drawn = (box) =>
  attempt(async () => {
    const image = state.current;
    if (!findCategory(state.active)) await actions.add();
    state.pending = { image, box };
    show();
    try {
      replaceCategory(await api.addReference(state.active, image, box.map(Math.round)));
    } finally {
      state.pending = null;
    }
  });

const actions = {
  choose: (id) => {
    if (state.active === id) return;
    state.active = id;
    show();
  },
  add: async () => {
    const record = await api.addCategory();
    replaceCategory(record);
    state.active = record.id;
  },
  rename: (id, name) => attempt(async () => replaceCategory(await api.changeCategory(id, { name }))),
  remove: (id) => attempt(async () => Object.assign(state, await api.removeCategory(id))),
  removeReference: (id, reference) => attempt(async () => replaceCategory(await api.removeReference(id, reference))),
  threshold: (id, value) => {
    findCategory(id).threshold = value;
    showFinds();
  },
  settle: (id) => {
    const { threshold } = findCategory(id);
    settling = settling.then(() => api.changeCategory(id, { threshold })).catch(showError);
  },
};

const stage = new Stage(by("canvas"), {
  onBox: drawn,
  layers: () => layersOf(state.images.find(({ id }) => id === state.current)),
});
const film = new Film(by("film"), {
  source: (id) => api.imageAddress(id, "thumbnail"),
  layers: layersOf,
  summary: summaryOf,
  onChoose: (id) => {
    state.current = id;
    show();
  },
  onClose: (id) => attempt(async () => Object.assign(state, await api.removeImage(id))),
});

function step(difference) {
  const index = state.images.findIndex(({ id }) => id === state.current) + difference;
  if (!state.images[index]) return;
  state.current = state.images[index].id;
  show();
}

function toggleFinds() {
  stage.shown = !stage.shown;
  by("toggle").setAttribute("aria-pressed", stage.shown);
  stage.draw();
}

by("open").addEventListener("change", (event) => {
  openFiles([...event.target.files]);
  event.target.value = "";
});
by("examples").addEventListener("click", () => attempt(async () => Object.assign(state, await api.openExamples())));
by("add-category").addEventListener("click", () => attempt(actions.add));
by("zoom-in").addEventListener("click", () => stage.zoomBy(1.4));
by("zoom-out").addEventListener("click", () => stage.zoomBy(1 / 1.4));
by("zoom-fit").addEventListener("click", () => stage.fit());
by("toggle").addEventListener("click", toggleFinds);
for (const button of document.querySelectorAll("[data-export]")) {
  button.addEventListener("click", () => settling.then(() => api.download(button.dataset.export)).catch(showError));
}

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
let depth = 0; // of elements that a dragged file is over
addEventListener("dragenter", (event) => hasFiles(event) && (by("drop").hidden = ++depth === 0));
addEventListener("dragleave", (event) => hasFiles(event) && (by("drop").hidden = --depth <= 0));
addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  depth = 0;
  by("drop").hidden = true;
  openFiles([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => event.clipboardData?.files.length && openFiles([...event.clipboardData.files]));
addEventListener("resize", showFinds);
addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Escape: () => stage.cancel() };
  Object.assign(keys, { h: toggleFinds, 0: () => stage.fit() })[event.key]?.();
});

attempt(async () => {
  Object.assign(state, await api.begin());
  by("about").textContent = state.about;
});

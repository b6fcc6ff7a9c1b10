// Drawing of finds and examples on canvases, in coordinates of the image.

/** Trace the outlines of a find: lists of [x, y] in pixels of the image, scaled. */
function trace(context, outlines, scale) {
  context.beginPath();
  for (const outline of outlines) {
    outline.forEach(([x, y], index) => (index ? context.lineTo(x * scale, y * scale) : context.moveTo(x * scale, y * scale)));
    context.closePath();
  }
}

/** Draw one find. `scale` is screen pixels per image pixel; `strong` stands out. */
export function drawFind(context, outlines, color, scale, { width = 2, fill = 0.3, strong = false } = {}) {
  trace(context, outlines, scale);
  context.globalAlpha = strong ? Math.min(1, fill + 0.22) : fill;
  context.fillStyle = color;
  context.fill("evenodd");
  context.globalAlpha = 0.85;
  context.lineJoin = "round";
  context.strokeStyle = "#ffffff";
  context.lineWidth = width + 1.6;
  context.stroke();
  context.globalAlpha = 1;
  context.strokeStyle = color;
  context.lineWidth = strong ? width + 1 : width;
  context.stroke();
}

/** Draw the box (y1, x1, y2, x2) of a reference, dashed. */
export function drawExample(context, [y1, x1, y2, x2], color, scale, width = 2) {
  const box = [x1 * scale, y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale];
  context.lineWidth = width + 1.6;
  context.strokeStyle = "#ffffff";
  context.strokeRect(...box);
  context.lineWidth = width;
  context.strokeStyle = color;
  context.setLineDash([6, 4]);
  context.strokeRect(...box);
  context.setLineDash([]);
}

/** Draw a label whose lower left corner is at x, y on the screen, moved into 0..right. */
export function drawLabel(context, text, x, y, color, right) {
  context.font = "600 12px system-ui, sans-serif";
  const width = context.measureText(text).width + 12;
  const left = Math.max(0, Math.min(x, right - width));
  const top = Math.max(0, y - 20);
  context.fillStyle = color;
  context.beginPath();
  context.roundRect(left, top, width, 19, 5);
  context.fill();
  context.fillStyle = "#ffffff";
  context.textBaseline = "middle";
  context.fillText(text, left + 6, top + 10);
}

/** Give a canvas as many pixels as the screen has for it; its context, scaled to CSS pixels. */
export function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Whether a point is inside the outlines of a find (even-odd rule). */
export function contains(outlines, x, y) {
  let inside = false;
  for (const outline of outlines) {
    for (let i = 0, j = outline.length - 1; i < outline.length; j = i++) {
      const [[xi, yi], [xj, yj]] = [outline[i], outline[j]];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
    }
  }
  return inside;
}

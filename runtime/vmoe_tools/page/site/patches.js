/** What a MoE layer did to the patches: dropped ones grey, others in the colour of their expert, merged ones outlined. */

import { element } from "./dom.js";

const DROPPED = "rgb(128 128 128 / 0.86)";
const TINT = "99"; // of the colour of an expert
const LEAST_SIDE = 336; // of a picture, in pixels of the canvas
const LEAST_CELL = 22; // that a number can be read in
const PALETTE = 8; // colours that are told apart without numbers
const SIDES = [[-1, 0], [1, 0], [0, -1], [0, 1]];

/** The patches of a layer row by row: [expert, token] of each. They are the last tokens of the layout. */
const patchesOf = ({ rows, columns, tokens }, { expert, token }) =>
  Array.from({ length: rows * columns }, (_, patch) => tokens - rows * columns + patch).map((at) => [expert[at], token[at]]);

/** How many patches a layer has, drops, and gives to each expert, and how many tokens they are in. */
export function countPatches(facts, layer) {
  const patches = patchesOf(facts.layout, layer), count = (e) => patches.filter(([expert]) => expert === e).length;
  const tokens = new Set(patches.map(([, token]) => token)).size;
  return { total: patches.length, dropped: count(-1), tokens, experts: facts.colours.map((_, expert) => count(expert)) };
}

/** Draws a layer on a canvas over an image of the model's size. */
export function drawLayer(canvas, facts, image, layer) {
  const { layout: { rows, columns }, layout, colours } = facts, zoom = Math.ceil(LEAST_SIDE / image.width);
  Object.assign(canvas, { width: image.width * zoom, height: image.height * zoom });
  const context = canvas.getContext("2d"), [height, width] = layout.patch_size.map((side) => side * zoom);
  const line = Math.ceil(width / 8), patches = patchesOf(layout, layer);
  const tokenAt = (y, x) => (y < 0 || x < 0 || y >= rows || x >= columns ? null : patches[y * columns + x][1]);
  Object.assign(context, { imageSmoothingEnabled: false, textAlign: "center", textBaseline: "middle", lineWidth: 3 });
  context.font = `600 ${Math.min(height / 2, 28)}px system-ui`;
  context.filter = "grayscale(1)"; // so that the only colours are those of experts
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  patches.forEach(([expert, token], patch) => {
    const top = Math.floor(patch / columns), left = patch % columns;
    context.fillStyle = expert < 0 ? DROPPED : colours[expert] + TINT;
    context.fillRect(left * width, top * height, width, height);
    if (expert >= 0 && colours.length > PALETTE && width >= LEAST_CELL) {
      context.fillStyle = "#fff";
      context.strokeText(expert, (left + 0.5) * width, (top + 0.5) * height);
      context.fillText(expert, (left + 0.5) * width, (top + 0.5) * height);
    }
    if (patches.filter((other) => other[1] === token).length < 2) return;
    context.fillStyle = `hsl(${token * 137.5} 90% 60%)`;
    for (const [dy, dx] of SIDES.filter(([y, x]) => tokenAt(top + y, left + x) !== token)) {
      const [x, y] = [left * width + (dx > 0 ? width - line : 0), top * height + (dy > 0 ? height - line : 0)];
      context.fillRect(x, y, dx ? line : width, dy ? line : height);
    }
  });
}

/** Which colour is which expert. */
export function makeLegend(colours) {
  return element("ul", { className: "legend" }, ...[...colours, DROPPED].map((colour, expert) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = colour;
    return element("li", {}, swatch, colour === DROPPED ? "dropped" : `expert ${expert}`);
  }));
}

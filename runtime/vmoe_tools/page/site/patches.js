/** Draws the patches in a MoE layer: dropped ones grey, others in the colour of their expert, merged ones outlined. */

export const DROPPED = "rgb(128 128 128 / 0.86)";
export const TINT = "a6"; // alpha of an expert's colour, in hexadecimal
const LEAST_SIDE = 336; // least width of a picture, in pixels of the canvas
const LEAST_CELL = 22; // least width of a patch with a readable number, in pixels of the canvas
const PALETTE = 8; // number of experts up to which colours identify them without numbers
const AROUND = [-1, 0, 1].flatMap((dy) => [-1, 0, 1].map((dx) => [dy, dx]));

/** Return [expert, token] of each patch of a layer, row by row. Patches are the last tokens of the layout. */
const patchesOf = ({ rows, columns, tokens }, { expert, token }) =>
  Array.from({ length: rows * columns }, (_, patch) => tokens - rows * columns + patch).map((at) => [expert[at], token[at]]);

/** Count the patches of a layer: all, dropped ones, and those of each expert; and the tokens that contain them. */
export function countPatches(facts, layer) {
  const patches = patchesOf(facts.layout, layer), count = (e) => patches.filter(([expert]) => expert === e).length;
  const tokens = new Set(patches.map(([, token]) => token)).size;
  return { total: patches.length, dropped: count(-1), tokens, experts: facts.colours.map((_, expert) => count(expert)) };
}

/** Fill patches, given as [expert, token] with expert -1 if dropped, and outline merged ones in a colour per token. */
export function paintPatches(context, [rows, columns], [height, width], patches, fillOf) {
  const line = Math.ceil(width / 8), tokens = patches.map(([, token]) => token);
  const merged = [...new Set(tokens)].filter((token) => tokens.indexOf(token) !== tokens.lastIndexOf(token));
  const tokenAt = (y, x) => (y < 0 || x < 0 || y >= rows || x >= columns ? -1 : tokens[y * columns + x]);
  patches.forEach(([expert, token], patch) => {
    const y = Math.floor(patch / columns), x = patch % columns, outline = merged.indexOf(token), fill = fillOf(expert);
    context.fillStyle = fill;
    if (fill) context.fillRect(x * width, y * height, width, height);
    context.fillStyle = `hsl(${outline * 137.5} 90% 60%)`;
    for (const [dy, dx] of outline < 0 ? [] : AROUND.filter(([down, right]) => tokenAt(y + down, x + right) !== token)) {
      const left = x * width + (dx > 0 ? width - line : 0), top = y * height + (dy > 0 ? height - line : 0);
      context.fillRect(left, top, dx ? line : width, dy ? line : height);
    }
  });
}

/** Draw a layer on a canvas over an image of the model's size. */
export function drawLayer(canvas, facts, image, layer) {
  const { layout: { rows, columns }, layout, colours } = facts, zoom = Math.ceil(LEAST_SIDE / image.width);
  Object.assign(canvas, { width: image.width * zoom, height: image.height * zoom });
  const context = canvas.getContext("2d"), [height, width] = layout.patch_size.map((side) => side * zoom);
  const patches = patchesOf(layout, layer);
  Object.assign(context, { imageSmoothingEnabled: false, textAlign: "center", textBaseline: "middle", lineWidth: 3 });
  context.font = `600 ${Math.min(height / 2, 28)}px system-ui`;
  context.filter = "grayscale(1)"; // leaves colours to the experts
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  paintPatches(context, [rows, columns], [height, width], patches, (e) => (e < 0 ? DROPPED : colours[e] + TINT));
  if (colours.length <= PALETTE || width < LEAST_CELL) return;
  context.fillStyle = "#fff";
  patches.forEach(([expert], patch) => {
    if (expert < 0) return;
    const centre = [((patch % columns) + 0.5) * width, (Math.floor(patch / columns) + 0.5) * height];
    context.strokeText(expert, ...centre);
    context.fillText(expert, ...centre);
  });
}

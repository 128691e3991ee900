/** Converts pictures of any size to canvases of the model's size, by the bundle's steps, as closely as a canvas can. */

/** Return the context of a new canvas. If the canvas is too large, browsers still create it, but can't draw on it. */
function contextOf(width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, 1, 1);
  if (!context.getImageData(0, 0, 1, 1).data[3]) {
    throw new Error(`The picture is too large or too narrow: this browser can't draw ${width}x${height} pixels. Crop it first.`);
  }
  context.clearRect(0, 0, 1, 1);
  return context;
}

function redraw(picture, width, height, left = 0, top = 0, fromWidth = picture.width, fromHeight = picture.height) {
  const context = contextOf(width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, left, top, fromWidth, fromHeight, 0, 0, width, height);
  return context.canvas;
}

function doStep(picture, [name, height, width, keepsShape]) {
  const [lostHeight, lostWidth] = [picture.height - height, picture.width - width];
  if (name.endsWith("crop")) {
    if (Math.min(lostHeight, lostWidth) < 0) throw new Error(`The picture is too small: the model takes ${width}x${height} pixels of it.`);
    const before = (lost) => (name.startsWith("round") && lost % 4 === 3 ? lost + 1 : lost) >> 1;
    return redraw(picture, width, height, before(lostWidth), before(lostHeight), width, height);
  }
  if (!keepsShape) return redraw(picture, width, height);
  const short = Math.min(picture.height, picture.width), rounded = name.startsWith("pillow") ? Math.floor : Math.round;
  return redraw(picture, rounded((picture.width * height) / short), rounded((picture.height * height) / short));
}

/** Apply steps, each [name, height, width, keeps the aspect ratio], to a picture, and return a canvas. */
export const prepare = (picture, steps) => steps.reduce(doStep, picture);

/** Disable the EXIF of a JPEG or PNG, so that browsers don't rotate it: rename a JPEG's segment, or damage a PNG's chunk. */
function withoutExif(bytes) {
  const view = new DataView(bytes.buffer);
  const isOf = (at, kind) => [...kind].every((letter, i) => bytes[at + i] === letter.charCodeAt(0));
  if (isOf(0, "\xff\xd8")) {
    for (let at = 2; at + 4 < bytes.length && !isOf(at, "\xff\xda"); at += 2 + view.getUint16(at + 2)) {
      if (isOf(at, "\xff\xe1")) bytes[at + 1] = 0xed;
    }
  } else if (isOf(0, "\x89PNG")) {
    for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
      if (isOf(at + 4, "eXIf")) bytes.fill(0, at + 8, at + 12);
    }
  }
  return new Blob([bytes]);
}

/** Decode a file. If the bundle says so, rotate it by its EXIF, and put it on a background colour. */
export async function decode(file, { rotates, background }) {
  const content = rotates ? file : withoutExif(new Uint8Array(await file.arrayBuffer()));
  const picture = await createImageBitmap(content, { colorSpaceConversion: "none" }).catch(() => {
    throw new Error("The browser can't read this picture.");
  });
  if (!background) return picture;
  const context = contextOf(picture.width, picture.height);
  context.fillStyle = `rgb(${background})`;
  context.fillRect(0, 0, picture.width, picture.height);
  context.drawImage(picture, 0, 0);
  return context.canvas;
}

/**
 * Return the pixels of a canvas from 0 to 255, row by row; for one channel, grey as Pillow computes it, with the weights of
 * red, green and blue.
 */
export function pixelsOf(canvas, channels, [red, green, blue]) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  if (channels === 3) return data.filter((_, index) => index % 4 < 3);
  return Uint8Array.from({ length: data.length / 4 }, (_, i) =>
    (data[4 * i] * red + data[4 * i + 1] * green + data[4 * i + 2] * blue + 32768) >> 16);
}

/** Convert pixels to the graph's input: uint8, or float32 from -1 to 1. */
export const toInput = (pixels, dtype) =>
  dtype === "uint8" ? Uint8Array.from(pixels) : Float32Array.from(pixels, (value) => Math.fround(Math.fround(value / 255) * 2) - 1);

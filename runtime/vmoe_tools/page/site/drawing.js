/** A pad to draw on with a mouse or a finger, white on black as in MNIST. */

import { prepare } from "./picture.js";

const SIDE = 280; // least width of the pad in pixels
const STROKE = 0.085; // width of a stroke, as a share of the pad's width
const SEVEN = [[0.29, 0.28], [0.71, 0.27], [0.62, 0.45], [0.52, 0.63], [0.45, 0.77]];

/** Make a pad for images of a size, and call `changed` with each new drawing, a canvas of that size. */
export function makePad(canvas, { height, width }, changed) {
  const zoom = Math.ceil(SIDE / width), context = canvas.getContext("2d", { willReadFrequently: true });
  Object.assign(canvas, { width: width * zoom, height: height * zoom });
  let last = null;

  function stroke(share) {
    const to = [share[0] * canvas.width, share[1] * canvas.height];
    Object.assign(context, { strokeStyle: "#fff", lineWidth: STROKE * canvas.width, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(...(last ?? to));
    context.lineTo(...to);
    context.stroke();
    last = to;
  }

  function draw(points, isNew) {
    if (isNew) context.clearRect(0, 0, canvas.width, canvas.height);
    if (isNew) context.fillRect(0, 0, canvas.width, canvas.height);
    points.forEach(stroke);
    changed(prepare(canvas, [["", height, width, false]]));
  }

  for (const name of ["pointerdown", "pointermove"]) {
    canvas.addEventListener(name, (event) => {
      if (name === "pointerdown") [last] = [null, canvas.setPointerCapture(event.pointerId)];
      else if (!canvas.hasPointerCapture(event.pointerId)) return;
      draw([[event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight]], false);
    });
  }
  function show(image) {
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
  }

  const redraw = (points) => { last = null; draw(points, true); };
  return { clear: () => redraw([]), seven: () => redraw(SEVEN), show };
}

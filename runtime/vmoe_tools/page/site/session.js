/** The model in a worker of its own, so that the page stays responsive. */

const waiting = new Map();
let worker = null, calls = 0;

function ask(message) {
  return new Promise((resolve, reject) => {
    waiting.set(++calls, { resolve, reject });
    worker.postMessage({ ...message, call: calls });
  });
}

function rejectAll(why) {
  for (const { reject } of waiting.values()) reject(new Error(why));
  waiting.clear();
}

/** Loads the model anew, and tells `tell` how many of all bytes have come; comes to {device, threads, bytes}. */
export function open(facts, device, tell) {
  worker?.terminate();
  rejectAll("The model is loaded anew.");
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { call, progress, error, answer } }) => {
    if (progress) return tell(...progress);
    const { resolve, reject } = waiting.get(call);
    waiting.delete(call);
    return error === undefined ? resolve(answer) : reject(new Error(error));
  };
  worker.onerror = (event) => rejectAll(event.message || "The model's worker can't be started.");
  return ask({ load: { facts, device } });
}

/** Runs the model on an image as the graph takes it, with inputs by name; comes to {outputs, milliseconds}. */
export const run = (image, inputs) => ask({ image, inputs });

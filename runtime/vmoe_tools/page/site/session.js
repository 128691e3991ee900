/** The model in a worker of its own, so that the page stays responsive. */

const Memory = self.crossOriginIsolated ? SharedArrayBuffer : ArrayBuffer;
const INTO_BUFFER = self.ReadableStreamBYOBReader ? { mode: "byob" } : {}; // in Safari, parts come as they are
const PART = 1 << 22; // bytes that are read at once
const BETWEEN = 100; // milliseconds from one word of progress to the next
const waiting = new Map();
let worker = null, downloads = null, calls = 0;

function ask(message, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++calls, { resolve, reject });
    worker.postMessage({ ...message, call: calls }, transfer);
  });
}

function rejectAll(why) {
  for (const { reject } of waiting.values()) reject(new Error(why));
  waiting.clear();
}

/**
 * A file: `bytes`, in one piece that is there but once, as a large model hardly fits a browser twice; `filled`, how many
 * have come. Its address has its version, so that no cache answers with the file of a page that was here before.
 */
function download(name, version, size, tell, signal) {
  const bytes = new Uint8Array(new Memory(size)), filled = new Int32Array(new Memory(4));
  const fill = async () => {
    const response = await fetch(`${name}?${version}`, { signal });
    if (!response.ok) throw new Error(`${name} is missing: the server answers ${response.status}.`);
    const reader = response.body.getReader(INTO_BUFFER);
    for (let part, buffer = new ArrayBuffer(PART); !(part = await reader.read(new Uint8Array(buffer))).done; ) {
      buffer = part.value.buffer;
      if (filled[0] + part.value.length > size) throw new Error(`${name} is longer than what was exported.`);
      bytes.set(part.value, filled[0]);
      Atomics.add(filled, 0, part.value.length);
      Atomics.notify(filled, 0);
      tell(part.value.length);
    }
    if (filled[0] < size) throw new Error(`${name} ends after ${filled[0]} of ${size} bytes.`);
  };
  return { bytes, filled, done: fill() };
}

/**
 * Loads the model anew, and tells `tell` how many of all bytes have come; comes to {device, threads, bytes}.
 * Where memory can be shared, the worker opens the graph while the weights are still coming.
 */
export async function open(facts, device, tell) {
  const anew = new Error("The model is loaded anew."), all = Object.values(facts.bytes).reduce((left, right) => left + right);
  worker?.terminate();
  downloads?.abort(anew);
  rejectAll(anew.message);
  downloads = new AbortController();
  const { signal } = downloads, own = (worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" }));
  worker.onmessage = ({ data: { call, error, answer } }) => {
    const { resolve, reject } = waiting.get(call);
    waiting.delete(call);
    return error === undefined ? resolve(answer) : reject(new Error(error));
  };
  worker.onerror = (event) => rejectAll(event.message || "The model's worker can't be started.");
  let come = 0, told = 0;
  const count = (bytes) => {
    come += bytes;
    if (performance.now() < told + BETWEEN && come < all) return;
    told = performance.now();
    tell(come, all);
  };
  const [graph, weights] = Object.entries(facts.bytes).map(([name, size]) => download(name, facts.versions[name], size, count, signal));
  const load = { facts, device, graph: graph.bytes, weights: weights.bytes, filled: weights.filled };
  const loadWhen = async (...files) => {
    await Promise.all(files);
    return ask({ load }, self.crossOriginIsolated ? [] : [load.weights.buffer]);
  };
  try {
    const [answer] = await Promise.all([loadWhen(graph.done, self.crossOriginIsolated || weights.done), weights.done]);
    return { ...answer, bytes: answer.bytes + all };
  } catch (error) {
    own.terminate();
    throw error;
  }
}

/** Runs the model on an image as the graph takes it, with inputs by name; comes to {outputs, milliseconds}. */
export const run = (image, inputs) => ask({ image, inputs });

/** Runs the model in a worker, so that the page stays responsive. */

const Memory = self.crossOriginIsolated ? SharedArrayBuffer : ArrayBuffer;
const INTO_BUFFER = self.ReadableStreamBYOBReader ? { mode: "byob" } : {}; // without a reader of this kind (Safari), the browser chooses the buffers
const PART = 1 << 22; // bytes to read at once
const BETWEEN = 100; // milliseconds between two reports of progress
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
 * Start to download a file. The URL contains the version, so that a cache can't answer with the file of an earlier page.
 *
 * Return:
 * - `bytes`: the only copy of the file, because a browser can hardly hold a large model twice
 * - `filled`: the number of bytes that have arrived
 * - `done`: a promise that resolves when all have arrived
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
 * Stop any earlier model, and load the model. Call `tell` with the numbers of bytes that have arrived and of all bytes.
 * Resolve to {device, threads, bytes}.
 *
 * If memory can be shared, the worker opens the graph while the weights are still arriving.
 */
export async function open(facts, device, tell) {
  const anew = new Error("The model is being loaded again."), all = Object.values(facts.bytes).reduce((left, right) => left + right);
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

/** Run the model on an image, already an input of the graph, and other inputs by name; resolve to {outputs, milliseconds}. */
export const run = (image, inputs) => ask({ image, inputs });

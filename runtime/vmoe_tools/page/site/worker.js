/** Runs in a worker: loads onnxruntime-web, the graph and the weights, and answers one call after the other. */

import { firstOf, inputsOf } from "./settings.js";

const MOST_THREADS = 8;
let ort, session, facts;

/** The bytes of a file, in one piece that is there but once: a large model hardly fits a browser twice. */
async function download(name, size, tell) {
  const response = await fetch(name), bytes = new Uint8Array(size);
  if (!response.ok) throw new Error(`${name} is missing: the server answers ${response.status}.`);
  const reader = response.body.getReader();
  let filled = 0;
  for (let part; !(part = await reader.read()).done; filled += part.value.length) {
    if (filled + part.value.length > size) throw new Error(`${name} is longer than what was exported.`);
    bytes.set(part.value, filled);
    tell(part.value.length);
  }
  if (filled < size) throw new Error(`${name} ends after ${filled} of ${size} bytes.`);
  return bytes;
}

async function createSession(device, [graph, weights]) {
  const externalData = [{ path: Object.keys(facts.bytes)[1], data: weights }];
  session = await ort.InferenceSession.create(graph, { executionProviders: [device], externalData, logSeverityLevel: 3 });
  const { dtype, shape } = facts.input, empty = dtype === "uint8" ? Uint8Array : Float32Array;
  if (device === "webgpu") await run(new empty(shape.reduce((left, right) => left * right)), inputsOf(facts, firstOf(facts)));
}

async function load(given) {
  facts = given.facts;
  const build = facts.builds[given.device], all = Object.values(facts.bytes).reduce((left, right) => left + right);
  let device = given.device, come = 0;
  const tell = (bytes) => postMessage({ progress: [(come += bytes), all] });
  const files = await Promise.all(Object.entries(facts.bytes).map(([name, size]) => download(name, size, tell)));
  ort = await import(`./onnxruntime-web/${build.module}`);
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  try {
    await createSession(device, files);
  } catch (error) {
    if (device === "wasm") throw error;
    await createSession((device = "wasm"), files);
  }
  return { device, threads: ort.env.wasm.numThreads, bytes: all + build.bytes };
}

async function run(image, inputs) {
  const { dtype, shape } = facts.input, feeds = { image: new ort.Tensor(dtype, image, shape) };
  for (const [name, values] of Object.entries(inputs)) feeds[name] = new ort.Tensor("int64", BigInt64Array.from(values, BigInt));
  const began = performance.now(), results = await session.run(feeds), milliseconds = performance.now() - began;
  const outputs = Object.fromEntries(Object.entries(results).map(([name, { data, dims }]) => [name, { data, dims }]));
  return { outputs, milliseconds };
}

self.onmessage = async ({ data: { call, load: loaded, image, inputs } }) => {
  try {
    postMessage({ call, answer: await (loaded ? load(loaded) : run(image, inputs)) });
  } catch (error) {
    postMessage({ call, error: String(error.message ?? error) });
  }
};

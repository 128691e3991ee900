/** The worker: loads onnxruntime-web, the graph and the weights, and runs one call after the other. */

import { firstOf, inputsOf } from "./settings.js";

const MOST_THREADS = 8;
let ort, session, facts;

/** Bytes that are still arriving; `filled` counts them. `subarray` waits until the requested ones have arrived. */
class Arriving extends Uint8Array {
  subarray(begin, end) {
    for (let filled; (filled = Atomics.load(this.filled, 0)) < end; ) Atomics.wait(this.filled, 0, filled);
    return new Uint8Array(this.buffer, begin, end - begin);
  }
}

async function createSession(device, graph, weights) {
  const externalData = [{ path: Object.keys(facts.bytes)[1], data: weights }];
  // Constant folding would wait for the weights, and finds little to fold in fp32.
  const graphOptimizationLevel = device === "wasm" && facts.precision === "fp32" ? "disabled" : "all";
  const options = { executionProviders: [device], externalData, graphOptimizationLevel, logSeverityLevel: 3 };
  session = await ort.InferenceSession.create(graph, options);
  const { dtype, shape } = facts.input, empty = dtype === "uint8" ? Uint8Array : Float32Array;
  if (device === "webgpu") await run(new empty(shape.reduce((left, right) => left * right)), inputsOf(facts, firstOf(facts)));
}

async function load({ device, graph, weights, filled, ...given }) {
  facts = given.facts;
  const build = facts.builds[device];
  ort = await import(`./onnxruntime-web/${build.module}`);
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  const arriving = Object.assign(new Arriving(weights.buffer), { filled });
  try {
    await createSession(device, graph, arriving);
  } catch (error) {
    if (device === "wasm") throw error;
    await createSession((device = "wasm"), graph, arriving);
  }
  return { device, threads: ort.env.wasm.numThreads, bytes: build.bytes };
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

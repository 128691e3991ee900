/** The page: one picture, and the model's answers to it at two settings. */

import { number } from "./dom.js";
import { makePad } from "./drawing.js";
import { makeLegend } from "./legend.js";
import { decode, pixelsOf, prepare, toInput } from "./picture.js";
import { open } from "./session.js";
import { firstOf } from "./settings.js";
import { makeSide } from "./side.js";

const LARGE = 5e7; // bytes of weights; for a smaller model, a GPU's overhead exceeds the time of computing
const LOW_RATIO = 0.1; // initial capacity ratio of the second setting
const byId = (id) => document.getElementById(id);
const facts = await (await fetch("page.json", { cache: "no-cache" })).json(), { input } = facts;
let image = null, opening = null, isReady = false, isRunning = false, began = 0, runsOn = "";

/** Show a status text and, unless `done` is undefined, a progress bar: `done` is a share, or true if it is unknown. */
function say(text, done) {
  const bar = byId("progress");
  byId("status").textContent = text;
  bar.hidden = done === undefined;
  if (done === true) bar.removeAttribute("value");
  else if (!bar.hidden) bar.value = done;
}

const megabytes = (bytes) => number(bytes / 1e6);

/** Run the visible settings without an answer, one after the other, until none is left, even if some change meanwhile. */
async function update() {
  if (!isReady || isRunning || !image) return;
  isRunning = true;
  for (let side; isReady && (side = sides.find((each) => each.isStale && !each.panel.hidden)); ) {
    side.isStale = false;
    if (began !== null) say(`${runsOn} Computing an answer ...`, true);
    await side.answer(toInput(pixelsOf(image, input.shape[3], facts.grey_weights), input.dtype), image);
    if (!isReady) break;
    if (began !== null) say(`${runsOn} The first answer took ${number((performance.now() - began) / 1000)} s.`);
    began = null;
  }
  isRunning = false;
}

function take(made) {
  if (isReady && !image) began = performance.now(); // start timing only now: until now, the model waited for a picture
  image = made;
  opening = null;
  byId("problem").textContent = "";
  sides.forEach((side) => { side.isStale = true; });
  update();
}

async function takeFile(file) {
  if (!file) return; // the user cancelled the choice, or dropped a text
  opening = file;
  byId("problem").textContent = "";
  try {
    const made = prepare(await decode(file, facts), facts.steps);
    if (file !== opening) return; // the user has chosen another picture meanwhile
    pad.show(made);
    take(made);
  } catch (error) {
    if (file === opening) byId("problem").textContent = error.message;
  }
}

async function start(device) {
  isReady = false;
  try {
    const used = await open(facts, device, (come, all) => {
      if (come < all) say(`Loading the model: ${megabytes(come)} of ${megabytes(all)} MB.`, come / all);
      else say("Starting the model ...", true);
    });
    const name = used.device === "webgpu" ? "WebGPU" : `WebAssembly on ${used.threads} thread${used.threads > 1 ? "s" : ""}`;
    runsOn = `${name}${used.device === device ? "" : ", as WebGPU can't run this model here"}; ${megabytes(used.bytes)} MB.`;
    byId("device").value = used.device;
    isReady = true;
    if (image) take(image);
    else say(`${runsOn} Choose a picture.`);
  } catch (error) {
    say(`The model can't be run here: ${error.message}`);
  }
}

const pad = makePad(byId("pad"), input, take), hasSettings = Object.keys(facts.controls).length > 0;
const sides = [["Setting A", {}], ["Setting B", facts.controls.capacity && { capacity: LOW_RATIO }]].map(([title, change]) =>
  makeSide(byId("sides"), title, facts, { ...firstOf(facts), ...change }, update));
document.title = byId("title").textContent = `What capacity does in ${facts.name}`;
byId("summary").textContent = facts.summary;
byId("legend").append(makeLegend(facts.colours));
const drops = facts.layer_outputs.includes("kept"), routes = facts.layout && facts.layers.length;
const shown = { draws: input.shape[3] === 1, drops, routes, several: hasSettings };
for (const [name, isShown] of Object.entries(shown)) {
  document.querySelectorAll(`.${name}`).forEach((each) => { each.hidden = !isShown; });
}

const both = byId("both"), showSecond = () => { sides[1].panel.hidden = !both.checked; update(); };
both.checked = hasSettings && matchMedia("(min-width: 60rem)").matches;
showSecond();
both.addEventListener("change", showSecond);
byId("clear").addEventListener("click", pad.clear);
byId("seven").addEventListener("click", pad.seven);
byId("file").addEventListener("click", () => { byId("file").value = ""; }); // lets the user choose the same file again
byId("file").addEventListener("change", () => takeFile(byId("file").files[0]));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  takeFile(event.dataTransfer.files[0]);
});

const device = byId("device"), gpu = WebAssembly.Suspending && (await navigator.gpu?.requestAdapter().catch(() => null));
device.lastElementChild.disabled = !gpu;
device.value = gpu && !gpu.info?.isFallbackAdapter && Math.max(...Object.values(facts.bytes)) > LARGE ? "webgpu" : "wasm";
device.addEventListener("change", () => {
  began = performance.now();
  start(device.value);
});
if (shown.draws) pad.seven();
start(device.value);

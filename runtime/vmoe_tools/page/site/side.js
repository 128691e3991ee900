/** One setting of the page: its controls, and the model's answer. */

import { element, number, percent } from "./dom.js";
import { countPatches, drawLayer } from "./patches.js";
import { probabilitiesOf } from "./probabilities.js";
import { readLayers } from "./routing.js";
import { run } from "./session.js";
import { inputsOf, makeControls, nameOf, slotsOf } from "./settings.js";

const MOST_CLASSES = 5;
const MOST_NAME = 60;

/** Return the name of a class, cut if it is long, but never inside a surrogate pair. */
export function nameOfClass({ class_names: names }, index) {
  const letters = [...(names?.[index] ?? `class ${index}`)];
  return letters.length > MOST_NAME ? `${letters.slice(0, MOST_NAME).join("")}...` : letters.join("");
}

/** Return the FLOPs of an image from the number of rows that experts process in each MoE layer. */
export function flopsOf({ flops }, rows, merge = 0) {
  return rows.reduce((sum, count) => sum + count * flops.of_row, flops.by_merge[merge]);
}

/** Add a setting to the page. Call `ask` when the user changes it; the caller must then call `answer`. */
export function makeSide(place, title, facts, start, ask) {
  const panel = document.getElementById("side").content.cloneNode(true).firstElementChild;
  const part = (name) => panel.querySelector(`.${name}`);
  part("title").textContent = title;
  panel.setAttribute("aria-label", title);
  const current = makeControls(part("controls"), facts, start, () => { side.isStale = true; ask(); });
  const figures = facts.layers.map(() => element("figure", {}, element("canvas", { role: "img" }), element("figcaption")));
  if (facts.layout) part("layers").append(...figures);
  place.append(panel);

  function showClasses(logits) {
    const shares = probabilitiesOf(logits, facts.probabilities);
    const best = shares.map((_, index) => index).sort((a, b) => logits[b] - logits[a] || a - b).slice(0, MOST_CLASSES);
    part("classes").replaceChildren(...best.map((index) => {
      const bar = element("span", { className: "bar" });
      bar.style.width = `${shares[index] * 100}%`;
      return element("li", {}, element("span", {}, nameOfClass(facts, index)), element("b", {}, percent(shares[index])), bar);
    }));
  }

  function showNumbers(setting, layers, milliseconds) {
    const slots = [...new Set(slotsOf(facts, setting))], shown = slots.length ? [["slots per expert", slots.join(", ")]] : [];
    if (facts.flops) {
      const flops = flopsOf(facts, layers.map(({ rows }) => rows), setting.merge);
      shown.push(["MFLOP", number(flops / 1e6)], ["of dense FLOPs", percent(flops / facts.flops.dense)]);
    }
    shown.push(["milliseconds", number(milliseconds)]);
    part("numbers").replaceChildren(...shown.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    part("setting").textContent = nameOf(facts, setting);
  }

  function showLayers(layers, image) {
    layers.forEach((layer, index) => {
      const { total, dropped, tokens, experts } = countPatches(facts, layer), [canvas, caption] = figures[index].children;
      const merged = tokens < total ? `, ${total} merged into ${tokens}` : "", taken = experts.map((count, e) => count && `${count} by expert ${e}`);
      drawLayer(canvas, facts, image, layer);
      caption.textContent = `${facts.layers[index].replace("encoderblock_", "Block ")}: ${dropped} of ${total} dropped${merged}`;
      canvas.setAttribute("aria-label", [caption.textContent, ...taken.filter(Boolean)].join(", "));
    });
  }

  const side = {
    panel,
    isStale: true,
    /** Run the model on `input`, made from the canvas `image`, and show the answer. */
    async answer(input, image) {
      panel.setAttribute("aria-busy", "true");
      try {
        const setting = current(), { outputs, milliseconds } = await run(input, inputsOf(facts, setting));
        const layers = readLayers(facts, outputs);
        showClasses(outputs.logits.data);
        showNumbers(setting, layers, milliseconds);
        if (facts.layout) showLayers(layers, image);
        part("problem").textContent = "";
      } catch (error) {
        part("problem").textContent = error.message;
      }
      panel.setAttribute("aria-busy", "false");
    },
  };
  return side;
}

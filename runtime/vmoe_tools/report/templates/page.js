"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const DROPPED = "rgba(125, 132, 140, .88)";
  const CLASSES_OF_AN_EXPERT = 5;
  const EXPERTS_OF_A_CLASS = 5;
  const SVG = document.querySelector("svg").namespaceURI;

  const percent = (share, digits = 1) => (share === null ? "-" : `${(share * 100).toFixed(digits)}\u00a0%`);
  const fixed = (value, digits) => (value === null ? "-" : value.toFixed(digits));
  const number = (value) => value.toLocaleString("en-US", { maximumFractionDigits: value < 100 ? 1 : 0 });

  const element = (name, text = "", style = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    Object.assign(made.style, style);
    return made;
  };

  const drawn = (name, attributes = {}, text = "") => {
    const made = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.textContent = text;
    return made;
  };

  const headed = (name) => {
    const head = element("th", name);
    head.scope = "row";
    return head;
  };

  const rowOf = (name, texts) => {
    const row = element("tr");
    row.append(headed(name), ...texts.map((text) => element("td", text)));
    return row;
  };

  /** The unsigned integers of so many bytes each that a base64 text stands for. */
  const decoded = new Map();
  const numbersOf = (text, size) => {
    if (!decoded.has(text)) {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      decoded.set(text, size === 1 ? bytes : new Uint16Array(bytes.buffer));
    }
    return decoded.get(text);
  };

  /** The experts of all patches at a setting: 0 where dropped, else 1 + the expert; layer by layer, sample by sample. */
  const patchesOf = (setting) => numbersOf(setting.patches, data.patchBytes);

  const state = { step: data.step, kind: data.kind, layer: 0, tint: false, place: 0 };
  const setting = () => data.curves[state.kind].find((one) => one.step === state.step);

  function showNumbers(now) {
    const ratio = `${data.ratios[state.step]}`;
    byId("ratio-now").textContent = ratio;
    byId("ratio").setAttribute("aria-valuetext", `capacity ratio ${ratio}`);
    if (!now) {
      byId("now").textContent = "This setting was not measured.";
      return;
    }
    const parts = [];
    if (now.top1 !== null) parts.push(`${percent(now.top1)} right`);
    else if (now.same !== null) parts.push(`${percent(now.same)} same answers`);
    if (now.speed !== null) parts.push(`${number(now.speed)}\u00a0images/s`);
    if (now.kept !== null) parts.push(`${percent(now.kept)} of pairs kept`);
    if (now.flops !== null) parts.push(`${number(now.flops / 1e6)}\u00a0MFLOP`);
    const line = byId("now");
    line.replaceChildren(element("code", now.profile), `: ${now.places} place${now.places === 1 ? "" : "s"} per expert`);
    if (now.real) line.append(`, which come${now.places === 1 ? "s" : ""} to a `, element("b", `ratio of ${now.real}`));
    line.append(". ");
    parts.forEach((part, index) => line.append(element("b", part), index < parts.length - 1 ? ", " : "."));
  }

  function showSample(figure, index, now) {
    const [answer, share, right] = now?.answers[index] ?? [];
    const says = figure.querySelector(".says");
    says.textContent = answer === undefined ? "" : `${right === false ? "wrong: " : ""}${answer}, ${percent(share, 0)}`;
    says.className = `says ${right === true ? "right" : right === false ? "wrong" : ""}`;
    const canvas = figure.querySelector("canvas");
    if (!canvas || !now?.patches) return;
    const [rows, columns] = data.grid;
    const patches = patchesOf(now);
    const first = (state.layer * data.labels.length + index) * rows * columns;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, columns, rows);
    let kept = 0;
    for (let place = 0; place < rows * columns; place++) {
      const expert = patches[first + place];
      kept += expert > 0;
      if (expert > 0 && !state.tint) continue;
      context.fillStyle = expert > 0 ? `${data.colours[expert - 1]}a6` : DROPPED;
      context.fillRect(place % columns, Math.floor(place / columns), 1, 1);
    }
    const text = `${kept} of ${rows * columns} patches`;
    figure.querySelector(".count").textContent = text;
    canvas.setAttribute("aria-label", `${text} of sample ${index + 1} are processed in ${data.layers[state.layer]}`);
  }

  function meter(share, most, colour) {
    const cell = element("td");
    const box = element("div");
    box.append(element("span", percent(share)), element("span"));
    box.lastChild.append(element("span", "", { width: `${most ? ((share ?? 0) / most) * 100 : 0}%`, color: colour }));
    box.lastChild.firstChild.className = "meter";
    cell.append(box);
    return cell;
  }

  function showExperts(now) {
    const layer = now?.layers[state.layer];
    const most = Math.max(...(layer?.load ?? [0]));
    byId("loads").replaceChildren(
      ...(layer?.load ?? []).map((load, expert) => {
        const row = element("tr");
        const head = headed("");
        head.append(element("span", "", { background: data.colours[expert] }), `${expert}`);
        head.firstChild.className = "swatch";
        const dropped = meter(layer.dropped ? layer.dropped[expert] : null, 1, "inherit");
        dropped.className = "dropped";
        row.append(head, meter(load, most, data.colours[expert]), dropped);
        return row;
      }),
    );
    byId("layers").replaceChildren(
      ...(now?.layers ?? []).map((one, index) => {
        const cells = [percent(one.pairs), percent(one.patches), fixed(one.even, 3)];
        if (data.knowsEntropy) cells.push(fixed(one.entropy, 3));
        return rowOf(data.layers[index], cells);
      }),
    );
  }

  const sum = (counts) => counts.reduce((total, count) => total + count, 0);
  const binOf = (bin, bins) => `${(bin / bins).toFixed(2)} to ${((bin + 1) / bins).toFixed(2)}`;

  /** A histogram of the gates of a layer, kept ones and on top of them dropped ones, in shares up to the given one. */
  function gateChart(name, [kept, dropped], most) {
    const [left, right, top, bottom] = [38, 196, 8, 104];
    const total = sum(kept) + sum(dropped) || 1;
    const width = (right - left) / kept.length;
    const svg = drawn("svg", { viewBox: "0 0 200 124", role: "img" });
    const commonest = kept.reduce((best, _, bin) => (kept[bin] + dropped[bin] > kept[best] + dropped[best] ? bin : best), 0);
    const share = percent((kept[commonest] + dropped[commonest]) / total);
    svg.setAttribute("aria-label", `Gates in ${name}: ${percent(sum(kept) / total)} of the pairs are kept; the commonest gates, ${share}, are ${binOf(commonest, kept.length)}`);
    kept.forEach((count, bin) => {
      const [of, off] = [count, dropped[bin]].map((pairs) => pairs / total);
      const bar = drawn("g");
      bar.append(drawn("title", {}, `gate ${binOf(bin, kept.length)}: ${percent(of, 2)} kept, ${percent(off, 2)} dropped`));
      let base = bottom;
      for (const [part, style] of [[of, "kept-gates"], [off, "dropped-gates"]]) {
        const height = (part / most) * (bottom - top);
        base -= height;
        if (part) bar.append(drawn("rect", { class: style, x: left + bin * width + 0.4, width: width - 0.8, y: base, height }));
      }
      svg.append(bar);
    });
    svg.append(drawn("path", { class: "axis", d: `M${left},${bottom} H${right}` }));
    for (const gate of [0, 0.5, 1]) {
      svg.append(drawn("text", { x: left + gate * (right - left), y: bottom + 15, "text-anchor": "middle" }, `${gate}`));
    }
    svg.append(drawn("text", { x: left - 5, y: bottom, "text-anchor": "end" }, "0"));
    svg.append(drawn("text", { x: left - 5, y: top + 8, "text-anchor": "end" }, percent(most, 0)));
    const box = element("div");
    box.append(element("p", name), svg);
    return box;
  }

  function showGates(now) {
    const layers = now?.layers ?? [];
    const tallest = ([kept, dropped]) => Math.max(...kept.map((count, bin) => count + dropped[bin])) / (sum(kept) + sum(dropped) || 1);
    const most = Math.max(...layers.map((layer) => tallest(layer.gates)), 0.01);
    byId("gates").replaceChildren(...layers.map((layer, index) => gateChart(data.layers[index], layer.gates, most)));
    const [kept, dropped] = layers[state.layer]?.gates ?? [[], []];
    const texts = (bin) => [kept[bin], dropped[bin]].map((count) => count.toLocaleString("en-US"));
    byId("gate-rows").replaceChildren(...kept.map((_, bin) => rowOf(binOf(bin, kept.length), texts(bin))));
  }

  /** Mean routing weights of a layer at a setting in ten thousandths, class by class. */
  function unitsOf(now, layer) {
    const size = data.classMap.classes.length * data.experts;
    return numbersOf(now.classes, 2).subarray(layer * size, (layer + 1) * size);
  }

  /** Mean routing weights of a layer at a setting, a list for each class. */
  function weightsOf(now, layer) {
    const units = unitsOf(now, layer);
    return data.classMap.classes.map((_, place) => Array.from(units.subarray(place * data.experts, (place + 1) * data.experts), (one) => one / 10000));
  }

  /** The largest of them at any ratio of a curve. */
  const largestOf = (kind, layer) =>
    Math.max(...data.curves[kind].map((one) => unitsOf(one, layer).reduce((most, units) => Math.max(most, units), 0))) / 10000;

  /** Places of the classes from the top of the class map's picture down. */
  let mapOrder = [];

  /** Marks the chosen class in the picture, and says its experts. */
  function showClass(weights) {
    const { classes, images } = data.classMap;
    const heaviest = weights.map((_, expert) => expert).filter((expert) => weights[expert] > 0);
    heaviest.sort((a, b) => weights[b] - weights[a]);
    const experts = heaviest.slice(0, EXPERTS_OF_A_CLASS).map((expert) => `expert\u00a0${expert}\u00a0${weights[expert].toFixed(3)}`);
    const shown = images[state.place];
    byId("map-says").replaceChildren(
      element("b", classes[state.place]),
      `, ${shown.toLocaleString("en-US")}\u00a0image${shown === 1 ? "" : "s"}: ${experts.join(", ") || "none"}`,
    );
    byId("map-class").value = `${state.place}`;
    const mark = byId("map-mark");
    const y = Math.max(mapOrder.indexOf(state.place), 0);
    Object.assign(mark.style, { top: `${(y / classes.length) * 100}%`, height: `${100 / classes.length}%` });
    mark.classList.toggle("low", y > classes.length / 2);
    mark.firstChild.textContent = classes[state.place];
  }

  /** Chooses the class whose row is under a pointer. */
  function pointAt(event) {
    const box = byId("map-picture").getBoundingClientRect();
    const y = Math.floor(((event.clientY - box.top) / box.height) * mapOrder.length);
    const place = mapOrder[Math.min(Math.max(y, 0), mapOrder.length - 1)];
    if (place === undefined || place === state.place) return;
    state.place = place;
    showClass(weightsOf(setting(), state.layer)[place]);
  }

  function showMap(now) {
    if (!data.classMap) return;
    const { classes, images } = data.classMap;
    const { layer, kind } = state;
    const weights = now ? weightsOf(now, layer) : [];
    const largest = largestOf(kind, layer);
    const heatOf = (weight) => data.heats[Math.round((weight / (largest || 1)) * (data.heats.length - 1))];
    byId("map-largest").textContent = largest.toFixed(2);
    if (byId("map-kind")) byId("map-kind").textContent = data.titles[kind];
    byId("map-rows")?.replaceChildren(
      ...weights.map((row, place) => {
        const made = rowOf(classes[place], row.map((weight) => `${Math.round(weight * 100)}`));
        made.title = `${images[place].toLocaleString("en-US")} images`;
        row.forEach((weight, expert) => {
          const [background, color] = heatOf(weight);
          Object.assign(made.children[expert + 1].style, { background, color });
        });
        return made;
      }),
    );
    const picture = byId("map-picture")?.getContext("2d");
    if (picture) {
      picture.clearRect(0, 0, data.experts, classes.length);
      const heaviest = weights.map((row) => Math.max(...row));
      const favourite = weights.map((row, place) => row.indexOf(heaviest[place]));
      mapOrder = weights.map((_, place) => place).sort((a, b) => favourite[a] - favourite[b] || heaviest[b] - heaviest[a]);
      mapOrder.forEach((place, y) =>
        weights[place].forEach((weight, x) => {
          picture.fillStyle = heatOf(weight)[0];
          picture.fillRect(x, y, 1, 1);
        }),
      );
      showClass(weights[state.place] ?? []);
    }
    byId("favourites").replaceChildren(
      ...data.colours.map((_, expert) => {
        const places = weights.map((_, place) => place).filter((place) => weights[place][expert] > 0);
        places.sort((a, b) => weights[b][expert] - weights[a][expert]);
        const row = rowOf(`${expert}`, [places.slice(0, CLASSES_OF_AN_EXPERT).map((place) => classes[place]).join(", ") || "none"]);
        row.lastChild.className = "text";
        return row;
      }),
    );
  }

  function show() {
    const now = setting();
    showNumbers(now);
    all(".sample").forEach((figure, index) => showSample(figure, index, now));
    showExperts(now);
    showGates(now);
    showMap(now);
    all("select.layer").forEach((choice) => (choice.value = `${state.layer}`));
    all(".layer-now").forEach((name) => (name.textContent = data.layers[state.layer]));
    all(".dot").forEach((dot) => dot.classList.toggle("now", Number(dot.dataset.step ?? -1) === state.step));
    all("svg[data-guides]").forEach((chart) => {
      const guide = chart.querySelector(".guide");
      const place = chart.dataset.guides.split(" ")[state.step];
      guide.setAttribute("x1", place);
      guide.setAttribute("x2", place);
    });
  }

  byId("ratio").addEventListener("input", (event) => {
    state.step = Number(event.target.value);
    show();
  });
  all('input[name="kind"]').forEach((button) =>
    button.addEventListener("change", () => {
      state.kind = button.value;
      show();
    }),
  );
  all("select.layer").forEach((choice) =>
    choice.addEventListener("change", () => {
      state.layer = Number(choice.value);
      show();
    }),
  );
  byId("map-class")?.addEventListener("change", (event) => {
    state.place = Number(event.target.value);
    showMap(setting());
  });
  for (const kind of ["pointermove", "pointerdown"]) byId("map-picture")?.addEventListener(kind, pointAt);
  byId("tint")?.addEventListener("change", (event) => {
    state.tint = event.target.checked;
    show();
  });

  // A browser that comes back to a page keeps what was set.
  byId("ratio").value = state.step;
  all('input[name="kind"]').forEach((button) => (button.checked = button.value === state.kind));
  if (byId("tint")) byId("tint").checked = false;
  all(".stack img").forEach((image) => image.classList.toggle("photo", image.src.startsWith("data:image/jpeg")));
  if (byId("map-class")) {
    const places = data.classMap.classes.map((name, place) => [name, place]);
    places.sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
    byId("map-class").append(...places.map(([name, place]) => new Option(name, place)));
    state.place = places[0][1];
  }
  show();
})();

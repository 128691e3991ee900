"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const DROPPED = "rgba(125, 132, 140, .88)";

  const percent = (share, digits = 1) => (share === null ? "-" : `${(share * 100).toFixed(digits)}\u00a0%`);
  const fixed = (value, digits) => (value === null ? "-" : value.toFixed(digits));
  const number = (value) => value.toLocaleString("en-US", { maximumFractionDigits: value < 100 ? 1 : 0 });

  const element = (name, text = "", style = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    Object.assign(made.style, style);
    return made;
  };

  /** The experts of all patches at a setting: 0 where dropped, else 1 + the expert; layer by layer, sample by sample. */
  const decoded = new Map();
  const patchesOf = (setting) => {
    if (!decoded.has(setting)) {
      const bytes = Uint8Array.from(atob(setting.patches), (letter) => letter.charCodeAt(0));
      decoded.set(setting, data.patchBytes === 1 ? bytes : new Uint16Array(bytes.buffer));
    }
    return decoded.get(setting);
  };

  const state = { step: data.step, kind: data.kind, layer: 0, tint: false };
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
    line.replaceChildren(element("code", now.profile), `: ${now.places} place${now.places === 1 ? "" : "s"} per expert. `);
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
    const cell = element("td", percent(share), {});
    cell.append(element("span", "", { width: `${most ? ((share ?? 0) / most) * 100 : 0}%`, color: colour }));
    cell.lastChild.className = "meter";
    return cell;
  }

  function showExperts(now) {
    const layer = now?.layers[state.layer];
    const most = Math.max(...(layer?.load ?? [0]));
    byId("loads").replaceChildren(
      ...(layer?.load ?? []).map((load, expert) => {
        const row = element("tr");
        const head = element("th", "");
        head.scope = "row";
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
        const row = element("tr");
        const head = element("th", data.layers[index]);
        head.scope = "row";
        const cells = [percent(one.pairs), percent(one.patches), fixed(one.even, 3)];
        if (data.gates) cells.push(fixed(one.gates, 3));
        row.append(head, ...cells.map((text) => element("td", text)));
        return row;
      }),
    );
  }

  function show() {
    const now = setting();
    showNumbers(now);
    all(".sample").forEach((figure, index) => showSample(figure, index, now));
    showExperts(now);
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
  byId("layer").addEventListener("change", (event) => {
    state.layer = Number(event.target.value);
    show();
  });
  const showMap = () => {
    const layer = byId("map-layer")?.value;
    all("[data-map]").forEach((part) => (part.hidden = part.dataset.map !== layer));
  };
  byId("map-layer")?.addEventListener("change", showMap);
  byId("tint")?.addEventListener("change", (event) => {
    state.tint = event.target.checked;
    show();
  });

  // A browser that comes back to a page keeps what was set.
  byId("ratio").value = state.step;
  byId("layer").value = "0";
  all('input[name="kind"]').forEach((button) => (button.checked = button.value === state.kind));
  if (byId("tint")) byId("tint").checked = false;
  all(".stack img").forEach((image) => image.classList.toggle("photo", image.src.startsWith("data:image/jpeg")));
  show();
  showMap();
})();

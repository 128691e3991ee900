{
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const data = JSON.parse(byId("data").textContent);
  const SIDE = 8; // of a patch in pixels of the canvas
  const percent = (share, digits = 1) => (share === null ? "-" : `${(share * 100).toFixed(digits)}\u00a0%`);
  const number = (value) => value.toLocaleString("en-US", { maximumFractionDigits: value < 100 ? 1 : 0 });
  const state = { step: data.step, curve: data.curve, layer: 0, tint: false };

  const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });

  /** The setting at the slider. A ratio that was not measured rounds to the same slots as the next lower one. */
  const setting = () => {
    const settings = data.curves[state.curve];
    return settings.filter((one) => one.ratio <= data.ratios[state.step]).at(-1) ?? settings[0];
  };

  /** The patches at a setting, layer by layer and sample by sample: 0 for a dropped patch, else 1 + its expert. If tokens
      are merged, the token of each patch follows, in the same order. */
  const patchesOf = (now) => {
    const bytes = Uint8Array.from(atob(now.patches), (letter) => letter.charCodeAt(0));
    return data.patchBytes === 1 ? bytes : new Uint16Array(bytes.buffer);
  };

  function showNumbers(now) {
    const ratio = `${data.ratios[state.step]}`;
    byId("ratio-now").textContent = ratio;
    byId("ratio").setAttribute("aria-valuetext", `capacity ratio ${ratio}`);
    const parts = [`${now.slots} slot${now.slots === 1 ? "" : "s"} per expert`];
    if (now.effective) parts.push(`an effective ratio of ${now.effective}`);
    if (now.top1 !== null) parts.push(`${percent(now.top1)} accuracy`);
    else if (now.same !== null) parts.push(`${percent(now.same)} same answers`);
    if (now.speed !== null) parts.push(`${number(now.speed)}\u00a0images/s`);
    if (now.kept !== null) parts.push(`${percent(now.kept)} of pairs kept`);
    if (now.flops !== null) parts.push(`${number(now.flops / 1e6)}\u00a0MFLOP`);
    byId("now").replaceChildren(element("code", now.profile), `: ${parts.join(", ")}.`);
  }

  function showSample(figure, index, now, patches) {
    const [answer, share, correct] = now.answers[index] ?? [];
    const text = figure.querySelector(".answered");
    const said = [correct === false ? "wrong: " : "", element("bdi", answer), `, ${percent(share, share < 0.1 ? 1 : 0)}`];
    text.replaceChildren(...(answer === undefined ? [] : said));
    text.className = `answered ${correct === true ? "correct" : correct === false ? "wrong" : ""}`;
    const canvas = figure.querySelector("canvas");
    if (!canvas || !patches) return;
    const [rows, columns] = data.grid;
    const first = (state.layer * data.samples + index) * rows * columns;
    const numbers = data.layers.length * data.samples * rows * columns; // of experts; numbers of tokens follow
    const shown = Array.from({ length: rows * columns }, (_, patch) =>
      [patches[first + patch] - 1, patches.length > numbers ? patches[numbers + first + patch] : patch]);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, columns * SIDE, rows * SIDE);
    const tint = (expert) => (state.tint ? data.colours[expert] + TINT : null);
    paintPatches(context, data.grid, [SIDE, SIDE], shown, (expert) => (expert < 0 ? DROPPED : tint(expert)));
    let count = `${shown.filter(([expert]) => expert >= 0).length} of ${rows * columns} patches`;
    if (patches.length > numbers) count += ` (${new Set(shown.map(([, token]) => token)).size}\u00a0tokens)`;
    figure.querySelector(".count").textContent = count;
    canvas.setAttribute("aria-label", `${count} of sample ${index + 1} are processed in ${data.layers[state.layer]}`);
  }

  function showLayers(now) {
    const known = now.layers.every((layer) => layer[3] !== null);  // only if the gates of all experts are
    document.querySelectorAll(".gates").forEach((each) => { each.hidden = !known; });
    const rows = now.layers.map(([pairs, patches, load, gates], index) => {
      const row = element("tr", "");
      const head = Object.assign(element("th", data.layers[index]), { scope: "row" });
      const cells = [percent(pairs), percent(patches), load.toFixed(3), ...(known ? [gates.toFixed(3)] : [])];
      row.append(head, ...cells.map((text) => element("td", text)));
      return row;
    });
    byId("layers").replaceChildren(...rows);
  }

  function show() {
    const now = setting();
    const patches = now.patches && patchesOf(now);
    showNumbers(now);
    all(".sample").forEach((figure, index) => showSample(figure, index, now, patches));
    showLayers(now);
  }

  const onChange = (input, event, change) =>
    input?.addEventListener(event, () => {
      change(input);
      show();
    });
  onChange(byId("ratio"), "input", (input) => (state.step = Number(input.value)));
  onChange(byId("layer"), "change", (input) => (state.layer = Number(input.value)));
  onChange(byId("tint"), "change", (input) => (state.tint = input.checked));
  for (const button of all('input[name="curve"]')) {
    onChange(button, "change", (input) => (state.curve = Number(input.value)));
    button.checked = Number(button.value) === state.curve; // browsers restore earlier input when a page is reloaded
  }
  byId("ratio").value = state.step;
  byId("layer").value = "0";
  if (byId("tint")) byId("tint").checked = false;
  show();
}

/** A setting: its controls, its systematic name, and the inputs that it sets in the graph. */

import { element } from "./dom.js";

/** Return the setting that the page begins with. */
export const firstOf = ({ controls }) => Object.fromEntries(Object.entries(controls).map(([name, { start }]) => [name, start]));

/** Add a slider for each setting with several values, and a checkbox for each flag; return a function that reads them. */
export function makeControls(place, { controls }, start, changed) {
  const setting = { ...start }, isBox = ({ values }) => typeof values[0] === "boolean";
  for (const [name, control] of Object.entries(controls).sort(([, a], [, b]) => isBox(a) - isBox(b))) {
    const { label, values } = control, isFlag = isBox(control), shown = element("b"), text = element("span", {}, `${label} `, shown);
    const input = element("input", { type: isFlag ? "checkbox" : "range", max: values.length - 1, checked: setting[name] === true });
    input.value = values.indexOf(setting[name]);
    input.dataset.setting = name;
    const show = () => {
      shown.textContent = isFlag ? "" : setting[name];
      if (!isFlag) input.setAttribute("aria-valuetext", setting[name]);
    };
    input.addEventListener("input", () => {
      setting[name] = isFlag ? input.checked : values[input.value];
      show();
      changed();
    });
    show();
    place.append(element("label", { className: isFlag ? "flag" : `slider ${name}` }, ...(isFlag ? [input, text] : [text, input])));
  }
  return () => ({ ...setting });
}

/** Return the slots of an expert in each MoE layer; throw an error if the model refuses the setting. */
export function slotsOf({ slots, controls }, { capacity, k }) {
  if (!controls.capacity) return [];
  const found = slots[k ?? 1][controls.capacity.values.indexOf(capacity)];
  if (!found) throw new Error(`A capacity ratio of ${capacity} leaves no slot, or more than there are pairs.`);
  return found;
}

/** Return the inputs of the graph by name, each a list of whole numbers. */
export function inputsOf(facts, setting) {
  return Object.fromEntries(Object.entries(setting).map(([name, value]) =>
    [name, name === "capacity" ? slotsOf(facts, setting) : [Number(value)]]));
}

/** Return the systematic name of a setting, such as c0.3-k1-pool. Neutral values are left out. */
export function nameOf({ controls }, setting) {
  const parts = [];
  for (const [name, { suffix, neutral }] of Object.entries(controls)) {
    const value = setting[name], keepsPoint = name === "capacity" && !controls.k && Number.isInteger(value);
    if (value === neutral && parts.length) continue;
    parts.push(typeof value === "boolean" ? suffix : `${suffix}${value}${keepsPoint ? ".0" : ""}`);
  }
  return parts.join("-");
}

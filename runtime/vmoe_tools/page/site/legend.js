/** The legend: the colour of each expert, and of dropped patches. */

import { element } from "./dom.js";
import { DROPPED } from "./patches.js";

export function makeLegend(colours) {
  return element("ul", { className: "legend" }, ...[...colours, DROPPED].map((colour, expert) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = colour;
    return element("li", {}, swatch, colour === DROPPED ? "dropped" : `expert ${expert}`);
  }));
}

/** Functions that several modules of the page use. */

/** Make an element with properties and children. Text is never parsed as HTML, because it may come from a bundle. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Format a number with three significant digits, or as a whole number from 100 on. */
export const number = (value) =>
  value.toLocaleString("en-US", value < 100 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 0 });

export const percent = (share) => `${(share * 100).toFixed(1)}\u00a0%`;

/** What the modules that draw the page share. */

/** A new element with properties and children; text is only ever set as text, as it may be that of a bundle. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** A number with three digits, or all of those in front of the point. */
export const number = (value) =>
  value.toLocaleString("en-US", value < 100 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 0 });

export const percent = (share) => `${(share * 100).toFixed(1)}\u00a0%`;

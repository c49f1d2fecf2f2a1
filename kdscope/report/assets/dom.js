// The few words that all parts of the page share: finding, making, reading islands, counting.

export const find = (what, root = document) => root.querySelector(what);
export const all = (what, root = document) => [...root.querySelectorAll(what)];

// What a JSON island holds.
export function readIsland(id) {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : null;
}

// An element with its attributes and children; a text becomes a text node, never markup.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const THIN = "\u202f";
export const thousands = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, THIN);
export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}${THIN}%`;
export const decimals = (value, digits = 3) =>
  Number.isFinite(value) ? value.toFixed(digits).replace("-", "\u2212") : "\u2013";

// Hand the reader a file that the page made.
export function download(name, text, type = "text/csv") {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// Work in slices of a few milliseconds, so that sliders never stall; `stopped()` ends it early. True when it was done.
export async function sliced(count, each, stopped = () => false) {
  let since = performance.now();
  for (let k = 0; k < count; k++) {
    each(k);
    if ((k & 15) === 15 && performance.now() - since > 12) {
      await new Promise((go) => setTimeout(go));
      if (stopped()) return false;
      since = performance.now();
    }
  }
  return true;
}

// Colours of maps as tables of 256 entries, and of the page's theme.

const STOPS = {
  viridis: ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"],
  magma: ["#000004", "#1d1147", "#51127c", "#832681", "#b73779", "#e75263", "#fc8961", "#fec488", "#fcfdbf"],
  cividis: ["#00224e", "#213a6a", "#434e6c", "#5f636e", "#7b7b78", "#9a9278", "#bbab6e", "#dcc65c", "#fee838"],
  grey: ["#000000", "#ffffff"],
  "blue–orange": ["#02547f", "#0173b2", "#7fb4d6", "#f4f1ea", "#f2cc8a", "#e89b1f", "#d67300"],
};
export const SCALES = Object.keys(STOPS);
export const DIVERGING = "blue–orange";

// The colourblind palette of the figures.
export const PALETTE = [
  "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9",
];

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

const tables = {};
// RGB of the values 0..255, row by row: Uint8Array [256 * 3].
export function lookup(scale) {
  if (!tables[scale]) {
    const stops = STOPS[scale].map(channels);
    const table = new Uint8Array(768);
    for (let value = 0; value < 256; value++) {
      const at = (value / 255) * (stops.length - 1);
      const low = Math.min(Math.floor(at), stops.length - 2);
      for (let c = 0; c < 3; c++) table[3 * value + c] = stops[low][c] + (at - low) * (stops[low + 1][c] - stops[low][c]);
    }
    tables[scale] = table;
  }
  return tables[scale];
}

// A scale as the background of a legend.
export const gradient = (scale) => `linear-gradient(90deg, ${STOPS[scale].join(", ")})`;

const dark = matchMedia("(prefers-color-scheme: dark)");
const CHOICES = { auto: "as the system", light: "light", dark: "dark" };
const listeners = [];

export const onTheme = (listener) => listeners.push(listener);

const told = () => listeners.forEach((listener) => listener());

// The button that goes through system, light and dark.
export function themeButton(button) {
  const names = Object.keys(CHOICES);
  let now = 0;
  dark.addEventListener("change", told);
  button.addEventListener("click", () => {
    now = (now + 1) % names.length;
    const name = names[now];
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.textContent = name[0].toUpperCase() + name.slice(1);
    button.setAttribute("aria-label", `Colours: ${CHOICES[name]}`);
    told();
  });
}

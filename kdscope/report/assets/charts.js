// Charts: plotly is kept as text and awakened when the first chart comes near; each is drawn when it does.

import { all, find, make, readIsland } from "./dom.js";
import { onTheme } from "./colours.js";
import { themed } from "./themes.js";

const CONFIG = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
const METHODS = ["restyle", "relayout", "update"]; // what a menu may ask of plotly

export function liveCharts() {
  const figures = readIsland("figures");
  const places = all("[data-chart]");
  const drawn = new Set();
  let paper = false;
  const draw = (place) => {
    const figure = figures[place.dataset.chart];
    wake().react(place, ...themed(figure, place.clientWidth, paper), CONFIG);
    if (!drawn.has(place)) place.before(...menusOf(place, figure));
    all("select", place.parentElement).forEach((menu) => menu.chosen?.()); // as it was left
    drawn.add(place);
    place.dataset.drawn = "true";
  };
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      near.unobserve(entry.target);
      if (!drawn.has(entry.target)) draw(entry.target);
    }),
    { rootMargin: "300px 0px" },
  );
  places.forEach((place) => near.observe(place));
  onTheme(() => drawn.forEach(draw));
  // On paper: all of them, no wider than a page, in the light.
  const { dataset } = document.documentElement;
  let theme;
  addEventListener("beforeprint", () => {
    theme = dataset.theme;
    paper = true;
    dataset.theme = "light";
    places.forEach(draw);
  });
  addEventListener("afterprint", () => {
    paper = false;
    if (theme) dataset.theme = theme;
    else delete dataset.theme;
    places.forEach(draw);
  });
}

// plotly.js, run once. Its text is one of the two scripts that the page's policy knows.
function wake() {
  if (!window.Plotly) {
    const script = document.createElement("script");
    script.textContent = find("#plotly").textContent;
    document.head.append(script);
  }
  return window.Plotly;
}

// The menus of a figure as selects: plotly's own are not reached by keyboard.
function menusOf(place, figure) {
  return (figure.layout?.updatemenus ?? []).map(({ buttons, active = 0 }) => {
    const menu = make("select", { "aria-label": "Shown" }, ...buttons.map(({ label }, k) => make("option", { value: k }, label)));
    menu.value = active;
    menu.chosen = () => {
      const { method, args } = buttons[menu.value];
      if (METHODS.includes(method)) window.Plotly[method](place, ...structuredClone(args));
    };
    menu.addEventListener("input", menu.chosen);
    return menu;
  });
}

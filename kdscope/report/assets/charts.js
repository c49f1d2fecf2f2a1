// Charts: plotly is kept as text and awakened when the first chart comes near; each is drawn when it does.

import { all, find, readIsland } from "./dom.js";
import { isDark, onTheme, PALETTE } from "./colours.js";

const CONFIG = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["lasso2d", "select2d"] };

export function liveCharts() {
  const figures = readIsland("figures");
  const places = all("[data-chart]");
  const drawn = new Set();
  const draw = (place) => {
    if (drawn.has(place)) return;
    drawn.add(place);
    wake().newPlot(place, ...themed(figures[place.dataset.chart], place), CONFIG);
    place.dataset.drawn = "true";
  };
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      near.unobserve(entry.target);
      draw(entry.target);
    }),
    { rootMargin: "300px 0px" },
  );
  places.forEach((place) => near.observe(place));
  onTheme(() => drawn.forEach((place) => wake().react(place, ...themed(figures[place.dataset.chart], place), CONFIG)));
  // On paper: all of them, no wider than a page, in the light.
  const resized = (layout) => places.forEach((place) => wake().relayout(place, layout));
  addEventListener("beforeprint", () => {
    places.forEach(draw);
    resized({ width: 640, autosize: false });
  });
  addEventListener("afterprint", () => resized({ width: null, autosize: true }));
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

// A long name with its middle left out, for legends do not wrap.
const brief = (name) => (name.length > 40 ? `${name.slice(0, 22)}…${name.slice(-16)}` : name);
const titled = (title) => ({ font: { size: 13 }, standoff: 8, ...(typeof title === "string" ? { text: title } : title) });

// A figure in the colours and letters of the page.
function themed(figure, place) {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: of("--line"), zerolinecolor: of("--line-strong"), linecolor: of("--line-strong"), tickcolor: of("--line-strong"), automargin: true };
  const axes = {};
  const given = figure.layout ?? {};
  for (const name of new Set(["xaxis", "yaxis", ...Object.keys(given).filter((key) => /^[xy]axis\d*$/.test(key))]))
    axes[name] = { ...axis, ...given[name], title: titled(given[name]?.title) };
  const entries = figure.data.filter((trace) => trace.name && trace.showlegend !== false).length;
  const beside = entries > 8 && place.clientWidth > 700; // a long legend stands beside the chart where there is room
  const layout = {
    margin: { l: 56, r: 16, t: 24, b: 48 }, hovermode: "closest",
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    ...given,
    ...axes,
    ...(beside && { legend: { ...given.legend, orientation: "v", x: 1.02, xanchor: "left", y: 1, yanchor: "top" } }),
    template: { data: { heatmap: [{ colorbar: { title: { font: { size: 13 } }, outlinewidth: 0, thickness: 12 } }] } },
    title: undefined, // the page shows it above
    width: undefined,
    height: given.height ?? 380,
    autosize: true,
    colorway: given.colorway ?? PALETTE,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: style.fontFamily, size: 13, color: of("--ink-soft") },
    hoverlabel: { bgcolor: of("--paper-raised"), bordercolor: of("--line-strong"), font: { color: of("--ink"), family: style.fontFamily } },
    ...(given.updatemenus && { updatemenus: given.updatemenus.map((menu) => ({ ...menu, bordercolor: of("--line-strong"), font: { color: of("--ink"), size: 13 } })) }),
    modebar: { bgcolor: "rgba(0,0,0,0)", color: of("--ink-faint"), activecolor: of("--accent") },
  };
  // scattergl would need to evaluate text as code, which the page's policy forbids.
  const data = figure.data.map((trace) => ({
    ...trace,
    ...(trace.type === "scattergl" && { type: "scatter" }),
    ...(trace.name && { name: brief(trace.name) }),
  }));
  document.documentElement.dataset.charts = isDark() ? "dark" : "light";
  return [data, structuredClone(layout)];
}

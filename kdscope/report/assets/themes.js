// A figure in the colours and letters of the page, and in its width.

import { PALETTE } from "./colours.js";

const PAPER = 640; // pixels that a page is wide

// A long name with its middle left out, for legends do not wrap.
const brief = (name) => (name.length > 40 ? `${name.slice(0, 22)}…${name.slice(-16)}` : name);
const titled = (title) => ({ font: { size: 13 }, standoff: 8, ...(typeof title === "string" ? { text: title } : title) });

// A figure in the colours and letters of the page.
export function themed(figure, width, paper = false) {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: of("--line"), zerolinecolor: of("--line-strong"), linecolor: of("--line-strong"), tickcolor: of("--line-strong"), automargin: true };
  const axes = {};
  const given = figure.layout ?? {};
  for (const name of new Set(["xaxis", "yaxis", ...Object.keys(given).filter((key) => /^[xy]axis\d*$/.test(key))]))
    axes[name] = { ...axis, ...given[name], title: titled(given[name]?.title) };
  const entries = figure.data.filter((trace) => trace.name && trace.showlegend !== false).length;
  const beside = entries > 8 && width > 700; // a long legend stands beside the chart where there is room
  const layout = {
    margin: { l: 56, r: 16, t: 24, b: 48 }, hovermode: "closest",
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    ...given,
    ...axes,
    ...(beside && { legend: { ...given.legend, orientation: "v", x: 1.02, xanchor: "left", y: 1, yanchor: "top" } }),
    ...(given.updatemenus && { margin: { ...given.margin, t: 12 } }), // the room that they would take
    template: { data: { heatmap: [{ colorbar: { title: { font: { size: 13 } }, outlinewidth: 0, thickness: 12 } }] } },
    title: undefined, // the page shows it above
    updatemenus: undefined, // and these
    width: paper ? PAPER : undefined,
    height: given.height ?? 380,
    autosize: !paper,
    colorway: given.colorway ?? PALETTE,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: style.fontFamily, size: 13, color: of("--ink-soft") },
    hoverlabel: { bgcolor: of("--paper-raised"), bordercolor: of("--line-strong"), font: { color: of("--ink"), family: style.fontFamily } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: of("--ink-faint"), activecolor: of("--accent") },
  };
  // scattergl would need to evaluate text as code, which the page's policy forbids.
  const data = figure.data.map((trace) => ({
    ...trace,
    ...(trace.type === "scattergl" && { type: "scatter" }),
    ...(trace.name && { name: brief(trace.name) }),
  }));
  return [data, structuredClone(layout)];
}

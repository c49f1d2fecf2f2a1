// The detectors side by side: the image with the boxes of each, in colours and signs by what they are, and in words.

import { all, find, make, percent } from "./dom.js";
import { drawImage, drawMap } from "./canvas.js";
import { MISTAKES } from "./coco.js";
import { mapOf } from "./overlap.js";
import { TITLE, whoseOf } from "./panels.js";

const SVG = "http://www.w3.org/2000/svg";
const WHOLE_TILE = 65535;
export const SIGNS = { right: "✓", localisation: "L", classification: "C", duplicate: "D", background: "B", both: "LC", missed: "?" };
const WORDS = {
  right: "found", missed: "not found", localisation: "badly placed", classification: "wrong class", duplicate: "found twice",
  background: "nothing there", both: "badly placed, wrong class",
};
const LISTED = 12;

export function drawBoxPanels(root, models, view) {
  const names = models.map((model) => model.name).join("\n");
  if (root.dataset.names !== names) {
    root.dataset.names = names;
    root.replaceChildren(...models.map(boxPanel));
  }
  all(".panel", root).forEach((element, k) => drawBoxPanel(element, models[k], view));
}

function boxPanel(model) {
  return make("figure", { class: "panel", "data-role": model.role },
    whoseOf(model),
    make("div", { class: "under" }, make("canvas", { role: "img", width: 256, height: 256 }), drawn("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" })),
    make("p", { class: "answer" }),
    make("ul", { class: "bars said" }));
}

function drawBoxPanel(element, model, view) {
  const { data, image, sprite, tallies, kind, opacity, scale } = view;
  element.hidden = image === null;
  if (image === null) return;
  const canvas = find("canvas", element);
  const context = drawImage(canvas, sprite, data.image_size, data.columns, image);
  const set = model.maps[kind];
  if (set && opacity > 0) drawMap(context, mapOf(set, image), [set.height, set.width], scale, opacity);
  const sums = tallies.get(model.name)[image];
  const boxes = [
    ...sums.missed.map((row) => ({ is: "missed", from: data.truth, row })),
    ...[...sums.wrong, ...sums.right].map((row) => ({ is: model.kind[row] < 0 ? "right" : MISTAKES[model.kind[row]], from: model, row })).reverse(),
  ];
  const objects = view.objects ? sums.found.map((row) => ({ is: "object", from: data.truth, row })) : [];
  find("svg", element).replaceChildren(...[...objects, ...boxes].flatMap((box) => boxOf(box, view)));
  const total = sums.found.length + sums.missed.length;
  const words = `${sums.found.length} of ${total} found, ${sums.wrong.length} mistake${sums.wrong.length === 1 ? "" : "s"}`;
  find(".answer", element).textContent = words;
  const lines = [...boxes].sort((a, b) => (b.from.scores?.[b.row] ?? 2) - (a.from.scores?.[a.row] ?? 2)).map((box) => lineOf(box, data));
  canvas.setAttribute("aria-label", `${TITLE[model.role]} ${model.name} on image ${data.index[image]}: ${[words, ...lines.slice(0, LISTED).map((line) => line.text)].join("; ")}`);
  find(".said", element).replaceChildren(...lines.slice(0, LISTED).map(({ is, name, rest }) => make("li", {}, sign(is), make("bdi", { title: name }, name), make("span", {}, rest))),
    lines.length > LISTED ? make("li", { class: "more" }, `and ${lines.length - LISTED} more`) : "");
}

export const sign = (is) => make("span", { class: "sign", "data-is": is, "aria-hidden": "true" }, SIGNS[is]);

function lineOf({ is, from, row }, data) {
  const name = data.classes[from.labels[row]];
  const rest = is === "missed" ? WORDS[is] : `${percent(from.scores[row])}, ${WORDS[is]}`;
  return { is, name, rest, text: `${name} ${rest}` };
}

// A box, with a dark one under it, so that it is seen on any picture; in parts of the tile.
function boxOf({ is, from, row }, { data, image, names }) {
  const [left, top, right, bottom] = data.places.subarray(4 * image, 4 * image + 4);
  const [x1, y1, x2, y2] = [0, 1, 2, 3].map((k) => {
    const [low, high] = k % 2 ? [top, bottom] : [left, right];
    return (low + (from.boxes[4 * row + k] / WHOLE_TILE) * (high - low)) / WHOLE_TILE;
  });
  const place = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
  const parts = [drawn("rect", { ...place, class: "halo" }), drawn("rect", { ...place, class: "edge", "data-is": is, "data-row": row })];
  if (names && SIGNS[is]) {
    const size = 0.05 * Math.max(1, SIGNS[is].length * 0.75);
    const [x, y] = [Math.min(Math.max(x1, 0), 1 - size), Math.min(Math.max(y1, 0), 0.95)];
    parts.push(drawn("rect", { x, y, width: size, height: 0.055, class: "tag", "data-is": is }), drawn("text", { x: x + size / 2, y: y + 0.044 }, SIGNS[is]));
  }
  return parts;
}

function drawn(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

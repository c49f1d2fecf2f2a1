// The table of IoU: of the chosen image at once, and the means over the images that the filters leave.

import { all, decimals, find, make, percent, thousands } from "./dom.js";
import { chanceOf, meanOf, overlapOf } from "./overlap.js";

const RANGE = "threshold-iou"; // the card of a cut of the range; that of a share of the area is the map's

// A row for each comparison [one, other, key]; numbers are buttons where the map has a card.
export function fillOverlap(table, comparisons, kind, how, image, cards) {
  table.closest(".box").hidden = !comparisons.length;
  find("caption span", table).textContent =
    how.cut === "area"
      ? `Overlap of the ${percent(how.share)} most attended cells; the mean is over the images that the filters leave.`
      : `Overlap of what is above ${percent(how.share)} of each map's own range. The areas differ, so that chance has no one level.`;
  table.tBodies[0].replaceChildren(
    ...comparisons.map(([one, other, key]) => {
      const [a, b] = [one.maps[kind], other.maps[kind]];
      const card = how.cut === "area" ? a.card : RANGE;
      const number = (name) => make("td", { class: `num ${name}` }, card in cards ? make("button", { type: "button", class: "v", "data-card": card, "aria-haspopup": "dialog" }) : null);
      const row = make("tr", { "data-key": key, "data-chance": chanceOf(a, how) },
        make("th", { scope: "row" }, make("span", { class: "role", "data-role": one.role }), make("bdi", {}, one.name), " ~ ", make("bdi", {}, other.name)),
        number("own"), number("mean"), number("above"), make("td", { class: "num known" }));
      write(row, ".own", image === null ? NaN : overlapOf(a, b, image, how));
      return row;
    }),
  );
}

// `iou` holds the IoU of all images by the key of the comparison, as far as it is known.
export function fillMeans(table, iou, images) {
  for (const row of all("tbody tr", table)) {
    const values = iou.get(row.dataset.key);
    const [mean, known] = values ? meanOf(values, images) : [NaN, 0];
    const chance = Number(row.dataset.chance);
    write(row, ".mean", mean);
    write(row, ".above", (mean - chance) / (1 - chance));
    write(row, ".known", known, thousands(known));
  }
}

function write(row, where, value, text = decimals(value)) {
  const cell = find(where, row);
  cell.dataset.v = value;
  (find("button", cell) ?? cell).textContent = text;
}

// The card of a number: what it is, and how the number at hand stands in its frame.

import { all, decimals, find, make, thousands } from "./dom.js";

const FACTS = [
  ["unit", "Unit"], ["range", "Range"], ["direction", "Direction"], ["null", "By chance"],
  ["invariances", "Does not change with"], ["source", "Source"],
];
const FRAME = [
  ["value", "Value"], ["ci_low", "Interval from"], ["ci_high", "to"], ["floor", "Floor"], ["ceiling", "Ceiling"],
  ["n", "n"], ["seeds", "Seeds"], ["a", "a"], ["b", "b"], ["layer", "Layer"], ["split", "Split"],
];

// One listener for all cards: a number or a question mark that names one opens it.
export function openCards(cards) {
  const dialog = find("#card");
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-card]");
    if (!button || !cards[button.dataset.card]) return;
    fill(dialog, cards[button.dataset.card], frameOf(button));
    dialog.showModal();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside the card
  });
}

function fill(dialog, card, frame) {
  find("#card-name", dialog).textContent = card.name;
  const body = find(".body", dialog);
  body.replaceChildren();
  if (frame.length) body.append(make("dl", { class: "this" }, ...frame.flatMap(fact)));
  body.append(make("p", { class: "definition" }, card.definition));
  if (card.text && card.text !== card.definition) body.append(make("p", {}, card.text));
  const facts = FACTS.map(([key, label]) => [label, Array.isArray(card[key]) ? card[key].join("; ") : card[key]]);
  body.append(make("dl", { class: "facts" }, ...facts.filter(([, value]) => value).flatMap(fact)));
}

const fact = ([label, value]) => [make("dt", {}, label), make("dd", {}, make("bdi", {}, value))];

const spoken = (key, value) => (typeof value !== "number" ? value : ["n", "seeds"].includes(key) ? thousands(value) : decimals(value));

// What the row of a table says of its number: labels and texts as the table shows them.
function frameOf(button) {
  if (button.dataset.frame) {
    const frame = JSON.parse(button.dataset.frame);
    return FRAME.filter(([key]) => key in frame).map(([key, label]) => [label, spoken(key, frame[key])]);
  }
  const row = button.closest("tbody tr");
  if (!row) return [];
  const heads = all("thead tr:first-child th", row.closest("table"));
  const keys = heads.map((head) => head.dataset.key);
  const known = new Map(FRAME);
  const of = (key) => {
    if (!keys.includes(key)) return null;
    const cell = row.cells[keys.indexOf(key)];
    const text = cell?.textContent.trim();
    return text && text !== "\u2013" ? [known.get(key), text] : null;
  };
  if (keys.includes("value")) return FRAME.map(([key]) => of(key)).filter(Boolean);
  const cell = button.closest("td");
  const head = (find(".sort", heads[cell.cellIndex]) ?? heads[cell.cellIndex]).textContent.trim();
  return [[head, cell.textContent.trim()], ["n", of("n")?.[1]]].filter(([, text]) => text);
}

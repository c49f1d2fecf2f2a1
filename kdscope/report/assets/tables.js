// Tables that the page already holds: sorted, filtered by text and by column, read by keyboard, saved as CSV.

import { all, download, find, make, thousands } from "./dom.js";

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const CONDITION = /^\s*(<=|>=|<|>|=)?\s*(-?[\d.]+(?:e[-+]?\d+)?)\s*(%?)\s*$/i;
const BETWEEN = /^\s*(-?[\d.]+)\s*(?:\.\.|…|to)\s*(-?[\d.]+)\s*(%?)\s*$/i;

export function liveTable(root) {
  const table = find("table", root);
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const search = find(".find", root);
  const count = find(".count", root);
  const inputs = new Map();
  const state = { column: -1, direction: 0 };

  const numeric = (k) => ["number", "percent"].includes(heads[k].dataset.kind);
  const value = (row, k) => {
    const cell = row.cells[k];
    if (numeric(k)) return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
    const text = cell.textContent.trim();
    return text === "\u2013" ? null : text;
  };

  // Missing values stand last, whichever way the rest is sorted.
  function sort() {
    const { column: k, direction } = state;
    const order = rows.slice();
    if (direction) {
      const keys = new Map(rows.map((row) => [row, value(row, k)]));
      order.sort((one, other) => {
        const [a, b] = [keys.get(one), keys.get(other)];
        if (a === null || b === null) return (a === null) - (b === null);
        return direction * (numeric(k) ? a - b : collator.compare(a, b));
      });
    }
    body.append(...order);
    heads.forEach((head, at) => {
      if (head.hasAttribute("aria-sort"))
        head.setAttribute("aria-sort", at === k && direction ? (direction > 0 ? "ascending" : "descending") : "none");
    });
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const conditions = [...inputs].filter(([, input]) => input.value.trim());
    let left = 0;
    for (const row of rows) {
      const text = words.length ? row.textContent.toLowerCase() : "";
      row.hidden = !(
        words.every((word) => text.includes(word)) &&
        conditions.every(([k, input]) => holds(input.value, value(row, k), heads[k].dataset.kind))
      );
      left += !row.hidden;
    }
    count.textContent =
      left === rows.length ? `${thousands(left)} row${left === 1 ? "" : "s"}` : `${thousands(left)} of ${thousands(rows.length)} rows`;
    rove(body);
  }

  heads.forEach((head, k) =>
    find(".sort", head)?.addEventListener("click", () => {
      // First the way one reads: texts from A, numbers from the highest; then the other way; then as it was.
      const ways = numeric(k) ? [-1, 1, 0] : [1, -1, 0];
      state.direction = state.column === k ? ways[(ways.indexOf(state.direction) + 1) % 3] : ways[0];
      state.column = k;
      sort();
    }),
  );
  search.addEventListener("input", filter);
  find(".by-column", root).addEventListener("click", ({ currentTarget: button }) => {
    if (!inputs.size) table.tHead.append(filterRow(heads, inputs, filter, numeric));
    const line = table.tHead.rows[1];
    line.hidden = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!line.hidden));
    if (line.hidden) inputs.forEach((input) => (input.value = ""));
    else find("input", line).focus();
    filter();
  });
  find(".csv", root).addEventListener("click", () => {
    const kept = [...body.rows].filter((row) => !row.hidden);
    download(`${root.dataset.table}.csv`, csvOf(heads, kept));
  });
  body.addEventListener("keydown", (event) => walk(event, body));
  filter();
}

function filterRow(heads, inputs, filter, numeric) {
  const line = make("tr", { class: "filter-row", hidden: true });
  heads.forEach((head, k) => {
    const cell = make("td");
    if (head.dataset.key) {
      const label = `Filter by ${find(".sort", head).textContent.trim()}`;
      const input = make("input", { type: "search", "aria-label": label, placeholder: numeric(k) ? "> 0.5" : "contains", autocomplete: "off" });
      input.addEventListener("input", filter);
      inputs.set(k, input);
      cell.append(input);
    }
    line.append(cell);
  });
  return line;
}

// Whether a value meets what was typed: `> 0.5`, `0.2..0.4`, `90 %` for numbers, a part of it for texts.
export function holds(typed, value, kind) {
  if (kind !== "number" && kind !== "percent") return (value ?? "").toLowerCase().includes(typed.trim().toLowerCase());
  const range = BETWEEN.exec(typed);
  const one = CONDITION.exec(typed);
  if (!range && !one) return true; // not yet written to its end
  if (value === null) return false;
  const scale = (range ?? one)[3] ? 0.01 : 1;
  if (range) return value >= range[1] * scale && value <= range[2] * scale;
  const bound = one[2] * scale;
  switch (one[1]) {
    case "<": return value < bound;
    case "<=": return value <= bound;
    case ">": return value > bound;
    case ">=": return value >= bound;
    default: return Math.abs(value - bound) <= 1e-9 * Math.max(1, Math.abs(bound));
  }
}

function csvOf(heads, rows) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const columns = heads.map((head, k) => k).filter((k) => heads[k].dataset.key);
  const text = (cell) => cell.dataset.v ?? (cell.textContent.trim() === "\u2013" ? "" : cell.textContent.trim());
  const lines = rows.map((row) => columns.map((k) => quoted(text(row.cells[k]))).join(","));
  return [columns.map((k) => quoted(heads[k].dataset.key)).join(","), ...lines, ""].join("\n");
}

// One number of a table is reached by Tab, the others from there by the arrow keys.
function rove(body) {
  const numbers = all(".v", body);
  numbers.forEach((number) => (number.tabIndex = -1));
  const first = numbers.find((number) => !number.closest("tr").hidden);
  if (first) first.tabIndex = 0;
}

function walk(event, body) {
  const now = event.target.closest(".v");
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!now || !steps) return;
  event.preventDefault();
  const rows = [...body.rows].filter((row) => !row.hidden);
  let row = rows.indexOf(now.closest("tr"));
  let column = now.closest("td").cellIndex;
  for (;;) {
    row += steps[0];
    column += steps[1];
    const cell = rows[row]?.cells[column];
    if (!cell) return;
    const next = find(".v", cell);
    if (!next) continue;
    now.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    return;
  }
}

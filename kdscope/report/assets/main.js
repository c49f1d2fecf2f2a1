// Everything awakes: `data-ready` on the page says when it had.

import { all, find, readIsland } from "./dom.js";
import { themeButton } from "./colours.js";
import { openCards } from "./cards.js";
import { liveTable } from "./tables.js";
import { liveCharts } from "./charts.js";
import { liveExplorer } from "./explorer.js";
import { liveBoxes } from "./boxes.js";

themeButton(find(".theme"));
const cards = readIsland("cards");
openCards(cards);
all("[data-table]").forEach(liveTable);
liveCharts();
watchContents();
await liveExplorer(cards);
await liveBoxes(cards);
document.documentElement.dataset.ready = Math.round(performance.now()); // ms since the page was asked for

// Mark in the contents the section that is being read.
function watchContents() {
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const watch = new IntersectionObserver(
    (entries) => {
      entries.forEach(({ target, isIntersecting }) => (isIntersecting ? seen.add(target.id) : seen.delete(target.id)));
      const now = [...links.keys()].find((id) => seen.has(id));
      links.forEach((link, id) => (id === now ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
    },
    { rootMargin: "-10% 0px -70% 0px" },
  );
  links.forEach((_, id) => document.getElementById(id) && watch.observe(document.getElementById(id)));
}

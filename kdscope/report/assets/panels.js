// The networks side by side: the image under each one's map, and what each answers, in words and bars.

import { all, find, make, percent } from "./dom.js";
import { drawImage, drawMap, drawOutline, placeOf } from "./canvas.js";
import { mapOf, maskOf } from "./overlap.js";

const TITLE = { teacher: "Teacher", student: "Student", alone: "Without a teacher" };

// One panel for each network, made once for a cast and drawn again for each image or setting.
export function drawPanels(root, models, view) {
  const names = models.map((model) => model.name).join("\n");
  if (root.dataset.names !== names) {
    root.dataset.names = names;
    root.replaceChildren(...models.map(panel));
  }
  all(".panel", root).forEach((element, k) => drawPanel(element, models[k], view));
}

function panel(model) {
  return make("figure", { class: "panel", "data-role": model.role },
    make("figcaption", {}, make("span", { class: "role", "data-role": model.role }), make("strong", {}, TITLE[model.role]), make("bdi", { title: model.name }, model.name)),
    make("canvas", { role: "img", width: 256, height: 256 }),
    make("p", { class: "answer" }),
    make("ul", { class: "bars" }));
}

function drawPanel(element, model, { data, image, sprite, kind, how, opacity, scale, masks }) {
  const canvas = find("canvas", element);
  element.hidden = image === null;
  if (image === null) return;
  const context = drawImage(canvas, sprite, data.image_size, data.columns, image);
  const set = model.maps[kind];
  const map = set && mapOf(set, image);
  let said = "no map of this kind";
  if (map) {
    const grid = [set.height, set.width];
    const mask = masks && maskOf(set, image, how);
    drawMap(context, map, grid, scale, opacity);
    if (mask) drawOutline(context, mask, grid);
    said = `${set.label}, highest at the ${placeOf(map, grid)}`;
  }
  const [truth, answer] = [data.labels[image], model.prediction[image]];
  const sure = percent(model.confidence[image] / 255);
  const verdict = answer === truth ? "right" : "wrong";
  canvas.setAttribute("aria-label", `${TITLE[model.role]} ${model.name} on image ${data.index[image]} (${data.classes[truth]}): ${said}; answers ${data.classes[answer]} at ${sure}, ${verdict}`);
  find(".answer", element).replaceChildren(
    make("span", { class: `verdict ${verdict}` }, answer === truth ? "✓" : "✗"), " ", make("bdi", {}, data.classes[answer]), " ", make("span", { class: "sure" }, sure), make("span", { class: "hidden" }, ` (${verdict})`));
  find(".bars", element).replaceChildren(...barsOf(model, image).map(([klass, share]) =>
    make("li", { class: klass === truth ? "true" : "" }, make("bdi", { title: data.classes[klass] }, data.classes[klass]), bar(share), make("span", {}, percent(share)))));
}

function bar(share) {
  const element = make("span", { class: "bar", "aria-hidden": "true" }, make("i"));
  element.firstChild.style.width = `${100 * share}%`;
  return element;
}

// The best classes with their confidences; where they were not kept, the answer alone.
function barsOf(model, image) {
  if (!model.top || !model.topConfidence) return [[model.prediction[image], model.confidence[image] / 255]];
  const at = image * model.top_count;
  return Array.from({ length: model.top_count }, (_, k) => [model.top[at + k], model.topConfidence[at + k] / 255]);
}

// The networks side by side: the image under each one's map, and what each answers, in words and bars.

import { all, find, make, percent } from "./dom.js";
import { PALETTE } from "./colours.js";
import { drawImage, drawMap, drawMeeting, drawOutline, placeOf } from "./canvas.js";
import { mapOf, maskOf } from "./overlap.js";

export const TITLE = { teacher: "Teacher", student: "Student", alone: "Without a teacher" };

// One panel for each network, made once for a cast and drawn again for each image or setting.
export function drawPanels(root, models, view) {
  const names = models.map((model) => model.name).join("\n");
  if (root.dataset.names !== names) {
    root.dataset.names = names;
    root.replaceChildren(...models.map(panel), meetingPanel(models));
  }
  all(".panel[data-role]", root).forEach((element, k) => drawPanel(element, models[k], view));
  drawMeetingPanel(find(".meeting", root), models, view);
}

function panel(model) {
  return make("figure", { class: "panel", "data-role": model.role },
    whoseOf(model),
    make("canvas", { role: "img", width: 256, height: 256 }),
    make("p", { class: "answer" }),
    make("ul", { class: "bars" }));
}

export const whoseOf = (model) =>
  make("figcaption", {}, make("span", { class: "role", "data-role": model.role }), make("strong", {}, TITLE[model.role]), make("bdi", { title: model.name }, model.name));

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

// Teacher (the first, where there are several) and student on one picture: what both attend to, and what one does.
function meetingPanel(models) {
  const teachers = models.filter((model) => model.role === "teacher");
  const whose = teachers.length > 1 ? make("bdi", {}, `with ${teachers[0].name}`) : null;
  const key = (name, text) => make("li", {}, make("span", { class: "role", "data-role": name }), text, " ", make("span", { "data-count": name }));
  return make("figure", { class: "panel meeting" },
    make("figcaption", {}, make("strong", {}, "Overlap"), whose),
    make("canvas", { role: "img", width: 256, height: 256 }),
    make("ul", { class: "keys" }, key("both", "both"), key("teacher", "teacher only"), key("student", "student only")));
}

function drawMeetingPanel(element, models, { data, image, sprite, kind, how }) {
  const [teacher, student] = ["teacher", "student"].map((role) => models.find((model) => model.role === role)?.maps[kind]);
  const masks = image === null ? [] : [teacher, student].map((set) => set && maskOf(set, image, how));
  element.hidden = !(masks[0] && masks[1]);
  if (element.hidden) return;
  const canvas = find("canvas", element);
  const context = drawImage(canvas, sprite, data.image_size, data.columns, image);
  drawMeeting(context, ...masks, [student.height, student.width], [PALETTE[9], PALETTE[1], PALETTE[2]]);
  const cells = masks[0].length;
  const counts = { both: 0, teacher: 0, student: 0 };
  for (let k = 0; k < cells; k++) {
    const [t, s] = [masks[0][k] > 0, masks[1][k] > 0];
    if (t || s) counts[t && s ? "both" : t ? "teacher" : "student"]++;
  }
  for (const [name, count] of Object.entries(counts)) find(`[data-count="${name}"]`, element).textContent = count;
  canvas.setAttribute("aria-label", `Of ${cells} cells of image ${data.index[image]}, both attend to ${counts.both}, the teacher alone to ${counts.teacher}, the student alone to ${counts.student}`);
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

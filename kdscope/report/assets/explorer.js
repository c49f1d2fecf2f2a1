// The explorer: choose an image, and see where teacher, student and the student without a teacher look, and how much
// of it they share.

import { all, find, make, percent, readIsland, thousands } from "./dom.js";
import { DIVERGING, gradient, SCALES } from "./colours.js";
import { bytesOf } from "./maps.js";
import { cellsOf, ordered, passing, unpacked } from "./answers.js";
import { overlaps } from "./overlap.js";
import { fillMeans, fillOverlap } from "./ious.js";
import { drawPanels } from "./panels.js";
import { Filmstrip } from "./filmstrip.js";

const START = 25; // per cent of the area, where the cut is made at first
const ROLE = { teacher: "teacher", student: "student", alone: "without a teacher" };

export async function liveExplorer(cards) {
  const island = readIsland("images");
  if (!island) return;
  const explorer = new Explorer(unpacked(island), find("#explorer"), cards);
  await explorer.begin();
}

// A picture in the text of the page under a short address, which hundreds of elements can share.
function addressOf(dataUri) {
  const [head, body] = dataUri.split(",");
  return URL.createObjectURL(new Blob([bytesOf(body)], { type: head.slice(5).split(";")[0] }));
}

export class Explorer {
  constructor(data, root, cards) {
    Object.assign(this, { data, root, cards, image: null, kept: [], iou: new Map(), asked: 0 });
    this.filters = find(".filters", root);
    this.controls = find(".controls", root);
    this.field = (name) => find(`[name="${name}"]`, root);
  }

  async begin() {
    const { data } = this;
    this.sprite = new Image();
    this.sprite.src = addressOf(data.sprite);
    await this.sprite.decode();
    this.offer();
    const rows = Math.ceil(data.count / data.columns);
    this.film = new Filmstrip(find(".film", this.root), this.sprite.src, data.columns, rows, (k) => this.describe(k), (k) => {
      this.image = k;
      this.drawImage();
    });
    this.listen();
    this.choosePair();
  }

  // An image in words, and what it is a case of.
  describe(k) {
    return `Image ${this.data.index[k]}, ${this.data.classes[this.data.labels[k]]}`;
  }

  fill(name, entries) {
    this.field(name).replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
  }
  // A choice that is hidden where there is none.
  options(name, entries) {
    this.fill(name, entries);
    this.field(name).closest("label").hidden = entries.length < 2;
  }

  // Who stands side by side.
  offerCasts() {
    const { data } = this;
    const students = [...new Set(data.pairs.map((pair) => pair.student))];
    this.casts = students.map((student) => {
      const pairs = data.pairs.filter((pair) => pair.student === student);
      return { student, others: [], teachers: pairs.map((pair) => pair.teacher), alone: pairs.find((pair) => pair.alone)?.alone ?? null };
    });
    // Networks that nobody taught stand side by side: there are no cells, and no overlap.
    const [student, ...others] = data.models.map((model) => model.name);
    this.taught = students.length > 0;
    if (!this.taught) this.casts = [{ student, others, teachers: [], alone: null }];
    this.options("pair", this.casts.map((cast, k) => [k, `${cast.student} ~ ${cast.teachers.join(", ")}`]));
    this.options("class", [[-1, "all"], ...data.classes.map((name, k) => [k, name])]);
  }

  offerCells(names) {
    find(".cells", this.filters).hidden = !names.length;
    find(".cells", this.filters).append(
      ...names.map((name, k) =>
        make("label", { class: "chip" }, make("input", { type: "checkbox", name: "cell", value: k, checked: true }), make("span", {}, name), make("output", { "data-cell": k }))),
    );
  }

  offerMaps() {
    const { data } = this;
    this.options("scale", SCALES.map((name) => [name, name]));
    const label = (kind) => data.models.map((model) => model.maps[kind]?.label).find(Boolean) ?? kind;
    this.options("kind", data.map_kinds.map((kind) => [kind, label(kind)]));
  }

  // Fill the controls with what there is to choose from.
  offer() {
    const { data } = this;
    this.offerCasts();
    this.offerCells(this.taught ? data.cells : []);
    this.offerMaps();
    const overlap = this.taught && data.map_kinds.length ? [["iou-up", "IoU, lowest first"], ["iou-down", "IoU, highest first"]] : [];
    this.options("order", [["index", "as in the split"], ...overlap, ["sure-down", "confidence, highest first"], ["sure-up", "confidence, lowest first"]]);
    this.controls.hidden = !data.map_kinds.length;
    if (this.signed()) this.field("scale").value = DIVERGING;
  }

  listen() {
    this.filters.addEventListener("submit", (event) => event.preventDefault());
    this.filters.addEventListener("reset", () => setTimeout(() => this.choosePair()));
    this.filters.addEventListener("input", ({ target }) => {
      if (target.name === "pair") this.choosePair();
      else this.filter(target.name);
    });
    this.controls.addEventListener("input", ({ target }) => this.control(target.name));
    find(".previous", this.root).addEventListener("click", () => this.film.select(Math.max(0, this.film.at - 1)));
    find(".next", this.root).addEventListener("click", () => this.film.select(this.film.at + 1));
  }

  control(name) {
    if (name === "cut") this.chooseCut();
    if (name === "kind") this.field("scale").value = this.signed() ? DIVERGING : this.field("scale").value === DIVERGING ? SCALES[0] : this.field("scale").value;
    this.drawImage();
    if (["cut", "kind", "threshold"].includes(name)) this.measure();
  }

  // What a slider stands at, in words beside it and for those who hear it.
  say(name, text) {
    find(`[data-of="${name}"]`, this.root).textContent = text;
    this.field(name).setAttribute("aria-valuetext", text);
  }

  get kind() {
    return this.field("kind").value;
  }
  get how() {
    return { cut: this.field("cut").value, share: Number(this.field("threshold").value) / 100 };
  }
  get cast() {
    return this.casts[this.field("pair").value || 0];
  }
  // The networks side by side: all teachers, their student, the same student without them.
  get models() {
    const { teachers, student, alone, others } = this.cast;
    return [...new Set([...teachers, student, ...(alone ? [alone] : []), ...others])].map((name) => this.data.byName.get(name));
  }
  signed() {
    return this.data.models.some((model) => model.maps[this.field("kind").value]?.signed);
  }
  // Every comparison that the table shows: the student with each teacher, and under it the one without a teacher.
  get comparisons() {
    const { student, teachers, alone } = this.cast;
    const name = (each) => this.data.byName.get(each);
    return teachers
      .flatMap((teacher) => [student, ...(alone ? [alone] : [])].map((one) => [name(one), name(teacher)]))
      .filter(([one, other]) => one.maps[this.kind] && other.maps[this.kind]);
  }

  choosePair() {
    const { data } = this;
    const models = this.models;
    const teacher = data.byName.get(this.cast.teachers[0]);
    const student = data.byName.get(this.cast.student);
    this.cells = teacher ? cellsOf(data.labels, student.prediction, teacher.prediction) : new Uint8Array(data.count);
    this.fill("answer", [["any", "any"], ...models.flatMap((model) => ["right", "wrong"].map((verdict) => [`${verdict} ${model.name}`, `${ROLE[model.role]} ${verdict}${this.told(model)}`]))]);
    this.fill("who", models.map((model) => [model.name, `${ROLE[model.role]}${this.told(model)}`]));
    this.field("who").value = student.name;
    this.filter();
    this.measure();
  }

  // A name, where its role alone does not say who it is.
  told(model) {
    return this.models.filter((other) => other.role === model.role).length > 1 ? ` (${model.name})` : "";
  }

  chooseCut() {
    const area = this.how.cut === "area";
    const first = area ? START : Math.round(100 * (this.data.iou_thresholds[0] ?? 0.4));
    Object.assign(this.field("threshold"), { max: area ? 50 : 95, value: first });
  }

  filter(changed) {
    const [low, high] = [this.field("low"), this.field("high")];
    if (Number(low.value) > Number(high.value)) (changed === "low" ? high : low).value = (changed === "low" ? low : high).value;
    this.say("low", percent(low.value / 100));
    this.say("high", percent(high.value / 100));
    const { kept, counts } = passing(this.data, this.cells, {
      cells: this.taught ? this.cellsChosen : new Set([0]),
      klass: Number(this.field("class").value), answer: this.field("answer").value, who: this.field("who").value,
      low: Number(low.value), high: Number(high.value),
    });
    this.showKept(kept, this.taught ? counts : [], changed);
    this.drawMeans();
  }

  get cellsChosen() {
    return new Set(all('[name="cell"]:checked', this.filters).map((box) => Number(box.value)));
  }

  // The images that the filters leave, and how many there are of each case.
  showKept(kept, counts, changed) {
    counts.forEach((count, k) => (find(`[data-cell="${k}"]`, this.filters).value = thousands(count)));
    this.kept = this.sorted(kept);
    find(".chosen", this.filters).value = `${thousands(kept.length)} of ${thousands(this.data.count)} images`;
    this.film.show(this.kept, changed === "order" ? this.kept[0] : this.image);
  }

  sorted(images) {
    const [by, way] = this.field("order").value.split("-");
    const direction = way === "down" ? -1 : 1;
    if (by === "sure") {
      const { confidence } = this.data.byName.get(this.field("who").value);
      return ordered(images, (k) => confidence[k], direction);
    }
    const iou = this.iou.get(this.key(...(this.comparisons[0] ?? [])));
    return by === "iou" && iou ? ordered(images, (k) => iou[k], direction) : images;
  }

  key(one, other) {
    return [one?.name, other?.name, this.kind, this.how.cut, this.how.share].join("\n");
  }

  // All images at the cut that is now set; a newer cut ends the work on an older one.
  async measure() {
    const turn = ++this.asked;
    const table = find(".overlap", this.root);
    table.setAttribute("aria-busy", "true");
    const found = new Map();
    for (const [one, other] of this.comparisons) {
      const key = this.key(one, other);
      const values =
        this.iou.get(key) ??
        (await overlaps(one.maps[this.kind], other.maps[this.kind], this.data.count, this.how, () => turn !== this.asked));
      if (turn !== this.asked) return;
      found.set(key, values);
    }
    this.iou = found;
    if (this.field("order").value.startsWith("iou")) this.filter();
    this.drawMeans();
    table.setAttribute("aria-busy", "false");
  }

  drawImage() {
    const { data, image } = this;
    const empty = image === null;
    find(".stage", this.root).classList.toggle("empty", empty);
    const { cut, share } = this.how;
    this.say("opacity", percent(this.field("opacity").value / 100));
    this.say("threshold", cut === "area" ? `top ${percent(share)}` : `above ${percent(share)}`);
    this.field("scale").style.setProperty("--scale", gradient(this.field("scale").value));
    const about = empty ? ["No image is left"] : [`Image ${thousands(data.index[image])}`, data.classes[data.labels[image]], ...(this.taught ? [data.cells[this.cells[image]]] : [])];
    find(".image-title", this.root).textContent = about.join(" · ");
    drawPanels(find(".panels", this.root), this.models, {
      data, image, sprite: this.sprite, kind: this.kind, how: this.how,
      opacity: Number(this.field("opacity").value) / 100, scale: this.field("scale").value, masks: this.field("masks").checked,
    });
    this.drawOverlap();
  }

  // The table of IoU: its rows for the chosen image, then the means over the images that are left.
  drawOverlap() {
    const rows = this.comparisons.map(([one, other]) => [one, other, this.key(one, other)]);
    fillOverlap(find(".overlap", this.root), rows, this.kind, this.how, this.image, this.cards);
    this.drawMeans();
  }

  drawMeans() {
    fillMeans(find(".overlap", this.root), this.iou, this.kept);
  }
}

// The explorer of detectors: choose an image, and see what teacher, student and the student without a teacher find in it,
// what they miss, and which mistakes they make.

import { all, find, make, percent, readIsland, thousands } from "./dom.js";
import { gradient } from "./colours.js";
import { ordered } from "./answers.js";
import { foundAt, MISTAKES, tally, unpackedBoxes } from "./coco.js";
import { drawBoxPanels } from "./box_panels.js";
import { Explorer } from "./explorer.js";
import { TITLE } from "./panels.js";

// What an image is a case of; the last is what is none of the others.
const OUTCOMES = ["transfer", "beyond the teacher", "harm", "all right", "the rest"];
const [TRANSFER, BEYOND, HARM, ALL_RIGHT, REST] = OUTCOMES.keys();
const OWN = "own"; // each network is cut at the score of its own largest F1

export async function liveBoxes(cards) {
  const island = readIsland("box-images");
  if (!island) return;
  await new BoxExplorer(unpackedBoxes(island), find("#boxes"), cards).begin();
}

class BoxExplorer extends Explorer {
  offer() {
    const { data } = this;
    this.offerCasts();
    this.outcomes = data.pairs.some((pair) => pair.alone) ? [...OUTCOMES.keys()] : [ALL_RIGHT, REST];
    this.offerCells(this.outcomes.map((k) => OUTCOMES[k]));
    this.offerMaps();
    for (const name of ["kind", "scale", "opacity"]) this.field(name).closest("label").hidden = !data.map_kinds.length;
    this.options("order", [["index", "as in the split"], ["wrong-down", "mistakes, most first"], ["missed-down", "not found, most first"], ["objects-down", "objects, most first"]]);
    this.field("score").min = Math.ceil(100 * Math.max(...data.models.map((model) => model.least)));
  }

  describe(k) {
    const { starts, labels, crowd } = this.data.truth;
    const counts = new Map();
    for (let at = starts[k]; at < starts[k + 1]; at++)
      if (!crowd[at]) counts.set(labels[at], (counts.get(labels[at]) ?? 0) + 1);
    const named = [...counts].map(([label, count]) => `${this.data.classes[label]}${count > 1 ? ` ×${count}` : ""}`);
    return [`Image ${thousands(this.data.index[k])}`, ...(named.length ? named : ["no object"])].join(" · ");
  }

  // From which score on the detections of a network count.
  cutOf(model) {
    return this.field("cut").value === OWN ? model.score ?? Infinity : Number(this.field("score").value) / 100;
  }

  control(name) {
    if (name === "score") this.field("cut").value = "one";
    if (name === "cut" || name === "score") this.measure();
    else this.drawImage();
  }

  choosePair() {
    this.fill("who", this.models.map((model) => [model.name, TITLE[model.role] + this.told(model)]));
    this.field("who").value = this.cast.student;
    this.fill("errors", [["any", "any"], ["none", "no mistake"], ...MISTAKES.map((name, k) => [k, `with ${name}`]), ["wrong", "with any mistake"], ["missed", "with objects not found"]]);
    this.measure();
  }

  // Everything at the scores that are now set: who found what in each image, and what that makes of it.
  measure() {
    const { data, models } = this;
    this.cuts = new Map(models.map((model) => [model.name, this.cutOf(model)]));
    this.tallies = new Map(models.map((model) => [model.name, Array.from({ length: data.count }, (_, k) => tally(model, data.truth, k, this.cuts.get(model.name)))]));
    this.cases = Array.from({ length: data.count }, (_, k) => this.casesOf(k));
    this.filter();
    this.drawImage();
  }

  // The outcomes of an image: those of any of its objects, or what is right as a whole.
  casesOf(k) {
    const { data, models } = this;
    const { starts, crowd } = data.truth;
    const found = new Set();
    const { teachers, student, alone } = this.cast;
    const hit = (name, object) => foundAt(data.byName.get(name), object, this.cuts.get(name));
    if (teachers.length && alone)
      for (let object = starts[k]; object < starts[k + 1]; object++) {
        if (crowd[object]) continue;
        const [t, b, s] = [hit(teachers[0], object), hit(alone, object), hit(student, object)];
        if (s && !b) found.add(t ? TRANSFER : BEYOND);
        if (b && !s) found.add(HARM);
      }
    const right = models.every((model) => {
      const { wrong, missed } = this.tallies.get(model.name)[k];
      return !wrong.length && !missed.length;
    });
    if (right) found.add(ALL_RIGHT);
    return found.size ? found : found.add(REST);
  }

  filter(changed) {
    const { data } = this;
    const chosen = new Set([...this.cellsChosen].map((k) => this.outcomes[k]));
    const [klass, errors] = [Number(this.field("class").value), this.field("errors").value];
    const tallies = this.tallies.get(this.field("who").value);
    const counts = this.outcomes.map(() => 0);
    const kept = [];
    for (let k = 0; k < data.count; k++) {
      if (klass >= 0 && !this.has(k, klass)) continue;
      if (!passes(tallies[k], errors)) continue;
      this.outcomes.forEach((outcome, at) => (counts[at] += this.cases[k].has(outcome)));
      if ([...this.cases[k]].some((outcome) => chosen.has(outcome))) kept.push(k);
    }
    this.showKept(kept, counts, changed);
    this.drawTotals();
  }

  has(k, klass) {
    const { starts, labels } = this.data.truth;
    return labels.subarray(starts[k], starts[k + 1]).includes(klass);
  }

  sorted(images) {
    const [by] = this.field("order").value.split("-");
    const tallies = this.tallies.get(this.field("who").value);
    const { starts } = this.data.truth;
    const key = { wrong: (k) => tallies[k].wrong.length, missed: (k) => tallies[k].missed.length, objects: (k) => starts[k + 1] - starts[k] }[by];
    return key ? ordered(images, key, -1) : images;
  }

  drawImage() {
    const { data, image, models } = this;
    const empty = image === null;
    find(".stage", this.root).classList.toggle("empty", empty);
    this.say("opacity", percent(this.field("opacity").value / 100));
    this.say("score", this.field("cut").value === OWN ? "of each network" : percent(this.field("score").value / 100));
    this.field("scale").style.setProperty("--scale", gradient(this.field("scale").value));
    const cases = empty ? [] : [...this.cases[image]].filter((k) => k !== REST).map((k) => OUTCOMES[k]);
    find(".image-title", this.root).textContent = empty ? "No image is left" : [this.describe(image), ...cases].join(" · ");
    drawBoxPanels(find(".panels", this.root), models, {
      data, image, sprite: this.sprite, tallies: this.tallies, names: this.field("names").checked, objects: this.field("objects").checked,
      kind: this.field("kind").value, opacity: Number(this.field("opacity").value) / 100, scale: this.field("scale").value,
    });
  }

  // What each network found in all images that are left.
  drawTotals() {
    const rows = this.models.map((model) => {
      const sums = { right: 0, missed: 0, wrong: 0, kinds: MISTAKES.map(() => 0) };
      for (const k of this.kept) {
        const { right, wrong, missed, kinds } = this.tallies.get(model.name)[k];
        sums.right += right.length;
        sums.wrong += wrong.length;
        sums.missed += missed.length;
        kinds.forEach((count, kind) => (sums.kinds[kind] += count));
      }
      const cut = this.cuts.get(model.name);
      const cell = (key, value) => make("td", { class: "num", "data-key": key, "data-v": value }, thousands(value));
      return make("tr", { "data-network": model.name },
        make("th", { scope: "row" }, make("span", { class: "role", "data-role": model.role }), TITLE[model.role], " ", make("small", {}, make("bdi", {}, model.name))),
        make("td", { class: "num", "data-key": "score", "data-v": cut }, Number.isFinite(cut) ? percent(cut, 1) : "–"),
        cell("right", sums.right), cell("missed", sums.missed), cell("wrong", sums.wrong), ...sums.kinds.map((count, kind) => cell(MISTAKES[kind], count)));
    });
    find(".totals tbody", this.root).replaceChildren(...rows);
    all(".totals caption span", this.root)[0].textContent = `${thousands(this.kept.length)} image${this.kept.length === 1 ? "" : "s"}, by COCO’s rule at an IoU of ${this.data.iou}: the most certain detection takes the object of its class with the most overlap.`;
  }
}

function passes({ wrong, kinds, missed }, errors) {
  if (errors === "any") return true;
  if (errors === "none") return !wrong.length && !missed.length;
  if (errors === "wrong") return wrong.length > 0;
  return errors === "missed" ? missed.length > 0 : kinds[errors] > 0;
}

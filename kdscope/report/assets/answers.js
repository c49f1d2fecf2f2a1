// What the networks answered: the cell of fidelity that each image falls in, and which images the filters leave.

import { bytesOf, int32Of, uint16Of } from "./maps.js";

// The explorer's island with its arrays unpacked.
export function unpacked(explorer) {
  const models = explorer.models.map((model) => ({
    ...model,
    prediction: uint16Of(model.prediction),
    confidence: bytesOf(model.confidence),
    top: model.top && uint16Of(model.top),
    topConfidence: model.top_confidence && bytesOf(model.top_confidence),
    maps: Object.fromEntries(Object.entries(model.maps).map(([kind, map]) => [kind, { ...map, bytes: bytesOf(map.data), knownBytes: map.known && bytesOf(map.known) }])),
  }));
  return { ...explorer, models, byName: new Map(models.map((model) => [model.name, model])), labels: uint16Of(explorer.labels), index: int32Of(explorer.index) };
}

// The cell of each image, in the order of `explorer.cells`: both right, the same error, only the student right, only the
// teacher right, different errors.
export function cellsOf(labels, student, teacher) {
  return Uint8Array.from(labels, (label, k) => {
    const [s, t] = [student[k], teacher[k]];
    if (s === label) return t === label ? 0 : 2;
    if (t === label) return 3;
    return s === t ? 1 : 4;
  });
}

// The images that pass, in the order asked for. `chosen`: cells (a set), klass (or -1), answer ("any", or right/wrong of
// a network), who (whose confidence), low, high (0..100).
export function passing(data, cells, chosen) {
  const who = data.byName.get(chosen.who);
  const [verdict, judged] = [chosen.answer.slice(0, 5), data.byName.get(chosen.answer.slice(6))];
  const kept = [];
  const counts = new Array(data.cells.length).fill(0);
  for (let k = 0; k < data.count; k++) {
    if (chosen.klass >= 0 && data.labels[k] !== chosen.klass) continue;
    if (judged && (judged.prediction[k] === data.labels[k]) !== (verdict === "right")) continue;
    const share = (100 * who.confidence[k]) / 255;
    if (share < chosen.low || share > chosen.high) continue;
    counts[cells[k]]++;
    if (chosen.cells.has(cells[k])) kept.push(k);
  }
  return { kept, counts };
}

// A stable order by a key; what has none stands last.
export function ordered(images, key, direction) {
  return images.slice().sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return direction * (x - y) || a - b;
  });
}

// Which detection found which object, by COCO's rule, and of what kind each mistake is (Bolya et al., ECCV 2020), as
// kdscope.detection.matching and kdscope.detection.error_types say it.

import { bytesOf, int32Of, uint16Of } from "./maps.js";

export const MISTAKES = ["localisation", "classification", "duplicate", "background", "both"];
const [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND, BOTH] = MISTAKES.keys();
const NONE = -1;
const WHOLE = 65535; // of a width, a height, or a score

const uint32Of = (base64) => new Uint32Array(bytesOf(base64).buffer);

// Where the things of each image begin, and where the last ones end.
function startsOf(counts) {
  const starts = new Uint32Array(counts.length + 1);
  counts.forEach((count, k) => (starts[k + 1] = starts[k] + count));
  return starts;
}

// The island with its arrays unpacked, and every detector matched: what is right does not depend on the score from which
// detections count, for each takes its object before all that are less certain.
export function unpackedBoxes(island) {
  const truth = { starts: startsOf(uint32Of(island.truth_counts)), boxes: uint16Of(island.truth_boxes), labels: uint16Of(island.truth_labels), crowd: bytesOf(island.truth_crowd) };
  const data = { ...island, truth, index: int32Of(island.index), places: uint16Of(island.places) };
  data.models = island.models.map((model) => {
    const found = { starts: startsOf(uint32Of(model.counts)), boxes: uint16Of(model.boxes), scores: Float64Array.from(uint16Of(model.scores), (score) => score / WHOLE), labels: uint16Of(model.labels) };
    const maps = Object.fromEntries(Object.entries(model.maps).map(([kind, map]) => [kind, { ...map, bytes: bytesOf(map.data), knownBytes: null }]));
    return { ...model, ...found, ...matched(found, truth, data), maps };
  });
  data.byName = new Map(data.models.map((model) => [model.name, model]));
  return data;
}

// Of a detector: `object` of each detection (or -1), `counts`, whether it is right or wrong at all, `kind` of mistake (or
// -1), and `finder` of each object (or -1).
export function matched(found, truth, { count, iou, background, cap }) {
  const size = found.labels.length;
  const result = { object: new Int32Array(size).fill(NONE), counts: new Uint8Array(size), kind: new Int8Array(size).fill(NONE), finder: new Int32Array(truth.labels.length).fill(NONE) };
  const least = Math.min(iou, 1 - 1e-10);
  for (let image = 0; image < count; image++) {
    const rows = Array.from({ length: found.starts[image + 1] - found.starts[image] }, (_, k) => found.starts[image] + k);
    rows.sort((a, b) => found.scores[b] - found.scores[a] || a - b);
    const ranks = new Map();
    for (const row of rows) {
      const rank = ranks.get(found.labels[row]) ?? 0;
      ranks.set(found.labels[row], rank + 1);
      if (rank < cap) take(row, image, found, truth, least, result);
    }
    for (const row of rows) if (result.counts[row] && result.object[row] === NONE) result.kind[row] = kindOf(row, image, found, truth, iou, background);
  }
  return result;
}

// The free object of its class with the most overlap; a crowd only where there is none. Of equal ones the last.
function take(row, image, found, truth, least, { object, counts, finder }) {
  for (const crowd of [0, 1]) {
    let best = NONE;
    let most = least;
    for (let other = truth.starts[image]; other < truth.starts[image + 1]; other++) {
      if (truth.crowd[other] !== crowd || truth.labels[other] !== found.labels[row] || finder[other] !== NONE) continue;
      const overlap = sharedPart(found.boxes, row, truth.boxes, other, crowd);
      if (overlap >= most) [best, most] = [other, overlap];
    }
    if (best === NONE) continue;
    object[row] = best;
    counts[row] = 1 - crowd;
    if (!crowd) finder[best] = row;
    return;
  }
  counts[row] = extent(found.boxes, row) >= 0 ? 1 : 0;
}

// An object of its class at `iou` that it did not get is one that a better detection has.
function kindOf(row, image, found, truth, iou, background) {
  let [same, other, any] = [-1, -1, -1];
  for (let k = truth.starts[image]; k < truth.starts[image + 1]; k++) {
    if (truth.crowd[k]) continue;
    const overlap = sharedPart(found.boxes, row, truth.boxes, k, 0);
    any = Math.max(any, overlap);
    if (truth.labels[k] === found.labels[row]) same = Math.max(same, overlap);
    else other = Math.max(other, overlap);
  }
  if (same >= background && same < iou) return LOCALISATION;
  if (other >= iou) return CLASSIFICATION;
  if (same >= iou) return DUPLICATE;
  return any < background ? BACKGROUND : BOTH;
}

const extent = (boxes, k) => (boxes[4 * k + 2] - boxes[4 * k]) * (boxes[4 * k + 3] - boxes[4 * k + 1]);

// Shared over united area; with a crowd, the part of the box that lies in it.
function sharedPart(boxes, row, others, other, crowd) {
  const [a, b] = [4 * row, 4 * other];
  const across = Math.min(boxes[a + 2], others[b + 2]) - Math.max(boxes[a], others[b]);
  const down = Math.min(boxes[a + 3], others[b + 3]) - Math.max(boxes[a + 1], others[b + 1]);
  const shared = Math.max(across, 0) * Math.max(down, 0);
  const own = extent(boxes, row);
  const united = crowd ? own : own + extent(others, other) - shared;
  return united > 0 ? shared / united : 0;
}

// What a detector did in an image, of detections with at least `score`: rows of detections that are right and wrong, by
// kind how many, and objects that were found and not.
export function tally(model, truth, image, score) {
  const result = { right: [], wrong: [], kinds: new Array(MISTAKES.length).fill(0), found: [], missed: [] };
  for (let row = model.starts[image]; row < model.starts[image + 1]; row++) {
    if (!model.counts[row] || !(model.scores[row] >= score)) continue;
    if (model.object[row] !== NONE) result.right.push(row);
    else {
      result.wrong.push(row);
      result.kinds[model.kind[row]]++;
    }
  }
  for (let k = truth.starts[image]; k < truth.starts[image + 1]; k++)
    if (!truth.crowd[k]) (foundAt(model, k, score) ? result.found : result.missed).push(k);
  return result;
}

export const foundAt = (model, object, score) => model.finder[object] !== NONE && model.scores[model.finder[object]] >= score;

// How much the maps of two networks share at a cut: for one image at once, for all of them in slices of time.

import { sliced } from "./dom.js";
import { aboveRange, chanceIou, countOf, iouOf, topCells } from "./maps.js";

// The map of an image, or null where it has none.
export function mapOf(set, image) {
  const cells = set.height * set.width;
  return set.knownBytes && !set.knownBytes[image] ? null : set.bytes.subarray(image * cells, (image + 1) * cells);
}

// Its mask as weights: of the most attended share of the cells ("area": kdscope's definition, for which chance is
// known), or of what is above a share of the map's own range ("range": that of Guo et al.). Null where there is none.
export function maskOf(set, image, { cut, share }) {
  const map = mapOf(set, image);
  if (!map) return null;
  return cut === "area" ? topCells(map, countOf(share, map.length)) : aboveRange(map, share);
}

// The IoU of two maps of one image; NaN where one has no mask.
export const overlapOf = (a, b, image, how) => iouOf(maskOf(a, image, how), maskOf(b, image, how));

// The IoU of unrelated maps; a cut of the range has no one chance level, for its areas differ.
export function chanceOf({ height, width }, { cut, share }) {
  return cut === "area" ? chanceIou(countOf(share, height * width), height * width) : NaN;
}

// The IoU of each image, or null where a newer question came before the end.
export async function overlaps(a, b, count, how, stopped) {
  const found = new Float64Array(count);
  const whole = await sliced(count, (image) => (found[image] = overlapOf(a, b, image, how)), stopped);
  return whole ? found : null;
}

// Mean over some images of what is known, and of how many.
export function meanOf(values, images) {
  let sum = 0;
  let known = 0;
  for (const image of images)
    if (!Number.isNaN(values[image])) {
      sum += values[image];
      known++;
    }
  return [known ? sum / known : NaN, known];
}

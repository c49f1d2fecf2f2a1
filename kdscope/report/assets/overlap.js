// How much the maps of two networks share at a cut: for one image at once, for all of them in slices of time.

import { sliced } from "./dom.js";
import { aboveRange, chanceIou, countOf, interpolated, iouOf, pooled, topCells } from "./maps.js";

export const CUTS = {
  area: { start: 25, least: 1, most: 50, card: "attention-iou" },
  range: { start: 40, least: 5, most: 95, card: null },
};

const bytesAt = (set, image) => set.bytes.subarray(image * set.height * set.width, (image + 1) * set.height * set.width);
export const mapOf = bytesAt;
export const gridOf = (set) => [set.height, set.width];

// The grid on which two or more maps are compared: the smallest among them, for what lies between cells is not known;
// a cut of the range is made at the size of the image, as those who use it do.
export function commonGrid(sets, cut, size) {
  if (cut === "range") return [size, size];
  return [Math.min(...sets.map((set) => set.height)), Math.min(...sets.map((set) => set.width))];
}

// The mask of one image as weights on `grid`; null where the map is flat.
export function maskOf(set, image, { cut, share }, grid) {
  const map = bytesAt(set, image);
  if (cut === "range") return aboveRange(interpolated(map, gridOf(set), grid), share);
  const own = pooled(map, gridOf(set), grid);
  return topCells(own, countOf(share, own.length));
}

// The IoU of two maps of one image.
export function overlapOf(a, b, image, how, size) {
  const grid = commonGrid([a, b], how.cut, size);
  return iouOf(maskOf(a, image, how, grid), maskOf(b, image, how, grid));
}

// The IoU of unrelated maps; a cut of the range has no one chance level.
export function chanceOf(a, b, { cut, share }) {
  if (cut === "range") return NaN;
  const [rows, columns] = commonGrid([a, b], cut);
  return chanceIou(countOf(share, rows * columns), rows * columns);
}

// The IoU of each image, or null where a newer question came before the end.
export async function overlaps(a, b, count, how, size, stopped) {
  const found = new Float64Array(count);
  const whole = await sliced(count, (image) => (found[image] = overlapOf(a, b, image, how, size)), stopped);
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

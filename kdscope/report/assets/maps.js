// Arithmetic of maps, as kdscope.measures defines it: the top cells, cuts of the range, IoU and its chance level.

const EPSILON = 1e-8;

export function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  return bytes;
}
export const uint16Of = (base64) => new Uint16Array(bytesOf(base64).buffer);
export const int32Of = (base64) => new Int32Array(bytesOf(base64).buffer);

// numpy.round: halves go to the even neighbour.
export function roundEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 ? low + 1 : low;
}

// How many of `cells` cells a share of the area is: at least one, and not all.
export const countOf = (share, cells) => Math.min(Math.max(roundEven(share * cells), 1), Math.max(1, cells - 1));

// Linear interpolation from `small` to `large` points, as torch's with align_corners=False: rows of [small].
function linearWeights(small, large) {
  return Array.from({ length: large }, (_, to) => {
    const at = Math.min(Math.max((to + 0.5) * (small / large) - 0.5, 0), small - 1);
    const low = Math.floor(at);
    const row = new Float64Array(small);
    row[low] += 1 - (at - low);
    row[Math.min(low + 1, small - 1)] += at - low;
    return row;
  });
}

// down @ map @ across.T of one map [h, w]; the weights are sparse, so that zeros are left out.
function between(map, width, down, across) {
  const height = map.length / width;
  const half = new Float64Array(down.length * width);
  for (let y = 0; y < down.length; y++)
    for (let from = 0; from < height; from++) {
      const weight = down[y][from];
      if (weight) for (let x = 0; x < width; x++) half[y * width + x] += weight * map[from * width + x];
    }
  const out = new Float64Array(down.length * across.length);
  for (let x = 0; x < across.length; x++)
    for (let from = 0; from < width; from++) {
      const weight = across[x][from];
      if (weight) for (let y = 0; y < down.length; y++) out[y * across.length + x] += weight * half[y * width + from];
    }
  return out;
}

const remembered = new Map();
function weightsOf(from, to) {
  const key = `${from}/${to}`;
  if (!remembered.has(key)) remembered.set(key, linearWeights(from, to));
  return remembered.get(key);
}

// A map interpolated to a size.
export function interpolated(map, [height, width], [rows, columns]) {
  return between(map, width, weightsOf(height, rows), weightsOf(width, columns));
}

export function extremes(map) {
  let low = Infinity;
  let high = -Infinity;
  for (let k = 0; k < map.length; k++) {
    if (map[k] < low) low = map[k];
    if (map[k] > high) high = map[k];
  }
  return [low, high];
}

// The `count` highest cells as weights that add up to `count`; cells that tie at the cut share what is left of it.
// Null where the map is flat.
export function topCells(map, count) {
  const [low, high] = extremes(map);
  if (high === low) return null;
  const cut = map.slice().sort()[map.length - count];
  let above = 0;
  let level = 0;
  for (let k = 0; k < map.length; k++) {
    if (map[k] > cut) above++;
    else if (map[k] === cut) level++;
  }
  const share = (count - above) / level;
  return Float64Array.from(map, (value) => (value > cut ? 1 : value === cut ? share : 0));
}

// Which pixels are above a share of the map's own range, as weights 0 and 1.
export function aboveRange(map, share) {
  const [low, high] = extremes(map);
  const cut = share * (high - low + EPSILON);
  return Float64Array.from(map, (value) => (value - low > cut ? 1 : 0));
}

// Shared over united weight; NaN where a map is flat or both masks are empty.
export function iouOf(a, b) {
  if (!a || !b) return NaN;
  let shared = 0;
  let united = 0;
  for (let k = 0; k < a.length; k++) {
    shared += Math.min(a[k], b[k]);
    united += Math.max(a[k], b[k]);
  }
  return united > 0 ? shared / united : NaN;
}

// The mean IoU of two independent sets of `count` of `cells` cells (hypergeometric overlap).
export function chanceIou(count, cells) {
  const logs = new Float64Array(cells + 1);
  for (let k = 2; k <= cells; k++) logs[k] = logs[k - 1] + Math.log(k);
  const choose = (n, k) => logs[n] - logs[k] - logs[n - k];
  let mean = 0;
  for (let shared = Math.max(0, 2 * count - cells); shared <= count; shared++) {
    const weight = Math.exp(choose(count, shared) + choose(cells - count, count - shared) - choose(cells, count));
    mean += (weight * shared) / (2 * count - shared);
  }
  return mean;
}

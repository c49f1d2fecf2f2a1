// One image on a canvas: under a map in the colours of a scale, with the outline of what the map attends to.

import { lookup } from "./colours.js";
import { extremes, interpolated } from "./maps.js";

const PIXELS = 256; // of a canvas, in each direction

export function drawImage(canvas, sprite, tile, columns, image) {
  canvas.width = canvas.height = PIXELS;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = tile > 48;
  const [x, y] = [image % columns, Math.floor(image / columns)];
  context.drawImage(sprite, x * tile, y * tile, tile, tile, 0, 0, PIXELS, PIXELS);
  return context;
}

// A map [height, width] over it. Only its own least and greatest value are the ends of an unsigned scale.
export function drawMap(context, map, grid, scale, opacity) {
  const fine = interpolated(map, grid, [PIXELS / 2, PIXELS / 2]);
  const colours = lookup(scale);
  const picture = new ImageData(PIXELS / 2, PIXELS / 2);
  for (let k = 0; k < fine.length; k++) {
    const value = 3 * Math.max(0, Math.min(255, Math.round(fine[k])));
    picture.data.set([colours[value], colours[value + 1], colours[value + 2], 255], 4 * k);
  }
  const own = new OffscreenCanvas(PIXELS / 2, PIXELS / 2);
  own.getContext("2d").putImageData(picture, 0, 0);
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = true;
  context.drawImage(own, 0, 0, PIXELS, PIXELS);
  context.globalAlpha = 1;
}

// The border of a mask [rows, columns] of weights: a light line on a dark one is seen on any picture.
export function drawOutline(context, mask, [rows, columns]) {
  const [down, across] = [PIXELS / rows, PIXELS / columns];
  const inside = (y, x) => y >= 0 && x >= 0 && y < rows && x < columns && mask[y * columns + x] > 0;
  const path = new Path2D();
  for (let y = 0; y <= rows; y++)
    for (let x = 0; x <= columns; x++) {
      if (inside(y, x) !== inside(y - 1, x)) {
        path.moveTo(x * across, y * down);
        path.lineTo((x + 1) * across, y * down);
      }
      if (inside(y, x) !== inside(y, x - 1)) {
        path.moveTo(x * across, y * down);
        path.lineTo(x * across, (y + 1) * down);
      }
    }
  context.lineCap = "square";
  for (const [width, colour] of [[5, "rgba(0,0,0,.55)"], [2, "#fff"]]) {
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke(path);
  }
}

// Where two masks meet: cells in the colour of who attends to them, over a pale picture.
export function drawMeeting(context, a, b, [rows, columns], colours) {
  context.fillStyle = "rgba(128,128,128,.45)";
  context.fillRect(0, 0, PIXELS, PIXELS);
  const [down, across] = [PIXELS / rows, PIXELS / columns];
  context.globalAlpha = 0.72;
  for (let k = 0; k < rows * columns; k++) {
    const who = (a[k] > 0 ? 1 : 0) + (b[k] > 0 ? 2 : 0);
    if (!who) continue;
    context.fillStyle = colours[who - 1];
    context.fillRect((k % columns) * across, Math.floor(k / columns) * down, across, down);
  }
  context.globalAlpha = 1;
}

// In words, where a map is highest: for those who do not see it.
export function placeOf(map, [height, width]) {
  const [, high] = extremes(map);
  const at = map.indexOf(high);
  const third = (share, names) => names[Math.min(2, Math.floor(3 * share))];
  const down = third((Math.floor(at / width) + 0.5) / height, ["top", "middle", "bottom"]);
  const across = third(((at % width) + 0.5) / width, ["left", "centre", "right"]);
  return down === "middle" && across === "centre" ? "centre" : `${down} ${across}`;
}

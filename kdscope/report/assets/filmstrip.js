// Up to thousands of images from one sprite: only those in view are elements, and one of them is chosen.

import { make } from "./dom.js";

const SIDE = 52; // CSS pixels of an image
const GAP = 4;
const STEP = SIDE + GAP;

export class Filmstrip {
  // `describe(image)` says an image in words; `choose(image)` is told of each choice.
  constructor(root, sprite, columns, rows, describe, choose) {
    Object.assign(this, { root, sprite, columns, rows, describe, choose });
    this.reel = root.firstElementChild;
    this.images = [];
    this.at = -1; // the place among the images that is chosen
    this.alive = new Map();
    root.addEventListener("scroll", () => this.draw(), { passive: true });
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("click", (event) => {
      const option = event.target.closest("[data-at]");
      if (option) this.select(Number(option.dataset.at));
    });
    new ResizeObserver(() => this.draw()).observe(root);
  }

  get across() {
    return Math.max(1, Math.floor((this.root.clientWidth - GAP) / STEP));
  }

  // Other images; the one that was chosen stays so where it is still among them.
  show(images, keep) {
    this.images = images;
    const place = images.indexOf(keep);
    this.alive.forEach((option) => option.remove());
    this.alive.clear();
    this.at = -1;
    this.root.scrollTop = 0;
    if (images.length) this.select(Math.max(0, place));
    else {
      this.draw();
      this.choose(null);
    }
  }

  select(at) {
    if (!(at in this.images)) return;
    const changed = at !== this.at;
    this.at = at;
    const top = Math.floor(at / this.across) * STEP;
    const { scrollTop, clientHeight } = this.root;
    if (top < scrollTop) this.root.scrollTop = top;
    else if (top + STEP + GAP > scrollTop + clientHeight) this.root.scrollTop = top + STEP + GAP - clientHeight;
    this.draw();
    if (changed) this.choose(this.images[at]);
  }

  key(event) {
    const page = this.across * Math.max(1, Math.floor(this.root.clientHeight / STEP));
    const last = this.images.length - 1;
    const next = {
      ArrowRight: this.at + 1, ArrowLeft: this.at - 1, ArrowDown: this.at + this.across, ArrowUp: this.at - this.across,
      PageDown: this.at + page, PageUp: this.at - page, Home: 0, End: last,
    }[event.key];
    if (next === undefined || last < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.select(Math.min(Math.max(next, 0), last));
  }

  draw() {
    const { across, images } = this;
    this.reel.style.height = `${Math.ceil(images.length / across) * STEP + GAP}px`;
    const first = Math.max(0, Math.floor(this.root.scrollTop / STEP) - 1) * across;
    const end = Math.min(images.length, (Math.ceil((this.root.scrollTop + this.root.clientHeight) / STEP) + 1) * across);
    for (const [at, option] of this.alive)
      if (at < first || at >= end) {
        option.remove();
        this.alive.delete(at);
      }
    for (let at = first; at < end; at++) {
      if (!this.alive.has(at)) this.alive.set(at, this.reel.appendChild(this.option(at)));
      const option = this.alive.get(at);
      option.style.translate = `${GAP + (at % across) * STEP}px ${GAP + Math.floor(at / across) * STEP}px`;
      option.setAttribute("aria-selected", String(at === this.at));
    }
    const now = this.alive.get(this.at);
    if (now) this.root.setAttribute("aria-activedescendant", now.id);
    else this.root.removeAttribute("aria-activedescendant");
  }

  option(at) {
    const image = this.images[at];
    const option = make("div", {
      role: "option", id: `film-${at}`, "data-at": at, "data-image": image, "aria-label": this.describe(image),
      "aria-posinset": at + 1, "aria-setsize": this.images.length,
    });
    const [x, y] = [image % this.columns, Math.floor(image / this.columns)];
    option.style.cssText = `width:${SIDE}px;height:${SIDE}px;background-image:url("${this.sprite}");background-size:${SIDE * this.columns}px ${SIDE * this.rows}px;background-position:${-x * SIDE}px ${-y * SIDE}px`;
    return option;
  }
}

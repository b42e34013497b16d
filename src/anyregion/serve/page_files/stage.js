// The photograph on its canvas: regions drawn, boxes pulled, moved and resized, by pointer and by key.

import { colourOf } from "./colours.js";
import { paintMask } from "./rle.js";
import { newId } from "./project.js";
import * as api from "./api.js";

const HANDLE = 7;
const LEAST = 3; // pixels of the photograph
const SURE = 0.5;

export class Stage extends EventTarget {
  constructor(element, project) {
    super();
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.project = project;
    this.image = null;
    this.chosen = null;
    this.tool = "box";
    this.view = { scale: 1, x: 0, y: 0 };
    this.masks = null; // region -> canvas
    this.draft = null;
    this.picture = null;
    this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(element);
    for (const [name, handler] of Object.entries({
      pointerdown: this.down, pointermove: this.move, pointerup: this.up, pointercancel: this.up,
    })) {
      this.canvas.addEventListener(name, handler.bind(this));
    }
    this.canvas.addEventListener("wheel", this.wheel.bind(this), { passive: false });
    this.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  async show(image) {
    this.image = image;
    this.chosen = null;
    this.masks = null;
    this.picture = null;
    this.draw();
    if (!image) return;
    const picture = new Image();
    picture.src = api.previewOf(image.id, 1600);
    try {
      await picture.decode();
    } catch {
      this.tell("problem", `${image.name} cannot be shown: its file is gone, or was changed.`);
      return;
    }
    if (this.image !== image) return;
    this.picture = picture;
    this.fit();
  }

  choose(region) {
    this.chosen = region;
    if (region) this.reveal(region);
    this.draw();
    this.tell("choose", region);
  }

  // Bring a region into sight where it is not.
  reveal(id) {
    const box = this.boxOf(id);
    if (!box || !this.picture) return;
    const [x0, y0] = this.toScreen(box[0], box[1]);
    const [x1, y1] = this.toScreen(box[2], box[3]);
    const { clientWidth: width, clientHeight: height } = this.element;
    if (x0 >= 0 && y0 >= 0 && x1 <= width && y1 <= height) return;
    this.view.x += width / 2 - (x0 + x1) / 2;
    this.view.y += height / 2 - (y0 + y1) / 2;
  }

  boxOf(id) {
    const region = this.project.of(this.image.id).get(id);
    if (!region) return null;
    return this.draft?.id === id ? this.draft.box : this.project.boxOf(region);
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height) return;
    const fitted = this.fitted;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    if (fitted) this.fit();
    else this.draw();
  }

  fit() {
    if (!this.image) return this.draw();
    const { clientWidth: width, clientHeight: height } = this.element;
    const scale = Math.min(width / this.image.width, height / this.image.height) * 0.97;
    this.view = {
      scale,
      x: (width - this.image.width * scale) / 2,
      y: (height - this.image.height * scale) / 2,
    };
    this.fitted = true;
    this.draw();
  }

  zoom(factor, at = [this.element.clientWidth / 2, this.element.clientHeight / 2]) {
    const scale = Math.min(40, Math.max(0.02, this.view.scale * factor));
    const change = scale / this.view.scale;
    this.view = {
      scale,
      x: at[0] - (at[0] - this.view.x) * change,
      y: at[1] - (at[1] - this.view.y) * change,
    };
    this.fitted = false;
    this.draw();
  }

  toScreen(x, y) {
    return [x * this.view.scale + this.view.x, y * this.view.scale + this.view.y];
  }

  toImage(event) {
    const frame = this.canvas.getBoundingClientRect();
    const x = (event.clientX - frame.left - this.view.x) / this.view.scale;
    const y = (event.clientY - frame.top - this.view.y) / this.view.scale;
    return [x, y];
  }

  clip([x, y]) {
    return [Math.min(Math.max(x, 0), this.image.width), Math.min(Math.max(y, 0), this.image.height)];
  }

  // The handle of the chosen box at a place of the screen: which of x0, y0, x1, y1 it moves.
  handleAt(x, y) {
    const box = this.chosen && this.project.of(this.image.id).get(this.chosen)?.prompt.box;
    if (!box) return null;
    const [left, top] = this.toScreen(box[0], box[1]);
    const [right, bottom] = this.toScreen(box[2], box[3]);
    const near = (a, b) => Math.abs(a - b) <= HANDLE + 3;
    const inX = x > left - HANDLE && x < right + HANDLE;
    const inY = y > top - HANDLE && y < bottom + HANDLE;
    const sides = [];
    if (inY && near(x, left)) sides.push(0);
    else if (inY && near(x, right)) sides.push(2);
    if (inX && near(y, top)) sides.push(1);
    else if (inX && near(y, bottom)) sides.push(3);
    return sides.length ? sides : null;
  }

  // The smallest region under a place of the photograph: a part can be chosen inside its whole.
  regionAt([x, y]) {
    let best = null;
    let least = Infinity;
    for (const id of this.project.of(this.image.id).keys()) {
      const box = this.boxOf(id);
      if (!box || x < box[0] || y < box[1] || x > box[2] || y > box[3]) continue;
      const area = (box[2] - box[0]) * (box[3] - box[1]);
      if (area < least) [best, least] = [id, area];
    }
    return best;
  }

  down(event) {
    if (!this.image || !this.picture) return;
    this.element.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.pointers.size === 2) {
      this.draft = null; // two fingers zoom
      return;
    }
    const at = this.toImage(event);
    const frame = this.canvas.getBoundingClientRect();
    const handle = this.handleAt(event.clientX - frame.left, event.clientY - frame.top);
    const pan = this.tool === "pan" || event.button !== 0 || event.altKey;
    if (pan) this.gesture = { kind: "pan", from: [event.clientX, event.clientY], view: { ...this.view } };
    else if (handle) {
      const box = [...this.project.of(this.image.id).get(this.chosen).prompt.box];
      this.gesture = { kind: "side", handle, box };
      this.draft = { id: this.chosen, box };
    } else this.gesture = { kind: this.tool, from: this.clip(at), at, label: event.shiftKey ? 0 : 1 };
  }

  move(event) {
    if (!this.image) return;
    if (this.pointers.size === 2 && this.pointers.has(event.pointerId)) return this.pinch(event);
    const gesture = this.gesture;
    if (!gesture) {
      const frame = this.canvas.getBoundingClientRect();
      const handle = this.handleAt(event.clientX - frame.left, event.clientY - frame.top);
      this.canvas.style.cursor = this.tool === "pan" ? "grab" : handle ? "pointer" : "crosshair";
      return;
    }
    if (gesture.kind === "pan") {
      this.view.x = gesture.view.x + event.clientX - gesture.from[0];
      this.view.y = gesture.view.y + event.clientY - gesture.from[1];
      this.fitted = false;
    } else if (gesture.kind === "side") {
      const at = this.clip(this.toImage(event));
      for (const side of gesture.handle) this.draft.box[side] = at[side % 2];
    } else if (gesture.kind === "box") {
      const at = this.clip(this.toImage(event));
      this.draft = { id: null, box: ordered([...gesture.from, ...at]) };
    }
    this.draw();
  }

  pinch(event) {
    const [a, b] = [...this.pointers.values()];
    const before = Math.hypot(a[0] - b[0], a[1] - b[1]);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    const [c, d] = [...this.pointers.values()];
    const after = Math.hypot(c[0] - d[0], c[1] - d[1]);
    const frame = this.canvas.getBoundingClientRect();
    const middle = [(c[0] + d[0]) / 2 - frame.left, (c[1] + d[1]) / 2 - frame.top];
    if (before > 0) this.zoom(after / before, middle);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    const { gesture, draft } = this;
    this.gesture = this.draft = null;
    if (!gesture || !this.image || event.type === "pointercancel") return this.draw();
    if (gesture.kind === "side") {
      const box = rounded(ordered(draft.box));
      if (isBox(box)) this.tell("move", { id: this.chosen, box });
    } else if (gesture.kind === "box" && draft && isBox(draft.box) && this.wide(draft.box)) {
      this.tell("add", { id: newId(), prompt: { box: rounded(draft.box) } });
    } else if (gesture.kind === "point") {
      const point = this.clip(gesture.at).map((v) => Math.round(v * 10) / 10);
      const chosen = this.chosen && this.project.of(this.image.id).get(this.chosen);
      // Shift: a point that does not belong to the chosen thing
      if (gesture.label === 0 && chosen?.prompt.points) {
        const points = [...chosen.prompt.points, point];
        const labels = [...(chosen.prompt.labels ?? chosen.prompt.points.map(() => 1)), 0];
        this.tell("move", { id: this.chosen, prompt: { points, labels } });
      } else this.tell("add", { id: newId(), prompt: { points: [point], labels: [1] } });
    } else if (gesture.kind !== "pan") this.choose(this.regionAt(gesture.at));
    this.draw();
  }

  // A click is no box: a few pixels of the screen are drawn by accident.
  wide(box) {
    return Math.max(box[2] - box[0], box[3] - box[1]) * this.view.scale > 5;
  }

  wheel(event) {
    event.preventDefault();
    const frame = this.canvas.getBoundingClientRect();
    this.zoom(Math.exp(-event.deltaY / 400), [event.clientX - frame.left, event.clientY - frame.top]);
  }

  // Move or resize the chosen box by a step of the screen.
  nudge(dx, dy, resize) {
    const kept = this.chosen && this.project.of(this.image.id).get(this.chosen)?.prompt.box;
    if (!kept) return;
    // a key that is held goes on from where it was, not from what the service has kept so far
    const box = this.nudged?.id === this.chosen ? this.nudged.box : kept;
    const step = Math.max(1, Math.round(4 / this.view.scale));
    const [x, y] = [dx * step, dy * step];
    const { width, height } = this.image;
    const moved = resize
      ? [box[0], box[1], Math.min(width, box[2] + x), Math.min(height, box[3] + y)]
      : [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
    const inside = moved[0] >= 0 && moved[1] >= 0 && moved[2] <= width && moved[3] <= height;
    if (!inside || !isBox(moved)) return;
    this.nudged = { id: this.chosen, box: rounded(moved) };
    this.tell("move", this.nudged);
  }

  // A box in the middle of what is seen, to be moved by keys.
  addInTheMiddle() {
    if (!this.image) return;
    const { clientWidth: width, clientHeight: height } = this.element;
    const x = (width / 2 - this.view.x) / this.view.scale;
    const y = (height / 2 - this.view.y) / this.view.scale;
    const side = Math.min(width, height) / 6 / this.view.scale;
    const [x0, y0] = this.clip([x - side, y - side]);
    const [x1, y1] = this.clip([x + side, y + side]);
    if (isBox([x0, y0, x1, y1])) this.tell("add", { id: newId(), prompt: { box: rounded([x0, y0, x1, y1]) } });
  }

  setMasks(masks) {
    this.masks = null;
    if (masks && this.image) {
      this.masks = new Map();
      for (const [id, { mask }] of Object.entries(masks)) {
        const { rgb } = colourOf(this.project.words, this.labelOf(id));
        this.masks.set(id, paintMask(mask, rgb, 120));
      }
    }
    this.draw();
  }

  labelOf(id) {
    const region = this.project.of(this.image.id).get(id);
    if (region?.named) return region.label;
    return this.project.nameOf(this.image.id, id)?.labels[0];
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.paint();
    });
  }

  paint() {
    const context = this.canvas.getContext("2d");
    const ratio = this.canvas.width / Math.max(1, this.element.clientWidth);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.element.clientWidth, this.element.clientHeight);
    if (!this.image || !this.picture) return;
    const { scale, x, y } = this.view;
    const [width, height] = [this.image.width * scale, this.image.height * scale];
    context.imageSmoothingEnabled = scale < 3;
    context.drawImage(this.picture, x, y, width, height);
    if (this.masks) for (const mask of this.masks.values()) context.drawImage(mask, x, y, width, height);
    const labels = [];
    for (const [id, region] of this.project.of(this.image.id)) {
      const box = this.boxOf(id);
      if (box) this.paintRegion(context, id, region, box, labels);
    }
    // labels last, and the chosen one's above all
    labels.sort((a, b) => a.chosen - b.chosen);
    for (const label of labels) paintLabel(context, label, this.element.clientWidth);
    if (this.draft && this.draft.id === null) {
      const [left, top] = this.toScreen(this.draft.box[0], this.draft.box[1]);
      const [right, bottom] = this.toScreen(this.draft.box[2], this.draft.box[3]);
      context.setLineDash([6, 4]);
      context.strokeStyle = "#fff";
      context.lineWidth = 2;
      context.strokeRect(left, top, right - left, bottom - top);
      context.setLineDash([]);
    }
  }

  paintRegion(context, id, region, box, labels) {
    const name = this.project.nameOf(this.image.id, id);
    const label = region.named ? region.label : name?.labels[0];
    const doubtful = !region.named && (!name || name.refused || name.scores[0] < SURE);
    const { css, ink } = colourOf(this.project.words, label);
    const [left, top] = this.toScreen(box[0], box[1]);
    const [right, bottom] = this.toScreen(box[2], box[3]);
    const chosen = id === this.chosen;
    context.lineWidth = chosen ? 5 : 3.5;
    context.strokeStyle = "rgb(0 0 0 / 0.65)";
    context.strokeRect(left, top, right - left, bottom - top);
    context.lineWidth = chosen ? 3 : 2;
    context.strokeStyle = css;
    context.setLineDash(doubtful ? [7, 5] : []);
    context.strokeRect(left, top, right - left, bottom - top);
    context.setLineDash([]);
    for (const [i, point] of (region.prompt.points ?? []).entries()) {
      const [x, y] = this.toScreen(...point);
      context.beginPath();
      context.arc(x, y, 4, 0, 2 * Math.PI);
      context.fillStyle = (region.prompt.labels?.[i] ?? 1) === 1 ? css : "#000";
      context.fill();
      context.strokeStyle = "#fff";
      context.stroke();
    }
    if (chosen && region.prompt.box) {
      context.fillStyle = "#fff";
      context.strokeStyle = "#000";
      context.lineWidth = 1;
      for (const [hx, hy] of [[left, top], [right, top], [left, bottom], [right, bottom]]) {
        context.fillRect(hx - HANDLE / 2, hy - HANDLE / 2, HANDLE, HANDLE);
        context.strokeRect(hx - HANDLE / 2, hy - HANDLE / 2, HANDLE, HANDLE);
      }
    }
    let text = "…";
    if (region.named) text = `✓ ${region.label ?? "none of these"}`;
    else if (name) text = `${name.labels[0]} ${Math.round(100 * name.scores[0])} %`;
    labels.push({ text, left, top, css: doubtful ? "rgb(245 245 245 / 0.92)" : css, ink: doubtful ? "#222" : ink, chosen });
  }
}

function paintLabel(context, { text, left, top, css, ink }, width) {
  context.font = "600 13px system-ui, sans-serif";
  const wide = context.measureText(text).width + 10;
  const x = Math.max(0, Math.min(left - 1, width - wide));
  const y = top - 20 < 0 ? top + 1 : top - 20;
  context.fillStyle = css;
  context.beginPath();
  context.roundRect(x, y, wide, 19, 3);
  context.fill();
  context.fillStyle = ink;
  context.textBaseline = "middle";
  context.fillText(text, x + 5, y + 10);
}

const ordered = ([x0, y0, x1, y1]) => [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
const rounded = (box) => box.map((v) => Math.round(v * 10) / 10);
const isBox = (box) => box[2] - box[0] >= LEAST && box[3] - box[1] >= LEAST;

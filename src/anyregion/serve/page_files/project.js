// The project as this tab knows it: regions that follow from events, undo, and names of regions.

import * as api from "./api.js";

const tab = crypto.randomUUID();
export const newId = () => crypto.randomUUID().replaceAll("-", "").slice(0, 16);

export class Project extends EventTarget {
  constructor() {
    super();
    this.seq = 0;
    this.words = [];
    this.images = [];
    this.regions = new Map(); // image -> Map(region -> {prompt, source, named, label})
    this.names = new Map(); // image -> {revision, regions}
    this.lesson = { revision: 0, corrections: 0, by_words: null, taught: null };
    this.learning = false;
    this.model = "loading";
    this.undoStack = [];
    this.sending = Promise.resolve();
  }

  changed(what) {
    this.dispatchEvent(new CustomEvent("change", { detail: what }));
  }

  of(image) {
    if (!this.regions.has(image)) this.regions.set(image, new Map());
    return this.regions.get(image);
  }

  async refresh() {
    const status = await api.status();
    this.images = status.images;
    this.formats = status.formats;
    this.model = status.model;
    this.scanning = status.scanning;
    this.unreadable = status.unreadable;
    this.imported = status.imported;
    this.take(status);
    if (status.seq > this.seq) this.merge(await api.eventsSince(this.seq));
    this.changed("images");
  }

  take({ learning, lesson }) {
    const before = this.lesson.revision;
    this.learning = learning;
    this.lesson = lesson;
    if (lesson.revision !== before) this.changed("lesson");
  }

  merge(answer) {
    for (const event of answer.events) {
      if (event.seq <= this.seq) continue;
      this.apply(event);
      this.seq = event.seq;
    }
    this.take(answer);
    if (answer.events.length) this.changed("regions");
  }

  apply(event) {
    if (event.kind === "words") {
      const kept = this.words.filter((word) => !event.removed.includes(word));
      this.words = [...new Set([...kept, ...event.added])];
      return;
    }
    const regions = this.of(event.image);
    const region = regions.get(event.region);
    if (event.kind === "add") {
      const { prompt, source, objectness } = event;
      regions.set(event.region, { prompt, source, objectness, named: false, label: null });
    } else if (!region) {
      return; // another tab removed it
    } else if (event.kind === "remove") {
      regions.delete(event.region);
    } else if (event.kind === "move") {
      region.prompt = event.prompt;
      region.box = null;
    } else if (event.kind === "name") {
      region.named = true;
      region.label = event.label;
      if (event.label !== null && !this.words.includes(event.label)) this.words.push(event.label);
    } else if (event.kind === "unname") {
      region.named = false;
      region.label = null;
    }
  }

  // What takes an event back, as things stand before it.
  inverse(event) {
    if (event.kind === "words") {
      const added = event.removed.filter((word) => this.words.includes(word));
      const removed = event.added.filter((word) => !this.words.includes(word));
      return [{ kind: "words", added, removed }];
    }
    const { image, region: id } = event;
    const region = this.of(image).get(id);
    if (event.kind === "add") return [{ kind: "remove", image, region: id }];
    if (!region) return [];
    if (event.kind === "move") return [{ kind: "move", image, region: id, prompt: region.prompt }];
    const named = region.named
      ? { kind: "name", image, region: id, label: region.label }
      : { kind: "unname", image, region: id };
    if (event.kind !== "remove") return [named];
    const { prompt, source, objectness } = region;
    const added = { kind: "add", image, region: id, prompt, source, objectness };
    return region.named ? [added, named] : [added];
  }

  // Events are kept by the service before they count here: what is seen is on the disk.
  act(events, { undoable = true } = {}) {
    this.sending = this.sending.catch(() => {}).then(async () => {
      const back = events.map((event) => this.inverse(event)).reverse().flat();
      const words = [...this.words];
      this.merge(await api.sendEvents(this.seq, tab, events));
      if (undoable && back.length) {
        // a name that came with a region goes with it
        const removed = events.map((e) => e.label).filter((label) => label && !words.includes(label));
        if (removed.length) back.push({ kind: "words", added: [], removed });
        this.undoStack.push(back);
        if (this.undoStack.length > 200) this.undoStack.shift();
      }
      this.changed("regions");
    });
    return this.sending;
  }

  async undo() {
    await this.sending.catch(() => {}); // what was done last may be on its way
    const back = this.undoStack.pop();
    try {
      if (back) await this.act(back, { undoable: false });
    } catch (error) {
      if (error.status === 0) this.undoStack.push(back); // nobody answered: it can be tried again
      throw error;
    }
    this.changed("regions");
    return Boolean(back);
  }

  async loadNames(image) {
    const answer = await api.names(image);
    this.names.set(image, answer);
    const regions = this.of(image);
    for (const [id, name] of Object.entries(answer.regions)) {
      const region = regions.get(id);
      if (region && !region.prompt.box) region.box = name.box;
    }
    this.changed("names");
  }

  nameOf(image, id) {
    return this.names.get(image)?.regions[id];
  }

  // [x0, y0, x1, y1] of a region, or null of points that the model has not looked at yet.
  boxOf(region) {
    if (region.prompt.box) return region.prompt.box;
    if (region.box) return region.box;
    const points = (region.prompt.points ?? []).filter((_, i) => (region.prompt.labels?.[i] ?? 1) === 1);
    if (!points.length) return null;
    const xs = points.map((p) => p[0]);
    const ys = points.map((p) => p[1]);
    return [Math.min(...xs) - 8, Math.min(...ys) - 8, Math.max(...xs) + 8, Math.max(...ys) + 8];
  }
}

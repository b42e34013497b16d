// What stands beside the photograph: photographs, words, the chosen region, the lesson, the queue, dialogs.

import * as api from "./api.js";
import { colourOf } from "./colours.js";

export const $ = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const percent = (share) => `${Math.round(100 * share)} %`;

let silence = null;
export function say(text) {
  $("message").textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => ($("message").textContent = ""), 7000);
}

export function showPhotographs(project, current, choose) {
  $("photograph-count").textContent = project.images.length ? `(${project.images.length})` : "";
  const list = $("photograph-list");
  const shown = new Map([...list.children].map((item) => [item.dataset.id, item]));
  for (const image of project.images) {
    let item = shown.get(image.id);
    if (!item) {
      const picture = element("img", { alt: "", loading: "lazy", src: api.previewOf(image.id, 240), width: 176, height: 96 });
      item = element("li", { "data-id": image.id }, element("button", { type: "button", onclick: () => choose(image.id) }, picture, element("span")));
      list.append(item);
    }
    shown.delete(image.id);
    const named = [...project.of(image.id).values()].filter((region) => region.named).length;
    const regions = project.of(image.id).size;
    item.querySelector("span").textContent = `${image.name}${regions ? ` · ${named}/${regions}` : ""}`;
    const button = item.querySelector("button");
    button.setAttribute("aria-label", `${image.name}, ${named} of ${regions} regions named`);
    button.setAttribute("aria-current", image.id === current ? "true" : "false");
  }
  for (const item of shown.values()) item.remove();
  const hints = ["Drop photographs anywhere on this page. They stay on this machine."];
  if (project.unreadable) hints.push(`${project.unreadable} files of the folder are no images.`);
  if (project.imported?.set_aside)
    hints.push(`${project.imported.set_aside} of the file's regions and images cannot be used; the service says why.`);
  $("drop-hint").textContent = project.scanning ? "Reading the photographs and regions …" : hints.join(" ");
}

export function showWords(project, remove) {
  $("word-list").replaceChildren(
    ...project.words.map((word) => {
      const dot = element("i");
      dot.style.background = colourOf(project.words, word).css;
      const button = element("button", { type: "button", "aria-label": `Remove ${word}`, onclick: () => remove(word) }, "×");
      return element("li", {}, dot, word, button);
    }),
  );
}

export function showRegion(project, image, id, actions) {
  const panel = $("region");
  const region = id && project.of(image).get(id);
  if (!region) {
    delete panel.dataset.region;
    panel.replaceChildren(element("p", { class: "quiet" }, "None is chosen."));
    return;
  }
  const name = project.nameOf(image, id);
  // what is being typed stays when the model's answer comes
  const before = panel.dataset.region === `${image} ${id}` ? $("other") : null;
  const typing = before !== null && before === document.activeElement;
  panel.dataset.region = `${image} ${id}`;
  const answers = element("div", { class: "answers", role: "group", "aria-label": "Names, the likeliest first" });
  const add = (key, label, score, pressed, act) => {
    const button = element("button", { type: "button", "aria-pressed": String(pressed), onclick: act });
    if (score !== null) button.append(element("progress", { max: 1, value: score, "aria-hidden": "true" }));
    button.append(element("kbd", {}, key), element("span", {}, label));
    if (score !== null) button.append(element("output", {}, percent(score)));
    answers.append(button);
  };
  for (const [i, label] of (name?.labels ?? []).slice(0, 5).entries()) {
    const chosen = region.named && region.label === label;
    add(String(i + 1), label, name.scores[i], chosen, () => actions.name(label));
  }
  if (region.named && region.label !== null && !name?.labels.slice(0, 5).includes(region.label)) {
    add("✓", region.label, null, true, () => {});
  }
  add("0", "none of these", name?.none ?? null, region.named && region.label === null, () => actions.name(null));
  const other = element("input", { id: "other", list: "offered", autocomplete: "off", placeholder: "another name", maxlength: 200, "aria-label": "Another name for this region" });
  const form = element("form", {
    onsubmit: (event) => {
      event.preventDefault();
      const typed = other.value.trim();
      other.value = "";
      other.blur(); // keys are the photograph's again
      if (typed) actions.name(typed);
    },
  }, other, element("button", { type: "submit" }, "Name"));
  const buttons = element("div", { class: "actions" });
  if (region.named && region.label !== null) {
    buttons.append(element("button", { type: "button", title: "A", onclick: actions.alike }, "The same for all like this …"));
  }
  if (region.named) buttons.append(element("button", { type: "button", onclick: actions.unname }, "Not sure after all"));
  buttons.append(element("button", { type: "button", title: "Delete", onclick: actions.remove }, "Remove"));
  const waiting = !name && project.words.length ? "The model is looking …" : "Add words above, or type a name.";
  const [from, to] = before ? [before.selectionStart, before.selectionEnd] : [0, 0];
  other.value = before?.value ?? "";
  panel.replaceChildren(...(name ? [] : [element("p", { class: "quiet" }, waiting)]), answers, form, buttons);
  if (typing) {
    other.focus();
    other.setSelectionRange(from, to);
  }
}

export function showLesson(project, changes) {
  const { corrections, by_words: before, taught: after } = project.lesson;
  if (!corrections) {
    $("lesson").replaceChildren(element("p", { class: "quiet" }, "Nothing yet: name some regions."));
    return;
  }
  const rows = [["regions named", String(corrections)]];
  if (before !== null) {
    const better = element("strong", { class: after > before ? "better" : "" }, percent(after));
    rows.push(["right by words alone", percent(before)], ["right as taught, without their photograph", better]);
  }
  if (changes !== null) rows.push(["answers here that changed just now", String(changes)]);
  const table = element("table", {}, element("tbody", {}, ...rows.map(([title, value]) =>
    element("tr", {}, element("th", { scope: "row" }, title), element("td", {}, value)))));
  $("lesson").replaceChildren(table);
}

export function showStatus(project, busy) {
  const parts = [];
  if (project.model === "loading") parts.push("Loading the model …");
  else if (project.model === "failed") parts.push("The model could not be loaded: see where the service was started");
  if (busy) parts.push(busy);
  if (project.learning) parts.push("Learning …");
  const regions = [...project.regions.values()].flatMap((of) => [...of.values()]);
  const named = regions.filter((region) => region.named).length;
  if (!parts.length) parts.push(`${project.images.length} photographs · ${regions.length} regions · ${named} named`);
  $("status").textContent = parts.join(" · ");
  $("undo").disabled = !project.undoStack.length;
}

const crops = new Map();

// A region cut out of the small picture of its photograph.
export function crop(project, image, id) {
  const canvas = element("canvas", { width: 128, height: 96, "aria-hidden": "true" });
  const photograph = project.images.find((one) => one.id === image);
  const region = project.of(image).get(id);
  const box = region && project.boxOf(region);
  if (!photograph || !box) return canvas;
  if (!crops.has(image)) {
    const picture = new Image();
    picture.src = api.previewOf(image, 1600);
    crops.set(image, picture.decode().then(() => picture));
    if (crops.size > 12) crops.delete(crops.keys().next().value);
  }
  crops.get(image).then((picture) => {
    const ratio = picture.naturalWidth / photograph.width;
    const margin = 0.15 * Math.max(box[2] - box[0], box[3] - box[1]);
    const [x, y] = [box[0] - margin, box[1] - margin].map((v) => v * ratio);
    const [w, h] = [box[2] - box[0] + 2 * margin, box[3] - box[1] + 2 * margin].map((v) => v * ratio);
    const scale = Math.min(canvas.width / w, canvas.height / h);
    const context = canvas.getContext("2d");
    context.drawImage(picture, x, y, w, h, (canvas.width - w * scale) / 2, (canvas.height - h * scale) / 2, w * scale, h * scale);
  }).catch(() => {});
  return canvas;
}

export function showQueue(project, entries, choose) {
  $("queue").replaceChildren(...entries.slice(0, 9).map(({ image, region }) => {
    const name = project.nameOf(image, region);
    const text = name ? `${name.labels[0]}?` : "?";
    const photograph = project.images.find((one) => one.id === image);
    return element("li", {}, element("button", {
      type: "button", "aria-label": `${text} in ${photograph?.name ?? "a photograph"}`, onclick: () => choose(image, region),
    }, crop(project, image, region), element("span", {}, text)));
  }));
  $("queue-hint").textContent = entries.length
    ? `${entries.length} regions are not named; these would teach most.`
    : "Regions whose names would teach most come first.";
}

export async function askAlike(project, label, entries) {
  const dialog = $("alike-dialog");
  $("alike-text").textContent = entries.length
    ? `Those that look most like it come first. Take out what is no “${label}”.`
    : "No other region is without a name.";
  const boxes = entries.map((entry) => {
    const box = element("input", { type: "checkbox", class: "unseen" });
    box.checked = entry.proposed;
    return box;
  });
  $("alike-list").replaceChildren(...entries.map((entry, i) => {
    const text = entry.label === null ? "…" : `now ${entry.label}`;
    return element("li", {}, element("label", {}, boxes[i], crop(project, entry.image, entry.region), element("span", {}, text)));
  }));
  $("alike-apply").disabled = !entries.length;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  return dialog.returnValue === "apply" ? entries.filter((_, i) => boxes[i].checked) : [];
}

// The page: puts project, photograph and panels together, and says what keys do.

import * as api from "./api.js";
import { $, askAlike, element, say, showLesson, showPhotographs, showQueue, showRegion, showStatus, showWords } from "./panels.js";
import { Project, newId } from "./project.js";
import { Stage } from "./stage.js";

const ALIKE = 0.7; // so alike, a region is proposed whatever it is called now
const SURE = 0.5;
const project = new Project();
const stage = new Stage($("stage"), project);
let current = null;
let busy = "";
let queue = [];
let changes = null;
let pending = null; // a region that was just drawn

const attempt = (work) => async (...values) => {
  try {
    return await work(...values);
  } catch (error) {
    say(error.message);
    if (!(error instanceof api.ServiceError)) throw error;
    return undefined;
  }
};

function show() {
  showPhotographs(project, current, chooseImage);
  showWords(project, removeWord);
  showRegion(project, current, stage.chosen, { name: nameChosen, alike, unname, remove });
  showLesson(project, changes);
  showStatus(project, busy);
  $("empty").hidden = project.images.length > 0;
  stage.draw();
}

const during = (text, work) => attempt(async (...values) => {
  busy = text;
  showStatus(project, busy);
  try {
    return await work(...values);
  } finally {
    busy = "";
    showStatus(project, busy);
  }
});

const chooseImage = attempt(async (id, region = null) => {
  current = id;
  changes = null;
  location.hash = id ? id.slice(0, 12) : "";
  const image = project.images.find((one) => one.id === id) ?? null;
  const shown = stage.show(image);
  show();
  await shown;
  if (region) stage.choose(region);
  await loadNames();
});

// Names of the photograph that is shown; asked again where what was learnt changed meanwhile.
const loadNames = attempt(async () => {
  const image = current;
  if (!image || !project.of(image).size) return;
  const before = project.names.get(image);
  await project.loadNames(image);
  const after = project.names.get(image);
  if (before && before.revision !== after.revision) {
    changes = Object.entries(after.regions).filter(
      ([id, name]) => before.regions[id] && before.regions[id].labels[0] !== name.labels[0],
    ).length;
  }
  if ($("show-masks").checked) await loadMasks();
});

const loadMasks = during("Masks …", async () => {
  const image = current;
  const masks = $("show-masks").checked && image && project.of(image).size ? await api.masks(image) : null;
  if (image === current) stage.setMasks(masks);
});

const loadQueue = attempt(async () => {
  queue = await api.queue();
  showQueue(project, queue, (image, region) => goTo(image, region));
});

const goTo = attempt(async (image, region) => {
  if (image !== current) await chooseImage(image, region);
  else stage.choose(region);
  $("stage").focus({ preventScroll: true });
});

const act = attempt((events, options) => project.act(events, options));
const about = (kind, more = {}) => ({ kind, image: current, region: stage.chosen, ...more });

const nameChosen = attempt(async (label) => {
  if (!stage.chosen) return;
  await project.act([about("name", { label })]);
  $("stage").focus({ preventScroll: true });
});
const unname = () => stage.chosen && act([about("unname")]);
const remove = attempt(async () => {
  if (!stage.chosen) return;
  const event = about("remove");
  stage.choose(null);
  await project.act([event]);
});

const alike = during("Looking for regions like this …", async () => {
  const region = stage.chosen && project.of(current).get(stage.chosen);
  if (!region?.named || region.label === null) return say("Name this region first.");
  const entries = await api.alike(current, stage.chosen);
  for (const entry of entries) {
    const called = entry.label === region.label && entry.score >= SURE;
    entry.proposed = called || entry.likeness >= ALIKE;
  }
  const taken = await askAlike(project, region.label, entries);
  if (taken.length) {
    await project.act(taken.map(({ image, region: id }) => ({ kind: "name", image, region: id, label: region.label })));
    say(`${taken.length} regions are named ${region.label}. Undo takes it back.`);
  }
});

const find = during("Finding regions …", async () => {
  if (!current) return;
  const image = current;
  const regions = await api.find(image);
  if (!regions.length) return say("Nothing was found.");
  // what is there already is not added once more
  const known = [...project.of(image).values()].map((region) => project.boxOf(region)).filter(Boolean);
  const fresh = regions.filter(({ box }) => !known.some((other) => overlap(box, other) > 0.6));
  await project.act(fresh.map(({ box, objectness }) => ({ kind: "add", image, region: newId(), prompt: { box }, source: "found", objectness })));
  say(`${fresh.length} regions were found.`);
});

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

const removeWord = (word) => act([{ kind: "words", added: [], removed: [word] }]);

const addPhotographs = attempt(async (files) => {
  const images = [...files];
  let first = null;
  for (const [i, file] of images.entries()) {
    busy = `Adding photographs: ${i + 1} of ${images.length}`;
    showStatus(project, busy);
    try {
      const { id } = await api.addPhotograph(file);
      first ??= id;
    } catch (error) {
      say(`${file.name}: ${error.message}`);
    }
    if (i % 10 === 9) await project.refresh();
  }
  busy = "";
  await project.refresh();
  if (first && !current) await chooseImage(first);
});

// Events of the photograph.
stage.addEventListener("choose", () => showRegion(project, current, stage.chosen, { name: nameChosen, alike, unname, remove }));
stage.addEventListener("problem", (event) => say(event.detail));
stage.addEventListener("add", attempt(async ({ detail: { id, prompt } }) => {
  // chosen at once: a key that is pressed before the service has answered is meant for this one
  pending = id;
  stage.choose(id);
  await project.act([{ kind: "add", image: current, region: id, prompt, source: "drawn" }]);
  pending = null;
  stage.choose(stage.chosen);
  await loadNames();
}));
stage.addEventListener("move", attempt(async ({ detail }) => {
  const { id, box, prompt } = detail;
  try {
    await project.act([{ kind: "move", image: current, region: id, prompt: prompt ?? { box } }]);
  } finally {
    if (stage.nudged === detail) stage.nudged = null;
  }
  await loadNames();
}));

project.addEventListener("change", ({ detail }) => {
  if (detail === "lesson") {
    loadNames();
    loadQueue();
  }
  if (detail === "regions" && current) {
    const gone = stage.chosen && stage.chosen !== pending && !project.of(current).has(stage.chosen);
    if (gone) stage.choose(null);
    const names = project.names.get(current)?.regions ?? {};
    if (project.words.length && [...project.of(current).keys()].some((id) => !names[id])) loadNames();
  }
  show();
});

// Tools.
function setTool(tool) {
  stage.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-checked", String(button.dataset.tool === tool));
    button.tabIndex = button.dataset.tool === tool ? 0 : -1;
  }
}
const tools = [...document.querySelectorAll("[data-tool]")];
for (const [i, button] of tools.entries()) {
  button.addEventListener("click", () => setTool(button.dataset.tool));
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = tools[(i + step + tools.length) % tools.length];
    setTool(next.dataset.tool);
    next.focus();
  });
}
setTool("box");

const undo = attempt(async () => {
  if (!(await project.undo())) say("There is nothing to undo.");
  await loadNames();
});
const next = attempt(async () => {
  await loadQueue();
  if (queue.length) await goTo(queue[0].image, queue[0].region);
  else say("No region that the model has seen is without a name.");
});
const step = (by) => {
  const at = project.images.findIndex((image) => image.id === current);
  const image = project.images[at + by];
  if (image) chooseImage(image.id);
};

$("undo").addEventListener("click", undo);
$("find").addEventListener("click", find);
$("next").addEventListener("click", next);
$("show-masks").addEventListener("change", loadMasks);
$("zoom-in").addEventListener("click", () => stage.zoom(1.4));
$("zoom-out").addEventListener("click", () => stage.zoom(1 / 1.4));
$("zoom-fit").addEventListener("click", () => stage.fit());
$("files").addEventListener("change", (event) => {
  addPhotographs(event.target.files);
  event.target.value = "";
});
$("word-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = $("word").value.split(",").map((word) => word.trim()).filter(Boolean);
  $("word").value = "";
  const added = [...new Set(typed)].filter((word) => !project.words.includes(word));
  if (added.length) act([{ kind: "words", added, removed: [] }]).then(loadNames);
});

// Dialogs.
$("open-help").addEventListener("click", () => $("help-dialog").showModal());
$("open-export").addEventListener("click", () => {
  $("export-format").replaceChildren(...(project.formats ?? []).map((name) => element("option", { value: name }, name)));
  $("export-message").textContent = "";
  $("export-dialog").showModal();
});
$("export-start").addEventListener("click", async () => {
  const format = $("export-format").value;
  $("export-message").textContent = "Writing …";
  try {
    const content = await api.exportLabels(format, $("export-masks").checked, $("export-images").checked);
    const link = element("a", { href: URL.createObjectURL(content), download: `labels-${format}.zip` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    $("export-message").textContent = "Saved.";
  } catch (error) {
    $("export-message").textContent = error.message;
  }
});

// Photographs are dropped anywhere.
let dragged = 0;
addEventListener("dragenter", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  dragged += 1;
  $("dropping").hidden = false;
});
addEventListener("dragleave", () => {
  dragged = Math.max(0, dragged - 1);
  $("dropping").hidden = dragged === 0;
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dragged = 0;
  $("dropping").hidden = true;
  addPhotographs(event.dataTransfer.files);
});

// Keys of the photograph; in fields and dialogs they are what they are there.
const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const keys = {
  b: () => setTool("box"), p: () => setTool("point"), h: () => setTool("pan"), f: find, n: next, a: alike,
  c: () => stage.addInTheMiddle(), m: () => $("show-masks").click(), "?": () => $("help-dialog").showModal(),
  "+": () => stage.zoom(1.4), "-": () => stage.zoom(1 / 1.4), ",": () => step(-1), ".": () => step(1),
  Delete: remove, Backspace: remove, Escape: () => { stage.choose(null); $("undo").focus(); },
  Enter: () => $("other")?.focus(), 0: () => nameChosen(null),
};
addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.target.closest("input, select, textarea")) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    undo();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const onStage = document.activeElement === $("stage");
  if (onStage && event.key === "Tab") {
    const ids = [...project.of(current).keys()];
    const at = ids.indexOf(stage.chosen) + (event.shiftKey ? -1 : 1);
    // past the last one the focus goes on as everywhere
    if (stage.chosen === null && event.shiftKey) return;
    if (at < 0 || at >= ids.length) return stage.choose(null);
    event.preventDefault();
    stage.choose(ids[at]);
    return;
  }
  if (onStage && arrows[event.key]) {
    event.preventDefault();
    stage.nudge(...arrows[event.key], event.shiftKey);
    return;
  }
  if (/^[1-5]$/.test(event.key)) {
    const label = project.nameOf(current, stage.chosen)?.labels[Number(event.key) - 1];
    if (label !== undefined) nameChosen(label);
    return;
  }
  // Enter and Escape belong to buttons, too
  if (event.key === "Enter" && !onStage) return;
  const key = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (key && (event.key.length === 1 || onStage)) {
    event.preventDefault();
    key();
  }
});

// Other tabs, the folder that is being read, and what is being learnt.
async function poll() {
  try {
    if (!document.hidden) {
      const quick = project.learning || project.model === "loading";
      if (quick || project.scanning) await project.refresh();
      else {
        const answer = await api.eventsSince(project.seq);
        // another tab added photographs
        if (answer.images !== project.images.length) await project.refresh();
        project.merge(answer);
      }
      if (!quick) showStatus(project, busy);
    }
  } catch (error) {
    $("status").textContent = error.message;
  }
  setTimeout(poll, project.learning || project.model === "loading" ? 400 : 2000);
}

async function start() {
  await project.refresh();
  show();
  const wanted = location.hash.slice(1);
  const image = project.images.find((one) => wanted && one.id.startsWith(wanted)) ?? project.images[0];
  if (image) await chooseImage(image.id);
  poll();
  loadQueue();
  const offered = await api.words();
  $("offered").replaceChildren(...offered.flatMap(([name, ...synonyms]) => [
    element("option", { value: name }, synonyms.slice(0, 2).join(", ")),
  ]));
}
attempt(start)();

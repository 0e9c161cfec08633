// The search view: a query is a list of parts, each added or taken away.

import { $, clock, element, frame } from "./dom.js";
import * as api from "./api.js";
import { play } from "./player.js";

let parts = [];
let info = null;
let current = null;

export function setUp(described, failed) {
  info = described;
  fill("label", info.labels);
  fill("language", info.languages);
  fill("targets", info.modalities);
  $("words").disabled = !info.asks.includes("text");
  $("file").disabled = !info.asks.includes("file");
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const words = $("words").value.trim();
    parts = parts.filter((part) => part.kind !== "text" || part.kept);
    if (words) parts.unshift({ kind: "text", value: words, name: words, weight: 1 });
    run(failed);
  });
  for (const id of ["label", "language", "video", "time", "targets", "merge"]) {
    $(id).addEventListener("change", () => { if (parts.length) run(failed); });
  }
  $("file").addEventListener("change", () => { take($("file").files[0], failed); $("file").value = ""; });
  const drop = $("drop");
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files[0], failed);
  });
}

export function like(clip, failed) {
  parts = [{ kind: "clip", value: clip, name: `like ${clip}`, weight: 1 }];
  $("words").value = "";
  location.hash = "search";
  return run(failed);
}

function add(clip, weight, failed) {
  parts = parts.map((part) => ({ ...part, kept: true }));
  parts.push({ kind: "clip", value: clip, name: clip, weight });
  $("words").value = "";
  return run(failed);
}

async function take(file, failed) {
  if (!file) return;
  if (file.size > info.upload_bytes) {
    say(`${file.name} is larger than ${Math.round(info.upload_bytes / 2 ** 20)} MB.`);
    return;
  }
  say(`Listening to and looking at ${file.name} …`);
  try {
    const found = await api.upload(file, begin());
    parts = [{ kind: "upload", value: found.id, name: `${file.name} (${found.modalities.join(" + ")})`, weight: 1 }];
    $("words").value = "";
    await run(failed);
  } catch (error) {
    tell(error, failed, () => take(file, failed));
  }
}

async function run(failed) {
  show();
  if (!parts.length) { say("Say what to look for."); $("hits").replaceChildren(); return; }
  say("Searching …");
  try {
    const started = performance.now();
    const { hits } = await api.search(query(), begin());
    $("hits").replaceChildren(...hits.map((hit) => card(hit, hits[0].score, failed)));
    const took = Math.round(performance.now() - started);
    say(hits.length ? `${hits.length} clips in ${took} ms` : "Nothing found. Other words or fewer filters may help.");
  } catch (error) {
    tell(error, failed, () => run(failed));
  }
}

function query() {
  const where = {};
  for (const id of ["label", "language", "video", "time"]) {
    if ($(id).value.trim()) where[id] = $(id).value.trim();
  }
  return {
    terms: parts.map(({ kind, value, weight }) => ({ kind, value, weight })),
    where, merge: $("merge").checked, targets: $("targets").value ? [$("targets").value] : null,
  };
}

function begin() {
  current?.abort();  // the answer to an older question must not overwrite this one's
  current = new AbortController();
  return current.signal;
}

function tell(error, failed, again) {
  if (error.name === "AbortError") return;
  say(error instanceof api.Refusal ? error.message : "");
  failed(error, again);
}

function card(hit, best, failed) {
  const full = info.metric === "cosine" ? 1 : Math.max(best, 1e-9);
  const share = info.metric === "l2" ? 1 / (1 - hit.score) : hit.score / full;
  const times = `${clock(hit.start)} – ${clock(hit.end)}`;
  const name = `Play ${hit.video} from ${times}`;
  return element("li", { class: "hit" },
    frame(hit.thumbnail, name, () => play(hit.id, hit.media, hit.text),
      element("span", { class: "rank" }, String(hit.rank)), element("span", { class: "time" }, times)),
    element("div", { class: "facts-of" },
      element("h3", {}, hit.video),
      element("div", { class: "score" }, bar(share), hit.score.toFixed(3)),
      element("p", { class: hit.text ? "said" : "said silent", title: hit.text }, hit.text ?? "No speech"),
      element("div", { class: "acts" },
        element("button", { type: "button", onclick: () => like(hit.id, failed) }, "More like this"),
        element("button", { type: "button", "aria-label": `Add ${hit.id} to the query`, onclick: () => add(hit.id, 1, failed) }, "+"),
        element("button", { type: "button", "aria-label": `Take ${hit.id} away from the query`, onclick: () => add(hit.id, -1, failed) }, "−"))));
}

function bar(share) {
  const inner = element("span");
  inner.style.width = `${Math.min(100, Math.max(0, 100 * share))}%`;
  return element("span", { class: "bar-of", "aria-hidden": "true" }, inner);
}

function show() {
  const several = parts.length > 1 || (parts.length === 1 && parts[0].kind !== "text");
  $("terms").replaceChildren(...(several ? parts : []).map((part) => element("li", {},
    element("button", { class: "sign", type: "button", title: "Add or take away", "aria-label": `${part.weight > 0 ? "Added" : "Taken away"}: ${part.name}; change`,
      onclick: () => { part.weight = -part.weight; $("form").requestSubmit(); } }, part.weight > 0 ? "+" : "−"),
    element("span", {}, part.name),
    element("button", { type: "button", "aria-label": `Remove ${part.name}`,
      onclick: () => { parts = parts.filter((other) => other !== part); if (part.kind === "text") $("words").value = ""; $("form").requestSubmit(); } }, "×"))));
}

function say(text) { $("status").textContent = text; }

function fill(id, values) {
  $(id).append(...values.map((value) => element("option", { value }, value)));
  $(id).parentElement.hidden = !values.length;
}

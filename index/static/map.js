// The map view: clips as points in the plane, clusters beside it.

import { $, clock, element, frame } from "./dom.js";
import * as api from "./api.js";
import { partsOf, play } from "./player.js";

let found = null;
let chosen = null;  // a cluster that stands out
let near = null;  // the point under the pointer or the keys
let order = [];

const colour = (number, light = 52) => `hsl(${(number * 137.508 + 190) % 360} 58% ${light}%)`;

export function setUp(info, failed) {
  $("method").append(...info.maps.map((value) => element("option", { value }, value.toUpperCase())));
  $("method-label").hidden = info.maps.length < 2;
  const canvas = $("canvas");
  canvas.addEventListener("pointermove", (event) => pointAt(nearest(event)));
  canvas.addEventListener("pointerleave", () => pointAt(null));
  canvas.addEventListener("click", (event) => { pointAt(nearest(event)); open(failed); });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter") open(failed);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !found) return;
    event.preventDefault();
    const place = near === null ? (step > 0 ? -1 : 0) : order.indexOf(near);
    pointAt(order[(place + step + order.length) % order.length]);
  });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  $("method").addEventListener("change", () => { found = near = null; load(failed); });
}

export async function load(failed) {
  if (found) { draw(); return; }
  $("point").textContent = "Making the map …";
  const method = $("method").value || "pca";
  try {
    const answer = await api.map(method);
    if (method !== ($("method").value || "pca")) return;  // another was chosen since
    found = answer;
  } catch (error) {
    $("point").textContent = error.message;
    failed(error, () => load(failed));
    return;
  }
  order = found.points.x.map((_, i) => i).sort((a, b) => found.points.cluster[a] - found.points.cluster[b] || found.points.x[a] - found.points.x[b]);
  $("point").textContent = "Point at a clip, or use the arrow keys.";
  $("clusters").replaceChildren(...found.clusters.map((cluster) => card(cluster)));
  draw();
}

function card(cluster) {
  const dot = element("canvas", { class: "dot", width: 13, height: 13, "aria-hidden": "true", style: null });
  const pen = dot.getContext("2d");
  pen.fillStyle = colour(cluster.number);
  pen.beginPath(); pen.arc(6.5, 6.5, 6, 0, 7); pen.fill();
  const head = element("button", { class: "cluster-head", type: "button", "aria-pressed": "false",
    onclick: () => choose(chosen === cluster.number ? null : cluster.number) },
    dot, element("h2", {}, `Cluster ${cluster.number + 1}`), element("span", { class: "size" }, `${cluster.size.toLocaleString()} clips`));
  const words = cluster.words.map(({ word }, i) => [i ? ", " : "", i < 3 ? element("b", {}, word) : word]).flat();
  return element("article", { class: "cluster", "data-number": cluster.number }, head,
    element("p", { class: "words" }, ...(words.length ? words : ["No speech"])),
    cluster.labels.length ? element("ul", { class: "shares", "aria-label": "Labels" },
      ...cluster.labels.map(({ label, share }) => element("li", {}, `${label} ${Math.round(100 * share)} %`))) : null,
    element("div", { class: "sheet" }, ...cluster.samples.map((sample) => {
      const { video, start, end } = partsOf(sample.id);
      return frame(sample.thumbnail, `Play ${video} from ${clock(start)} to ${clock(end)}`, () => play(sample.id, sample.media, ""));
    })));
}

function choose(number) {
  chosen = number;
  for (const one of document.querySelectorAll(".cluster")) {
    const is = Number(one.dataset.number) === number;
    one.classList.toggle("chosen", is);
    one.querySelector(".cluster-head").setAttribute("aria-pressed", String(is));
  }
  draw();
}

function place(i, width, height) {
  const pad = 22;
  return [pad + (found.points.x[i] + 1) / 2 * (width - 2 * pad), pad + (1 - found.points.y[i]) / 2 * (height - 2 * pad)];
}

function draw() {
  const canvas = $("canvas");
  const { width, height } = canvas.getBoundingClientRect();
  if (!found || !width) return;
  const ratio = devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const radius = Math.max(2, Math.min(6, 90 / Math.sqrt(order.length)));
  const light = matchMedia("(prefers-color-scheme: dark)").matches ? 64 : 46;
  for (const i of order) {
    const cluster = found.points.cluster[i];
    pen.globalAlpha = chosen === null || chosen === cluster ? 0.85 : 0.1;
    pen.fillStyle = colour(cluster, light);
    pen.beginPath(); pen.arc(...place(i, width, height), radius, 0, 7); pen.fill();
  }
  pen.globalAlpha = 1;
  if (near === null) return;
  pen.strokeStyle = getComputedStyle(document.body).color;
  pen.lineWidth = 2;
  pen.beginPath(); pen.arc(...place(near, width, height), radius + 4, 0, 7); pen.stroke();
}

function nearest(event) {
  if (!found) return null;
  const { left, top, width, height } = $("canvas").getBoundingClientRect();
  let best = null, least = 18 ** 2;
  for (const i of order) {
    const [x, y] = place(i, width, height);
    const distance = (x - event.clientX + left) ** 2 + (y - event.clientY + top) ** 2;
    if (distance < least) { best = i; least = distance; }
  }
  return best;
}

function pointAt(i) {
  if (i === near || !found) return;
  near = i;
  if (i !== null) {
    const { video, start, end } = partsOf(found.points.id[i]);
    $("point").textContent = `${video} · ${clock(start)} – ${clock(end)} · cluster ${found.points.cluster[i] + 1}`;
  }
  draw();
}

async function open(failed) {
  if (near === null || !found) return;
  const id = found.points.id[near];
  try {
    const clip = await api.clip(id);
    play(clip.id, clip.media, clip.text);
  } catch (error) {
    $("point").textContent = error.message;
    failed(error, () => open(failed));
  }
}

// Plays the seconds of one clip.

import { $, clock } from "./dom.js";

let stop = Infinity;

export function partsOf(id) {
  const [, video, start, end] = /^(.*)@([\d.]+)-([\d.]+)$/.exec(id);
  return { video, start: Number(start), end: Number(end) };
}

export function setUp(like) {
  const film = $("film");
  film.addEventListener("timeupdate", () => {
    if (film.currentTime >= stop) { film.pause(); stop = Infinity; }
  });
  film.addEventListener("error", () => {
    if (film.getAttribute("src")) $("player-note").textContent = "This clip cannot be played here.";
  });
  $("player").addEventListener("close", () => { film.pause(); film.removeAttribute("src"); film.load(); });
  $("player-like").addEventListener("click", () => { $("player").close(); like($("player").dataset.clip); });
}

export function play(id, media, text) {
  const { video, start, end } = partsOf(id);
  const film = $("film");
  $("player").dataset.clip = id;
  $("player-title").textContent = `${video} · ${clock(start)} – ${clock(end)}`;
  $("player-text").textContent = text ?? "";
  $("player-note").textContent = media ? "" : "Neither a proxy nor the source of this video can be reached: there is nothing to play.";
  film.hidden = !media;
  $("player").showModal();
  if (!media) return;
  const whole = media.includes("#t=");  // a proxy: all of the video; a cut holds the clip alone
  stop = whole ? end : Infinity;
  film.src = media;
  film.play().catch(() => {});  // a browser may want a click first: the controls are there
}

// The page: two views, one player, and what is shown while the server is away.

import { $ } from "./dom.js";
import * as api from "./api.js";
import * as map from "./map.js";
import * as player from "./player.js";
import * as search from "./search.js";

function failed(error, again) {
  if (error instanceof api.Refusal && error.status === 401) { login(again); return; }
  if (!(error instanceof api.Away) && !(error instanceof api.Refusal && error.status === 503)) return;
  $("away-text").textContent = error.message;
  $("away").hidden = false;
  $("again").onclick = async () => { $("away").hidden = true; await again(); };
}

function login(again) {
  $("login").showModal();
  $("login-form").onsubmit = async (event) => {
    event.preventDefault();
    try {
      await api.enter($("token").value);
    } catch (error) {
      $("login-note").textContent = error.message;
      return;
    }
    $("login").close();
    await again();
  };
}

const like = (clip) => search.like(clip, failed);

function show() {
  const isMap = location.hash === "#map";
  $("map-view").hidden = !isMap;
  $("search-view").hidden = isMap;
  for (const [id, current] of [["tab-map", isMap], ["tab-search", !isMap]]) {
    if (current) $(id).setAttribute("aria-current", "page"); else $(id).removeAttribute("aria-current");
  }
  if (isMap) map.load(failed); else if (matchMedia("(pointer: fine)").matches) $("words").focus();
}

// Its address would be taken for a view's.
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $($("map-view").hidden ? "hits" : "clusters").focus();
});

async function start() {
  let info;
  try {
    info = await api.describe();
  } catch (error) {
    failed(error, start);
    return;
  }
  $("facts").textContent = `${info.clips.toLocaleString()} clips · ${info.videos.toLocaleString()} videos`;
  player.setUp(like);
  search.setUp(info, failed);
  map.setUp(info, failed);
  addEventListener("hashchange", show);
  addEventListener("keydown", (event) => {  // "/" as on many search pages
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      location.hash = "search";
      $("words").focus();
    }
  });
  show();
}

start();

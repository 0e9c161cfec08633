// Small pieces of the page. Text goes in as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const minutes = Math.floor(tenths / 600);
  const rest = tenths % 600;
  const fraction = rest % 10 ? `.${rest % 10}` : "";
  return `${minutes}:${String(Math.floor(rest / 10)).padStart(2, "0")}${fraction}`;
}

import { reason } from "./api.js";

// A button with a clip's picture; what has none says why.
export function frame(path, label, play, ...over) {
  const picture = element("img", { src: path, alt: "", loading: "lazy", decoding: "async" });
  const made = element("button", { class: "frame", type: "button", "aria-label": label, onclick: play }, picture, ...over);
  picture.addEventListener("error", async () => {
    const why = element("span", { class: "absent" }, "No picture");
    picture.replaceWith(why);
    why.textContent = (await reason(path)) || "No picture";
  });
  return made;
}

"use strict";
const get = (id) => document.getElementById(id);
const data = JSON.parse(get("data").textContent);
// Names of steps are its keys, and a step may be called `constructor`.
for (const named of [data.steps, data.details, data.folds]) Object.setPrototypeOf(named, null);
const number = (count) => count.toLocaleString("en");
const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

// Text from outside becomes text here, never markup.
function make(tag, name, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

function duration(seconds) {
  if (seconds < 9.995) return `${seconds.toFixed(2)}s`;
  if (seconds < 59.95) return `${seconds.toFixed(1)}s`;
  const whole = Math.round(seconds);
  const pad = (part) => String(part).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${pad(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h ${pad(Math.floor(whole / 60) % 60)}m`;
}

// Theme: follows the system until the reader chooses one.
const themes = { auto: "light dark", light: "light", dark: "dark" };
const themeButton = get("theme");
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  const names = Object.keys(themes);
  const now = themeButton.textContent.split(": ")[1];
  const next = names[(names.indexOf(now) + 1) % names.length];
  document.documentElement.style.colorScheme = themes[next];
  themeButton.textContent = `Theme: ${next}`;
});

// Folds: their content is made once, when they are unfolded. The markup in the data is part of the
// page: the program that wrote it has escaped all text in it.
for (const card of document.querySelectorAll("[data-card]")) {
  // A step that failed is on the page already, and its row has the same details.
  data.details[card.dataset.card] = card.querySelector(".detail").outerHTML;
}
const fillers = {
  step: (details, name) => details.insertAdjacentHTML("beforeend", data.details[name]),
  fold: (details, name) => details.insertAdjacentHTML("beforeend", data.folds[name]),
};
const makers = new WeakMap(); // functions that make the content of folds which are not in the data
function fill(details) {
  if (details.dataset.made !== undefined) return;
  details.dataset.made = "";
  makers.get(details)?.();
  for (const [kind, filler] of Object.entries(fillers)) {
    if (details.dataset[kind] !== undefined) filler(details, details.dataset[kind]);
  }
  details.dispatchEvent(new Event("made", { bubbles: true }));
}
// A log is read from its end.
const toEnds = (inside) => inside.querySelectorAll("pre.log").forEach((log) => log.scrollTo(0, 1e9));
document.addEventListener("made", (event) => setTimeout(toEnds, 0, event.target));
toEnds(document);
function unfold(details) {
  fill(details); // before the event, so that one can scroll to it at once
  details.open = true;
}
document.addEventListener("toggle", (event) => event.target.open && fill(event.target), true);
document.addEventListener("click", (event) => {
  // Before the fold opens, so that it never shows without its content; keys cause a click, too.
  const summary = event.target.closest("summary");
  if (summary) fill(summary.parentElement);
});

// The up and down arrow keys move between the rows of a section.
function isShown(element) {
  return element.checkVisibility();
}
document.addEventListener("keydown", (event) => {
  const away = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const stops = "summary, .lane";
  if (!away || !event.target.matches(stops)) return;
  const shown = [...event.target.closest("section").querySelectorAll(stops)].filter(isShown);
  const next = shown[shown.indexOf(event.target) + away];
  if (!next) return;
  event.preventDefault();
  next.focus();
});

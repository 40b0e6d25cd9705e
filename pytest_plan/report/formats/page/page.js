"use strict";
const get = (id) => document.getElementById(id);
const steps = [...document.querySelectorAll("details.row")];
const groups = [...document.querySelectorAll("details.group")]; // the instances of one step
const number = (count) => count.toLocaleString("en");
const bars = [...document.querySelectorAll("svg.bar")];

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

// Filter.
const form = get("tools");
form.hidden = false;
form.addEventListener("submit", (event) => event.preventDefault());
const textOf = new Map();
function matches(step, words, badOnly) {
  if (badOnly && !("bad" in step.dataset)) return false;
  if (!words.length) return true;
  if (!textOf.has(step)) textOf.set(step, step.textContent.toLowerCase());
  return words.every((word) => textOf.get(step).includes(word));
}
function filter() {
  const words = get("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const badOnly = get("bad-only").checked;
  let count = 0;
  for (const step of steps) {
    step.hidden = !matches(step, words, badOnly);
    if (!step.hidden) count += 1;
  }
  for (const group of groups) {
    const found = [...group.querySelectorAll("details.row")].some((step) => !step.hidden);
    group.hidden = !found;
    if (found && words.length) group.open = true;
  }
  get("nothing").hidden = count > 0 || !steps.length;
  const all = `${number(steps.length)} ${steps.length === 1 ? "step" : "steps"}`;
  get("found").textContent = count === steps.length ? all : `${number(count)} of ${all}`;
}
get("filter").addEventListener("input", filter);
get("bad-only").addEventListener("change", filter);
filter();
get("open-all").addEventListener("click", (event) => {
  const open = event.target.textContent.startsWith("Expand");
  for (const one of [...groups, ...steps]) one.open = open && !one.hidden;
  event.target.textContent = open ? "Collapse all" : "Expand all";
});

// Zoom to a part of the run.
const total = Number(get("rows").dataset.seconds);
const nice = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
function tickSize(rough) {
  if (rough > 10) return nice.find((size) => size >= rough) ?? rough;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((size) => size * power >= rough) * power;
}
function timeText(seconds) {
  if (seconds < 60) return `${Number(seconds.toPrecision(4))}s`;
  const rest = Math.round(seconds) % 60;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return rest ? `${minutes}m ${String(rest).padStart(2, "0")}s` : `${minutes}m`;
}
get("span").addEventListener("change", (event) => {
  const [began, ended] = event.target.value.split(" ").map(Number);
  const left = (began / total) * 1000;
  const width = ((ended - began) / total) * 1000;
  for (const bar of bars) bar.setAttribute("viewBox", `${left} 0 ${width} 10`);
  const apart = tickSize((ended - began) / 6);
  const ticks = [];
  for (let at = Math.ceil(began / apart) * apart; at <= ended; at += apart) {
    const tick = document.createElement("span");
    tick.style.left = `${((at - began) / (ended - began)) * 100}%`;
    tick.textContent = timeText(at);
    ticks.push(tick);
  }
  get("ruler").replaceChildren(...ticks);
});

// A link to a step opens it. The arrow keys move from step to step.
function show(step) {
  if (step.hidden) {
    get("filter").value = "";
    get("bad-only").checked = false;
    filter();
  }
  const group = step.closest("details.group");
  if (group) group.open = true;
  step.open = true;
  step.scrollIntoView();
  step.querySelector("summary").focus({ preventScroll: true });
}
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#step-"]');
  const step = link && get(decodeURIComponent(link.getAttribute("href").slice(1)));
  if (!step) return;
  event.preventDefault();
  history.replaceState(null, "", `#${step.id}`);
  show(step);
});
document.addEventListener("keydown", (event) => {
  const away = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!away || event.target.tagName !== "SUMMARY") return;
  const isShown = (one) => !one.hidden && !one.parentElement.closest("details:not([open])");
  const shown = [...document.querySelectorAll("details.group, details.row")].filter(isShown);
  const next = shown[shown.indexOf(event.target.parentElement) + away];
  if (!next) return;
  event.preventDefault();
  next.querySelector("summary").focus();
});
const linked = location.hash && get(decodeURIComponent(location.hash.slice(1)));
if (linked && linked.matches("details.row")) show(linked);

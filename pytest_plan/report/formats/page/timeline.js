// The timeline. Bars are at positions from 0 to 1000; `view` is the part of them that is shown.
const WHOLE = 1000;
const LEAST = WHOLE / 100_000;
const timeline = get("steps");
const rows = get("rows");
const ruler = get("ruler");
const spans = get("span");
let view = [0, WHOLE];
const spanOf = (value) => value.split(" ").map((at) => (at / data.seconds) * WHOLE);
const secondsAt = (x) => (x / WHOLE) * data.seconds;

const nice = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
function tickSize(rough) {
  if (rough > 10) return nice.find((size) => size >= rough) ?? rough;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((size) => size * power >= rough) * power;
}
function timeText(seconds) {
  if (seconds < 60) return `${Number(seconds.toPrecision(6))}s`;
  const rest = Math.round(seconds) % 60;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return rest ? `${minutes}m ${String(rest).padStart(2, "0")}s` : `${minutes}m`;
}
function drawRuler() {
  const [began, ended] = view.map(secondsAt);
  const apart = tickSize((ended - began) / 6);
  const ticks = [];
  for (let count = Math.ceil(began / apart); count * apart <= ended; count += 1) {
    const tick = make("span", "", timeText(count * apart));
    tick.style.left = `${((count * apart - began) / (ended - began)) * 100}%`;
    ticks.push(tick);
  }
  ruler.replaceChildren(...ticks);
  ruler.setAttribute("aria-label", `Time axis from ${timeText(began)} to ${timeText(ended)}`);
}
function drawBars(inside) {
  const box = `${view[0]} 0 ${view[1] - view[0]} 10`;
  for (const bar of inside.querySelectorAll("svg.bar")) bar.setAttribute("viewBox", box);
}
function show([began, ended]) {
  const width = Math.min(Math.max(ended - began, LEAST), WHOLE);
  const left = Math.min(Math.max(began, 0), WHOLE - width);
  view = [left, left + width];
  drawRuler();
  drawBars(rows);
  const close = (a, b) => Math.abs(a - b) < LEAST;
  const shown = [...spans.options].find(({ value }) => {
    const [from, to] = spanOf(value);
    return close(from, view[0]) && close(to, view[1]);
  });
  spans.value = shown?.value ?? "";
}
rows.addEventListener("made", (event) => drawBars(event.target));

// `factor` below 1 zooms in; the position `around` stays where it is.
const middle = () => (view[0] + view[1]) / 2;
function zoom(factor, around = middle()) {
  show([around - (around - view[0]) * factor, around + (view[1] - around) * factor]);
}
function move(share) {
  const by = (view[1] - view[0]) * share;
  show([view[0] + by, view[1] + by]);
}
function positionOf(event, element) {
  const box = element.getBoundingClientRect();
  return view[0] + ((event.clientX - box.left) / box.width) * (view[1] - view[0]);
}
get("zoom-in").addEventListener("click", () => zoom(0.5));
get("zoom-out").addEventListener("click", () => zoom(2));
get("zoom-reset").addEventListener("click", () => show([0, WHOLE]));
get("zoom-help").hidden = false;
spans.addEventListener("change", () => show(spanOf(spans.value)));
timeline.addEventListener(
  "wheel",
  (event) => {
    const over = event.target.closest("svg.bar, #ruler");
    if (!over) return;
    // Without Ctrl, the wheel scrolls the page everywhere but over the ruler.
    if (event.ctrlKey || event.metaKey || over === ruler) {
      event.preventDefault();
      zoom(1.5 ** Math.sign(event.deltaY || event.deltaX), positionOf(event, over));
    }
  },
  { passive: false },
);
timeline.addEventListener("keydown", (event) => {
  if (!event.target.matches("summary, .lane, #ruler") || event.ctrlKey || event.metaKey) return;
  const name = event.target.parentElement.dataset.step;
  const [x, width] = data.steps[name]?.bars[0] ?? [middle(), 0];
  const actions = {
    "+": () => zoom(0.5, x + width / 2),
    "=": () => zoom(0.5, x + width / 2),
    "-": () => zoom(2),
    0: () => show([0, WHOLE]),
    ArrowLeft: () => move(-0.2),
    ArrowRight: () => move(0.2),
  };
  if (!Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
});
ruler.addEventListener("pointerdown", (down) => {
  const [from, at] = [view, positionOf(down, ruler)];
  ruler.setPointerCapture(down.pointerId);
  const drag = (event) => {
    const by = at - (positionOf(event, ruler) - view[0] + from[0]);
    show([from[0] + by, from[1] + by]);
  };
  ruler.addEventListener("pointermove", drag);
  const end = () => ruler.removeEventListener("pointermove", drag);
  ruler.addEventListener("lostpointercapture", end, { once: true });
});

// The tip tells what a bar is: the one under the pointer, or all of the row that has the focus.
const tip = get("tip");
const MOST_LINES = 8;
const NEAR = 4; // pixels
function testTitle(test) {
  const end = timeText(Number((test.started + test.seconds).toPrecision(4)));
  const when = `${timeText(Number(test.started.toPrecision(4)))} to ${end}`;
  return `${test.id}: ${test.outcome}, ${duration(test.seconds)} (${when})`;
}
function testAt(worker, x, near) {
  let [best, least] = [null, near];
  for (const test of tests) {
    if (test.worker !== worker) continue;
    const from = (test.started / data.seconds) * WHOLE;
    const to = ((test.started + test.seconds) / data.seconds) * WHOLE;
    const away = Math.max(from - x, x - to, 0);
    if (away < least || (away === 0 && test.outcome === "failed")) [best, least] = [test, away];
  }
  return best;
}
function titlesAt(bar, event) {
  const x = positionOf(event, bar);
  const near = (NEAR / bar.getBoundingClientRect().width) * (view[1] - view[0]);
  const { worker } = bar.parentElement.dataset;
  if (worker !== undefined) {
    const test = testAt(worker, x, near);
    return test ? [testTitle(test)] : [];
  }
  const name = bar.closest("[data-step]")?.dataset.step;
  const found = (data.steps[name]?.bars ?? []).filter(
    ([left, width]) => left - near <= x && x <= left + width + near,
  );
  return found.map(([, , title]) => `${name}: ${title}`);
}
function tell(lines, beside) {
  tip.hidden = !lines.length;
  if (!lines.length) return;
  const rest = lines.length - MOST_LINES;
  const shown = lines.slice(0, MOST_LINES).map((line) => make("div", "", line));
  tip.replaceChildren(...shown, rest > 0 ? `and ${rest} more` : "");
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const isBelow = beside.bottom + tip.offsetHeight + 8 < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(beside.left, room))}px`;
  tip.style.top = `${isBelow ? beside.bottom + 6 : beside.top - tip.offsetHeight - 6}px`;
}
timeline.addEventListener("pointermove", (event) => {
  const bar = event.target.closest("svg.bar");
  if (!bar) return tell([]);
  const { top, bottom } = bar.getBoundingClientRect();
  tell(titlesAt(bar, event), { left: event.clientX + 10, top, bottom });
});
timeline.addEventListener("pointerleave", () => tell([]));
timeline.addEventListener("focusin", ({ target }) => {
  const bar = target.querySelector(":scope > svg.bar");
  if (!bar || !target.matches(":focus-visible")) return;
  const { step } = target.parentElement.dataset;
  const lines = step === undefined ? [target.dataset.summary] : data.steps[step].bars.map((one) => one[2]);
  target.setAttribute("aria-describedby", "tip");
  tell(lines, bar.getBoundingClientRect());
});
timeline.addEventListener("focusout", ({ target }) => {
  target.removeAttribute("aria-describedby");
  tell([]);
});
document.addEventListener("keydown", (event) => event.key === "Escape" && tell([]));
document.addEventListener("scroll", () => tell([]), { passive: true });

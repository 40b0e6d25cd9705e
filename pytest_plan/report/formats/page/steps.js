// The rows of steps: filter, fold, links.
const stepNames = Object.keys(data.steps);
const stepForm = get("tools");
stepForm.hidden = false;
stepForm.addEventListener("submit", (event) => event.preventDefault());

// The rows that are folded are made before all rows are searched.
function makeRows() {
  const later = get("later");
  if (later) {
    later.insertAdjacentHTML("beforebegin", data.folds.later);
    later.remove();
    drawBars(rows);
  }
  for (const group of rows.querySelectorAll("details.group")) fill(group);
}
if (get("later")) {
  makers.set(get("later"), () => {
    const before = get("later").previousElementSibling;
    makeRows();
    before.nextElementSibling.querySelector("summary").focus();
  });
}
for (const group of rows.querySelectorAll("details.group[data-open]")) unfold(group);

const textOf = new Map();
function searchable(row) {
  const { step } = row.dataset;
  if (!textOf.has(step)) {
    const detail = document.createElement("template");
    detail.innerHTML = data.details[step];
    const text = `${row.querySelector("summary").textContent} ${detail.content.textContent}`;
    textOf.set(step, text.toLowerCase());
  }
  return textOf.get(step);
}
const wordsIn = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
function filterSteps() {
  const words = wordsIn(get("filter"));
  const badOnly = get("bad-only").checked;
  const isFiltered = words.length > 0 || badOnly;
  if (isFiltered) makeRows();
  let count = isFiltered ? 0 : stepNames.length;
  for (const row of rows.querySelectorAll("details.row")) {
    const isBad = !badOnly || data.steps[row.dataset.step].bad;
    row.hidden = !isBad || (words.length && !words.every((word) => searchable(row).includes(word)));
    if (isFiltered && !row.hidden) count += 1;
  }
  for (const group of rows.querySelectorAll("details.group")) {
    const found = [...group.querySelectorAll("details.row")].some((row) => !row.hidden);
    group.hidden = isFiltered && !found;
    if (isFiltered && found) group.open = true;
  }
  get("nothing").hidden = count > 0 || !stepNames.length;
  const all = plural(stepNames.length, "step");
  get("found").textContent = isFiltered ? `${number(count)} of ${all}` : all;
}
get("filter").addEventListener("input", filterSteps);
get("bad-only").addEventListener("change", filterSteps);
filterSteps();
get("open-all").addEventListener("click", (event) => {
  const open = event.target.textContent.startsWith("Expand");
  if (open) makeRows();
  for (const one of rows.querySelectorAll("details.group, details.row")) {
    if (open && !one.hidden) unfold(one);
    else one.open = false;
  }
  event.target.textContent = open ? "Collapse all" : "Expand all";
});

// A link to a step unfolds it.
function showStep(id) {
  if (!get(id)) makeRows();
  const row = get(id);
  if (!row?.matches("details.row")) return false;
  if (row.hidden) {
    get("filter").value = "";
    get("bad-only").checked = false;
    filterSteps();
  }
  const group = row.closest("details.group");
  if (group) unfold(group);
  unfold(row);
  row.scrollIntoView();
  row.querySelector("summary").focus({ preventScroll: true });
  return true;
}
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#step-"]');
  const id = link && decodeURIComponent(link.getAttribute("href").slice(1));
  if (!id || !showStep(id)) return;
  event.preventDefault();
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
});
if (location.hash.startsWith("#step-")) showStep(decodeURIComponent(location.hash.slice(1)));

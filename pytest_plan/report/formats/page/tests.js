// The tests: one group for each outcome, and one for each step that blocked tests.
const CHUNK = 50; // rows that are made at once
const ORDER = ["failed", "error", "blocked", "skipped", "xfailed", "xpassed", "passed"];
const testForm = get("test-tools");

// Steps that a test needs, directly or through others.
const closures = new Map();
function closure(name) {
  if (!closures.has(name)) {
    const found = new Set([name]);
    closures.set(name, found);
    for (const need of data.steps[name]?.needs ?? []) closure(need).forEach((one) => found.add(one));
  }
  return closures.get(name);
}
const uses = (test, step) => test.needs.some((name) => closure(name).has(step));

// A row in a list of tests; the error is made when the row is unfolded.
function testRow(test) {
  const facts = [duration(test.seconds)];
  if (test.worker !== "main") facts.push(test.worker);
  if (stages > 1) facts.push(`stage ${test.stage}`);
  const head = [make("span", "node", test.id), " ", make("span", "when", facts.join(", "))];
  if (test.message && test.outcome !== "blocked") head.push(make("span", "message", test.message));
  if (!test.text) return make("li", "", ...head);
  const details = make("details", "", make("summary", "", ...head));
  makers.set(details, () => {
    const error = make("pre", "", test.text);
    error.tabIndex = 0;
    error.setAttribute("role", "group");
    error.setAttribute("aria-label", `Error of ${test.id}`);
    details.append(error);
  });
  return make("li", "", details);
}
function testList(list) {
  const rowsOf = make("ul", "test-rows");
  const more = make("button", "more");
  more.type = "button";
  let shown = 0;
  const add = () => {
    rowsOf.append(...list.slice(shown, shown + CHUNK).map(testRow));
    shown = Math.min(shown + CHUNK, list.length);
    more.hidden = shown === list.length;
    more.textContent = `Show ${Math.min(CHUNK, list.length - shown)} more of ${number(list.length - shown)}`;
  };
  more.addEventListener("click", add);
  add();
  return [rowsOf, more];
}
fillers.blocked = (details, step) => {
  const blocked = tests.filter((test) => test.blockedBy.includes(step));
  details.replaceChildren(details.firstElementChild, ...testList(blocked));
};

function decoded() {
  const { outcomes, files, workers, names, messages, rows: all } = data.tests;
  const named = (indexes = []) => indexes.map((index) => names[index]);
  return all.map((row) => ({
    id: row[1] === null ? files[row[0]] : `${files[row[0]]}::${row[1]}`,
    outcome: outcomes[row[2]],
    started: row[3],
    seconds: row[4],
    worker: workers[row[5]],
    stage: row[6] || 1,
    needs: named(row[7]),
    blockedBy: named(row[8]),
    message: messages[row[9]] ?? "",
    text: row[10] ?? "",
  }));
}
const tests = decoded();
const stages = tests.reduce((most, test) => Math.max(most, test.stage), 1);

function groupName(test) {
  if (test.outcome !== "blocked") return test.outcome;
  return test.blockedBy.length ? `blocked by ${test.blockedBy.join(", ")}` : "blocked";
}
function grouped(list) {
  const groups = new Map();
  for (const test of list) {
    const name = groupName(test);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(test);
  }
  const rank = ([, [first]]) => ORDER.indexOf(first.outcome);
  return [...groups].sort((a, b) => rank(a) - rank(b));
}
const opened = new Set(); // groups that the reader has unfolded
function testGroup([name, list], isOpen) {
  const { outcome } = list[0];
  // The slowest come first where nothing went wrong.
  if (outcome === "passed") list.sort((a, b) => b.seconds - a.seconds);
  const title = `${number(list.length)} ${name}`;
  const summary = make("summary", "", make("span", `name ${outcome}`, title));
  if (outcome === "blocked") summary.append(make("span", "message", list[0].message));
  if (outcome === "passed") summary.append(make("span", "when", "slowest first"));
  const group = make("details", "test-group", summary);
  makers.set(group, () => group.append(...testList(list)));
  summary.addEventListener("click", () => opened[group.open ? "delete" : "add"](name));
  if (isOpen) unfold(group);
  return group;
}
function filterTests() {
  const words = wordsIn(get("test-text"));
  const [outcome, step, stage] = ["outcome", "step", "stage"].map((id) => get(`test-${id}`).value);
  const found = tests.filter(
    (test) =>
      (!outcome || test.outcome === outcome) &&
      (!step || uses(test, step)) &&
      (!stage || test.stage === Number(stage)) &&
      words.every((word) => `${test.id} ${test.message} ${test.text}`.toLowerCase().includes(word)),
  );
  const isFiltered = words.length > 0 || outcome || step || stage;
  const groups = grouped(found).map((group) => {
    // Blocked tests stay folded under their step unless the reader looks for them.
    const isBlocked = group[0].startsWith("blocked") && !words.length && outcome !== "blocked";
    return testGroup(group, opened.has(group[0]) || (isFiltered && !isBlocked));
  });
  get("test-groups").replaceChildren(...(groups.length ? groups : [make("p", "", "No matching tests.")]));
  const all = plural(tests.length, "test");
  get("tests-found").textContent = isFiltered ? `${number(found.length)} of ${all}` : all;
}
function offer(id, values, text = (value) => value) {
  const select = get(id);
  for (const value of values) select.append(new Option(text(value), value));
  select.closest("label").hidden = values.length < 2 && select.options.length < 3;
}
function showTest(test) {
  testForm.reset();
  get("test-text").value = test.id;
  filterTests();
  get("tests").scrollIntoView();
}
if (testForm) {
  testForm.hidden = false;
  const present = new Set(tests.map((test) => test.outcome));
  const used = new Set(tests.flatMap((test) => test.needs.flatMap((name) => [...closure(name)])));
  offer("test-outcome", ORDER.filter((name) => present.has(name)));
  offer("test-step", stepNames.filter((name) => used.has(name)));
  offer("test-stage", Array.from({ length: stages > 1 ? stages : 0 }, (_, index) => index + 1));
  testForm.addEventListener("submit", (event) => event.preventDefault());
  testForm.addEventListener("input", filterTests);
  testForm.addEventListener("reset", () => setTimeout(filterTests));
  filterTests();
  rows.addEventListener("click", (event) => {
    const bar = event.target.closest(".lane svg.bar");
    const near = bar && (NEAR / bar.getBoundingClientRect().width) * (view[1] - view[0]);
    const test = bar && testAt(bar.parentElement.dataset.worker, positionOf(event, bar), near);
    if (test) showTest(test);
  });
}

"""Prints the plan for `--plan-show` and `--setup-plan`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from pytest_plan.engine.definition.graph import closure
from pytest_plan.engine.definition.options import StepOptions
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.text import printable, visible
from pytest_plan.plugin.declaring.marks import ALONE, is_alone
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.report.terminal import tree

_FIRST, _LAST = "at once", "after all steps"
_MOST = 5  # groups of tests that are listed


def pytest_plan_show(config: pytest.Config) -> None:
    """Print the steps as a tree of needs, then the selected tests, grouped by needed steps."""
    plan = lookup.of(config)
    writer = config.get_terminal_writer()
    if writer.width_of_current_line:
        writer.line()
    writer.sep("=", "plan")
    for line in (*_steps(plan), *_tests(plan), *_overlap(plan)):
        writer.line(printable(visible(line)))
    writer.line("nothing was run")


def _steps(plan: PlanSession) -> Iterator[str]:
    shown = plan.host.foreground.shown
    steps = [_with_shown_names(step, shown) for step in plan.declared.steps.values()]
    all_needed = set(map(shown, plan.declared.needed or ()))
    if not steps:
        yield "no steps are declared"
        return
    rows = list(tree.rows(steps, printable(tree.LINES) == tree.LINES))
    width = max(len(row.branch) + len(row.step.name) for row in rows)
    for row in rows:
        step = row.step
        needed = "" if step.name in all_needed else "  (not needed)"
        yield f"{row.branch + step.name:<{width}}  {_edges(step)}{needed}"
        details = [*_options(step.options), step.origin]
        yield f"{row.below:<{width}}    {'  '.join(details)}"


def _with_shown_names(step: PlannedStep, shown: Callable[[str], str]) -> PlannedStep:
    needs, after = (tuple(map(shown, edges)) for edges in (step.needs, step.after))
    return step._replace(name=shown(step.name), needs=needs, after=after)


def _edges(step: PlannedStep) -> str:
    parts = []
    if step.needs:
        parts.append(f"needs {', '.join(step.needs)}")
    if step.after:
        parts.append(f"after {', '.join(step.after)}")
    return "; ".join(parts) or "no dependencies"


def _options(options: StepOptions) -> Iterator[str]:
    if options.retries:
        yield f"retries={options.retries}"
    if options.timeout is not None:
        yield f"timeout={format_duration(options.timeout)}"
    if options.pause:
        yield f"pause={format_duration(options.pause)}"
    if options.cleanup_timeout != StepOptions().cleanup_timeout:
        yield f"cleanup_timeout={format_duration(options.cleanup_timeout)}"
    if options.cleanup_when != StepOptions().cleanup_when:
        yield f"cleanup_when={options.cleanup_when}"
    if options.per != "run":
        yield f"per={options.per}"
    if options.autouse:
        yield "autouse"
    if options.eager:
        yield "eager"
    if options.after_tests:
        yield "after_tests"
    if options.skip is not None:
        yield f"skipped: {options.skip}"


def _tests(plan: PlanSession) -> Iterator[str]:
    selection = plan.declared.selection
    stages: dict[int, list[pytest.Item]] = {}
    for item in plan.needs:
        stages.setdefault(plan.rank(item), []).append(item)
    begun: set[str] = set()
    for number, rank in enumerate(sorted(stages), 1):
        if selection.has_stages:
            due = [name for name in plan.declared.needed or () if selection.ranks[name] <= rank]
            shown = map(plan.host.foreground.shown, (name for name in due if name not in begun))
            new = ", ".join(shown) or "no step"
            begun.update(due)
            yield ""
            yield f"stage {number} of {len(stages)} begins with {new}"
        yield from _groups(plan, stages[rank])


def _groups(plan: PlanSession, items: list[pytest.Item]) -> Iterator[str]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for item in items:
        names = tuple(map(plan.host.foreground.shown, plan.needs[item]))
        groups.setdefault(names, []).append(f"{item.nodeid}{_remark(plan, item)}")
    for needs, tests in groups.items():
        count = f"{len(tests)} test{'s' if len(tests) > 1 else ''}"
        yield ""
        yield f"{count} need{'s' if len(tests) == 1 else ''} {', '.join(needs) or 'no step'}:"
        for test in tests:
            yield f"  {test}"


def _remark(plan: PlanSession, item: pytest.Item) -> str:
    """Return what else there is to know about when a test runs, in parentheses."""
    remarks = []
    if (mark := item.get_closest_marker(ALONE)) is not None:
        reason = mark.kwargs.get("reason")
        remarks.append(f"runs alone: {reason}" if reason else "runs alone")
    if plan.is_late_by_plan(item):
        remarks.append("here only because it needs every step; @pytest.mark.plan(...) narrows that")
    return f"  ({'; '.join(remarks)})" if remarks else ""


def _overlap(plan: PlanSession) -> Iterator[str]:
    """Yield, with `plan_overlap`, how many tests begin at once, after some steps, and after all."""
    if not plan.settings.overlap or not plan.declared.needed:
        return
    stages: dict[int, list[pytest.Item]] = {}
    for item in plan.needs:
        stages.setdefault(plan.rank(item), []).append(item)
    yield ""
    for number, rank in enumerate(sorted(stages), 1):
        stage = f"stage {number}, " if len(stages) > 1 else ""
        yield f"{stage}with workers (-n): {_beginnings(plan, stages[rank], rank)}"


def _beginnings(plan: PlanSession, items: Sequence[pytest.Item], rank: int) -> str:
    from pytest_plan.plugin.xdist.scheduling.readiness import waits  # other runs do not need it

    steps, ranks = plan.declared.steps, plan.declared.selection.ranks
    found = waits(items, plan.needs, lambda item: (rank, is_alone(item)))
    own = {name for name in plan.declared.needed or () if ranks.get(name, 0) == rank}
    counts: Counter[str] = Counter()
    for item, number in zip(items, found.numbers, strict=True):
        needed = [name for name in found.combinations[number] if name in steps]
        rest = own & set(closure(needed, steps, needs_only=True))
        if own and (is_alone(item) or rest == own):
            counts[_LAST] += 1
        elif not rest:
            counts[_FIRST] += 1
        else:
            counts[f"after {_last(plan, rest, steps)}"] += 1
    if counts.keys() <= {_LAST}:
        return "every test waits for all steps, so plan_overlap changes nothing"
    order = sorted(counts, key=lambda key: (key != _FIRST, key == _LAST))
    listed = order if len(order) <= _MOST else [*order[: _MOST - 2], order[-1]]
    texts = [f"{counts[key]} {key}" for key in listed]
    if left := sum(counts[key] for key in order if key not in listed):
        texts.insert(-1, f"{left} after other steps")
    return f"tests begin {', '.join(texts)}"


def _last(plan: PlanSession, names: set[str], steps: Mapping[str, PlannedStep]) -> str:
    """Return those of some steps that no other one of them needs, in the order of the plan."""
    needed = {need for name in names for need in steps[name].needs}
    shown = plan.host.foreground.shown
    return " and ".join(shown(name) for name in steps if name in names - needed)

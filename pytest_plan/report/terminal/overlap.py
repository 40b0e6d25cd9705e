"""Says, for `--plan-show`, which tests begin before all steps have ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.definition.graph import closure
from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.plugin.declaring.marks import is_alone
from pytest_plan.plugin.xdist.scheduling.readiness import waits

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

_FIRST, _LAST = "at once", "after all steps"
_MOST = 5  # groups of tests that are listed


def lines(plan: PlanSession) -> Iterator[str]:
    """Yield, with `plan_overlap`, how many tests begin at once, after some steps, and after all."""
    if not plan.settings.overlap or not plan.declared.needed:
        return
    stages: dict[int, list[pytest.Item]] = {}
    for item in plan.needs:
        stages.setdefault(plan.rank(item), []).append(item)
    yield ""
    for number, rank in enumerate(sorted(stages), 1):
        stage = f"stage {number}, " if len(stages) > 1 else ""
        yield f"{stage}with workers (-n): {_counts(plan, stages[rank], rank)}"


def _counts(plan: PlanSession, items: Sequence[pytest.Item], rank: int) -> str:
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

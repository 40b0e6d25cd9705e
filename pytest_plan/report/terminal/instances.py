"""Shows instances of steps: by short names in a run without workers, and many in one row."""

# Annotations are not postponed: a NamedTuple would compile each of them.
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.results import PlanResult

TIMES = "\u00d7"
DASH = "\u2013"
MOST_ROWS = 4  # instances of a step that are shown in rows of their own
_MOST_NAMED = 3  # instances with another outcome than most that are named


class Named(Protocol):
    """A result or an account of a step."""

    @property
    def name(self) -> str:
        """Its name."""


S = TypeVar("S", bound=Named)


class Group(NamedTuple, Generic[S]):
    """A row: a step, or all instances of a step that has many.

    Attributes:
        name: the name that is shown.
        steps: the results.
        labels: what distinguishes each instance from the others.
    """

    name: str
    steps: Sequence[S]
    labels: Sequence[str]


def with_shown_names(result: PlanResult, shown: Callable[[str], str]) -> PlanResult:
    """Return the result of a run with the names of steps as reports show them."""
    steps = {
        shown(name): step if shown(name) == name else step._replace(name=shown(name))
        for name, step in result.steps.items()
    }
    if steps.keys() == result.steps.keys():
        return result
    for name, step in steps.items():
        needs, after = (tuple(map(shown, edges)) for edges in (step.needs, step.after))
        steps[name] = step._replace(needs=needs, after=after)
    return result._replace(steps=steps)


def folded(steps: Sequence[S], template: Callable[[S], str]) -> Iterator[Group[S]]:
    """Yield the rows for these steps: one for all instances of a step that has many.

    Args:
        steps: the steps, in order.
        template: a function that returns the name of the step of which one is an instance.
    """
    templates = {step.name: template(step) for step in steps}
    counts = Counter(templates.values())
    seen: set[str] = set()
    for step in steps:
        own = templates[step.name]
        if counts[own] <= MOST_ROWS:
            yield Group(step.name, [step], [step.name])
        elif own not in seen:
            seen.add(own)
            same = [one for one in steps if templates[one.name] == own]
            labels = [one.name[len(own) :].removeprefix("@") for one in same]
            yield Group(f"{own} {TIMES}{len(same)}", same, labels)


def summary(outcomes: Sequence[str], labels: Sequence[str]) -> str:
    """Return `succeeded`, or `7 succeeded, gw3 failed` if the outcomes differ."""
    if len(set(outcomes)) == 1:
        return outcomes[0]
    (most, count), *others = Counter(outcomes).most_common()
    if sum(number for _, number in others) > _MOST_NAMED:
        return ", ".join(
            f"{number} {outcome}" for outcome, number in Counter(outcomes).most_common()
        )
    odd = [
        f"{label} {outcome}"
        for label, outcome in zip(labels, outcomes, strict=True)
        if outcome != most
    ]
    return ", ".join([f"{count} {most}", *odd])


def span(seconds: Sequence[float]) -> str:
    """Return the shortest and the longest of some durations: `0.30-0.90s`."""
    shortest, longest = format_duration(min(seconds)), format_duration(max(seconds))
    if shortest == longest:
        return longest
    if shortest[-1] == longest[-1] == "s" and " " not in shortest + longest:
        shortest = shortest[:-1]
    return f"{shortest}{DASH}{longest}"

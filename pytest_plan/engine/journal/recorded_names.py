"""What the names of steps meant in the run that a journal records."""

# Annotations are not postponed: a NamedTuple would compile each of them.
from collections.abc import Mapping
from typing import NamedTuple

from pytest_plan.engine.definition.names import Names, StepNames, full_name
from pytest_plan.engine.journal.reader import Recorded, RecordedStep


class _Named(NamedTuple):
    """The names of a recorded step. The place of its conftest is known by the folder alone."""

    name: str
    full_name: str
    scope: tuple[str, ...]


class RecordedNames:
    """What names meant to the hooks of the steps of a recorded run.

    Args:
        recorded: the content of the journal.
    """

    def __init__(self, recorded: Recorded) -> None:
        self._steps = recorded.steps
        templates = {step.template: step.folder for step in recorded.steps.values()}
        self._names = StepNames(
            {
                name: _Named(name, full_name(folder, name), _parts(folder))
                for name, folder in templates.items()
            }
        )

    def of(self, step: RecordedStep) -> Names:
        """Return what names meant to the hooks of a step."""
        seen = self._names.seen_from(_parts(step.folder))
        due, own = [step.name], {}
        while due:
            one = self._steps.get(due.pop())
            if one is not None and one.template not in own:
                own[one.template] = one.name
                due += one.needs
        has_instances = any(template != name for template, name in own.items())
        return _NamesOfInstance(seen, own) if has_instances else seen


class _NamesOfInstance:
    """What names meant to the hooks of a step that needed instances or was one.

    Args:
        seen: what names meant in its folder.
        own: the names of the steps that it needed, directly or not, and its own, by template.
    """

    def __init__(self, seen: Names, own: Mapping[str, str]) -> None:
        self._seen = seen
        self._own = own

    def key(self, name: str) -> str:
        """Return the key of the State that `name` means."""
        key = self._seen.key(name)
        return self._own.get(key, key)

    def shown(self, key: str) -> str:
        """Return the name by which a key of the State is shown."""
        return self._seen.shown(key)

    def why_missing(self, name: str) -> str | None:
        """Return why the State cannot have a value for `name` yet; None if no reason is known."""
        return self._seen.why_missing(name)


def _parts(folder: str) -> tuple[str, ...]:
    return tuple(folder.split("/")) if folder else ()

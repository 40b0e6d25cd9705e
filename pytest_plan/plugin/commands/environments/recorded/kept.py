"""What a kept environment gives to those who use it without tests: values and variables."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pytest_plan.engine.environments.environment import FOLDER, JOURNAL
from pytest_plan.engine.journal.reader import RecordedStep, read
from pytest_plan.engine.model.secret import Masker
from pytest_plan.plugin.commands.environments.recorded.condition import condition
from pytest_plan.plugin.commands.environments.recorded.secrets import RecordedSecrets
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.run import launch

_LONGEST = 200  # characters of a value that are shown
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Variable(NamedTuple):
    """An environment variable that a step of a kept environment has set.

    Attributes:
        name: its name.
        text: its value.
        obstacle: why it cannot be given to a shell; "" if it can.
    """

    name: str
    text: str
    obstacle: str

    @property
    def command(self) -> str:
        """The line that sets it in a shell."""
        return f"export {self.name}={shlex.quote(self.text)}\n"


class KeptEnvironment:
    """An environment after the run that has kept it.

    Args:
        config: the config of this process.
        settings: the options.
        name: the name of the environment.
        masker: the masker for the secrets that this process knows.

    Attributes:
        name: its name.
        steps: the conditions of the steps that were kept.

    Raises:
        JournalError: its journal cannot be read.
    """

    def __init__(
        self, config: pytest.Config, settings: Settings, name: str, masker: Masker
    ) -> None:
        key = launch.key_of(config)
        self._recorded = read(settings.dir / FOLDER / name / JOURNAL, key)
        self._kept = [step for step in self._recorded.steps.values() if _is_kept(step)]
        self._secrets = RecordedSecrets(self._recorded, key, lambda: masker.texts)
        self._masker = masker
        self.name = name
        kept = [step.name for step in self._kept]
        every = condition(name, self._recorded, settings.dir).steps
        self.steps = [step for step in every if step.name in kept]

    def values(self) -> Iterator[tuple[str, str]]:
        """Yield the names and values of its steps, as text, without those that may be secret.

        Mask the text before you show it.
        """
        for step in self._kept:
            text = self._recorded.state.get(step.name)
            if text is None or text == "null" or self._secrets.are_unknown(step.name):
                continue
            value = json.loads(text)
            shown = value if isinstance(value, str) else text
            yield step.name, shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."

    def variables(self, worker: str | None) -> list[Variable]:
        """Return the variables that its steps have set, sorted by name.

        Args:
            worker: the worker whose instances count; None means that none do.
        """
        found: dict[str, Variable] = {}
        for step in self._kept:
            is_one = step.name in (step.template, f"{step.template}@{worker}")
            for undo in step.undos:
                if undo.kind == "variable":
                    name, text = json.loads(undo.data)
                    found[name] = Variable(name, text or "", self._obstacle(name, text, is_one))
        return [found[name] for name in sorted(found)]

    def _obstacle(self, name: str, text: str | None, is_one: bool) -> str:
        if not is_one:
            return "it has a value for each worker or parameter"
        if _SHELL_NAME.fullmatch(name) is None:
            return "a shell cannot have a variable with this name"
        if text is None or self._masker.mask(text) != text or self._secrets.contain(text):
            return "it contains a secret"
        return ""


def _is_kept(step: RecordedStep) -> bool:
    return step.outcome in ("succeeded", "reused") and step.cleanup in ("none", "kept")

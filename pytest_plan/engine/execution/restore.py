"""Restores steps from a journal so that this process can clean them up or reuse them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_plan.engine.calls.body import Body, body_of, deferred_body
from pytest_plan.engine.calls.call import CallScope
from pytest_plan.engine.calls.undo import Undo
from pytest_plan.engine.definition.names import full_name
from pytest_plan.engine.definition.options import Parameter, StepOptions
from pytest_plan.engine.definition.planned import Instance, PlannedStep
from pytest_plan.engine.definition.signature import HookFunction, hook_function
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.execution.step_run import StepRun
from pytest_plan.engine.journal.codec import Codec
from pytest_plan.engine.journal.journal import PARAMETER
from pytest_plan.engine.journal.reader import MOST_OWNERS, Recorded, RecordedStep, RecordedUndo
from pytest_plan.engine.journal.recorded_names import RecordedNames
from pytest_plan.engine.journal.reference import Reference, References
from pytest_plan.engine.journal.seal import Key, UnknownSecrets
from pytest_plan.engine.model.errors import JournalError, PlanDefinitionError
from pytest_plan.engine.model.events import StepFinished
from pytest_plan.engine.model.outcomes import Hook, StepOutcome
from pytest_plan.engine.processes.orphan import KeptProcess, orphan_tree
from pytest_plan.engine.processes.tree import Tree
from pytest_plan.engine.shared.folders import private_file_in
from pytest_plan.engine.shared.programs.resources import OWN, Care, Keeper, keeper_of
from pytest_plan.engine.shared.programs.watched import Kept
from pytest_plan.engine.shared.run_facts import RunFacts


class Restorer:
    """Restores recorded steps into a run.

    Args:
        recorded: the content of the journal.
        names: the steps to restore.
        declared: the steps that are declared now, by name. The restored steps use the hooks of
            those with the same full names.
        references: the references to recorded functions and classes.
        key: the key that seals the journal; None means the key of this user. It is used only for
            steps that are reused.

    Attributes:
        recorded: the content of the journal.
        lost: the reasons why values of the State cannot be restored, by key.
    """

    def __init__(
        self,
        recorded: Recorded,
        names: Collection[str],
        declared: Mapping[str, PlannedStep],
        references: References,
        key: Key | None = None,
    ) -> None:
        self.recorded = recorded
        self._key = key
        self._steps = {name: recorded.steps[name] for name in recorded.steps if name in names}
        self._now = declared.keys()  # the names of the steps that are declared now
        self._names = RecordedNames(recorded)
        self._references = references
        self._codec = Codec(references)
        self._declared = self._as_recorded(declared)
        self.lost = dict(recorded.lost)
        self._values = self._decoded()

    def _as_recorded(self, declared: Mapping[str, PlannedStep]) -> dict[str, PlannedStep]:
        """Return the declared steps by the names that they had in the recorded run."""
        known = {full_name(step.folder, step.template): step for step in declared.values()}
        found = {}
        for name, step in self.recorded.steps.items():
            now = known.get(full_name(step.folder, step.template))
            if now is not None:
                instance = self._instance(step, now.options.params or ())
                found[name] = now._replace(name=name, names=self._names.of(step), instance=instance)
        return found

    def _instance(self, step: RecordedStep, params: Collection[Parameter]) -> Instance | None:
        """Return what distinguishes a recorded instance; None if the step had no instances."""
        if step.name == step.template:
            return None
        has_parameters = step.name[len(step.template) :].startswith("[")
        choice = {step.template: 0} if has_parameters else {}
        return Instance(step.template, step.worker, choice, self._parameter(step, params))

    def _parameter(self, step: RecordedStep, params: Collection[Parameter]) -> Any:
        """Return the recorded parameter; if it was not durable, the declared one with its id."""
        text = self.recorded.facts.get(f"{PARAMETER}{step.name}")
        if text is not None:
            with contextlib.suppress(LookupError, ValueError):
                return self._value(text)
        ids = step.name.removesuffix(f"@{step.worker}")
        same = (one.value for one in params if ids.endswith((f"[{one.id}]", f",{one.id}]")))
        return next(same, None)

    def planned(self) -> dict[str, PlannedStep]:
        """Return the steps with their recorded edges, whose order cleanup must reverse."""
        return {name: self._planned(step) for name, step in self._steps.items()}

    def failure(self, name: str) -> str | None:
        """Return why a resource of a step does not work any more; "" if all work.

        Return None if the step has no resources that a later run can look at.
        """
        failures = [keeper.failure(*args) for keeper, args in self._resources(self._steps[name])]
        return next(filter(None, failures), "") if failures else None

    def _resources(self, step: RecordedStep) -> Iterator[tuple[Keeper, list[Any]]]:
        """Yield the keepers of a step's resources, each with the arguments for it."""
        for undo in step.undos:
            if undo.kind != "call" or not _is_own(undo):
                continue
            reference, call = json.loads(undo.data)
            with contextlib.suppress(LookupError, ValueError, TypeError):
                arguments, _ = self._codec.build(self._codec.decode(call))
                keeper = keeper_of(self._references.follow(Reference(*reference)))
                if keeper is not None:
                    yield keeper, arguments

    def fill_state(self, facts: RunFacts) -> None:
        """Write the recorded values to the State, except those of steps that are not restored.

        If such a step has changed a value of another step, the value is the one of that step again.
        """
        gone = self.recorded.steps.keys() - self._steps.keys()
        for key, layers in self.recorded.layers.items():
            if key in gone or (key in self._now and layers[-1].writer != key):
                continue  # it is the key of a step that is provisioned again, or is new
            for layer in layers:
                is_last = layer is layers[-1]
                if layer.writer in gone or (is_last and key not in self._values):
                    continue
                with contextlib.suppress(LookupError, ValueError):
                    value = self._values[key] if is_last else self._value(layer.text)
                    facts.store.write(key, value, None, layer.writer or None)

    def fill(self, step_run: StepRun, facts: RunFacts, reused: str | None) -> None:
        """Restore the outcome, the value and the undo stack of a step.

        Args:
            step_run: the step.
            facts: the facts about the run.
            reused: why the step is reused; None means that it is only cleaned up.
        """
        step = self._steps[step_run.name]
        value = self._values.get(step_run.name)
        is_reused = reused is not None
        step_run.restore(_outcome(step, reused=is_reused), step.completed, value, reused)
        if is_reused:
            self._resume_log(step_run, facts)
        undos = step.undos
        if step.owners >= MOST_OWNERS - 1 and not is_reused:
            # Nobody tries again after this process. The call that earlier owners did not get past
            # comes last, so that it cannot keep the others from being made.
            step_run.runs_hook_last = True
            undos = undos if step.hook_is_due else undos[-1:] + undos[:-1]
        for undo in undos:
            step_run.undo.push(self._undo(undo, step_run, facts, reused=is_reused))
        if is_reused:
            care = Care(step_run.name, facts.programs, facts.checks, step_run.log, is_kept=True)
            for keeper, arguments in self._resources(step):
                keeper.resume(care, *arguments)
        _, reason = self._cleanup_hook(step)
        if step.hook_is_due and reason:
            text = f"its cleanup hook cannot run: {reason}"
            scope = CallScope(step_run.name, Hook.CLEANUP, 1, None)
            step_run.undo.push(
                Undo(Hook.CLEANUP, "its cleanup hook", body_of(_refuse, text), scope)
            )

    def _resume_log(self, step_run: StepRun, facts: RunFacts) -> None:
        """Let the log of a reused step continue with the file to which its programs write."""
        step, scratch = self._steps[step_run.name], self.recorded.facts.get("scratch")
        names = log_names(step)
        path = private_file_in(Path(scratch), names[-1]) if scratch and names else None
        if path is None:
            return
        seals = self.recorded.facts.get("secrets", {})
        needed = (step.name, *facts.programs.needed(step.name))
        unknown = UnknownSecrets(
            [one for name in needed for one in seals.get(name, ())],
            (self._key or Key.of(os.environ)).seal(self.recorded.facts["id"]),
            lambda: facts.masker.texts,
        )
        with contextlib.suppress(OSError):
            step_run.log.resume(path, lambda: bool(unknown))

    def _planned(self, step: RecordedStep) -> PlannedStep:
        names = self._names.of(step)
        placeholder = PlannedStep(step.name, Step(), {}, StepOptions(), "the journal", names=names)
        placeholder = placeholder._replace(instance=self._instance(step, ()))
        known = self._declared.get(step.name) or placeholder
        hooks = dict(known.hooks)
        hooks.pop(Hook.CLEANUP, None)
        cleanup, _ = self._cleanup_hook(step)
        if step.hook_is_due and cleanup is not None:
            hooks[Hook.CLEANUP] = cleanup
        return known._replace(
            hooks=hooks,
            needs=tuple(need for need in step.needs if need in self._steps),
            after=tuple(edge for edge in step.after if edge in self._steps),
        )

    def _cleanup_hook(self, step: RecordedStep) -> tuple[HookFunction | None, str]:
        """Return the `cleanup` hook of a step, or None and the reason why it cannot run."""
        declared = self._declared.get(step.name)
        hook = None if declared is None else declared.hooks.get(Hook.CLEANUP)
        if hook is None:
            what = "is no longer declared" if declared is None else "no longer has one"
            reason = f"step {step.name!r} {what}"
            if step.cleanup_function is None:
                return None, reason
            try:
                function = self._references.follow(Reference(*step.cleanup_function))
                hook = hook_function(function, Hook.CLEANUP, step.name)
            except (LookupError, PlanDefinitionError) as error:
                return None, f"{reason}, and {error}"
        names = self._names.of(step)
        wanted = {step.name if name == "value" else names.key(name) for name in hook.required}
        for key in sorted(wanted):
            if key in self.lost:
                return None, f"the value of {key!r} was lost with its process ({self.lost[key]})"
            if key in self._now and key not in self.recorded.steps:
                return None, f"it takes the value of {key!r}, which was not provisioned"
        return hook, ""

    def _decoded(self) -> dict[str, Any]:
        values = {}
        for key, text in self.recorded.state.items():
            if text is None:
                continue
            try:
                values[key] = self._value(text)
            except (LookupError, ValueError) as error:
                self.lost[key] = str(error)
        return values

    def _value(self, text: str | None) -> Any:
        if text is None:
            raise LookupError("it could not be written")
        return self._codec.build(self._codec.decode(text))

    def _undo(
        self, undo: RecordedUndo, step_run: StepRun, facts: RunFacts, *, reused: bool
    ) -> Undo:
        scope = CallScope(undo.step, undo.hook, 1, None)
        if undo.kind == "variable":
            instance = step_run.planned.instance
            body = _set_again(json.loads(undo.data), undo.step, facts, instance)
            return Undo(undo.hook, undo.label, body, scope, number=undo.number)
        if undo.kind == "tree":
            how = json.loads(undo.data)
            found = orphan_tree(how)
            facts.programs.own(found.marks)
            tree = self._reused(undo.number, how, step_run, facts) if reused else found
            body = body_of(tree.end, facts.clock, how["signal"], how["grace"])
            return Undo(undo.hook, undo.label, body, scope, tree, undo.number)
        body = self._call(undo, step_run, facts)
        return Undo(undo.hook, undo.label, body, scope, number=undo.number)

    def _reused(
        self, number: int, how: Mapping[str, Any], step_run: StepRun, facts: RunFacts
    ) -> Tree:
        """Watch the program of a reused step, and let tests stop and start it; return its tree.

        This does neither for a program that has ended, or was on another host: the step's `alive`
        hook has said that the step does not need it.
        """
        tree, is_watched = orphan_tree(how), how.get("watch", True)
        process = KeptProcess(tree, may_end=not is_watched)
        if tree.root is None or not tree.root.is_alive():
            return process
        if is_watched:
            facts.programs.watch(step_run.name, Kept(tree.root, step_run.log, process))
        if "program" not in how:  # `ctx.run` or an earlier version has started it
            return process
        # Imported late because most steps start no program.
        from pytest_plan.engine.shared.programs.kept import started_by_earlier_run

        start = self._codec.decode(how["start"]) if "start" in how else None
        started = started_by_earlier_run(
            how, start, number=number, process=process, facts=facts, log=step_run.log
        )
        facts.programs.add_started(step_run.name, started)
        return started

    def _call(self, undo: RecordedUndo, step_run: StepRun, facts: RunFacts) -> Body:
        if undo.kind == "tail":
            return body_of(_refuse, "only the process that ran the step can run this code")
        if undo.kind == "lost":
            return body_of(
                _refuse, f"only the process that ran the step can make this call: {undo.data}"
            )
        reference, call = json.loads(undo.data)
        try:
            arguments, keywords = self._codec.build(self._codec.decode(call))
            function: Callable[..., Any] = self._references.follow(Reference(*reference))
        except (LookupError, ValueError, TypeError) as error:
            return body_of(_refuse, str(error))
        return deferred_body(step_run.loop, facts.clock, function, *arguments, **keywords)


def log_names(step: RecordedStep) -> list[str]:
    """Return the names of the private files to which programs of a step write, the last one last.

    There is none for programs of a version that has not recorded it.
    """
    trees = (json.loads(undo.data) for undo in step.undos if undo.kind == "tree")
    return list(dict.fromkeys(how["log"] for how in trees if how.get("log")))


def _is_own(undo: RecordedUndo) -> bool:
    """Return whether a deferred call is one of this package, whose functions may be imported."""
    reference, _ = json.loads(undo.data)
    return Reference(*reference).module.startswith(OWN)


def block(step_run: StepRun, facts: RunFacts, reason: str) -> None:
    """Let a step end as blocked before any step of the run begins."""
    step_run.end(StepOutcome.BLOCKED, 0.0, reason)
    facts.emit(StepFinished(step_run.result(), 0.0))


def _set_again(
    variable: tuple[str, str | None], step: str, facts: RunFacts, instance: Instance | None
) -> Body:
    """Set an environment variable as the step did, unless it is a secret; return the undo."""
    name, value = variable
    if value is None:
        return body_of(bool)
    return body_of(facts.set_variable(name, value, step, instance), name)


def _outcome(step: RecordedStep, *, reused: bool) -> StepOutcome:
    if reused:
        return StepOutcome.REUSED
    outcome = StepOutcome(step.outcome)
    # A step whose end was not recorded may have succeeded.
    provides = (StepOutcome.RUNNING, StepOutcome.REUSED)
    return StepOutcome.SUCCEEDED if outcome in provides else outcome


def _refuse(text: str) -> None:
    raise JournalError(text)

"""Records steps and cleanups as OpenTelemetry spans if a tracer provider is configured.

The spans are children of pytest-opentelemetry's session span or, without that plugin, of a span
named `plan`. A program that a step starts receives the step's span in TRACEPARENT.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.events import (
    AttemptFailed,
    Event,
    PlanFinished,
    StepCleaned,
    StepFinished,
    StepLost,
    StepStarted,
)
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.engine.model.results import Loss, PlanResult, StepResult
from pytest_plan.plugin.session import lookup
from pytest_plan.report import verdict

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

_NANO = 1e9
_CARRIERS = ("TRACEPARENT", "TRACESTATE", "BAGGAGE")


def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Any], None] | None:
    """Return a listener that records spans, or None if no tracer provider is configured."""
    # Configuring a provider imports this module, so a run without a provider need not import it.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    spans = Spans(config)
    config.pluginmanager.register(spans, "pytest_plan_spans")
    return spans.on_event


class Spans:
    """The spans of one run: one per step and one per cleanup."""

    def __init__(self, config: pytest.Config) -> None:
        from opentelemetry import trace

        self._config = config
        self._plan = lookup.of(config)
        self._mask = self._plan.host.mask
        self._tracer = trace.get_tracer("pytest-plan")
        self._plan_span: Span | None = None
        self._parent = self._make_parent()
        self._lock = threading.Lock()  # guards _steps: steps start programs on their own threads
        self._steps: dict[str, tuple[Span, int]] = {}  # each with its start, in ns since 1970

    def pytest_plan_program_variables(self, step: str) -> Mapping[str, str]:
        """Return the variables that make a program's spans children of the step's span."""
        from opentelemetry import propagate, trace

        carrier: dict[str, str] = {}
        span, _ = self._step(step)
        propagate.inject(carrier, context=trace.set_span_in_context(span, self._parent))
        return {name.upper(): value for name, value in carrier.items()}

    def on_event(self, event: Event) -> None:
        """Start or end the span of a step, or add an event to it."""
        match event:
            case StepStarted(step=step):
                self._step(step)
            case AttemptFailed(step=step, attempt=attempt, error=error):
                self._step(step)[0].add_event(
                    "attempt failed",
                    {"plan.attempt": attempt, "exception.message": self._mask(describe(error))},
                )
            case StepLost(result=result) if result.lost is not None:
                self._add_loss(result.name, result.lost)
            case StepFinished(result=result) if result.started is not None:
                self._end_step(result)
            case StepCleaned(result=result):
                self._add_cleanup(result)
            case PlanFinished(result=whole):
                self._end(whole)
            case _:
                pass

    def _make_parent(self) -> Context:
        from opentelemetry import propagate, trace

        session = self._session_span()
        if session is not None:
            return trace.set_span_in_context(session)
        carrier = {name.lower(): os.environ[name] for name in _CARRIERS if name in os.environ}
        has_current = trace.get_current_span().get_span_context().is_valid
        self._plan_span = self._tracer.start_span(
            "plan", context=None if has_current else propagate.extract(carrier)
        )
        return trace.set_span_in_context(self._plan_span)

    def _session_span(self) -> Span | None:
        # pytest-opentelemetry never makes its span the current one, but its plugin object holds it.
        from opentelemetry import trace

        for plugin in self._config.pluginmanager.get_plugins():
            span = getattr(plugin, "session_span", None)
            if isinstance(span, trace.Span) and span.is_recording():
                return span
        return None

    def _step(self, name: str) -> tuple[Span, int]:
        with self._lock:
            if name not in self._steps:
                now = round(SystemClock.wall() * _NANO)
                span = self._tracer.start_span(
                    f"plan step {name}",
                    context=self._parent,
                    start_time=now,
                    attributes={"plan.step": name},
                )
                self._steps[name] = span, now
            return self._steps[name]

    def _end_step(self, result: StepResult) -> None:
        span, began = self._step(result.name)
        span.set_attributes(
            {
                "plan.outcome": result.outcome.value,
                "plan.attempts": len(result.attempts),
                "plan.needs": result.needs,
                "code.file.path": self._mask(result.origin.rpartition(":")[0]),
            }
        )
        if result.outcome.is_failure:
            self._fail(span, result.reason or result.outcome.value)
        span.end(began + round(result.seconds * _NANO))

    def _add_cleanup(self, result: StepResult) -> None:
        cleanup = result.cleanup
        now = round(SystemClock.wall() * _NANO)
        span = self._tracer.start_span(
            f"plan cleanup {result.name}",
            context=self._parent,
            start_time=now - round(cleanup.seconds * _NANO),
            attributes={"plan.step": result.name, "plan.outcome": cleanup.outcome.value},
        )
        if cleanup.outcome not in (CleanupOutcome.SUCCEEDED, CleanupOutcome.KEPT):
            texts = [error.summary for error in cleanup.errors]
            self._fail(span, "; ".join(texts) or cleanup.outcome.value)
        span.end(now)

    def _add_loss(self, step: str, loss: Loss) -> None:
        at = round(loss.wall * _NANO)  # the span of the step has ended already
        span = self._tracer.start_span(
            f"plan step {step} lost",
            context=self._parent,
            start_time=at,
            attributes={"plan.step": step, "plan.program": loss.program},
        )
        self._fail(span, loss.detail)
        span.end(at)

    def _fail(self, span: Span, text: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, self._mask(text)))

    def _end(self, result: PlanResult) -> None:
        from opentelemetry import trace

        if self._plan_span is not None:
            whole = verdict.of_run(self._plan, result, {})
            self._plan_span.set_attribute("plan.verdict", whole.outcome.value)
            if whole.outcome is not StepOutcome.SUCCEEDED:
                text = f"{whole.headline}. Plan: {whole.plan}. Cleanup: {whole.cleanup}."
                self._fail(self._plan_span, text)
            self._plan_span.end()
        # pytest-opentelemetry flushes before cleanup, when these spans have not ended yet.
        flush = getattr(trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush()

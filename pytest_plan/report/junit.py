"""Adds a suite named `plan` to the `--junitxml` file, with a test case and a property per step.

pytest writes the file before cleanup. This module adds the suite when the plan has finished, so
that the suite includes the outcome of cleanup.
"""

from __future__ import annotations

import os
import platform
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.plugin.compat.pytest_internals import warn
from pytest_plan.report.account import Account, StepAccount
from pytest_plan.report.collect import Collector

_SUITE = "plan"
# Characters that XML 1.0 does not allow.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DIGITS = 3  # as in the times that pytest writes


def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Any], None]:
    """Return a listener that adds the suite when the plan has finished."""
    path = Path(os.path.expandvars(config.option.xmlpath)).expanduser().absolute()
    collector = Collector(config, lambda account: _add(config, path, account))
    return collector.on_event


def _add(config: pytest.Config, path: Path, account: Account) -> None:
    if not path.exists():  # pytest has not written it and will not write it later
        return
    try:
        tree = ET.parse(path)  # noqa: S314 - pytest has just written it
        tree.getroot().append(suite(account))
        tree.write(path, encoding="utf-8", xml_declaration=True)
    except Exception as error:
        warn(config, f"could not add the plan steps to {path}: {describe(error)}")


def suite(account: Account) -> ET.Element:
    """Return the `testsuite` element of a run: one `testcase` and one `property` per step."""
    cases = [_case(step) for step in account.steps]
    seconds = sum(float(case.get("time", "0")) for case in cases)
    element = ET.Element(
        "testsuite",
        name=_SUITE,
        errors=str(sum(case.find("error") is not None for case in cases)),
        failures="0",
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        tests=str(len(cases)),
        time=f"{seconds:.{_DIGITS}f}",
        timestamp=datetime.fromtimestamp(account.began_at, UTC).astimezone().isoformat(),
        hostname=_legal(platform.node()),
    )
    properties = ET.SubElement(element, "properties")
    for name, value in _properties(account):
        ET.SubElement(properties, "property", name=name, value=_legal(value))
    element.extend(cases)
    return element


def _properties(account: Account) -> list[tuple[str, str]]:
    steps = [(f"plan.step.{step.name}", _property(step)) for step in account.steps]
    return [("plan.environment", account.environment), ("plan.outcome", account.outcome), *steps]


def _property(step: StepAccount) -> str:
    cleanup = step.cleanup
    parts = [
        step.outcome if step.started is None else f"{step.outcome} {step.seconds:.{_DIGITS}f}s"
    ]
    if cleanup.outcome is not CleanupOutcome.NONE:
        parts.append(f"cleanup {cleanup.outcome} {cleanup.seconds:.{_DIGITS}f}s")
    return ", ".join(parts)


def _case(step: StepAccount) -> ET.Element:
    seconds = step.seconds + step.cleanup.seconds
    case = ET.Element("testcase", classname=_SUITE, name=step.name, time=f"{seconds:.{_DIGITS}f}")
    problems = _problems(step)
    if problems:
        error = ET.SubElement(case, "error", message=_legal("; ".join(problems)))
        error.text = _legal("\n".join(filter(None, (step.error, step.stack))))
    elif not step.outcome.provides:
        ET.SubElement(case, "skipped", type="pytest_plan", message=_legal(_reason(step)))
    if step.log:
        ET.SubElement(case, "system-out").text = _legal(step.log)
    return case


def _problems(step: StepAccount) -> list[str]:
    problems: list[str] = []
    if step.outcome.is_failure:
        problems.append(_reason(step))
    if step.cleanup.is_bad:
        outcome = step.cleanup.outcome.replace("_", " ")
        problems.append(f"cleanup {outcome}: {step.cleanup.error or 'it did not finish'}")
    return problems


def _reason(step: StepAccount) -> str:
    outcome = step.outcome.replace("_", " ")
    is_plain = step.outcome in (StepOutcome.FAILED, StepOutcome.SKIPPED)
    if step.reason is None:
        return outcome
    return step.reason if is_plain else f"{outcome}: {step.reason}"


def _legal(text: str) -> str:
    return _ILLEGAL.sub(lambda found: f"#x{ord(found[0]):02X}", text)

"""The JSON report conforms to its documented schema."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.report.formats import json_file
from tests.plugin.project import ROOT
from tests.report.support.accounts import account, blocked, cleanup, failed, ran, step

DOCS = ROOT / "docs" / "reference"
SCHEMA = json.loads((DOCS / "report-2.schema.json").read_text())
WHERE: dict[str, Any] = {
    "host": "ci-1",
    "versions": {"python": "3.13.1", "pytest": "9.0.0", "pytest-plan": "0.2.0"},
}


@pytest.mark.parametrize("outcome", [one for one in StepOutcome if one is not StepOutcome.PENDING])
def test_every_outcome_of_a_step(outcome: StepOutcome) -> None:
    """The schema accepts every outcome."""
    jsonschema.validate(json_file.data(account(step("db", outcome=outcome), **WHERE)), SCHEMA)


@pytest.mark.parametrize("outcome", CleanupOutcome)
def test_every_outcome_of_a_cleanup(outcome: CleanupOutcome) -> None:
    """The schema accepts every outcome."""
    written = json_file.data(account(step("db", cleanup=cleanup(outcome, error="no")), **WHERE))
    jsonschema.validate(written, SCHEMA)


def test_schema_refuses_what_is_not_promised() -> None:
    """Missing keys, unknown values and counts that are no numbers are invalid."""
    written = json_file.data(account(failed("db"), blocked("web"), tests=(ran("a"),), **WHERE))
    jsonschema.validate(written, SCHEMA)
    missing = [{key: value for key, value in written.items() if key != name} for name in written]
    for broken in (
        *missing,
        {**written, "schema": 1},
        {**written, "outcome": "green"},
        {**written, "plan": {}},
        {**written, "tests": {**written["tests"], "passed": "all"}},
        {**written, "steps": [{**written["steps"][0], "outcome": "broke"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA)


def test_schema_accepts_later_fields() -> None:
    """A later version may add fields anywhere without a new number."""
    written = json_file.data(account(failed("db"), **WHERE))
    (step,) = written["steps"]
    step |= (
        {"host": "a", "attempts": [{**step["attempts"][0], "more": 1}]} if step["attempts"] else {}
    )
    step["cleanup"]["more"] = None
    step["more"] = [1]
    written["plan"]["more"] = {"a": 1}
    jsonschema.validate({**written, "more": {}}, SCHEMA)


def test_outcome_is_of_the_run_and_the_plan_has_its_own() -> None:
    """The outcome of the run and that of the plan are separate."""
    written = json_file.data(account(step("db"), run_outcome=StepOutcome.FAILED, **WHERE))
    assert (written["outcome"], written["plan"]) == ("failed", {"outcome": "succeeded"})


def test_text_is_utf_8_and_ends_with_a_line() -> None:
    """Characters outside ASCII are not escaped, and the file ends with a line break."""
    text = json_file.text(account(failed("db", reason="kein Anschluß: ▲")))
    assert "kein Anschluß: ▲" in text
    assert text.endswith("}\n")


def test_example_of_the_page_is_valid() -> None:
    """The example in the documentation is valid and complete."""
    page = (DOCS / "report-json.md").read_text()
    example = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(example) == 1
    jsonschema.validate(json.loads(example[0]), SCHEMA)

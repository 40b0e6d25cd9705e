"""The JSON report conforms to its documented schema."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.report.formats import json_file
from tests.plugin.project import ROOT
from tests.report.support.accounts import account, blocked, cleanup, failed, ran, step

DOCS = ROOT / "docs" / "reference"
SCHEMA = json.loads((DOCS / "report-1.schema.json").read_text())


@pytest.mark.parametrize("outcome", [one for one in StepOutcome if one is not StepOutcome.PENDING])
def test_every_outcome_of_a_step(outcome: StepOutcome) -> None:
    """The schema accepts every outcome."""
    jsonschema.validate(json_file.data(account(step("db", outcome=outcome))), SCHEMA)


@pytest.mark.parametrize("outcome", CleanupOutcome)
def test_every_outcome_of_a_cleanup(outcome: CleanupOutcome) -> None:
    """The schema accepts every outcome."""
    written = json_file.data(account(step("db", cleanup=cleanup(outcome, error="no"))))
    jsonschema.validate(written, SCHEMA)


def test_schema_refuses_what_is_not_promised() -> None:
    """Extra keys, missing keys and unknown values are invalid."""
    written = json_file.data(account(failed("db"), blocked("web"), tests=(ran("a"),)))
    jsonschema.validate(written, SCHEMA)
    for broken in (
        {**written, "more": 1},
        {key: value for key, value in written.items() if key != "steps"},
        {**written, "schema": 2},
        {**written, "tests": {**written["tests"], "lost": 1}},
        {**written, "steps": [{**written["steps"][0], "outcome": "broke"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA)


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

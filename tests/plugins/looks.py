"""What a report plugin shows of a failed step, a failed cleanup and a blocked test."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias
from xml.etree import ElementTree

from tests.plugins.suite import STEP, Ended

Seen: TypeAlias = "dict[str, list[Shown]]"  # by node id
Look: TypeAlias = Callable[[Ended], Seen]


class Shown(NamedTuple):
    """What a report shows of a step or a test.

    Attributes:
        word: the report's own word for it, such as `Error`.
        text: all that the report says about it.
    """

    word: str
    text: str


def _group(found: Iterator[tuple[str, str, str]]) -> Seen:
    seen: Seen = {}
    for nodeid, word, text in found:
        seen.setdefault(nodeid, []).append(Shown(word, text))
    return seen


def in_terminal(ended: Ended) -> Seen:
    """Read the lines of pytest's short summary; what they tell of is anywhere in the output."""
    lines = re.findall(r"^([A-Z]+) (\S+)(?: - .*)?$", ended.output, re.MULTILINE)
    return _group((nodeid, word, ended.output) for word, nodeid in lines if word != "PASSED")


def in_tldr(ended: Ended) -> Seen:
    """Read the output of pytest-tldr, which replaces pytest's."""
    lines = re.findall(r"^([A-Z]+): (\S+)$", ended.output, re.MULTILINE)
    return _group((nodeid, word, ended.output) for word, nodeid in lines)


def in_junit(ended: Ended) -> Seen:
    """Read the file of `--junitxml=report.xml`."""

    def cases() -> Iterator[tuple[str, str, str]]:
        for case in ElementTree.fromstring(ended.read("report.xml")).iter("testcase"):
            text = "".join(case.itertext()) + "".join(one.get("message", "") for one in case)
            for one in case:
                if one.tag in ("error", "failure", "skipped"):
                    name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
                    yield name, f"<{one.tag}>", text

    return _group(cases())


def in_html(ended: Ended) -> Seen:
    """Read the page of pytest-html."""
    page = ended.read("report.html")
    found = re.search(r'data-jsonblob="([^"]*)"', page)
    assert found is not None
    tests: dict[str, list[dict[str, Any]]] = json.loads(html.unescape(found[1]))["tests"]
    rows = ((name, row) for name, rows in tests.items() for row in rows)
    return _group(
        (re.sub("::(setup|teardown)$", "", name), row["result"], html.unescape(row["log"]))
        for name, row in rows
    )


def in_json(ended: Ended) -> Seen:
    """Read the file of pytest-json-report."""
    report = json.loads(ended.read(".report.json"))
    assert report["exitcode"] == ended.status
    return _group((one["nodeid"], one["outcome"], json.dumps(one)) for one in report["tests"])


def in_log(ended: Ended) -> Seen:
    """Read the file of pytest-reportlog."""
    lines = [json.loads(line) for line in ended.read("log.jsonl").splitlines()]
    assert lines[-1] == {"exitstatus": ended.status, "$report_type": "SessionFinish"}
    reports = [one for one in lines if one["$report_type"] == "TestReport"]
    return _group(
        (one["nodeid"], f"{one['outcome']} in {one['when']}", json.dumps(one))
        for one in reports
        if one["outcome"] != "passed" or one["when"] == "call"
    )


def in_allure(ended: Ended) -> Seen:
    """Read the results of allure-pytest."""

    def results() -> Iterator[tuple[str, str, str]]:
        for file in (ended.folder / "allure").glob("*-result.json"):
            result = json.loads(file.read_text(encoding="utf-8"))
            module, _, name = result["fullName"].partition("#")
            nodeid = f"{module.replace('.', '/')}.py::{name}" if name else module
            yield nodeid, result["status"], json.dumps(result)

    return _group(results())


def in_teamcity(ended: Ended) -> Seen:
    """Read the service messages of teamcity-messages."""
    message = re.compile(r"##teamcity\[(testFailed) (.*?)\]$", re.MULTILINE)

    def messages() -> Iterator[tuple[str, str, str]]:
        for kind, text in message.findall(ended.output):
            name = re.search(r"name='([^']*)'", text)
            assert name is not None
            path, _, last = name[1].rpartition(".")
            last = last.removesuffix("_teardown")
            yield f"{path.replace('.', '/')}.py::{last}", kind, text.replace("|'", "'")

    return _group(messages())


def says(seen: Seen, nodeid: str, error: str) -> Shown:
    """Return what a report shows of a step or test; it must show it once, with its error."""
    shown = [one for one in seen.get(nodeid, ()) if error in one.text]
    assert len(shown) == 1, (
        nodeid,
        {name: [one.word for one in each] for name, each in seen.items()},
    )
    return shown[0]


def is_about_steps(nodeid: str) -> bool:
    """Return whether a report is about a step, which must not be counted if it succeeded."""
    return nodeid.startswith(STEP.partition("::")[0])

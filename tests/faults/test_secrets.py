"""Rows 93 to 95: a secret in every place and spelling that a run can show."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.faults.harness.scenario import ROOT, Tally
from tests.faults.harness.secret_places import SPELLINGS

EXAMPLES = int(os.environ.get("FAULTS_SECRETS", "5"))  # each is a run of pytest
TESTS = """
import pytest

@pytest.mark.plan("writes")
def test_it(): pass

@pytest.mark.plan("starts", "tail", "waits", "tries")
def test_that(): pass

@pytest.mark.plan("skips")
def test_skipped(): pass

@pytest.mark.plan("ends", "leaves")
def test_ends(): pass
"""
REPORTS = ["json", "html", "md", "mmd", "trace.json"]
SHOWN = ("early", "print", "pieces", "log", "logging", "logged", "run", "warning", "error",
         "program", "deferred", "cause", "note", "task", "attempt", "skip")  # fmt: skip
OUTSIDE = ("descriptor", "thread")  # outside of the steps' logs
NASTY = st.text("'\"\\/<>&?~#%+ =:;$`!*()[]{}|^@-_,.aZ09é\u2603\U0001f511\n\t", max_size=12)
MODES = [[], ["-s"], ["-n2"], ["--tb=short"], ["--tb=native"], ["--tb=line", "-v"], ["-ra"],
         ["--showlocals", "--full-trace", "-o", "log_cli=true"]]  # fmt: skip


@st.composite
def secrets(draw: st.DrawFn) -> str:
    """Return texts that no output has by accident, also in several lines."""
    words = draw(st.lists(st.sampled_from(["zQ7kW", "Jx0Vq", "qY8hZ"]), min_size=1, max_size=3))
    return "".join(draw(NASTY) + word for word in words) + draw(NASTY)


def run(
    secret: str, *args: str, known: str = "hook", leaves: str = "", unmasked: bool = False
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of everything that a run prints or writes."""
    folder = Path(tempfile.mkdtemp(prefix="s"))
    try:
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_it.py").write_text(TESTS)
        (folder / "tmp").mkdir()
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
               "THE_SECRET": secret, "MADE_KNOWN": known, "LEAVES": leaves,
               "UNMASKED": "1" * unmasked, "DESCRIPTOR": "1" * unmasked,
               "TMPDIR": str(folder / "tmp")}  # fmt: skip
        reports = [f"--plan-report=report.{kind}" for kind in REPORTS]
        plugins = ["-p", "pytest_plan", "-p", "tests.faults.harness.secret_places"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, "-p", "no:cacheprovider", *reports,
             "--junitxml=junit.xml", "--plan-continue-on-error", "--log-file=log.out", *args],
            cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
            check=False,
        )  # fmt: skip
        yield "output", done.stdout + done.stderr
        for file in folder.rglob("*"):
            if file.is_file() and file.name != "test_it.py":
                yield str(file.relative_to(folder)), file.read_bytes()
    finally:
        shutil.rmtree(folder)


def views(data: bytes) -> Iterator[str]:
    """Yield a text as it is, and as what is written in another spelling in it says."""
    text = data.decode("utf-8", "replace")
    yield text
    yield html.unescape(text)
    yield text.replace("'\"'\"'", "'")  # of a shell
    yield urllib.parse.unquote(text)
    yield urllib.parse.unquote_plus(text)
    for escaped in (text, html.unescape(text)):
        yield from map(_unescaped, (escaped, _unescaped(escaped)))
    with contextlib.suppress(ValueError):
        yield "\n".join(_strings(json.loads(text)))
    for token in set(re.findall(r"[A-Za-z0-9+/_-]{4,}", text)):
        with contextlib.suppress(ValueError):
            yield bytes.fromhex(token).decode("utf-8", "replace")
        plain = token.replace("-", "+").replace("_", "/")
        for begin in range(4):
            part = plain[begin:]
            part = part[:-1] if len(part) % 4 == 1 else part + "=" * (-len(part) % 4)
            yield base64.b64decode(part).decode("utf-8", "replace")


def _unescaped(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        with contextlib.suppress(ValueError, OverflowError):
            return str(json.loads(f'"{found[0]}"'))
        if found[0].startswith("\\x"):
            raw = bytes.fromhex(found[0].replace("\\x", ""))
            with contextlib.suppress(UnicodeError):
                return raw.decode()
            return raw.decode("latin-1")
        return found[0][1:]

    text = text.replace("'\"'\"'", "'")  # of a shell
    text = re.sub(r"(\\x[0-9a-f]{2})+|(\\u[0-9a-fA-F]{4})+|\\.", one, text)
    with contextlib.suppress(UnicodeError):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16")
    return text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def pieces(secret: str) -> set[str]:
    """Return what must not be shown: the secret, and its lines that no output has by accident."""
    lines = [line.strip() for line in secret.split("\n")]
    marked = [line for line in lines if any(word in line for word in ("zQ7k", "Jx0V", "qY8h"))]
    return {secret.strip(), *marked}


@pytest.mark.parametrize("leaves", ["", "exit"])
def test_g20_without_masking_each_spelling_is_found_in_each_place(
    leaves: str, tally: Tally
) -> None:
    """Row 93: the search sees what it is made to find. This is the control."""
    secret = "zQ7kW it's \"é\\ <a&b>/c"
    outputs = list(run(secret, "-ra", leaves=leaves, unmasked=True))
    tally.runs += 1
    text = "\n".join(view for _, data in outputs for view in list(views(data))[:8])
    places = ("leaves",) if leaves else (*SHOWN, *OUTSIDE)
    lost = [
        (place, name)
        for place in places
        for name, show in SPELLINGS.items()
        if f"{place}|{name}|{show(secret)}|" not in text
    ]
    assert lost == []
    assert any(secret in view for _, data in outputs for view in views(data))
    for name, show in SPELLINGS.items():
        assert any(secret in view for view in views(show(secret).encode())), name


def test_g20_no_secret_is_shown_in_any_spelling(tally: Tally) -> None:
    """Row 94: random secrets, in each place and spelling, of runs in each mode."""

    @settings(
        max_examples=EXAMPLES, phases=[Phase.generate], deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        secrets(),
        st.sampled_from(MODES),
        st.sampled_from(["hook", "ctx", "state", "before"]),
    )
    def search(secret: str, mode: list[str], known: str) -> None:
        tally.runs += 1
        outputs = list(run(secret, *mode, known=known))
        printed = "\n".join(data.decode("utf-8", "replace") for _, data in outputs)
        assert set(SHOWN) <= set(re.findall(r"(\w+)\|plain\|", printed)), printed
        assert_hidden(secret, outputs)

    search()


@pytest.mark.parametrize(
    ("leaves", "args"), [("exit", ["-n2"]), ("system", []), ("interrupt", ["--full-trace"])]
)
def test_g20_no_secret_is_in_the_last_words_of_a_run(
    leaves: str, args: list[str], tally: Tally
) -> None:
    """Row 95: a step ends the session with a text, and pytest shows the whole traceback."""
    secret = "zQ7kW it's \"é\\ <a&b>/c"
    tally.runs += 1
    outputs = list(run(secret, *args, leaves=leaves))
    assert b"leaves" in outputs[0][1]
    assert_hidden(secret, outputs)


def assert_hidden(secret: str, outputs: list[tuple[str, bytes]]) -> None:
    """Fail if any output shows the secret."""
    wanted = pieces(secret)
    for name, data in outputs:
        for view in views(data):
            for piece in wanted:
                at = view.find(piece)
                assert at < 0, f"{name} shows {piece!r}: {view[max(0, at - 300) : at + 200]!r}"

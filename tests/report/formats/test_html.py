"""The content of the HTML report, and its protection against injected markup."""

from __future__ import annotations

import json
import platform
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

import pytest

pytest.importorskip("jinja2", reason="HTML reports need the extra `report`")

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.report.account import Account, AttemptAccount
from pytest_plan.report.formats import chart, html
from tests.plugin.project import Project, refuses
from tests.report.support.accounts import account, blocked, cleanup, failed, ran, shared, step

EVIL = "</script></style></pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}"


class Tags(HTMLParser):
    """Collects the tags of a document, and checks that each one is closed."""

    VOID = ("meta", "link", "input", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag as open."""
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a self-closing tag."""
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close a tag, which must be the one opened last."""
        assert self.open.pop() == tag


def parsed(run: Account) -> Tags:
    """Return the tags of a report, which must be well formed."""
    tags = Tags(html.text(run))
    assert tags.open == []
    return tags


def embedded(text: str) -> dict[str, Any]:
    """Return the data from which the page makes what is folded."""
    (found,) = re.findall('<script type="application/json" id="data">(.*)</script>', text)
    data: dict[str, Any] = json.loads(found)
    return data


def all_outcomes() -> Account:
    """Return a run with every outcome of steps and cleanups."""
    steps = [step(f"step_{outcome}", outcome=outcome) for outcome in set(StepOutcome)]
    steps += [
        step(f"cleanup_{outcome}", cleanup=cleanup(outcome, error="gone"))
        for outcome in CleanupOutcome
    ]
    return account(
        *steps,
        failed("stuck", stack="File x, line 1", log="last words", needs=("cleanup_none",)),
        blocked("waiting", after=("stuck",)),
        tests=(ran("a"), ran("b", "failed", message="assert 0", worker="gw1")),
        outcome=StepOutcome.FAILED,
        reason="step 'stuck' failed",
        limit=90.0,
        problems=("/tmp/plan-x could not be removed",),
    )


def test_everything_is_on_the_page() -> None:
    """The page shows all outcomes, errors, stacks, logs, reasons and leftovers."""
    text = html.text(all_outcomes())
    for word in [*StepOutcome, *set(CleanupOutcome) - {CleanupOutcome.NONE}]:
        assert word.replace("_", " ") in text
    for shown in (
        "File x, line 1", "last words", "needs &#39;db&#39;: failed", "assert 0", "gone",
        "/tmp/plan-x could not be removed", "1m 30s", "step &#39;stuck&#39; failed",
    ):  # fmt: skip
        assert shown in text


def test_a_shared_environment_has_a_section() -> None:
    """It has the role of the run, the owner and the members; a member has run no reused step."""
    reused = step("net", started=None, outcome=StepOutcome.REUSED, reason="provisioned by vm-1")
    run = account(reused, share=shared("member", lost="no <answer>"))
    parsed(run)
    page = html.text(run)
    section = page.partition('id="share">')[2].partition("</section>")[0]
    words = (
        "This run is a member, which uses the steps that the owner has provisioned.",
        "It has not run the steps that are marked as reused.", "build-7", "vm-1 (tests 1/3)",
        "vm-2 (tests 2/3), vm-3 (&lt;tests&gt; 3/3)", "no &lt;answer&gt;",
    )  # fmt: skip
    assert [one for one in words if one not in section] == []
    assert 'href="#share"' in page
    owner = html.text(account(step("net"), share=shared("owner", members=["m"] * 31)))
    assert "This run is the owner, which provisions the steps for all runs" in owner
    assert "m and 1 more" in owner
    assert "marked as reused" not in owner
    assert "share-title" not in html.text(account(step("net")))


def test_page_is_well_formed_and_self_contained() -> None:
    """Every tag is closed, every id is unique, and no other file or address is loaded."""
    tags = parsed(all_outcomes())
    ids = [attrs["id"] for _, attrs in tags.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"] for tag, attrs in tags.found if tag == "a"]
    assert {str(target)[1:] for target in targets} <= set(ids)
    assert not [attrs for _, attrs in tags.found if "src" in attrs]
    assert [attrs["href"] for tag, attrs in tags.found if tag == "link"] == ["data:,"]
    assert "http" not in re.sub("http-equiv", "", html.text(all_outcomes()))


def test_every_text_is_escaped() -> None:
    """No name, error, log, reason or node id can add a tag to the page."""
    attempts = (
        AttemptAccount(1, "exec", 0.0, 0.1, EVIL),
        AttemptAccount(2, "exec", 0.2, 0.1, EVIL),
    )
    step_ = failed(
        EVIL, reason=EVIL, error=EVIL, log=EVIL, stack=EVIL, origin=EVIL, attempts=attempts,
        cleanup=cleanup(CleanupOutcome.FAILED, error=EVIL), is_critical=True,
    )  # fmt: skip
    run = account(
        step_,
        failed("db", needs=(EVIL,), after=(EVIL,)),
        step("fine", log=EVIL, artifacts=(EVIL,), attempts=attempts, attempts_allowed=2),
        tests=(ran(EVIL, "failed", EVIL, message=EVIL, text=EVIL, needs=(EVIL,)),),
        commit=EVIL,
        ci_job=f"javascript:{EVIL}",
        reason=EVIL,
        environment=EVIL,
        problems=(EVIL,),
        critical_path=(EVIL, "db"),
    )
    text = html.text(run)
    tags = parsed(run)
    assert [tag for tag, _ in tags.found].count("script") == 2  # the data and the script
    data = embedded(text)
    folded = [Tags(markup) for markup in (*data["details"].values(), *data["folds"].values())]
    assert [tags.open for tags in folded] == [[]] * len(folded)
    assert not {"script"} & {tag for each in folded for tag, _ in each.found}
    found = [each for part in (tags, *folded) for each in part.found]
    assert not {"img"} & {tag for tag, _ in found}
    assert not [attrs for _, attrs in found if any(name.startswith("on") for name in attrs)]
    assert "alert(1)</script>" not in text
    assert "49" not in re.findall(r"\{\{ 7\*7 \}\}|49", text)


def test_policy_allows_only_our_script() -> None:
    """The content security policy allows a single script, by its hash."""
    text = html.text(all_outcomes())
    policy = next(
        str(attrs["content"])
        for tag, attrs in Tags(text).found
        if tag == "meta" and attrs.get("http-equiv")
    )
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", policy)


def test_long_texts_are_truncated() -> None:
    """Many long logs are cut to their last lines, with a note; failed steps keep more."""
    log = "\n".join(f"line {number}" for number in range(20_000))
    good = [step(f"good_{number}", log=log[:30_000]) for number in range(200)]
    text = html.text(account(*good, failed("bad", error="E   first", log=log)))
    assert len(text) < 3_000_000
    assert "E   first" in text
    assert "line 19999" in text
    assert "(earlier lines omitted)" in text


def test_run_without_steps() -> None:
    """A run that needed no steps has a page that says so."""
    tags = parsed(account(tests=(ran("a"),)))
    assert "details" not in {tag for tag, _ in tags.found}
    assert "No steps were needed." in html.text(account())


def test_blocked_tests_are_folded() -> None:
    """Failed tests are markup from the beginning; blocked tests are data, their reason once."""
    many = [ran(f"waits_{n}", "blocked", message="step 'db' failed") for n in range(500)]
    text = html.text(account(tests=(*many, ran("fails", "failed", message="assert 0"))))
    assert "assert 0" in text[: text.index('id="data"')]
    assert text.count("step 'db' failed") == 1
    assert len(embedded(text)["tests"]["rows"]) == 501


def test_text_of_any_kind_stays_what_it_is() -> None:
    """Data with the end of a script, half of a surrogate pair or a line separator can be read."""
    odd = "</script><!--<script>\udc80\u2028"
    text = html.text(account(step("a"), tests=(ran("t", "failed", message=odd, text=odd),)))
    text.encode("utf-8")
    assert embedded(text)["tests"]["messages"] == [odd]


class TestChart:
    """The bars and ticks of the timeline."""

    def test_retries_waits_and_pauses(self) -> None:
        """Attempts, retry waits, a pause, the wait for a job, and the cleanup have bars."""
        attempts = (
            AttemptAccount(1, "exec", 2.0, 1.0, "no"),
            AttemptAccount(2, "exec", 4.0, 1.0, None),
        )
        run = account(step("db", started=2.0, seconds=4.0, attempts=attempts, cleanup=cleanup()))
        axis = chart.Axis(run)
        bars = {bar.kind: (bar.x, bar.width) for bar in chart.step_bars(run.steps[0], 1.0, axis)}
        assert bars == {
            "queue": (100, 100),
            "bad": (200, 100),
            "wait": (300, 100),
            "good": (400, 100),
            "pause": (500, 100),
            "clean": (800, 100),
        }

    def test_many_tests_are_grouped(self) -> None:
        """Adjacent tests share a bar, but a failed test never shares one with passed tests."""
        tests = tuple(
            ran(f"t{n}", "failed" if n == 5_000 else "passed", "gw0", started=n / 1e3, seconds=1e-3)
            for n in range(10_000)
        )
        run = account(tests=tests)
        (lane,) = chart.lanes(run, chart.Axis(run))
        assert lane.is_grouped
        assert 400 < len(lane.bars) < 1_000
        assert [bar.kind for bar in lane.bars].count("bad") == 1
        assert lane.bars[-1].kind == "bad"
        assert lane.summary == "9999 passed, 1 failed"

    def test_few_tests_are_not_grouped(self) -> None:
        """Each test has its own bar."""
        run = account(tests=tuple(ran(f"t{n}") for n in range(300)))
        (lane,) = chart.lanes(run, chart.Axis(run))
        assert len(lane.bars) == 300

    def test_blocked_test_is_not_drawn_as_a_failure(self) -> None:
        """Blocked tests have the color of blocked steps; only failures are red."""
        run = account(tests=(ran("a", "failed"), ran("b", "blocked"), ran("c")))
        (lane,) = chart.lanes(run, chart.Axis(run))
        assert [bar.kind for bar in lane.bars] == ["good", "odd", "bad"]

    @pytest.mark.parametrize("seconds", [0.0, 0.002, 0.9, 10.0, 59.0, 61.0, 4_000.0, 90_000.0, 1e7])
    def test_ruler(self, seconds: float) -> None:
        """For any duration, there are a few distinct ticks between 0 and the end of the run."""
        ticks = chart.Axis(account(seconds=seconds)).ticks()
        assert 2 <= len(ticks) <= 8
        assert ticks[0] == (0.0, "0s")
        assert ticks[-1][0] <= chart.WIDTH
        assert len({label for _, label in ticks}) == len(ticks)


def test_missing_jinja_is_a_usage_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the package to install, and no step runs."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    project.steps("@pytest.mark.plan_step\ndef db(): note('db')")
    project.tests("def test_it(db): pass")
    result = project.run("--plan-report=plan.html")
    refuses(
        result,
        "--plan-report: ",
        "plan.html requires Jinja2, which is not installed; ",
        "install it with: pip install 'pytest-plan[report]'",
    )
    assert project.calls == []


def test_page_says_what_ran_where_and_links_to_files(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page has the command, host, versions, commit and CI job; a failed step has its files.

    It is unfolded, with its log and the traceback of each attempt. Tests know what they need.
    """
    monkeypatch.setenv("GITHUB_SHA", "4f1c0d9be2a75c31c4a0")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.example")
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/shop")
    monkeypatch.setenv("GITHUB_RUN_ID", "17")
    project.steps("""
    @pytest.mark.plan_step(needs=())
    def net(): pass

    @pytest.mark.plan_step(needs=(), retries=1, retry_wait=0)
    def db(ctx):
        ctx.log("last words")
        (ctx.artifacts / "dump 1.txt").write_text("what is left")
        raise RuntimeError(f"no {ctx.attempt}")

    @pytest.mark.plan_step
    def web(db): pass
    """)
    project.tests("def test_db(web): pass\ndef test_net(net): pass")
    project.run("--plan-report=out of/plan.html", "--plan-continue-on-error", "-k", "db or net")
    file = project.path / "out of/plan.html"
    text = file.read_text()
    assert "<code>pytest " in text
    assert "-k &#39;db or net&#39;</code>" in text
    for word in (platform.node(), f"python {platform.python_version()}", pytest.__version__):
        assert word in text
    tags = Tags(text)
    folds = [given for tag, given in tags.found if tag == "details" and "id" in given]
    rows = {given["id"]: "open" in given for given in folds}
    assert rows == {"failed-db": True, "step-net": False, "step-db": False, "step-web": False}
    links = [given["href"] or "" for tag, given in tags.found if tag == "a"]
    (log,) = [link for link in links if link.endswith("log.txt")]
    assert "last words" in (file.parent / unquote(log)).read_text()
    (artifact,) = [link for link in links if link.endswith("dump%201.txt")]
    assert (file.parent / unquote(artifact)).read_text() == "what is left"
    assert "https://github.example/a/shop/actions/runs/17" in links
    assert "4f1c0d9be2a7</code>" in text
    assert "raise RuntimeError(f&#34;no {ctx.attempt}&#34;)\nE       RuntimeError: no 1" in text
    tests = embedded(text)["tests"]
    assert tests["names"] == ["web", "db", "net"]
    assert [row[7:9] for row in tests["rows"]] == [[[0], [1]], [[2]]]


def test_few_of_many_failed_steps_are_unfolded() -> None:
    """Only the first failed steps are unfolded, so that a page with many stays readable."""
    tags = parsed(account(*(failed(f"s{number}") for number in range(30))))
    assert len([1 for tag, given in tags.found if tag == "details" and "open" in given]) == 5


def test_secrets_are_masked(project: Project) -> None:
    """Secrets are masked everywhere on the page."""
    project.steps("""
    @pytest.mark.plan_step(needs=())
    def token(): return Secret("hunter2-hunter2")

    @pytest.mark.plan_step(needs=["token"])
    def db(ctx):
        print("log hunter2-hunter2")
        raise RuntimeError("error " + "hunter2-" * 2)
    """)
    project.tests("def test_db(db): pass\ndef test_it(token): assert token == 'hunter2-hunter2!'")
    project.run("--plan-report=plan.html", "--plan-continue-on-error")
    text = (project.path / "plan.html").read_text()
    assert "log ***" in text
    assert "hunter2-hunter2" not in text

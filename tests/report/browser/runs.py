"""Accounts of runs whose reports the tests of this folder open."""

from __future__ import annotations

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.report.account import Account, AttemptAccount
from tests.report.support.accounts import account, blocked, cleanup, failed, ran, step

EVIL = "</script><script>window.harm = 1</script><img src=x onerror='window.harm = 2'>"
NO_PORT = AttemptAccount(1, "exec", 1.0, 1.0, f"no port {EVIL}", f"Traceback {EVIL}")


def red() -> Account:
    """Return a run in which steps, cleanups and tests failed, with texts that attack the page."""
    tests = [
        ran(
            f"test_shop.py::test_{number}",
            worker=f"gw{number % 2}",
            started=number / 9,
            seconds=0.1,
            needs=("db",),
        )
        for number in range(60)
    ]
    tests[7] = ran(
        "test_shop.py::test_red",
        "failed",
        "gw1",
        started=7 / 9,
        needs=("db",),
        message=f"assert 0 {EVIL}",
        text=f"E assert 0 {EVIL}",
    )
    tests += [
        ran(
            f"test_web.py::test_{number}",
            "blocked",
            "gw0",
            started=7.0,
            seconds=0.0,
            stage=2,
            needs=("web",),
            blocked_by=("cache",),
            message="step 'cache' failed",
        )
        for number in range(120)
    ]
    return account(
        step("net", is_critical=True, cleanup=cleanup(CleanupOutcome.FAILED, error="in use")),
        step(
            "db",
            needs=("net",),
            started=1.0,
            seconds=3.0,
            is_critical=True,
            attempts_allowed=3,
            attempts=(NO_PORT, AttemptAccount(2, "exec", 3.0, 1.0, None)),
            cleanup=cleanup(),
        ),
        failed(
            "cache",
            needs=("net",),
            error="E   ValueError",
            log="\n".join([*map(str, range(60)), f"last words {EVIL}"]),
            attempts_allowed=2,
            attempts=(NO_PORT, AttemptAccount(2, "exec", 2.0, 1.0, "ValueError")),
        ),
        blocked("web", needs=("cache",)),
        step("slow", outcome=StepOutcome.TIMED_OUT, stack="File x", reason="took too long"),
        tests=tuple(sorted(tests, key=lambda test: test.started)),
        critical_path=("net", "db"),
        outcome=StepOutcome.FAILED,
        commit="4f1c0d9be2a75c31c4a04f1c0d9be2a75c31c4a0",
        ci_job="https://ci.example/job/7",
    )


def large(steps: int = 200, tests: int = 5_000, workers: int = 8) -> Account:
    """Return a run with many steps and tests, some of which failed."""
    names = [f"service_{number:03}" for number in range(steps)]
    built = [
        (failed if number % 40 == 39 else step)(
            name,
            needs=tuple(names[max(0, number - 2) : number]),
            started=number * 0.05,
            seconds=0.5,
            log=f"{name} listens\n" * 20,
            cleanup=cleanup(started=60.0),
        )
        for number, name in enumerate(names)
    ]
    outcomes = ["passed"] * tests
    outcomes[::7] = ["blocked"] * len(outcomes[::7])
    outcomes[::97] = ["failed"] * len(outcomes[::97])
    ran_ = (
        ran(
            f"tests/test_{number % 40}.py::TestOrders::test_order[{number}]",
            outcome,
            f"gw{number % workers}",
            started=12.0 + number // workers * 0.05,
            seconds=0.01 + number % 7 / 200,
            needs=(names[number % steps],),
            blocked_by=("service_039",) if outcome == "blocked" else (),
            text="E assert 1 == 2\n" * 20 if outcome == "failed" else "",
        )
        for number, outcome in enumerate(outcomes)
    )
    return account(*built, tests=tuple(ran_), seconds=70.0, cleanup_began=60.0)

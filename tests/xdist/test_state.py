"""State across processes: every method, from steps, tests and several threads at once."""

from __future__ import annotations

import re

import pytest

from pytest_plan.engine.journal.reader import read
from tests.xdist.cluster import Cluster, outcomes, verdicts
from tests.xdist.conftest import MakeCluster

STEPS = """
from pytest_plan import Secret

@pytest.mark.plan_step
def base(state):
    state["from_step"] = {"a": 1}
    return [1, 2]

@pytest.mark.plan_step
def token():
    return Secret("s3cret")

@pytest.mark.plan_step
def handle():
    return (line for line in "ab")
"""
# Two files, one worker each (`--dist loadfile`): `here` and `there` alternate by `wait_for`.
HEAD = """
import threading, time
from pytest_plan import StateError
pytestmark = pytest.mark.plan("base")
"""
HERE = {
    "set_and_get": """
        plan.state["one"] = 1
        assert plan.state.wait_for("two", 20) == 2
        """,
    "value_of_step": """
        assert base == [1, 2] and plan.state["base"] == [1, 2]
        assert plan.state["from_step"] == {"a": 1}
        """,
    "get_contains_missing": """
        assert plan.state.get("nothing") is None and plan.state.get("nothing", 5) == 5
        assert "nothing" not in plan.state and "base" in plan.state
        with pytest.raises(KeyError, match="nothing"):
            plan.state["nothing"]
        """,
    "delete": """
        plan.state["gone"] = 1
        plan.state["delete it"] = True
        plan.state.wait_for("deleted", 20)
        assert "gone" not in plan.state
        with pytest.raises(KeyError):
            del plan.state["gone"]
        """,
    "setdefault": """
        assert plan.state.setdefault("default", "mine") == "mine"
        plan.state["default is set"] = True
        """,
    "pop": """
        plan.state["popped"] = "value"
        plan.state["pop it"] = True
        assert plan.state.wait_for("what was popped", 20) == "value"
        assert plan.state.pop("popped", None) is None
        with pytest.raises(KeyError):
            plan.state.pop("popped")
        """,
    "swap": """
        assert plan.state.swap("swapped", 1) is None
        plan.state["swap it"] = True
        assert plan.state.wait_for("what was swapped", 20) == 1
        assert plan.state["swapped"] == 2
        """,
    "compare_and_swap": """
        plan.state["compared"] = {"x": [1]}
        plan.state["compare it"] = True
        assert plan.state.wait_for("was compared", 20) == [False, True]
        assert plan.state["compared"] == 2
        assert plan.state.compare_and_swap("no such key", None, 1) is False
        """,
    "compare_and_delete": """
        plan.state["doomed"] = (1, 2)
        plan.state["doom it"] = True
        assert plan.state.wait_for("was doomed", 20) == [False, True]
        assert plan.state.compare_and_delete("doomed", (1, 2)) is False
        """,
    "update_and_snapshot": """
        plan.state.update({"u1": 1, "u2": 2})
        plan.state["updated"] = True
        seen = plan.state.wait_for("snapshot", 20)
        assert seen["u1"] == 1 and seen["u2"] == 2 and seen["from_step"] == {"a": 1}
        """,
    "value_is_what_was_set": """
        value = ["set"]
        plan.state["kept"] = value
        value.append("changed")
        plan.state["kept"].append("changed")
        assert plan.state["kept"] == ["set"]
        """,
    "step_key_is_refused": """
        with pytest.raises(StateError, match="key 'base' belongs to the step 'base'"):
            plan.state["base"] = 1
        with pytest.raises(StateError, match="belongs to the step"):
            del plan.state["base"]
        with pytest.raises(StateError, match="a key must be a string, not 5"):
            plan.state[5] = 1
        assert plan.state["base"] == [1, 2]
        """,
    "wait_for_wakes_at_once": """
        plan.state.wait_for("about to wait", 20)
        time.sleep(0.3)  # they wait by now; if not, they wait less and the test is weaker
        plan.state["signal"] = time.time()
        assert plan.state.wait_for("woken after", 20) < 0.9  # a look each second is not enough
        """,
    "wait_for_ends_in_time": """
        began = time.monotonic()
        text = "timed out after 0.2 s: the State has no key 'never'"
        with pytest.raises(TimeoutError, match=text):
            plan.state.wait_for("never", 0.2)
        assert 0.2 <= time.monotonic() - began < 5
        """,
    "increments": """
        plan.state.setdefault("sum", 0)
        threads = [threading.Thread(target=increment, args=(plan.state,)) for _ in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        plan.state["here is done"] = True
        plan.state.wait_for("there is done", 30)
        assert plan.state["sum"] == 4 * 100
        """,
    "lock_is_exclusive": """
        for _ in range(50):
            with plan.state.lock("guard"):
                inside = plan.state.get("inside", 0)
                plan.state["inside"] = inside + 1
        plan.state["here left"] = True
        plan.state.wait_for("there left", 30)
        assert plan.state["inside"] == 100
        """,
    "lock_is_waited_for": """
        with plan.state.lock("held"):
            plan.state["is held"] = True
            said = plan.state.wait_for("lock timed out", 20)
            assert said == "lock 'held' was not free after 0.2 s"
            plan.state["released"] = False
        assert plan.state.wait_for("got the lock", 20)
        """,
    "lock_twice_is_refused": """
        with plan.state.lock("mine"):
            with pytest.raises(StateError, match="lock 'mine' is already held by this thread"):
                with plan.state.lock("mine"):
                    pass
        """,
    "other_thread_is_another_holder": """
        with plan.state.lock("threads"):
            said = []
            def other():
                try:
                    with plan.state.lock("threads", timeout=0.2): pass
                except TimeoutError as error: said.append(str(error))
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert said == ["lock 'threads' was not free after 0.2 s"]
        """,
    "unpicklable_value_is_refused": """
        for _ in range(2):
            with pytest.raises(StateError, match="the value of 'thing', of type 'lock', cannot be "
                               "pickled") as caught:
                plan.state["thing"] = threading.Lock()
        assert "thing" not in plan.state
        plan.state["after"] = 1
        assert plan.state["after"] == 1
        """,
    "size_does_not_matter": """
        plan.state["large"] = "x" * 5_000_000
        plan.state["large is set"] = True
        assert plan.state.wait_for("length", 20) == 5_000_000
        """,
    "fork_is_refused": """
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                plan.state["forked"] = 1
                said = "nothing"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writer, said.encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 1000).decode().startswith(
            "StateError: a forked copy of the process")
        assert "forked" not in plan.state
        """,
    "clear_spares_steps": """
        plan.state["mine"] = 1
        plan.state["clear it"] = True
        plan.state.wait_for("cleared", 20)
        assert plan.state["base"] == [1, 2] and "mine" not in plan.state
        """,
}
THERE = {
    "set_and_get": """
        assert plan.state.wait_for("one", 20) == 1
        plan.state["two"] = 2
        """,
    "delete": """
        plan.state.wait_for("delete it", 20)
        del plan.state["gone"]
        plan.state["deleted"] = True
        """,
    "setdefault": """
        plan.state.wait_for("default is set", 20)
        assert plan.state.setdefault("default", "yours") == "mine"
        """,
    "pop": """
        plan.state.wait_for("pop it", 20)
        plan.state["what was popped"] = plan.state.pop("popped")
        """,
    "swap": """
        plan.state.wait_for("swap it", 20)
        plan.state["what was swapped"] = plan.state.swap("swapped", 2)
        """,
    "compare_and_swap": """
        plan.state.wait_for("compare it", 20)
        equal = {"x": [1]}  # equal, but another object with another pickle
        plan.state["was compared"] = [
            plan.state.compare_and_swap("compared", {"x": [2]}, 3),
            plan.state.compare_and_swap("compared", equal, 2),
        ]
        """,
    "compare_and_delete": """
        plan.state.wait_for("doom it", 20)
        plan.state["was doomed"] = [
            plan.state.compare_and_delete("doomed", (1,)),
            plan.state.compare_and_delete("doomed", (1, 2)),
        ]
        """,
    "update_and_snapshot": """
        plan.state.wait_for("updated", 20)
        plan.state["snapshot"] = plan.state.snapshot()
        assert {"u1", "u2", "base"} <= set(plan.state) and len(plan.state) >= 3
        """,
    "wait_for_wakes_at_once": """
        plan.state["about to wait"] = True
        sent = plan.state.wait_for("signal", 20)
        plan.state["woken after"] = time.time() - sent
        """,
    "increments": """
        plan.state.setdefault("sum", 0)
        increment(plan.state)
        increment(plan.state)
        plan.state["there is done"] = True
        plan.state.wait_for("here is done", 30)
        assert plan.state["sum"] == 4 * 100
        """,
    "lock_is_exclusive": """
        for _ in range(50):
            with plan.state.lock("guard"):
                inside = plan.state.get("inside", 0)
                plan.state["inside"] = inside + 1
        plan.state["there left"] = True
        plan.state.wait_for("here left", 30)
        """,
    "lock_is_waited_for": """
        plan.state.wait_for("is held", 20)
        try:
            with plan.state.lock("held", timeout=0.2): pass
        except TimeoutError as error:
            plan.state["lock timed out"] = str(error)
        with plan.state.lock("held", timeout=20):
            plan.state["got the lock"] = "released" in plan.state
        """,
    "unpicklable_value_is_refused": """
        with pytest.raises(StateError, match="of type 'generator', cannot be pickled"):
            plan.state["stream"] = (x for x in "ab")
        plan.state["after too"] = 1
        """,
    "size_does_not_matter": """
        plan.state.wait_for("large is set", 20)
        plan.state["length"] = len(plan.state.pop("large"))
        """,
    "clear_spares_steps": """
        plan.state.wait_for("clear it", 20)
        plan.state.clear()
        plan.state["cleared"] = True
        """,
}
INCREMENT = """
def increment(state):
    for _ in range(100):
        while True:
            value = state["sum"]
            if state.compare_and_swap("sum", value, value + 1):
                break
"""


def _module(bodies: dict[str, str]) -> str:
    tests = [f"def test_{name}(plan, base):\n    if True:{body}" for name, body in bodies.items()]
    return HEAD + INCREMENT + "\n".join(tests)


@pytest.fixture(scope="module")
def run(make_cluster: MakeCluster) -> pytest.RunResult:
    """The shared run of the two test modules above."""
    cluster = make_cluster("state")
    cluster.steps(STEPS)
    cluster.tests(_module(HERE), name="test_here.py")
    cluster.tests(_module(THERE), name="test_there.py")
    return cluster.two("--dist", "loadfile", "-v")


@pytest.mark.parametrize("name", HERE)
def test_across_processes(run: pytest.RunResult, name: str) -> None:
    """The test of this name in the project passes, in both modules if both have it."""
    assert verdicts(run)[f"test_{name}"] == ["PASSED"] * (2 if name in THERE else 1), (
        run.stdout.str()
    )


def test_every_side_took_part(run: pytest.RunResult) -> None:
    """Each module ran in a different worker, and no test is missing."""
    assert outcomes(run) == {"passed": len(HERE) + len(THERE)}
    workers = {line.split()[0] for line in run.outlines if line.startswith("[gw")}
    assert workers == {"[gw0]", "[gw1]"}


def test_step_value_that_cannot_be_pickled_is_an_error_where_it_is_read(cluster: Cluster) -> None:
    """A step whose value cannot be pickled succeeds; only tests that read it get an error."""
    cluster.steps("""
    @pytest.mark.plan_step(needs=())
    def stream(): return (line for line in "ab")

    @pytest.mark.plan_step(needs=("stream",))
    def last(stream): return next(stream)
    """)
    cluster.tests("""
    from pytest_plan import StateError

    @pytest.mark.parametrize("number", range(2))
    def test_value(number, stream): pass

    @pytest.mark.plan("stream", "last")
    def test_others(plan, last):
        assert last == "a" and plan.state["last"] == "a"
        with pytest.raises(StateError, match="'stream'.*'generator'"):
            plan.state["stream"]
        plan.state["new"] = 1
        assert plan.state["new"] == 1
        assert str(plan.results["stream"].outcome) == "succeeded"

    @pytest.mark.plan("stream", "last")
    def test_keys(plan):
        plan.state["mine"] = 1
        assert "stream" in plan.state
        assert {"stream", "last"} <= set(plan.state)
        assert len(plan.state) >= 3
        with pytest.raises(StateError, match="'stream'.*'generator'"):
            plan.state.snapshot()
        plan.state.clear()
        assert "mine" not in plan.state and "stream" in plan.state
    """)
    result = cluster.two()
    assert outcomes(result) == {"passed": 2, "errors": 2}
    text = result.stdout.str()
    assert "the value of 'stream', of type 'generator', cannot be pickled and so cannot" in text


def test_value_that_cannot_be_unpickled_is_an_error_where_it_is_read(cluster: Cluster) -> None:
    """Reading a value that cannot be unpickled is an error with its key; removing it works."""
    cluster.steps("""
    @pytest.mark.plan_step
    def base(): pass
    """)
    cluster.tests("""
    from pytest_plan import StateError

    class Broken:
        def __reduce__(self): return (int, ("no number",))

    def test_it(plan):
        plan.state["broken"] = Broken()
        with pytest.raises(StateError, match="'broken'.*no number"):
            plan.state["broken"]
        with pytest.raises(StateError, match="'broken'.*no number"):
            plan.state.snapshot()
        assert "broken" in plan.state and list(plan.state) == ["broken"]
        plan.state["broken"] = "repaired"
        assert plan.state["broken"] == "repaired"
        plan.state["broken"] = Broken()
        del plan.state["broken"]
        assert plan.state.snapshot() == {}
    """)
    assert outcomes(cluster.two()) == {"passed": 1}


def test_secrets_reach_tests_and_no_output(cluster: Cluster) -> None:
    """A secret reaches a test through its fixture, but never appears in the repr of the State."""
    cluster.steps("""
    from pytest_plan import Secret

    @pytest.mark.plan_step
    def token(state):
        state["also"] = Secret("pa55")
        return Secret("s3cret")
    """)
    cluster.tests("""
    def test_it(token, plan):
        assert token == "s3cret" and plan.state["also"].reveal() == "pa55"
        assert "pa55" not in repr(plan.state) and "s3cret" not in repr(plan.state)
    """)
    assert outcomes(cluster.two()) == {"passed": 1}


@pytest.mark.parametrize("args", [("-n", "0"), ("-n", "1")], ids=["solo", "worker"])
@pytest.mark.parametrize("secret", ["hunter2-secret", b"hunter2-secret"], ids=["text", "bytes"])
def test_secret_that_a_test_sets_is_masked(
    cluster: Cluster, args: tuple[str, str], secret: str | bytes
) -> None:
    """A secret that a test sets is masked in the error of a cleanup, with and without workers."""
    cluster.steps("""
    def show(state):
        revealed = state["token"].reveal()
        text = revealed if isinstance(revealed, str) else revealed.decode()
        raise RuntimeError(f"refused with {text}")

    @pytest.mark.plan_step(cleanup=show)
    def db(): return 1
    """)
    cluster.tests(f"""
    from pytest_plan import Secret

    def test_it(db, plan): plan.state["token"] = Secret({secret!r})
    """)
    result = cluster.apart(*args)
    assert outcomes(result) == {"passed": 1, "errors": 1}
    assert "refused with ***" in result.stdout.str()
    assert "hunter2" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("args", [("-n", "0"), ("-n", "1")], ids=["solo", "worker"])
def test_a_timeout_is_any_duration(cluster: Cluster, args: tuple[str, ...]) -> None:
    """`wait_for` and `lock` take seconds, text and timedelta, and refuse what is no duration."""
    cluster.tests(
        """
        import datetime, threading

        GOOD = ["100ms", "0.1s", 0.1, datetime.timedelta(milliseconds=100), 0]
        BAD = ["soon", -1, "-2s", float("inf"), True, b"2s"]

        @pytest.mark.parametrize("timeout", GOOD)
        def test_good(plan, timeout):
            with pytest.raises(TimeoutError, match="after .* s: the State has no key 'never'"):
                plan.state.wait_for("never", timeout)
            plan.state["answer"] = 42
            assert plan.state.wait_for("answer", timeout) == 42
            assert plan.state.wait_for("answer", "20000 days") == 42
            with plan.state.lock("mine", timeout):
                thread = threading.Thread(target=refused, args=(plan.state, timeout))
                thread.start()
                thread.join()
            assert refusals.pop().startswith("lock 'mine' was not free after")

        refusals = []

        def refused(state, timeout):
            try:
                with state.lock("mine", timeout): pass
            except TimeoutError as error:
                refusals.append(str(error))

        @pytest.mark.parametrize("timeout", BAD)
        def test_bad(plan, timeout):
            text = "timeout: .* is (not a duration; use seconds or text|negative; use 0 or more)"
            with pytest.raises(PlanDefinitionError, match="State.wait_for: " + text):
                plan.state.wait_for("never", timeout)
            with pytest.raises(PlanDefinitionError, match="State.lock: " + text):
                with plan.state.lock("mine", timeout): pass

        from pytest_plan import PlanDefinitionError
        """
    )
    result = cluster.apart(*args)
    assert outcomes(result) == {"passed": 11}


def test_state_is_shared_without_any_step(cluster: Cluster) -> None:
    """The fixture `plan` alone is enough for tests to share a State."""
    cluster.tests(
        "def test_it(plan): plan.state['said'] = 'hello'",
        name="test_here.py",
    )
    cluster.tests(
        "def test_it(plan): assert plan.state.wait_for('said', 10) == 'hello'",
        name="test_there.py",
    )
    assert outcomes(cluster.two()) == {"passed": 2}


def test_waiting_for_a_value_that_cannot_be_pickled_affects_nothing_else(cluster: Cluster) -> None:
    """Waiting for such a value raises an error; later writes and locks still work."""
    cluster.steps("""
    @pytest.mark.plan_step
    def stream(): return (line for line in "ab")
    """)
    cluster.tests("""
    from pytest_plan import StateError

    def test_it(plan):
        with pytest.raises(StateError, match="'stream'.*'generator'"):
            plan.state.wait_for("stream", 5)
        plan.state["key"] = 1
        with plan.state.lock("name"):
            pass
        assert plan.state["key"] == 1
    """)
    assert outcomes(cluster.two()) == {"passed": 1}


def test_lock_is_not_given_to_a_test_that_timed_out(cluster: Cluster) -> None:
    """A test that pytest-timeout ends while it waits for a lock does not get the lock later."""
    cluster.steps("""
    @pytest.mark.plan_step
    def base(): pass
    """)
    cluster.tests(
        """
        def test_holder(plan):
            with plan.state.lock("name"):
                plan.state["held"] = True
                plan.state.wait_for("timed out", 20)
            with plan.state.lock("name", timeout=5):
                plan.state["free again"] = True
        """,
        name="test_holder.py",
    )
    cluster.tests(
        """
        @pytest.mark.timeout(1)
        def test_waits(plan):
            try:
                plan.state.wait_for("held", 20)
                with plan.state.lock("name"): pass
            finally:
                plan.state["timed out"] = True

        def test_after(plan):
            plan.state.wait_for("free again", 20)
            with plan.state.lock("name", timeout=5): pass
        """,
        name="test_waits.py",
    )
    result = cluster.two("-p", "timeout", "--dist", "loadfile")
    assert outcomes(result) == {"passed": 2, "failed": 1}
    assert re.search(r"Timeout \(?>1.0s", result.stdout.str())


def test_the_controller_does_not_import_a_test_module_for_the_journal(cluster: Cluster) -> None:
    """A value whose class is in a test module is not unpickled in the controller, unlike others."""
    cluster.steps(
        """
        def drop(ctx): note("dropped")

        @pytest.mark.plan_step(cleanup=drop)
        def db(): return 1
        """
    )
    cluster.tests(
        """
        import dataclasses, datetime

        note("imported", os.environ.get("PYTEST_XDIST_WORKER", "controller"))

        @dataclasses.dataclass
        class Order: number: int

        def test_it(db, plan):
            plan.state["order"] = Order(7)
            plan.state["day"] = datetime.date(2026, 11, 29)
            assert plan.state["order"] == Order(7)
        """
    )
    result = cluster.two("--plan-keep=always")
    assert outcomes(result) == {"passed": 1}
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert sorted(cluster.calls) == ["imported gw0", "imported gw1"]
    recorded = read(cluster.path / ".pytest_plan/environments/default/journal.sqlite")
    assert recorded.state.get("day") is not None
    assert recorded.state.get("order") is None
    assert cluster.apart("--plan-cleanup").ret == 0

"""The public API in a typed conftest and its tests. It is type-checked but never run."""

# ruff: noqa: D101, D102, D103, T201 - written as a user would write it

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

import pytest
import tenacity

from pytest_plan import (
    AttemptFailed,
    AttemptResult,
    CleanupBegan,
    CleanupError,
    CleanupInterrupted,
    CleanupOutcome,
    CleanupResult,
    Context,
    GenericStep,
    JournalError,
    Loss,
    Plan,
    PlanCancelledError,
    PlanDefinitionError,
    PlanError,
    PlanFinished,
    PlanHandle,
    PlanResult,
    PlanTimeoutError,
    Process,
    ProgramHandle,
    Secret,
    State,
    StateError,
    Step,
    StepCleaned,
    StepError,
    StepFinished,
    StepInterrupted,
    StepLost,
    StepOutcome,
    StepResult,
    StepStarted,
    StepTimeoutError,
    StopRequested,
    Terminated,
    Waiting,
    plan_step,
)
from pytest_plan.steps import (
    S3,
    ComposeStep,
    Condition,
    Container,
    ContainerStep,
    Kafka,
    MariaDB,
    PostgreSQL,
    RabbitMQ,
    Redis,
    Service,
    command,
    compose,
    container,
    create_database,
    database_url,
    healthy,
    http,
    log_line,
    playbook,
    run_once,
    service,
    tcp,
)


@pytest.mark.plan_step(retries=2, timeout="60s", retry_wait=tenacity.wait_fixed(1))
def web(ctx: Context, state: State) -> str:
    port = ctx.free_port()
    process = ctx.start(["server", str(port)], cwd=ctx.tmp_path, stop_grace=timedelta(seconds=3))
    assert_type(process, Process)
    assert_type(process.pid, int)
    done = ctx.run(["client", Path("file")], check=False, timeout="5s", input="text", user="nobody")
    assert_type(done.stdout, str)
    assert_type(ctx.wait_until(lambda: len("ready"), timeout=30, every=0.1), int)
    ctx.defer(print, "undone", end="")
    ctx.setenv("URL", "http://127.0.0.1")
    ctx.log({"any": "object"})
    assert_type(ctx.secret("sesame"), Secret[str])
    ctx.sleep("1s")
    ctx.check()
    assert_type(ctx.remaining(), float | None)
    assert_type(ctx.deadline, float | None)
    assert_type(ctx.cancelled, bool)
    assert_type(ctx.attempt, int)
    assert_type(ctx.worker, str | None)
    assert_type(ctx.param, Any)
    assert_type(ctx.reason, str | None)
    assert_type(ctx.artifacts, Path)
    assert_type(ctx.state, State)
    state["port"] = port
    return f"http://127.0.0.1:{port}"


@pytest.mark.plan_step
def orders(web: str, state: State) -> Iterator[int]:
    assert_type(state.get("port"), Any | None)
    assert_type(state.get("port", type=int), int | None)
    assert_type(state.get("port", 80, type=int), int)
    assert_type(state.get("names", type=list[str]), list[str] | None)
    assert_type(state.compare_and_swap("port", 1, 2), bool)
    with state.lock("orders"):
        yield len(web)


@pytest.mark.plan_step(needs=["web"], retry_on=(OSError, TimeoutError))
async def messages(config: pytest.Config) -> AsyncIterator[Secret[str]]:
    token = Secret("sesame")
    assert_type(token.reveal(), str)
    yield token


@pytest.mark.plan_step
class Database(Step):
    retries = 3
    timeout = "1m"

    def pre_exec(self, ctx: Context) -> None:
        ctx.log("before")

    def exec(self, web: str) -> dict[str, str]:
        return {"url": web}

    def post_exec(self, value: dict[str, str]) -> None:
        assert value

    def cleanup(self, ctx: Context, value: dict[str, str]) -> None:
        ctx.log(value["url"])


@plan_step
def plain(ctx: Context) -> int:
    return ctx.free_port()


@plan_step()
async def eventual(plain: int) -> str:
    return str(plain)


@plan_step(needs=["plain"], inputs=["*.sql", Path("x.sql")], per="worker", ids=str, params=[1, 2])
def generated(ctx: Context) -> Iterator[int]:
    yield 1


@plan_step(
    name="long", needs="plain", retries=2, retry_wait=tenacity.wait_fixed(1), retry_on=[OSError],
    timeout="1m", cleanup_timeout=timedelta(minutes=1), cleanup_when="attempted", pause=0.5,
    pre_exec=print, post_exec=None, cleanup=print, alive=lambda: True,
    alive_every="10s", autouse=True, eager=False, after_tests=False,
)  # fmt: skip
async def streamed() -> AsyncIterator[int]:
    yield 1


@plan_step(retry_wait="2s", retry_on=(OSError, TimeoutError), inputs=tenacity, ids=["a", None, 1])
class Typed(Step):
    def exec(self, plain: int) -> int:
        return plain


async def decorated(ctx: Context) -> None:
    assert_type(plain(ctx), int)
    assert_type(await eventual(1), str)
    assert_type(generated(ctx), Iterator[int])
    assert_type(streamed(), AsyncIterator[int])
    assert_type(Typed().exec(1), int)


def is_open(found: Service) -> bool:
    return found.port is not None


def shop(ctx: Context) -> str:
    run_once(ctx, ["make", "assets"], creates=Path("assets"))
    started = ctx.start(["worker"], ready=log_line("ready", times=2), timeout="5s")
    assert_type(started, Process)
    ready = http("/health", status=200) & tcp("admin") & command(["check", "{port}"]) & is_open
    assert_type(ready, Condition)
    found = service(
        ctx, ["shop", Path("x"), "{port}"], ready=ready, timeout=timedelta(minutes=1),
        env={"A": "{port:admin}", "B": None}, cwd=Path(), user="nobody", attach="SHOP_URL",
    )  # fmt: skip
    assert_type(found, Service)
    assert_type(found.ports, Mapping[str, int])
    service(ctx, ["x"], ready=healthy() & (lambda: True))
    service(ctx, ["x"], ready=lambda: True)
    return found.url or ""


@pytest.mark.plan_step
class db(PostgreSQL):  # noqa: N801 - the name of the step
    version = "16"
    settings = {"max_connections": 20}  # noqa: RUF012 - as users write it


class Cache(Redis):
    password = "sesame"


class Brokers(RabbitMQ):
    attach = "AMQP_URL"


class Web(ContainerStep):
    image = "nginx:alpine"
    ports = (80,)


class Stack(ComposeStep):
    files = "docker-compose.yml"


def stores() -> tuple[MariaDB, Kafka, S3]:
    return MariaDB(), Kafka(), S3()


def containers(ctx: Context, db: str) -> str | None:
    assert_type(create_database(ctx, db, "orders", template="postgres"), str)
    assert_type(database_url(db, "orders"), str)
    playbook(ctx, "site.yml", Path("hosts"), variables={"color": "blue"})
    stack = compose(ctx, ["compose.yml"], services=["web"], ready={"web": healthy()})
    assert_type(stack, dict[str, Container])
    web = container(
        ctx, "nginx:alpine", ports=[80, "53/udp"], env={"A": 1}, volumes={Path(): "/data:ro"},
        ready=http("/"), timeout="30s", pull_timeout="5m", command=["nginx"], attach="WEB_URL",
    )  # fmt: skip
    assert_type(web, Container)
    assert_type(web.ports, Mapping[int, int])
    return web.url


def take_port(ctx: Context) -> int:
    return ctx.free_port()


def give_back(value: int) -> None:
    print(value)


def pytest_plan_configure(config: pytest.Config, plan: Plan) -> None:
    step = GenericStep(exec=take_port, cleanup=give_back).with_retries(2)
    assert_type(step, GenericStep)
    plan.add_step(step, name="one", needs=["web"]).add_pause("5s").add_step(Database())


def pytest_plan_step_finished(config: pytest.Config, result: StepResult) -> None:
    assert_type(result.outcome, StepOutcome)
    assert_type(result.cleanup.outcome, CleanupOutcome)
    assert_type(result.error, StepError | None)
    assert_type(result.seconds, float)
    assert_type(result.attempts, tuple[AttemptResult, ...])
    assert_type(result.lost, Loss | None)
    assert_type(result.cleanup, CleanupResult)


def listen(event: object) -> None:
    """Receive the events of a run, like a listener from `pytest_plan_make_listener`."""
    if isinstance(event, (StepStarted, AttemptFailed)):
        assert_type(event.step, str)
    if isinstance(event, (StepFinished, StepCleaned)):
        assert_type(event.result, StepResult)
    if isinstance(event, StepLost):
        assert_type(event.result, StepResult)
    if isinstance(event, (StopRequested, CleanupBegan)):
        assert_type(event.reason, str)
    if isinstance(event, CleanupInterrupted):
        assert_type(event.steps, tuple[str, ...])
    if isinstance(event, Waiting):
        assert_type(event.cleaning, bool)
    if isinstance(event, PlanFinished):
        assert_type(event.result, PlanResult)


def pytest_plan_finished(config: pytest.Config, result: PlanResult) -> None:
    assert_type(result.steps, Mapping[str, StepResult])
    result.raise_for_failures()


def test_order(web: str, plan: PlanHandle) -> None:
    assert_type(plan.state["web"], Any)
    assert_type(plan.results["web"].attempts[0].number, int)
    assert_type(plan.remaining(), float | None)
    assert_type(plan.run_id, str)
    assert_type(plan.environment, str)
    plan.need("web", "orders")
    program = plan.program("web", name="nginx")
    assert_type(program, ProgramHandle)
    assert_type(program.name, str)
    program.stop()
    program.kill()
    program.start()


@pytest.fixture
def connection() -> Iterator[str]:
    try:
        yield "open"
    except Terminated:
        print("SIGTERM or SIGHUP")
        raise


@pytest.mark.plan("web", "orders")
def test_marked() -> None:
    pass


def script() -> PlanResult | None:
    """Use the engine in a plain script."""
    plan = Plan(limit="10m", continue_on_error=True, cleanup_limit=300, jobs=4)
    plan.add_step(Database(), name="db", retries=1, timeout=timedelta(minutes=1))
    try:
        return plan.execute()
    except StepTimeoutError as error:
        print(error.step, error.hook, error.attempt)
    except StepError as error:
        assert_type(error.cleanup_error, CleanupError | None)
        assert_type(error.result, PlanResult | None)
    except (PlanCancelledError, PlanTimeoutError) as stopped:
        assert_type(stopped.result, PlanResult | None)
    except CleanupError as error:
        assert_type(error.result, PlanResult | None)
        print(*error.exceptions)
    except (PlanDefinitionError, StateError, JournalError, PlanError, StepInterrupted):
        raise
    return None


def script_with_body() -> None:
    """Use the engine as a context manager."""
    plan = Plan().add_step(GenericStep(exec=take_port), name="port")
    with plan.provisioned() as state:
        assert_type(state, State)
    plan.cancel("why")

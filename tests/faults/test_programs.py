"""Rows 69 to 72: daemons that hide, programs that die, strangers on a port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.faults.harness.aftermath import PLAIN, environments
from tests.faults.harness.daemons import daemons_of, expect_daemons_gone, write_project
from tests.faults.harness.scenario import SLACK, Run, Stage, Story

ENDS = {"green": 0, "sigterm": signal.SIGTERM, "sigkill": signal.SIGKILL}
STATUS = {0: 0, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
AT_ONCE = 15.0 * SLACK  # seconds; each wait in these runs would last a minute
modes = pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["solo", "two workers"])

SERVERS = """\
import os, psutil, socket

NGINX = '''
pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;
    fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    server {{ listen 127.0.0.1:{port}; }}
}}
'''

def nginx(ctx, port):
    file = ctx.tmp_path / "nginx.conf"
    file.write_text(NGINX.format(folder=ctx.tmp_path, port=port))
    return ["nginx", "-c", str(file)]

def redis(ctx, port):
    return ["redis-server", "--daemonize", "yes", "--port", str(port), "--save", "",
            "--dir", str(ctx.tmp_path), "--pidfile", str(ctx.tmp_path / "pid")]

def answers(port):
    socket.create_connection(("127.0.0.1", port)).close()
    return True

def pytest_plan_configure(plan):
    from pytest_plan import GenericStep

    def exec(ctx):
        port = ctx.free_port()
        ctx.METHOD(SERVER(ctx, port))
        ctx.wait_until(lambda: answers(port) and (ctx.tmp_path / "pid").read_text().strip())
        server = psutil.Process(int((ctx.tmp_path / "pid").read_text()))
        with open("daemons", "w") as file:
            print(server.pid, *(child.pid for child in server.children()), file=file)

    plan.add_step(GenericStep(exec=exec), name="net")
"""


def ends(run: Run, end: int) -> Story:
    """Let a run end that leaves daemons; check that they have ended, too."""
    run.start(argv=PLAIN)
    yield run.ended
    run._tally.faults += end != 0
    run._tally.kills += end == signal.SIGKILL
    run.expect(run.status == STATUS[end], f"exit status {run.status}")
    yield lambda: not environments(run) and not run.processes()


@pytest.mark.parametrize(("name", "program"), [("nginx", "nginx"), ("redis", "redis-server")])
def test_g2_a_server_that_becomes_a_daemon_is_ended(
    stage: Stage, name: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 69: nginx and Redis, which leave their session and overwrite their environment."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")

    def story(run: Run, method: str, end: int) -> Story:
        run.write("conftest.py", SERVERS.replace("METHOD", method).replace("SERVER(", f"{name}("))
        run.write("test_it.py", f"import os\ndef test_it(net):\n    os.kill(os.getpid(), {end})\n")
        yield from ends(run, end)
        daemons = daemons_of(run)
        run.expect(daemons, "the server has not begun")
        expect_daemons_gone(run, len(daemons))
        if end == 0 and method == "run":
            run.expect(f"what was still running: '{program}'" in run.output(), "nothing is said")

    for method in ("run", "start"):
        for end, number in ENDS.items():
            stage.add(f"{method}, {end}", story, method, number)
    stage.play()


def test_g2_a_daemon_with_an_empty_environment_is_ended(stage: Stage) -> None:
    """Row 69: a daemon that has forked twice, left its session and closed its files."""

    def story(run: Run, end: int) -> Story:
        write_project(run, end)
        yield from ends(run, end)
        expect_daemons_gone(run, 4)

    for end, number in ENDS.items():
        stage.add(end, story, number)
    stage.play()


DYING = """\
import os, signal

CODE = "echo $$ >new; mv new pid; echo no space left; exec sleep 600"

def pytest_plan_configure(plan):
    from pytest_plan import GenericStep
    from tests.faults.harness.fakes import note

    def db(ctx):
        note("begin", "db")
        ctx.defer(note, "cleanup", "db")
        if KIND == "daemon":
            ctx.run(["setsid", "--fork", "sh", "-c", f"exec >/dev/null 2>&1; {CODE}"])
        else:
            ctx.start(["sh", "-c", CODE])
        ctx.wait_until(lambda: os.path.exists("pid"))
        if not NEEDED:
            dies(ctx)

    def web(ctx):
        note("begin", "web")
        ctx.defer(note, "cleanup", "web")
        dies(ctx)

    def dies(ctx):
        os.kill(int(open("pid").read()), signal.SIGKILL)
        ctx.wait_until(lambda: False, timeout="60s")

    plan.add_step(GenericStep(exec=db), name="db")
    plan.add_step(GenericStep(exec=web), name="web", needs=["db"])
"""


@modes
def test_g19_a_program_that_dies_fails_the_step_that_waits(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """Row 70: a program or daemon, of the step itself or of one that it needs."""

    def story(run: Run, kind: str, needed: bool) -> Story:
        run.write("conftest.py", f"KIND, NEEDED = {kind!r}, {needed}\n{DYING}")
        run.write("test_it.py", "def test_it(web):\n    pass\n")
        begun = time.monotonic()
        run.start(*args, argv=PLAIN)
        yield run.ended
        run._tally.faults += 1
        run.expect(time.monotonic() - begun < AT_ONCE, "the wait went on")
        run.judge(1, needs={}, exits=False)
        text = " ".join(run.output().split())
        run.expect("daemon, which has ended too" in text or kind == "program", "no daemon")
        run.expect("died of signal 9" in text or kind == "daemon", "no status")
        culprit = "it belongs to step 'db', which step 'web' needs"
        run.expect((culprit in text) == needed, f"the culprit: {text}")
        run.expect("no space left" in text or kind == "daemon", "no last lines")
        run.expect("1 passed" not in text, "a test ran without its server")
        run.expect(not environments(run), "an environment is left")

    for kind in ("program", "daemon"):
        for needed in (False, True):
            stage.add(f"{kind}, {needed}", story, kind, needed)
    stage.play()


SERVER = """\
import os, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
with open(sys.argv[2] + ".new", "w") as file:
    print(os.getpid(), server.getsockname()[1], file=file)
os.rename(sys.argv[2] + ".new", sys.argv[2])
while True:
    connection, _ = server.accept()
    if connection.recv(100):
        open(sys.argv[2] + ".reached", "w").close()
    connection.close()
"""
SERVING = f"""\
import os, socket, sys, time

SERVER = {SERVER!r}

def answers(port):
    socket.create_connection(("127.0.0.1", port)).close()
    return True

def pytest_plan_configure(plan):
    from pytest_plan import GenericStep

    def exec(ctx):
        port = ctx.free_port() if FREE else int(open("stranger").read().split()[1])
        with open("port.new", "w") as file:
            file.write(str(port))
        os.rename("port.new", "port")
        while not os.path.exists("stranger"):
            time.sleep(0.01)
        argv = [sys.executable, "-c", SERVER, str(port), "own"]
        getattr(ctx, METHOD)(argv if METHOD == "start" else ["setsid", "--fork", *argv])
        ctx.wait_until(lambda: answers(port), timeout="60s")
        return port

    plan.add_step(GenericStep(exec=exec), name="shop")
"""
CUSTOMER = """\
import socket

def test_it(shop):
    socket.create_connection(("127.0.0.1", shop)).sendall(b"drop all tables")
"""


@modes
def test_g19_no_test_runs_against_a_stranger(stage: Stage, args: tuple[str, ...]) -> None:
    """Row 71: a server of others listens on the port before the program of the step begins."""

    def story(run: Run, method: str, free: bool) -> Story:
        run.write("conftest.py", f"METHOD, FREE = {method!r}, {free}\n{SERVING}")
        run.write("test_it.py", CUSTOMER)
        stranger: subprocess.Popen[bytes] | None = None
        port, file = run.project / "port", run.project / "stranger"
        if not free:
            stranger = serve(run, 0)
            yield file.exists
        run.start(*args, argv=PLAIN)
        if free:
            yield port.exists
            stranger = serve(run, int(port.read_text()))
        yield run.ended
        run._tally.faults += 1
        assert stranger is not None
        try:
            run.expect(run.status == 1, f"exit status {run.status}")
            text = " ".join(run.output().split())
            number = port.read_text()
            named = f"(pid {stranger.pid}) already listens on port {number}" in text
            run.expect(named, f"the stranger is not named: {text}")
            run.expect("1 passed" not in text, "a test passed")
            run.expect(not (run.project / "stranger.reached").exists(), "a test has reached it")
            run.expect(stranger.poll() is None, "the stranger was signalled")
            run.expect(not environments(run), "an environment is left")
        finally:
            stranger.kill()
            stranger.wait()
        run.expect(not run.processes(), "processes are left")

    for method in ("run", "start"):
        for free in (False, True):
            stage.add(f"{method}, {free}", story, method, free)
    stage.play()


def serve(run: Run, port: int) -> subprocess.Popen[bytes]:
    """Start a server outside the plan; it writes its pid and port to the file `stranger`."""
    argv = [sys.executable, "-c", SERVER, str(port), str(run.project / "stranger")]
    return subprocess.Popen(argv, start_new_session=True)


BYSTANDERS = """\
import os, sys, time

def pytest_plan_configure(plan):
    from pytest_plan import GenericStep

    def exec(ctx):
        ctx.run(["setsid", "--fork", "sleep", "600"], cwd=ctx.tmp_path)
        ctx.start(["sleep", "600"], cwd=ctx.tmp_path)
        ctx.start([sys.executable, "-c", SERVER, "PORT"], cwd=ctx.tmp_path)
        ctx.log("begun")
        with open("places.new", "w") as file:
            print(ctx.tmp_path, ctx.artifacts / "log.txt", file=file)
        os.rename("places.new", "places")
        ctx.wait_until(lambda: os.path.exists("go"))

    plan.add_step(GenericStep(exec=exec), name="net")
"""
SHARING = """\
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=True)
time.sleep(600)
"""
SHELL = 'env -u FAULTS_MARK sleep 600 & echo $! >sibling; "$@"'


def test_g11_nothing_in_common_is_a_reason_for_a_signal(stage: Stage) -> None:
    """Row 72: a name, port, parent shell, user, folder or open log in common."""

    def story(run: Run, end: int) -> Story:
        (run.project / "port").write_text("0")
        argv = [sys.executable, "-c", SHARING]
        port = free_port()
        conftest = f"SERVER = {SHARING!r}\n{BYSTANDERS.replace('PORT', str(port))}"
        run.write("conftest.py", conftest)
        run.write("test_it.py", f"import os\ndef test_it(net):\n    os.kill(os.getpid(), {end})\n")
        run.start(argv=PLAIN, under=["sh", "-c", SHELL, "sh"])
        places = run.project / "places"
        yield places.exists
        folder, log = places.read_text().split()
        plain = {key: text for key, text in os.environ.items() if not key.startswith("FAULTS_")}
        bystanders = [
            subprocess.Popen(argv_of, cwd=folder, env=plain, stdout=subprocess.DEVNULL)
            for argv_of in (["sleep", "600"], ["tail", "-f", log], [*argv, str(port)])
        ]
        sibling = psutil.Process(int((run.project / "sibling").read_text()))
        run.write("go", "")
        yield run.ended
        yield lambda: not environments(run) and not run.processes()
        run.expect([one.poll() for one in bystanders] == [None] * 3, "a bystander was signalled")
        run.expect(sibling.is_running(), "the child of the same shell was signalled")
        for one in bystanders:
            one.kill()
            one.wait()
        sibling.kill()

    for end, number in ENDS.items():
        stage.add(end, story, number)
    stage.play()


def free_port() -> int:
    """Return a port on which nobody listens."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])

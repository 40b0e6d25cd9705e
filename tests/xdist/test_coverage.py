"""pytest-cov measures what steps run as it measures what session fixtures run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.xdist.cluster import Cluster

LIBRARY = """\
def eager(): return 1

def provision(number):
    if number:
        return number
    return 2

async def connect(): return 3

def check(): return 4

def undo(): return 5

def remove(): return 6

def disconnect(): return 7
"""
STEPS = """
import library

@pytest.mark.plan_step(eager=True, needs=())
def early():
    return library.eager()

@pytest.mark.plan_step(needs=())
def db(ctx):
    ctx.defer(library.undo)
    ctx.wait_until(library.check)
    yield library.provision(1)
    library.remove()

@pytest.mark.plan_step(needs=())
class Other(Step):
    def exec(self):
        return library.provision(0)

@pytest.mark.plan_step(needs=())
async def pool():
    yield await library.connect()
    library.disconnect()
"""
SERVER = """\
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
STARTS = """
import sys
from urllib.request import urlopen

@pytest.mark.plan_step(eager={eager})
def server(ctx):
    port = ctx.free_port()
    ctx.start({argv})
    ctx.wait_until(lambda: urlopen(f"http://127.0.0.1:{{port}}").status, timeout="30s")
"""
COV = ("-p", "pytest_cov", "--cov", "--cov-report=json:cov.json", "--cov-fail-under=100")
SOLO_AND_TWO = pytest.mark.parametrize("workers", ["0", "2"])


def covers(cluster: Cluster, result: pytest.RunResult, *files: str) -> None:
    """Check that the files are covered and that no data file and no warning is left."""
    measured = json.loads((cluster.path / "cov.json").read_text())["files"]
    assert {file: measured[file]["missing_lines"] for file in files} == {file: [] for file in files}
    assert list(cluster.path.glob(".coverage.*")) == []
    assert "CoverageWarning" not in result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.OK


@SOLO_AND_TWO
@pytest.mark.parametrize(
    "setting", ["", "branch = true", "concurrency = multiprocessing", "parallel = true"]
)
def test_code_of_steps(cluster: Cluster, setting: str, workers: str) -> None:
    """Every kind of hook and of cleanup is measured, also of eager steps, with any setting."""
    cluster.write(".coveragerc", f"[run]\nsource = library\n{setting}\n")
    cluster.write("library.py", LIBRARY)
    cluster.steps(STEPS)
    cluster.tests("@pytest.mark.plan\ndef test_it(): pass\ndef test_more(db): pass")
    covers(cluster, cluster.apart("-n", workers, *COV), "library.py")


@SOLO_AND_TWO
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(
    "argv",
    [
        "[sys.executable, 'server.py', str(port)]",
        "['sh', '-c', f'{sys.executable} server.py {port}; true']",
    ],
    ids=["program", "shell"],
)
def test_servers_of_steps(cluster: Cluster, argv: str, eager: bool, workers: str) -> None:
    """A server has written its data before pytest-cov combines the data files."""
    cluster.write(
        ".coveragerc",
        "[run]\npatch = subprocess\nsigterm = true\nsource = .\nomit = conftest.py, calls.py\n",
    )
    cluster.write("server.py", SERVER)
    cluster.steps(STARTS.format(argv=argv, eager=eager))
    cluster.tests("def test_it(server): pass\ndef test_more(server): pass")
    covers(cluster, cluster.apart("-n", workers, *COV), "server.py")


def test_failed_cleanup_fails_before_coverage(cluster: Cluster) -> None:
    """With `--no-cov-on-fail` there is no report if only a cleanup failed."""
    cluster.steps("@pytest.mark.plan_step\ndef db():\n    yield\n    raise OSError('stays')")
    cluster.tests("def test_it(db): pass")
    result = cluster.apart("-p", "pytest_cov", "--cov", "--no-cov-on-fail")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "TOTAL" not in result.stdout.str()


@SOLO_AND_TWO
def test_data_cannot_be_written(cluster: Cluster, workers: str) -> None:
    """If coverage data cannot be written, one line says so, and cleanup is complete."""
    cluster.write(".coveragerc", "[run]\ndata_file = data/coverage\n")
    cluster.steps("@pytest.mark.plan_step\ndef db():\n    yield\n    note('undo')")
    cluster.tests(
        """
        from pathlib import Path

        def test_it(db):
            Path("data").rename("moved")  # coverage may be writing to it
            Path("data").touch()
        """
    )
    result = cluster.apart("-n", workers, "-p", "pytest_cov", "--cov")
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert cluster.calls == ["undo"]
    said = result.stdout.str()
    lines = [line for line in said.splitlines() if "coverage data cannot be written: " in line]
    assert len(lines) == 1
    assert "Traceback" not in said + result.stderr.str()


def test_data_file_cannot_be_used(cluster: Cluster, tmp_path: Path) -> None:
    """If the data file cannot be used from the start, the run is refused in one line."""
    cluster.write(".coveragerc", f"[run]\ndata_file = {tmp_path}\n")
    cluster.steps("@pytest.mark.plan_step\ndef db(): note('db')")
    cluster.tests("def test_it(db): pass")
    result = cluster.apart("-p", "pytest_cov", "--cov")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert cluster.calls == []
    assert result.stderr.lines[0].startswith("ERROR: coverage cannot be measured: ")
    assert "Traceback" not in result.stderr.str()
